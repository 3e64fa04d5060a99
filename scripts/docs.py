"""What the site holds beside its pages.

python scripts/docs.py             write nbs/llms.txt, the list of pages that language models read
python scripts/docs.py --card      draw nbs/images/card.jpg, which links to the site show
python scripts/docs.py --mend      mend signatures and tables in _proc, as nbdev prepares pages
"""

import ast
import functools
import json
import re
import sys
from pathlib import Path

import yaml
from nbdev.doclinks import NbdevLookup

root = Path(__file__).resolve().parent.parent
NBS = root / "nbs"
INTRODUCTION = """\
Notebooks in `nbs/` are the source: each exports a module of the package and is a page of this \
site. `import simpsons_cnn as sc` offers the public names, each loaded at its first use; commands \
begin with `simpsons_`. Settings have one home, `Config`; `configs/` holds recipes.
"""


def site_url() -> str:
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    return config["website"]["site-url"]


def heading_of(page: Path) -> tuple:
    "The title of a page and the line below it"
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.search(r"^# (.+)", text, re.M)[1], re.search(r"^> (.+)", text, re.M)[1]


def address_of(href: str) -> str:
    "Where a page lies on the site, on which it loses its number"
    folder, _, name = href.rpartition("/")
    html = re.sub(r"^\d+_", "", name).replace(".ipynb", ".html")
    return "/".join(filter(None, (site_url(), folder, html)))


def entry(page) -> str:
    "The line of a page, which the sidebar names alone or with a text"
    href = page["href"] if isinstance(page, dict) else page
    title, line = heading_of(NBS / href)
    return f"- [{title}]({address_of(href)}): {line}"


def llms_txt() -> str:
    "All pages in the order of the sidebar, as https://llmstxt.org describes it"
    sidebar = yaml.safe_load((NBS / "sidebar.yml").read_text(encoding="utf-8"))
    sections = [s for s in sidebar["website"]["sidebar"]["contents"] if "section" in s]
    sections.sort(key=lambda section: section["section"] == "По-русски")  # last
    title, line = heading_of(NBS / "index.ipynb")
    parts = [f"# {title}\n\n> {line}\n\n{INTRODUCTION}"]
    for section in sections:
        name = section["section"]
        name = "Optional" if name == "По-русски" else name
        parts.append(f"## {name}\n\n" + "\n".join(map(entry, section["contents"])) + "\n")
    return "\n".join(parts)


