"""Write README.md from nbs/index.ipynb, without Quarto.

python scripts/readme.py               write it
python scripts/readme.py --check       only compare; exit 1 if it is out of date
python scripts/readme.py --pictures    draw the picture it shows, nbs/images/characters.jpg
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parent.parent
note = "<!-- Made from nbs/index.ipynb by scripts/readme.py; edit that notebook. -->\n\n"


def readme() -> str:
    "The visible cells of the index notebook as Markdown, with links from the top of the repository"
    hidden = Config(
        RegexRemovePreprocessor=dict(enabled=True, patterns=[r"^#\|\s*(hide|default_exp)"])
    )
    nb = nbformat.read(root / "nbs/index.ipynb", as_version=4)
    nb.metadata.language_info = dict(name="python")  # for ```python
    text, resources = MarkdownExporter(config=hidden).from_notebook_node(nb)
    if resources["outputs"]:
        raise ValueError(
            f"README cannot hold figures made in the notebook: {', '.join(resources['outputs'])}"
        )
    text = re.sub(r"^#\|.*\n", "", text, flags=re.M)  # directives
    text = re.sub(r'(\]\(|src=")(images/)', r"\1nbs/\2", text)  # pictures
    text = re.sub(r"\]\(([\w/]+)\.ipynb\)", r"](nbs/\1.ipynb)", text)  # pages
    return note + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def draw_characters(size=96, rows=4) -> None:
    "Every drawn character a few times, on one sheet"
    import numpy as np
    from PIL import Image, ImageOps

    from simpsons_cnn.demo.characters import character_names, draw_character

    sheet = Image.new("RGB", (size * len(character_names) - 4, size * rows - 4), "white")
    for i, name in enumerate(character_names):
        for j in range(rows):
            picture = draw_character(name, np.random.default_rng([i, j, 7]), size=2 * size)
            sheet.paste(ImageOps.fit(picture, (size - 4, size - 4)), (i * size, j * size))
    (root / "nbs/images").mkdir(exist_ok=True)
    sheet.save(root / "nbs/images/characters.jpg", quality=85)


if __name__ == "__main__":
    if "--pictures" in sys.argv:
        draw_characters()
        sys.exit()
    path = root / "README.md"
    if "--check" not in sys.argv:
        path.write_text(readme(), encoding="utf-8")
    elif path.read_text(encoding="utf-8") != readme():
        sys.exit("error: README.md is out of date; run python scripts/readme.py")
