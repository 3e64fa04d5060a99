"What README tells a newcomer to type"

import ast
import configparser
import re

from conftest import ROOT


def extras() -> dict:
    "extra -> its requirements, as setup.py takes them from settings.ini"
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    names = re.search(r"for extra in (\([^)]*\))", (ROOT / "setup.py").read_text(encoding="utf-8"))
    return {
        name: settings["DEFAULT"][f"{name}_requirements"] for name in ast.literal_eval(names[1])
    }


def test_extras_that_readme_names_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\.\[(\w+)\]", readme))
    assert "notebook" in named and named <= extras().keys()


def test_the_notebook_extra_brings_a_kernel():
    "JupyterLab alone opens a page and cannot run it"
    required = {re.split(r"[<>=]", r)[0] for r in extras()["notebook"].split()}
    assert {"jupyterlab", "ipykernel"} <= required
