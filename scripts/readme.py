"Write README.md from nbs/index.ipynb, without Quarto; with --check only compare, and exit 1 if it is out of date."
import re, sys
from pathlib import Path
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parent.parent
note = '<!-- Made from nbs/index.ipynb by scripts/readme.py; edit that notebook. -->\n\n'


def readme() -> str:
    "The visible cells of the index notebook as Markdown, with its links seen from the top of the repository"
    hidden = Config(RegexRemovePreprocessor=dict(enabled=True, patterns=[r'^#\|\s*(hide|default_exp)']))
    text, resources = MarkdownExporter(config=hidden).from_filename(str(root/'nbs/index.ipynb'))
    if resources['outputs']: raise ValueError(f"README cannot hold figures made in the notebook: {', '.join(resources['outputs'])}")
    text = re.sub(r'^#\|.*\n', '', text, flags=re.M)                                  # directives
    text = re.sub(r'(\]\(|src=")(images/)', r'\1nbs/\2', text)                        # pictures
    text = re.sub(r'\]\((\w+)\.ipynb\)', r'](nbs/\1.ipynb)', text)                    # pages
    return note + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


if __name__ == '__main__':
    path = root/'README.md'
    if '--check' not in sys.argv: path.write_text(readme(), encoding='utf-8')
    elif path.read_text(encoding='utf-8') != readme(): sys.exit('error: README.md is out of date; run python scripts/readme.py')
