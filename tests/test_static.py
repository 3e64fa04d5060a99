"What an editor sees of the classes that `import simpsons_cnn as sc` promises, without running them"

import ast
import importlib
import inspect

import pytest
from conftest import ROOT

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


def methods_in_the_text(module, name: str) -> set:
    "Methods that stand inside the class, where static tools find them"
    tree = ast.parse(inspect.getsource(module))
    [node] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    return {n.name for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}


def methods_when_run(module, name: str) -> set:
    "Public methods that the class has of its own once its module was imported"
    cls = getattr(module, name)
    fields = set(getattr(cls, "__annotations__", {})) | set(getattr(cls, "model_fields", {}))
    own = {key for key, value in vars(cls).items() if not inspect.isclass(value)}
    return {key for key in own - fields if not key.startswith(("_", "model_"))}


def test_each_name_of_the_stub_is_a_definition():
    for node in STUB.body:
        module = importlib.import_module(f"simpsons_cnn.{node.module}")
        tree = ast.parse(inspect.getsource(module))
        defined = {n.name for n in tree.body if hasattr(n, "name")}
        assert {alias.name for alias in node.names} <= defined, node.module


# `@patch` adds these when the module is imported, so an editor does not offer them. The list is
# to become shorter: a method that moves into its class leaves it.
HIDDEN = {
    "Augment": {"sample_affine"},
    "Classifier": {
        *("load", "from_pretrained", "predict", "explain", "logits", "probabilities", "save"),
        "count_trained_on",
    },
    "Explanation": {"plot"},
    "Prediction": {"line"},
    "Predictions": {"to_csv", "to_frame"},
}


@pytest.mark.parametrize("module, name", promised_classes(), ids=lambda value: str(value)[:30])
def test_public_methods_stand_in_their_class(module, name):
    hidden = methods_when_run(module, name) - methods_in_the_text(module, name)
    assert hidden == HIDDEN.get(name, set()), f"{name}: write {sorted(hidden)} inside the class"
