"""Print how the code reads: rooms, line lengths, size of definitions, examples, prose.

python scripts/measure.py [FOLDER]              # the repository to measure; default: this one
python scripts/measure.py --pages [FOLDER]      # one line a page instead
"""

import ast
import json
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

EXPORTED = re.compile(r"#\|\s*exports?\b")
HIDDEN = re.compile(r"#\|\s*hide\b")


def notebooks(root: Path) -> list:
    "The pages, each as a list of (kind, source) of its cells"
    pages = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if not {".ipynb_checkpoints", "_proc", "ru"} & set(path.parts):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            pages.append((path, [(c["cell_type"], "".join(c["source"])) for c in cells]))
    return pages


def is_definition(kind: str, source: str) -> bool:
    "Whether a cell is exported and holds more than imports"
    if kind != "code" or not EXPORTED.match(source):
        return False
    return any(not isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body)


def exported_lines(source: str) -> list:
    "Lines of an exported cell that hold something, without its directive"
    return [line for line in source.splitlines() if line.strip() and not line.startswith("#|")]


def with_example(cells: list) -> tuple:
    "(definition cells, those of them that are followed by a visible example before the next)"
    total = shown = 0
    waiting = False
    for kind, source in cells:
        if is_definition(kind, source):
            total += 1
            waiting = True
        elif waiting and kind == "code" and not EXPORTED.match(source) and not HIDDEN.match(source):
            shown += 1
            waiting = False
    return total, shown


def functions(tree: ast.AST) -> list:
    "(name, lines of the body, parameters) of each function, methods too"
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            args = node.args
            names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
            parameters = [name for name in names if name not in ("self", "cls")]
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            found.append((node.name, length, len(parameters)))
    return found


def rooms_imported(source: str, own_room: str) -> set:
    "The rooms that a module imports from, at its top or inside functions"
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 1:
                names = [f"simpsons_cnn.{own_room}.{module}"]
            elif node.level == 2:
                names = [f"simpsons_cnn.{module}"] if module else []
            else:
                names = [module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("simpsons_cnn.")}
    return found


def arrows(package: Path) -> set:
    "(room, room that it imports from), from the exported modules"
    found = set()
    for path in package.glob("*/*.py"):
        room = path.parent.name
        others = rooms_imported(path.read_text(encoding="utf-8"), room) - {room}
        found |= {(room, other) for other in others}
    return found


def floors(edges: set, rooms: set) -> int:
    "The longest chain of rooms that build on each other"
    height = dict.fromkeys(rooms, 1)
    for _ in rooms:
        for above, below in edges:
            height[above] = max(height[above], height[below] + 1)
    return max(height.values(), default=0)


def public_names(package: Path) -> int:
    "Names in the `__all__` of all modules"
    total = 0
    for path in package.rglob("*.py"):
        match = re.search(r"^__all__ = (\[.*?\])", path.read_text(encoding="utf-8"), re.M | re.S)
        total += len(ast.literal_eval(match[1])) if match else 0
    return total


def measure(root: Path) -> dict:
    "All figures, by name"
    package = root / "simpsons_cnn"
    pages = notebooks(root)
    exported = [s for _, cells in pages for k, s in cells if k == "code" and EXPORTED.match(s)]
    lines = [line for source in exported for line in exported_lines(source)]
    code = [s for _, cells in pages for k, s in cells if k == "code"]
    definitions = [s for _, cells in pages for k, s in cells if is_definition(k, s)]
    examples = [with_example(cells) for _, cells in pages]
    exporting = [cells for _, cells in pages if any(is_definition(k, s) for k, s in cells)]
    words = sum(len(s.split()) for cells in exporting for k, s in cells if k == "markdown")
    every = [f for source in exported for f in functions(ast.parse(source))]
    largest = max(every, key=lambda f: f[1])
    widest = max(every, key=lambda f: f[2])
    sizes = [len(s) for s in definitions]
    edges = arrows(package)
    rooms = {p.parent.name for p in package.glob("*/*.py")}
    over = Counter(len(line) > 100 for source in code for line in source.splitlines())
    return {
        "rooms": len(rooms),
        "floors": floors(edges, rooms),
        "arrows between rooms": len(edges),
        "pages": len(pages),
        "exported lines": len(lines),
        "characters per exported line, mean": round(statistics.mean(map(len, lines)), 1),
        "lines of code over 100 columns, all cells": over[True],
        "exported lines with a semicolon outside text": sum(map(semicolons, exported)),
        "definition cells": len(definitions),
        "characters of a definition cell, median": int(statistics.median(sizes)),
        "characters of a definition cell, most": max(sizes),
        "share of definition cells with an example before the next": round(
            sum(s for _, s in examples) / sum(t for t, _ in examples), 2
        ),
        "words of prose per 1,000 exported characters": round(words / sum(map(len, lines)) * 1000),
        "largest function": f"{largest[0]}, {largest[1]} lines",
        "most parameters": f"{widest[0]}, {widest[2]}",
        "public names of all modules": public_names(package),
        "names of the top level": top_level_names(package),
    }


def measure_pages(root: Path) -> None:
    "Print one line for each page that defines something"
    print(f"{'page':26} lines  cells  shown  median   most  words  over  largest function")
    for path, cells in notebooks(root):
        sizes = [len(s) for k, s in cells if is_definition(k, s)]
        if not sizes:
            continue
        code = [s for k, s in cells if k == "code"]
        exported = [s for s in code if EXPORTED.match(s)]
        lines = [line for source in exported for line in exported_lines(source)]
        words = sum(len(s.split()) for k, s in cells if k == "markdown")
        total, shown = with_example(cells)
        over = sum(len(line) > 100 for source in code for line in source.splitlines())
        every = [f for source in exported for f in functions(ast.parse(source))]
        name, length, _ = max(every, key=lambda f: f[1], default=("", 0, 0))
        page = f"{path.parent.name}/{path.stem}"
        print(
            f"{page:26} {len(lines):5}  {total:5}  {shown / total:5.2f}"
            f"  {int(statistics.median(sizes)):6}  {max(sizes):5}"
            f"  {words / sum(map(len, lines)) * 1000:5.0f}  {over:4}  {name} {length}"
        )


def semicolons(source: str) -> int:
    "Lines on which more than one statement stands"
    starts = Counter()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            starts[node.lineno] += 1
    return sum(n > 1 for line, n in starts.items() if ";" in source.splitlines()[line - 1])


def top_level_names(package: Path) -> int:
    stub = package / "__init__.pyi"
    return len(re.findall(r"^from .* import ", stub.read_text(), re.M)) if stub.exists() else 0


if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if argument != "--pages"]
    root = Path(folders[0]) if folders else Path(__file__).resolve().parent.parent
    if "--pages" in sys.argv:
        measure_pages(root)
        sys.exit()
    for name, value in measure(root).items():
        print(f"{name:60} {value}")
