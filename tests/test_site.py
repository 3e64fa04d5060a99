"Faults of pages that stop Quarto or spoil a page, found without it"

import ast
import importlib
import json
import re
from collections import defaultdict

import docs
import pytest
import yaml
from conftest import NBS, PAGES, ROOT, cells_of, page_id
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html
from nbdev.showdoc import show_doc
from PIL import Image

WEBSITE = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
SIDEBAR = yaml.safe_load((NBS / "sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]


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
            for m in re.finditer(r"\[[^][]*`([\w.]+)`[^][]*\]\([\w/.]+\.ipynb\)", source):
                if m[0].startswith(f"[`{m[1]}`]") or docs.NbdevLookup().doc(m[1]):
                    faults.append(f"cell {i}: {m[0]} is linked twice; write `{m[1]}` alone")
            html = re.findall(r"\]\(([\w/.]+\.html)", source)
            faults += [f"cell {i}: {m} should be the notebook's name" for m in html]
    assert faults == []


def test_pictures_are_there_and_described():
    "For who cannot see them, and where they do not load"
    faults = []
    for page in PAGES:
        text = "".join("".join(c["source"]) for c in cells_of(page) if c["cell_type"] == "markdown")
        for alt, file in re.findall(r"!\[([^]]*)\]\((\S+?)\)", text):
            if not alt or not (page.parent / file).exists():
                faults.append(f"{page_id(page)}: ![{alt}]({file})")
    assert faults == []


SCREENSHOTS = ("browser.jpg", "cleaner.jpg", "controls.png", "dashboard.jpg", "gradio.jpg")


@pytest.mark.parametrize("name", [*SCREENSHOTS, "voila.jpg"])
def test_pictures_of_pages_can_be_read_on_a_phone(name):
    "Letters of 12 pixels, of a page as it is, are 9 or more in a picture that is 340 wide"
    assert Image.open(NBS / "images" / name).width <= 460


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_figures_are_described(page):
    "Quarto gives a figure that a cell draws the text of its directive fig-alt"
    faults = []
    for cell in cells_of(page):
        source = "".join(cell["source"])
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        drawn = kinds & {"image/png", "image/jpeg"}
        if drawn and not re.search(r'^#\| fig-alt: ".+"$', source, re.M):
            faults.append(source[-80:])
    assert faults == []


def rows_of_markdown(cell: dict) -> dict:
    "Epoch -> the other numbers of its row"
    text = "".join(cell["outputs"][0]["data"]["text/markdown"]).replace("*", "")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def rows_of_dashboard(cell: dict) -> dict:
    html = "".join("".join(o["data"].get("text/html", "")) for o in cell["outputs"])
    rows = re.findall(r"<th[^>]*>(?:best|last)</th>(.*?)</tr>", html)
    numbers = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows]
    return {row[0]: row[1:] for row in numbers}


@pytest.mark.parametrize("shown, below", [("d7d51c42", "a80e4c4a"), ("b596103d", "f3db2e2e")])
def test_a_stored_dashboard_and_the_table_below_it_are_of_one_run(shown, below):
    cells = {c["id"]: c for c in cells_of(NBS / "tutorials/01_train_interactively.ipynb")}
    dashboard, table = rows_of_dashboard(cells[shown]), rows_of_markdown(cells[below])
    assert dashboard and dashboard.items() <= table.items()


def mixes_imports(source: str) -> bool:
    "Whether a cell holds an import beside other statements"
    statements = ast.parse(source).body
    imports = [isinstance(s, (ast.Import, ast.ImportFrom)) for s in statements]
    inside = any(
        isinstance(n, (ast.Import, ast.ImportFrom)) for s in statements for n in ast.walk(s)
    )
    return inside and not all(imports)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_imports_of_examples_stand_alone(page):
    "The site builder executes each cell that imports, without the examples between them"
    code = ["".join(c["source"]) for c in cells_of(page) if c["cell_type"] == "code"]
    if not any("default_exp" in source for source in code):
        return  # nothing is executed on a page that exports nothing
    left_alone = re.compile(r"#\|\s*export|%|[\s\S]*nbdev_export\(\)")
    examples = [source for source in code if not left_alone.match(source)]
    assert [source for source in examples if mixes_imports(source)] == []


def imported_of_the_library(tree) -> dict:
    "Name in a cell -> the module of the library that it comes from"
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                module = getattr(node, "module", None) or alias.name
                names[alias.asname or alias.name] = module
    return {name: module for name, module in names.items() if module.startswith("simpsons_cnn")}


def parsed(source: str):
    "The tree of a cell; lines of IPython's own are left out"
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compile(source, "cell", "exec", flags)
    except SyntaxError:
        return compile(
            re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.M), "cell", "exec", flags
        )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_names_of_the_library_are_imported_where_the_reader_sees_it(page):
    "A name that only a hidden cell imports comes from nowhere"
    hidden, shown, used = {}, set(), set()
    for cell in cells_of(page):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        tree = parsed(source)
        if re.search(r"^#\|\s*(hide|echo: false)", source, re.M):
            hidden |= imported_of_the_library(tree)
        else:
            shown |= set(imported_of_the_library(tree))
            used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert sorted((set(hidden) & used) - shown) == []


