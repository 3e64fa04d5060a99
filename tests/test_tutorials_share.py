"The pages that the tutorial on sharing makes, as far as they go without Gradio and Voilà"

import re
import sys
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
import torch
from conftest import NBS, cells_of

import simpsons_cnn as sc

TEXT = "".join(
    "".join(cell["source"]) + "\n"
    for cell in cells_of(NBS / "tutorials/17_share.ipynb")
    if cell["cell_type"] == "markdown"
)
GRADIO, VOILA = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def beside_a_model(tmp_path, monkeypatch):
    torch.manual_seed(0)
    names = list("abcdef")
    sc.save_model(tmp_path / "model.safetensors", sc.SimpsonsCNN(6), names, sc.Preprocess(64))
    picture = sc.draw_character("mossy_mo", np.random.default_rng(0))
    picture.save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)


def test_gradio_gets_five_names_of_a_file(beside_a_model, monkeypatch):
    made = []
    gradio = SimpleNamespace(
        Image=lambda type: type,
        Label=lambda: "label",
        Interface=lambda *args: made.append(args) or SimpleNamespace(launch=lambda: None),
    )
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    exec(GRADIO, {})
    ((answer, image, _),) = made
    assert image == "filepath"
    found = answer("picture.png")
    assert len(found) == 5 and all(type(p) is float for p in found.values())


def all_widgets(widget) -> list:
    return [widget, *(w for child in getattr(widget, "children", ()) for w in all_widgets(child))]


def test_visitors_of_voila_cannot_name_a_folder(beside_a_model):
    *lines, last = VOILA.strip().splitlines()
    there = {}
    exec("\n".join(lines), there)
    widget = eval(last, there)
    kinds = [type(w) for w in all_widgets(widget)]
    assert ipywidgets.FileUpload in kinds
    assert not {ipywidgets.Text, ipywidgets.Combobox} & set(kinds)
