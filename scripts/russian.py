"""Write the Russian pages, nbs/ru/*.ipynb, and say which translations are out of date.

python scripts/russian.py              write them
python scripts/russian.py --check      only compare; exit 1 if a page is not current
python scripts/russian.py --accept     after a look at the English text: the translations fit it now

nbs/ru/_PAGE.md holds the Russian text of nbs/tutorials/PAGE.ipynb. Code and stored outputs are
those of the English page. Before each text stands <!-- cell ID DIGEST -->: the English cell that
it translates, and a digest of the English text at the time. A cell without a translation stays
English. The start page, nbs/ru/index.ipynb, is README.ru.md.
"""

import copy
import hashlib
import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
english_pages = root / "nbs/tutorials"
russian_pages = root / "nbs/ru"
site = "https://github.com/simpsons-cnn/simpsons_cnn/blob/main/"
marker = re.compile(r"^<!-- cell (\w+)(?: (\w+))? -->\n", re.M)
link_to_russian = "[По-русски](../ru/"  # begins the cell of an English page that links here
header = "---\nlang: ru\nskip_exec: true\n---"  # its code is run on the English page


def translations() -> list:
    "The files that hold Russian text, one per tutorial"
    return sorted(russian_pages.glob("_*.md"))


def read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def english_notebook(translation: Path) -> Path:
    return english_pages / f"{translation.stem[1:]}.ipynb"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_translation(path: Path) -> dict:
    "cell id -> digest of the English text (None before --accept), and the Russian text"
    parts = marker.split(path.read_text(encoding="utf-8"))[1:]
    return {
        cell: (english, text.strip())
        for cell, english, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def texts_to_translate(notebook: dict) -> dict:
    "cell id -> English text"
    texts = {
        c["id"]: "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"
    }
    return {cell: text for cell, text in texts.items() if not text.startswith(link_to_russian)}


def out_of_date(translation: Path) -> list:
    "What a translator has to do on a page, a line for each cell"
    russian = read_translation(translation)
    english = texts_to_translate(read_notebook(english_notebook(translation)))
    where = f"nbs/ru/{translation.name}"
    tasks = [f"{where}: translate cell {cell}" for cell in english if cell not in russian]
    for cell, (translated, _) in russian.items():
        if cell not in english:
            tasks.append(f"{where}: remove cell {cell}, which the English page no longer has")
        elif translated != digest(english[cell]):
            tasks.append(f"{where}: the English text of cell {cell} has changed")
    return tasks


def markdown(cell: str, text: str) -> dict:
    return dict(cell_type="markdown", id=cell, metadata={}, source=text.splitlines(keepends=True))


def raw_header() -> dict:
    return markdown("header", header) | dict(cell_type="raw")


def with_russian_links(text: str) -> str:
    "Links to tutorials lead to the Russian page where there is one"
    translated = {p.stem[1:] for p in translations()}

    def target(match):
        page = match[1]
        return f"]({page}.ipynb" if page in translated else f"](../tutorials/{page}.ipynb"

    return re.sub(r"\]\((?:\.\./tutorials/)?(\d\d_\w+)\.ipynb", target, text)


def russian_notebook(translation: Path) -> dict:
    "The English notebook with Russian text"
    path = english_notebook(translation)
    russian = read_translation(translation)
    notebook = copy.deepcopy(read_notebook(path))
    english = texts_to_translate(notebook)
    cells = [raw_header()]
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown":
            cells.append(cell)
        elif cell["id"] in english:
            text = russian.get(cell["id"], (None, english[cell["id"]]))[1]
            cells.append(markdown(cell["id"], with_russian_links(text)))
    back = f"[English](../tutorials/{path.name}) · [Начало](index.ipynb)"
    cells.insert(2, markdown("english", back))
    return notebook | dict(cells=cells)


def start_page(kernel: dict) -> dict:
    "README.ru.md as a page of the site"
    text = (root / "README.ru.md").read_text(encoding="utf-8")
    text = text.replace("[English](README.md)", "[English](../index.ipynb)")
    text = re.sub(r"\]\(nbs/tutorials/", "](../tutorials/", text)
    text = re.sub(r"\]\(nbs/", "](../", text)
    text = re.sub(r"\]\(([A-Z]+\.md)\)", rf"]({site}\1)", text)
    title, _, rest = with_russian_links(text).partition("\n\n[English]")
    cells = [raw_header(), markdown("title", title), markdown("start", f"[English]{rest}".strip())]
    return dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)


def pages() -> dict:
    "path -> what it should hold"
    notebooks = {russian_pages / f"{p.stem[1:]}.ipynb": russian_notebook(p) for p in translations()}
    kernel = next(iter(notebooks.values()))["metadata"]
    notebooks[russian_pages / "index.ipynb"] = start_page(kernel)
    layout = dict(indent=1, ensure_ascii=False, sort_keys=True)  # nbdev_clean's
    return {path: json.dumps(nb, **layout) + "\n" for path, nb in notebooks.items()}


def not_current() -> list:
    "The Russian pages that differ from what they are made from, or are made from nothing"
    wanted = pages()
    held = {p: p.read_text(encoding="utf-8") for p in russian_pages.glob("*.ipynb")}
    return sorted(p.name for p in wanted.keys() | held.keys() if wanted.get(p) != held.get(p))


def accept(translation: Path) -> None:
    "Note the digest of the present English text beside each translation"
    english = texts_to_translate(read_notebook(english_notebook(translation)))

    def current(match):
        cell = match[1]
        return f"<!-- cell {cell} {digest(english[cell])} -->\n" if cell in english else match[0]

    text = translation.read_text(encoding="utf-8")
    translation.write_text(marker.sub(current, text), encoding="utf-8")


def main() -> None:
    if "--accept" in sys.argv:
        for path in translations():
            accept(path)
    if "--check" in sys.argv:
        if stale := not_current():
            sys.exit(f"error: {', '.join(stale)} out of date; run python scripts/russian.py")
    else:
        for path, text in pages().items():
            path.write_text(text, encoding="utf-8")
    for path in translations():
        for task in out_of_date(path):
            print(task)


if __name__ == "__main__":
    main()
