"Faults of pages that stop Quarto or spoil a page, found without it"

import ast
import json
import re
from collections import defaultdict

import pytest
from conftest import PAGES, cells_of, page_id


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
