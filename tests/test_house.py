"The rooms: what may import what; each page has its module; each link leads somewhere"

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import NBS, PAGES, ROOT, cells_of, page_id
from measure import rooms_imported

PACKAGE = ROOT / "simpsons_cnn"
# From the ground up: a room imports from itself and from the rooms before it.
ROOMS = (
    "core",
    "demo",
    "data",
    "quality",
    "networks",
    "scoring",
    "training",
    "inference",
    "lab",
    "cli",
)
STRANGERS = ({"training", "inference"}, {"lab", "cli"})  # never import each other
MODULES = sorted(p for p in PACKAGE.glob("*/*.py") if p.name != "__init__.py")


def module_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def sources(page: Path, kind: str) -> list:
    "The source of each cell of a kind"
    return ["".join(c["source"]) for c in cells_of(page) if c["cell_type"] == kind]


def forbidden(own_room: str) -> set:
    "The rooms that a room must not import from"
    below = set(ROOMS[ROOMS.index(own_room) + 1 :])
    strangers = [pair - {own_room} for pair in STRANGERS if own_room in pair]
    return below.union(*strangers)


@pytest.mark.parametrize("module", MODULES, ids=module_id)
def test_a_room_imports_only_from_the_rooms_above_it(module):
    room = module.parent.name
    assert room in ROOMS
    wrong = rooms_imported(module.read_text(encoding="utf-8"), room) & forbidden(room)
    assert not wrong, f"{module_id(module)} imports from {', '.join(sorted(wrong))}"


def test_the_rule_sees_each_form_of_import():
    source = """
from ..lab.html import STYLE
from .store import PixelStore
from .. import __version__
from simpsons_cnn.cli import train
def late():
    import simpsons_cnn.training.loop
"""
    assert rooms_imported(source, "data") == {"lab", "data", "cli", "training"}
    assert forbidden("inference") == {"training", "lab", "cli"}
    assert forbidden("cli") == {"lab"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_exports_to_the_module_of_its_own_name(page):
    exports = [m[1] for s in sources(page, "code") if (m := re.match(r"#\| default_exp (\S+)", s))]
    room, name = page.parent.name, page.stem[3:]
    if room in ("tutorials", "ru", "nbs"):
        assert exports == []
    else:
        assert re.fullmatch(r"\d\d_\w+", page.stem)
        assert exports == [f"{room}.{name}"]
        assert (PACKAGE / room / f"{name}.py").is_file()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_cell_that_exports_does_nothing_else(page):
    "nbdev skips it when a page runs as a test, and temporary folders were left behind"
    exporting = [source for source in sources(page, "code") if "nbdev_export()" in source]
    lines = {line for source in exporting for line in source.splitlines() if line}
    assert lines <= {"#| hide", "import nbdev", "nbdev.nbdev_export()"}


TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]


@pytest.mark.parametrize("page", TUTORIALS, ids=page_id)
def test_what_the_site_hides_is_folded_in_jupyterlab(page):
    "A reader of a tutorial has no use for cells that only test it"
    hidden = [c for c in cells_of(page) if "".join(c["source"]).startswith("#| hide")]
    folded = {"jupyter": {"source_hidden": True}}
    assert [c["id"] for c in hidden if c["metadata"] != folded] == []


@pytest.mark.parametrize("page", TUTORIALS, ids=page_id)
def test_a_tutorial_imports_at_most_six_lines(page):
    "What only hidden cells need, hidden cells import"
    shown = [s for s in sources(page, "code") if re.match(r"import |from ", s)]
    assert sum(len(re.findall(r"^(?:import|from) ", s, re.M)) for s in shown) <= 6


def test_no_module_without_a_page():
    pages = {f"{p.parent.name}/{p.stem[3:]}.py" for p in PAGES}
    assert [module_id(m) for m in MODULES if module_id(m) not in pages] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_between_pages_lead_somewhere(page):
    text = "\n".join(sources(page, "markdown"))
    targets = re.findall(r'\]\(([^)#\s]+)|(?:src|href)="([^"#]+)"', text)
    local = [t for pair in targets for t in pair if t and "://" not in t]
    assert [t for t in local if not (page.parent / t).exists()] == []


def anchors(page: Path) -> set:
    "The names that Pandoc gives to the headings of a page"
    text = re.sub(r"```.*?```", "", "\n".join(sources(page, "markdown")), flags=re.S)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        words = re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", words).strip())
        found.add(re.sub(r"^[^a-zа-яё]+", "", words))
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_to_headings_lead_to_headings(page):
    text = "\n".join(sources(page, "markdown"))
    links = re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", text)
    there = [(page.parent / target if target else page, name) for target, name in links]
    assert [name for target, name in there if name not in anchors(target)] == []


def sidebar_hrefs(contents: list) -> list:
    "All pages of a sidebar, in order"
    hrefs = []
    for entry in contents:
        if isinstance(entry, str):
            hrefs.append(entry)
        elif "href" in entry:
            hrefs.append(entry["href"])
        hrefs += sidebar_hrefs(entry.get("contents", [])) if isinstance(entry, dict) else []
    return hrefs


def test_the_sidebar_names_each_page_once():
    sidebar = yaml.safe_load((NBS / "sidebar.yml").read_text(encoding="utf-8"))
    hrefs = sidebar_hrefs(sidebar["website"]["sidebar"]["contents"])
    assert len(hrefs) == len(set(hrefs))
    assert {h for h in hrefs if h.endswith(".ipynb")} == {page_id(p) for p in PAGES}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_is_light():
    code = """
import sys, time
start = time.process_time()
import simpsons_cnn
print('torch' in sys.modules, time.process_time() - start < 0.25)
"""
    # Seconds of the processor: 2 ms on a quiet machine
    assert run_python(code) == "False True"


def test_each_promised_name_is_there():
    code = """
import simpsons_cnn as sc
missing = []
for name in sc.__all__:
    try:
        getattr(sc, name)
    except (AttributeError, ImportError) as e:
        missing.append(f'{name}: {e}')
print(missing, set(sc.__all__) <= set(dir(sc)), len(sc.__all__) > 40)
"""
    assert run_python(code) == "[] True True"


@pytest.mark.parametrize("module", MODULES, ids=module_id)
def test_no_name_is_defined_twice(module):
    "The second definition would silently take the place of the first"
    tree = ast.parse(module.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [n.name for n in tree.body if isinstance(n, kinds) and not is_patch(n)]
    assert sorted(names) == sorted(set(names))


def is_patch(node) -> bool:
    "Whether a definition adds a method to a class, so that its name is no name of the module"
    return any("patch" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("module", MODULES, ids=module_id)
def test_a_private_base_class_serves_more_than_one_class(module):
    "One that serves a single class is a slice of it, and a reader has to put them together"
    nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    bases = [ast.unparse(base) for node in classes for base in node.bases]
    used = Counter(node.id for node in nodes if isinstance(node, ast.Name))
    private = [node.name for node in classes if node.name.startswith("_")]
    assert not [name for name in private if bases.count(name) == used[name] == 1]


def test_pages_and_tests_compute_on_the_cpu(tmp_path):
    "Also on a machine with a GPU, whose numbers are others"
    pytest.importorskip("nbdev")
    code = """
import torch
torch.cuda.is_available = lambda: True
from simpsons_cnn.core.device import pick_device
assert pick_device().type == "cpu"
"""
    cell = dict(cell_type="code", source=code, metadata={}, outputs=[], execution_count=None)
    page = tmp_path / "page.ipynb"
    page.write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    command = [sys.executable, "scripts/notebooks.py", str(tmp_path / "logs"), str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
