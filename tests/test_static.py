"What an editor sees of the classes that `import simpsons_cnn as sc` promises, without running them"

import ast
import importlib
import inspect
import json
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from types import FunctionType

import pytest
from conftest import ROOT

METHODS = (FunctionType, property, cached_property, classmethod, staticmethod)
STUB = ast.parse((ROOT / "simpsons_cnn/__init__.pyi").read_text(encoding="utf-8"))


def promised_classes() -> list:
    "(module, name) of each class in the stub"
    found = []
    for node in STUB.body:
        module = importlib.import_module(f"simpsons_cnn.{node.module}")
        found += [
            (module, alias.name)
            for alias in node.names
            if inspect.isclass(getattr(module, alias.name))
        ]
    return found


def own_classes(cls: type) -> list:
    "A class and those it inherits from, as far as they are of this library"
    return [c for c in cls.__mro__ if c.__module__.startswith("simpsons_cnn.")]


def methods_in_the_text(cls: type) -> set:
    "Methods that stand inside the class, where static tools find them"
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    [node] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
    return {n.name for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}


def methods_when_run(cls: type) -> set:
    "Public methods that the class has of its own once its module was imported"
    own = {key for key, value in vars(cls).items() if isinstance(value, METHODS)}
    return {key for key in own if not key.startswith(("_", "model_"))}


def test_each_name_of_the_stub_is_a_definition():
    for node in STUB.body:
        module = importlib.import_module(f"simpsons_cnn.{node.module}")
        tree = ast.parse(inspect.getsource(module))
        defined = {n.name for n in tree.body if hasattr(n, "name")}
        assert {alias.name for alias in node.names} <= defined, node.module


# A method that `@patch` adds when the module is imported is one that no editor offers.
@pytest.mark.parametrize("module, name", promised_classes(), ids=lambda value: str(value)[:30])
def test_public_methods_stand_in_their_class(module, name):
    for cls in own_classes(getattr(module, name)):
        hidden = methods_when_run(cls) - methods_in_the_text(cls)
        assert not hidden, f"{cls.__name__}: write {sorted(hidden)} inside the class"


SCRIPT = """
import simpsons_cnn as sc

files = sc.ImageFiles.scan("train")
report = sc.audit(files)
train_idx, valid_idx = sc.split_by_group(files, report.groups)
store = sc.PixelStore.build(files)
valid_dl = sc.Batches(store, valid_idx)
model = sc.create_model("reference", num_classes=42)
history = sc.fit(model, sc.Batches(store, train_idx, augment=sc.Augment()), valid_dl)
sc.plot_confusion(sc.evaluate(model, valid_dl))
run = sc.train(sc.Config.load("config.yaml"))
clf = sc.Classifier.load(run.model_path)
clf.save("copy.safetensors")
print(clf.predict("homer.jpg").name, clf.predict("folder").to_frame())
print(clf.probabilities(clf.prepare("homer.jpg")).max(), clf.count_trained_on([], "split.csv"))
clf.explain("homer.jpg").plot("Why?")
sc.Predictions([sc.Prediction(store.pixels[0].numpy(), files.classes)]).to_csv("answers.csv")
"""


def pyright(folder: Path, script: str) -> list:
    "What Pyright complains about in a script that uses this library"
    (folder / "script.py").write_text(script, encoding="utf-8")
    settings = dict(include=["script.py"], extraPaths=[str(ROOT)])
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["pyright", "--project", folder, "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    return [found["message"] for found in json.loads(done.stdout)["generalDiagnostics"]]


@pytest.mark.skipif(not shutil.which("pyright"), reason="Pyright is not installed")
def test_pyright_knows_what_the_stub_promises(tmp_path):
    [complaint] = pyright(tmp_path, SCRIPT + "clf.sav")  # nothing else is wrong
    assert 'attribute "sav" for class "Classifier"' in complaint
