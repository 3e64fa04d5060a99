"Would the site build, and whole? The faults that stop Quarto or spoil a page, found without it"

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NBS = ROOT / "nbs"
PAGES = sorted(p for p in NBS.rglob("*.ipynb") if "checkpoints" not in p.parent.name)
PROCESS = "from nbdev.serve import proc_nbs; proc_nbs(n_workers=0, force=True)"


def page_id(path: Path) -> str:
    return path.relative_to(NBS).as_posix()


def cells_of(page: Path) -> list:
    return json.loads(page.read_text(encoding="utf-8"))["cells"]


def test_no_two_pages_become_one():
    "On the site a page loses its number"
    pages = defaultdict(list)
    for page in PAGES:
        pages[page.parent, re.sub(r"^\d+[a-z]?_", "", page.stem)].append(page.name)
    assert [names for names in pages.values() if len(names) > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_has_nothing_that_quarto_trips_over(page):
    faults = []
    for i, cell in enumerate(cells_of(page)):
        source = "".join(cell["source"])
        outputs = json.dumps(cell.get("outputs", []))
        if "{{<" in source or "{{<" in outputs:
            faults.append(f"cell {i}: '{{{{<' begins a shortcode and swallows the rest of the page")
        if cell["cell_type"] == "markdown":
            linked_twice = re.findall(r"\[`[\w.]+`\]\([\w/.]+\.ipynb\)", source)
            faults += [f"cell {i}: {m} is linked twice; write `name` alone" for m in linked_twice]
            html = re.findall(r"\]\(([\w/.]+\.html)", source)
            faults += [f"cell {i}: {m} should be the notebook's name" for m in html]
    assert faults == []


@pytest.fixture(scope="module")
def processed(tmp_path_factory) -> Path:
    "The pages as nbdev hands them to Quarto: signatures evaluated, names linked"
    folder = tmp_path_factory.mktemp("site")
    names = ("nbs", "simpsons_cnn", "settings.ini", "setup.py", "README.md", "_quarto.yml")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy(ROOT / name, folder / name)
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "_proc"


def rendered(page: Path) -> list:
    "The Markdown of the outputs of a processed page"
    outputs = [o for cell in cells_of(page) for o in cell.get("outputs", [])]
    return ["".join((o.get("data") or {}).get("text/markdown", "")) for o in outputs]


def test_signatures_are_documented(processed):
    pages = sorted(processed.rglob("*.ipynb"))
    assert len(pages) == len(PAGES)
    faults = []
    for page in pages:
        for text in rendered(page):
            if "Call self as a function" in text:
                faults.append(f"{page.name}: {re.search('### (.*)', text)[1]} has no docstring")
    assert faults == []
