"The page for Colab and Kaggle, which is opened without the repository around it"

import ast
import configparser
import re
import sys

import pytest
from conftest import NBS, ROOT, cells_of

PAGE = NBS / "tutorials/16_colab.ipynb"
CELLS = cells_of(PAGE)
CODE = ["".join(c["source"]) for c in CELLS if c["cell_type"] == "code"]
OPENERS = re.compile(
    r"https://(?:colab\.research\.google\.com/github/|kaggle\.com/kernels/welcome\?src=https://github\.com/)"
    r"simpsons-cnn/simpsons_cnn/blob/main/([\w/.]+)"
)


@pytest.mark.parametrize("text, badges", [(str(CELLS), 2), ((ROOT / "README.md").read_text(), 1)])
def test_badges_open_the_page(text, badges):
    assert OPENERS.findall(text) == [PAGE.relative_to(ROOT).as_posix()] * badges


def test_it_installs_from_the_repository_of_the_settings():
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    (install,) = [source for source in CODE if "%pip" in source]
    assert f"git+{settings['DEFAULT']['git_url']}" in install
    assert CODE[0] == install


def test_it_needs_the_library_alone():
    "Nothing of the repository, no extra, and no package that Colab happens to have"
    imported = set()
    for source in CODE:
        for node in ast.walk(ast.parse(source.replace("%pip", "pass  #"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    assert imported <= {"simpsons_cnn"} | sys.stdlib_module_names
    assert not any("../" in source for source in CODE)