def functions_of(module: str):
    "Yields (name, function) of a module: `train`, `Config.load`, and `Config` for its `__init__`"
    for node in ast.parse((root / module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef):
                name = f"{node.name}.{method.name}".removesuffix(".__init__")
                yield name, method


@functools.cache
def double_star_comments(module: str) -> dict:
    "Name of a function -> its parameter with two stars, and the comment beside it"
    lines, found = (root / module).read_text(encoding="utf-8").splitlines(), {}
    for name, function in functions_of(module):
        if function.args.kwarg:
            _, mark, comment = lines[function.args.kwarg.lineno - 1].partition(",  # ")
            if mark:
                found[name] = f"**{function.args.kwarg.arg}", comment
    return found


def mend_double_star(code: str, parameter: str, comment: str) -> str:
    "fastcore gives the comment of `**settings` to what is returned, or loses it"
    code = re.sub(rf"^(\).*:) # {re.escape(comment)}$", r"\1", code, flags=re.M)
    return code.replace(f"{parameter}\n", f"{parameter}, # {comment}\n")


def where_described(comment: str) -> str:
    "Links to what a comment names, because the code of a signature cannot hold them"
    found = {name: NbdevLookup().doc(name) for name in re.findall(r"`([\w.]+)`", comment)}
    links = [f"[`{name}`]({address})" for name, address in found.items() if address]
    if re.search(r"[Ss]ettings", comment):
        links.append(f"[Settings]({address_of('tutorials/11_settings.ipynb')})")
    return " and ".join(links)


def mend_signature(cell: dict) -> None:
    """What nbdev shows of a function: no Markdown links in code, no `NoneType` where nothing is
    annotated, no notes to ruff, comments beside what they are about, and the name that the page
    asked for instead of that of a private base class"""
    asked = re.search(r"show_doc\(([\w.]+)", "".join(cell["source"]))
    for output in cell.get("outputs", []):
        text = "".join(output.get("data", {}).get("text/markdown", ""))
        if not asked or not text:
            continue
        module = re.search(r"/(simpsons_cnn/\w+/\w+\.py)#L", text)
        blocks = text.split("```")  # code is every second one
        for i in range(1, len(blocks), 2):
            blocks[i] = re.sub(r"\[`([^`\]]+)`\]\(https?://[^)\s]+\)", r"\1", blocks[i])
            blocks[i] = blocks[i].replace(":NoneType=", "=")
            blocks[i] = re.sub(r"# noqa: \w+  ", "# ", blocks[i])
        if module and asked[1] in double_star_comments(module[1]):
            parameter, comment = double_star_comments(module[1])[asked[1]]
            blocks[1] = mend_double_star(blocks[1], parameter, comment)
            if links := where_described(comment):
                blocks[2] = f"\n\nFor `{parameter}` see {links}." + blocks[2]
        text = "```".join(blocks)
        owner, _, method = asked[1].rpartition(".")
        if owner:
            text = re.sub(rf"\b_\w+\.{method}\b", asked[1], text)
        output["data"]["text/markdown"] = text


def has_columns(output: dict) -> bool:
    "Whether an output is a table made of spaces, which no line break may spoil"
    data = output.get("data", {})
    if set(data) - {"text/plain"}:
        return False
    lines = "".join(output.get("text") or data.get("text/plain", "")).splitlines()
    lines = [line for line in lines if line.strip()]
    aligned = [line for line in lines if re.search(r"\S {2,}\S", line)]
    return len(aligned) > 2 or len(aligned) == 2 and len(lines) < 5


def mark_columns(cell: dict) -> None:
    "Give the cell of such a table the class that styles.css scrolls sideways instead"
    if any(map(has_columns, cell.get("outputs", []))):
        cell["source"] = "#| classes: aligned\n" + "".join(cell["source"])


def drop_widgets(cell: dict) -> None:
    """Without a kernel a box of widgets is a line of Python, such as `VBox(children=(…`. Of other
    widgets the line stays; for a widget itself Quarto would load programs from other hosts"""
    cell["outputs"] = [
        output
        for output in cell.get("outputs", [])
        if not re.match(r"\w+\(children=", "".join(output.get("data", {}).get("text/plain", "")))
    ]
    for output in cell["outputs"]:
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def mend_pages() -> None:
    for page in (root / "_proc").rglob("*.ipynb"):
        notebook = json.loads(page.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            mend_signature(cell)
            mark_columns(cell)
            if cell["cell_type"] == "code":
                drop_widgets(cell)
        page.write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")


def draw_card(width=1200, height=630, side=200) -> None:
    "The name of the library between two rows of characters, at the size that links show"
    import numpy as np
    from matplotlib import font_manager
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    from simpsons_cnn.demo.characters import character_names, draw_character

    card = Image.new("RGB", (width, height), "#24292f")
    for i in range(12):
        name = character_names[i % len(character_names)]
        picture = draw_character(name, np.random.default_rng([i, 5]), size=2 * side)
        corner = (i % 6 * side, 0 if i < 6 else height - side)
        card.paste(ImageOps.fit(picture, (side, side)), corner)
    draw, bold = ImageDraw.Draw(card), font_manager.findfont("DejaVu Sans:bold")
    draw.text((600, 285), "simpsons_cnn", "white", ImageFont.truetype(bold, 80), anchor="mm")
    line = "train, judge and use a network that recognises characters"
    regular = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 32)
    draw.text((600, 365), line, "#d0d7de", regular, anchor="mm")
    card.save(NBS / "images/card.jpg", quality=72, optimize=True)


if __name__ == "__main__":
    if "--card" in sys.argv:
        draw_card()
    elif "--mend" in sys.argv:
        mend_pages()
    else:
        (NBS / "llms.txt").write_text(llms_txt(), encoding="utf-8")
