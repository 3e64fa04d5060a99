"Exports: every resize rule and measure, what must not be written, strangers' folders"

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.demo.characters import character_names, draw_character
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.inference.export import (
    _WRITERS,
    _resize,
    check_parity,
    export_onnx,
    export_torch,
    onnx_graph,
    pictures_to_check,
)
from simpsons_cnn.networks.presets import PRESETS, create_model
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.scoring.calibration import Calibration

onnxruntime = pytest.importorskip("onnxruntime")


def opinionated(resize_rule="stretch", **calibration):
    "A classifier whose answers differ from image to image"
    torch.manual_seed(0)
    model = create_model("reference", 10)
    rng = np.random.default_rng(0)
    prep = Preprocess(96, resize_rule)
    xb = torch.stack([prep(draw_character(name, rng)) for name in character_names * 4])
    with torch.no_grad():
        for _ in range(30):
            model(prep.normalise(prep.center_crop(xb)))
        model.linear_stack[4].weight *= 30
    metadata = dict(calibration=Calibration(**calibration).to_dict(), licence="MIT")
    return Classifier(model, character_names, prep, metadata)


@pytest.fixture(scope="module")
def clf():
    return opinionated(temperature=1.5, threshold=-2.0)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(1)
    return [draw_character(n, rng, size=int(rng.integers(40, 300))) for n in character_names * 4]


@pytest.mark.parametrize("rule", ["stretch", "pad"])
@pytest.mark.parametrize(
    "width, height", [(96, 96), (1, 1), (2, 300), (700, 3), (95, 97), (1200, 900)]
)
def test_the_same_bits(rule, width, height):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    prep = Preprocess(96, rule)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    assert torch.equal(_resize(x, prep)[0].byte(), prep(pixels))


@pytest.mark.parametrize("rule", ["stretch", "pad"])
@pytest.mark.parametrize("measure", ["probability", "logit", "energy"])
def test_rules_and_measures(tmp_path, drawn, rule, measure):
    other = opinionated(rule, measure=measure)
    wide = [drawn[0].resize((300, 40)), drawn[1].resize((31, 200))]
    for export, name in ((export_onnx, "m.onnx"), (export_torch, "m.pt2")):
        found = export(other, tmp_path / name, [*drawn[:10], *wide])
        assert found["largest_difference"] < 1e-3 and (tmp_path / name).exists()


def test_500_pictures(tmp_path, clf):
    found = export_onnx(clf, tmp_path / "model.onnx")
    assert found["pictures"] == 500 and found["largest_difference"] < 1e-4


def test_graph_has_no_product_that_older_runtimes_lack(clf):
    "onnxruntime before 1.26 fuses a transposed matrix of doubles into a product that it lacks"
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(onnx_graph(clf)).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 2
    assert all(made_by.get(name) != "Transpose" for node in products for name in node.input)


def test_metadata(tmp_path, clf, drawn):
    export_onnx(clf, tmp_path / "m.onnx", drawn[:3])
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=providers)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(clf.classes)
    assert (metadata["threshold"], metadata["licence"]) == ("2.0", "MIT")


def test_what_differs_is_not_written(tmp_path, clf, drawn, monkeypatch):
    def without_bias(x, layer):
        return x._apply("Gemm", layer.weight, torch.zeros_like(layer.bias), transB=1)

    monkeypatch.setitem(_WRITERS, "Linear", without_bias)
    with pytest.raises(ValueError, match="; nothing was written"):
        export_onnx(clf, tmp_path / "biased.onnx", drawn)
    assert not (tmp_path / "biased.onnx").exists()


@pytest.mark.parametrize(
    "layer, words",
    [
        (nn.Softplus(), "cannot write a Softplus layer; write an operator for it"),
        (nn.AdaptiveAvgPool2d((7, 7)), r"cannot write a pooling to \(7, 7\), only to 1"),
    ],
)
def test_a_layer_without_an_operator(layer, words):
    other = opinionated()
    other.model.linear_stack.append(layer)
    with pytest.raises(ValueError, match=words):
        onnx_graph(other)


class Squared(SimpsonsCNN):
    def forward(self, xb):
        return torch.square(super().forward(xb))


def test_unknown_function(clf):
    other = Classifier(Squared(10), clf.classes, clf.preprocess, clf.about)
    with pytest.raises(ValueError, match="^export_onnx cannot write square"):
        onnx_graph(other)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("reference", "wide")])
def test_deeper_networks(tmp_path, clf, drawn, name):
    "With branches that are not silent, and moments of batch norm taken from one pass"
    model, prep = create_model(name, 10, seed=0).train(), clf.preprocess
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            nn.init.ones_(layer.weight)
    images = torch.stack([prep(image) for image in drawn[:12]])
    with torch.no_grad():
        model(prep.normalise(prep.center_crop(images)))
        model.linear_stack[1].weight *= 10
    other = Classifier(model, clf.classes, prep, clf.about)
    answers = np.stack([p.probabilities for p in other.predict(drawn[:12])])
    assert np.ptp(answers, axis=0).max() > 0.1  # they depend on the picture
    found = export_onnx(other, tmp_path / "m.onnx", drawn[:12])
    assert found["largest_difference"] < 1e-3


def answer_of(clf):
    def answer(pixels):
        p = clf.predict(pixels)
        return p.probabilities, -p.ood_score

    return answer


def test_broken_pictures_are_left_out(tmp_path, clf, drawn):
    "One broken picture in the folder does not keep the export from being written"
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    with pytest.raises(ValueError, match="None of the pictures to compare on can be read"):
        check_parity(answer_of(clf), clf, pictures_to_check(tmp_path))
    for i in range(3):
        drawn[i].save(tmp_path / f"{i}.png")
    assert check_parity(answer_of(clf), clf, pictures_to_check(tmp_path))["pictures"] == 3


def test_nothing_to_check(tmp_path):
    with pytest.raises(FileNotFoundError, match="No pictures under"):
        pictures_to_check(tmp_path)


def test_spread_over_a_folder(tmp_path):
    for i in range(9):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    assert [p.name for p in pictures_to_check(tmp_path, 3)] == ["0.png", "4.png", "8.png"]


def test_pictures_to_compare_on_are_read_as_predict_reads_them():
    "Grey, transparent or to be rotated: what a user has opened with Pillow"
    clf = Classifier(SimpsonsCNN(3, channels=(8,) * 6), [*"abc"], Preprocess(size=64))
    tall = Image.new("RGB", (40, 90), "red")
    tall.getexif()[0x0112] = 6
    pictures = [Image.new("L", (50, 40)), Image.new("RGBA", (50, 40), (9, 9, 9, 0)), tall]

    def answer(pixels):
        assert pixels.shape[2] == 3
        p = clf.predict(pixels)
        return p.probabilities, -p.ood_score

    assert check_parity(answer, clf, pictures) == dict(pictures=3, largest_difference=0.0)