def test_addresses_begin_as_the_settings_say():
    "Quarto writes sitemap.xml and the addresses of the card from site-url, nbdev its own links"
    config = get_config()
    assert WEBSITE["site-url"] == config.doc_host + config.doc_baseurl


def test_llms_txt_leads_to_every_page():
    text = (NBS / "llms.txt").read_text(encoding="utf-8")
    assert text == docs.llms_txt(), "a page is new or renamed: run python scripts/docs.py"
    links = re.findall(r"\]\((\S+)\)", text)
    addresses = {f"{WEBSITE['site-url']}/{_nbpath2html(p.relative_to(NBS))}" for p in PAGES}
    assert set(links) == addresses - {f"{WEBSITE['site-url']}/index.html"}
    assert len(links) == len(set(links))


def hrefs_of(menu: list) -> list:
    "The pages of a menu, with those of the menus in it"
    hrefs = []
    for entry in menu:
        entry = entry if isinstance(entry, dict) else dict(href=entry)
        hrefs += [entry["href"]] if "href" in entry else hrefs_of(entry["menu"])
    return [href for href in hrefs if not href.startswith("http")]


def test_the_navigation_bar_names_the_tutorials():
    bar = WEBSITE["navbar"]
    (tutorials,) = [s["contents"] for s in SIDEBAR["contents"] if s.get("section") == "Tutorials"]
    named = hrefs_of(bar["left"])
    assert sorted(h for h in named if h.startswith("tutorials/")) == sorted(tutorials)
    assert [h for h in named + hrefs_of(bar["right"]) if not (NBS / h).exists()] == []


def test_the_page_for_lost_visitors_leads_to_pages():
    "It is shown at any address, so its links begin at the top of the site"
    links = re.findall(r"\]\((\S+)\)", (NBS / "404.qmd").read_text(encoding="utf-8"))
    assert links and all(link.startswith("/") for link in links)
    assert [link for link in links if not (NBS / link[1:]).exists()] == []


def test_links_to_the_site_show_a_card():
    card = NBS / WEBSITE["image"]
    assert card.stat().st_size < 150_000
    size = (WEBSITE["open-graph"]["image-width"], WEBSITE["open-graph"]["image-height"])
    with Image.open(card) as image:
        assert image.size == size == (1200, 630)


def rooms() -> list:
    return sorted({p.parent.name for p in (ROOT / "simpsons_cnn").glob("*/*.py")})


@pytest.mark.parametrize("room", rooms())
def test_what_is_exported_can_be_shown(room):
    "nbdev makes the reference of each page by these calls; one that fails stops the whole site"
    faults = []
    for path in sorted((ROOT / "simpsons_cnn" / room).glob("[!_]*.py")):
        module = importlib.import_module(f"simpsons_cnn.{room}.{path.stem}")
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if callable(thing):
                try:
                    shown = show_doc(thing)._repr_markdown_()
                except Exception as e:
                    faults.append(f"{module.__name__}.{name}: {e!r}")
                    continue
                if "Call self as a function" in shown:
                    faults.append(f"{module.__name__}.{name} has no docstring")
    assert faults == []


def test_signatures_are_mended():
    path, note = "path, # From [`train`](https://a.b/c#d)", "x:NoneType=None, # noqa: B008  frozen"
    code = f"def load(\n    {path}\n    {note}\n)"
    text = f"### _Base.load\n\n```python\n{code}\n```\n\nSee [`train`](https://a.b/c#d)"
    cell = dict(source="show_doc(Thing.load)", outputs=[dict(data={"text/markdown": text})])
    docs.mend_signature(cell)
    mended = "def load(\n    path, # From train\n    x=None, # frozen\n)"
    assert cell["outputs"][0]["data"]["text/markdown"] == (
        f"### Thing.load\n\n```python\n{mended}\n```\n\nSee [`train`](https://a.b/c#d)"
    )


def mended_signature(asked: str, module: str, lines: str) -> str:
    "What becomes of the signature that nbdev shows of a function"
    link = f"[source](https://a.b/simpsons_cnn/blob/main/simpsons_cnn/{module}.py#L1)"
    text = f"{link}\n\n```python\n{lines}\n```\n\n*What it does*"
    cell = dict(source=f"show_doc({asked})", outputs=[dict(data={"text/markdown": text})])
    docs.mend_signature(cell)
    return cell["outputs"][0]["data"]["text/markdown"].removeprefix(f"{link}\n\n```python\n")


def test_comments_of_double_star_stay_with_them():
    "fastcore gives the comment of `**overrides` to what is returned, or loses it"
    comment = "Settings by name, such as `num_epochs=3`, in place of the file's"
    signature = f"def load(\n    path, # YAML file\n    **overrides\n)->Config: # {comment}"
    mended = mended_signature("Config.load", "core/config", signature)
    assert mended.startswith(
        f"def load(\n    path, # YAML file\n    **overrides, # {comment}\n)->Config:\n```"
    )
    settings = f"{WEBSITE['site-url']}/tutorials/settings.html"
    assert mended.endswith(
        f"```\n\nFor `**overrides` see [Settings]({settings}).\n\n*What it does*"
    )


def test_what_is_passed_on_is_linked():
    "The `**kwargs` of a class are those of its `__init__`; what takes them has a page"
    signature = "def LabelCleaner(\n    files, # Folder\n    **kwargs\n):"
    mended = mended_signature("LabelCleaner", "lab/cleaner", signature)
    assert "    **kwargs, # Arguments of `find_suspects`" in mended
    page = f"{WEBSITE['site-url']}/training/suspects.html#find_suspects"
    assert f"For `**kwargs` see [`find_suspects`]({page})." in mended


def test_tables_of_spaces_are_not_wrapped():
    table = dict(text="            0      1\naccuracy  0.9  0.925\nmacro F1  0.8  0.825\n")
    message = dict(data={"text/plain": "{'a': 1,\n 'a long one': 'with much to say'}"})
    frame = dict(data={"text/plain": table["text"], "text/html": "<table></table>"})
    cells = [dict(source="series", outputs=[output]) for output in (table, message, frame)]
    for cell in cells:
        docs.mark_columns(cell)
    assert [cell["source"] for cell in cells] == ["#| classes: aligned\nseries", "series", "series"]
    assert ".cell.aligned .cell-output pre" in (NBS / "styles.css").read_text(encoding="utf-8")


def test_boxes_of_widgets_are_left_out():
    box = dict(data={"text/plain": ["VBox(children=(HBox(children=(Dropdown(descr"]})
    line = {"text/plain": ["LabelCleaner(500 pictures, 0 decided)"]}
    widget = dict(data=line | {"application/vnd.jupyter.widget-view+json": dict(model_id="")})
    cell = dict(outputs=[box, widget, dict(text=["a line"])])
    docs.drop_widgets(cell)
    assert cell["outputs"] == [dict(data=line), dict(text=["a line"])]


FROM_ELSEWHERE = r"<script|<link|<iframe|(?:src|srcset)=.https?:|url\(.?https?:"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_asks_no_other_host(page):
    "Quarto loads MathJax from one by default, fonts for a theme, and programs for JavaScript"
    for cell in cells_of(page):
        if cell["cell_type"] == "markdown":
            shown = re.sub(r"```.*?```|`[^`\n]*`", "", "".join(cell["source"]), flags=re.S)
            assert not re.search(r"!\[[^\]]*\]\(https?:", shown)
            assert not re.search(FROM_ELSEWHERE, shown)
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            assert "application/javascript" not in data
            assert not re.search(FROM_ELSEWHERE, "".join(data.get("text/html", "")))


def test_formulas_and_letters_need_no_other_host():
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    assert site["format"]["html"]["html-math-method"] == "mathml"
    for theme in ("theme.scss", "dark.scss"):
        assert '$web-font-path: "";' in (NBS / theme).read_text(encoding="utf-8")
