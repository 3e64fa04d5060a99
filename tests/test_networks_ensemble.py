"Ensembles: one network, one file, one graph; crafted headers; what only single networks can do"

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import write_crafted
from safetensors import safe_open
from torch import nn

from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.inference.card import model_card
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.inference.explain import grad_cam
from simpsons_cnn.inference.export import export_onnx
from simpsons_cnn.networks.ensemble import MAX_MEMBERS, Ensemble
from simpsons_cnn.networks.model_file import load_model, save_model
from simpsons_cnn.networks.presets import PRESETS, create_model, register_network
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.scoring.calibration import OOD_SCORES
from simpsons_cnn.scoring.logit_adjustment import check_adjustable, shift_logits

CHARACTERS = list("abcd")


def small(seed: int, num_classes: int = 4) -> SimpsonsCNN:
    "A network that is sure of what it says"
    model = create_model("reference", num_classes, seed=seed, channels=(8, 8, 8, 16, 16, 16))
    with torch.no_grad():
        model.linear_stack[-1].weight.mul_(100)
    return model.eval()


@pytest.fixture(scope="module")
def ensemble():
    return Ensemble([small(0), create_model("plain", 4, seed=1), small(2)], [1.0, 0.5, 2.5]).eval()


@pytest.fixture(scope="module")
def xb():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def path(ensemble, tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "ensemble.safetensors"
    save_model(file, ensemble, CHARACTERS, Preprocess(64))
    return file


@torch.no_grad()
def test_its_probabilities_are_the_mean_of_its_members(ensemble, xb):
    pairs = zip(ensemble.members, ensemble.temperatures, strict=True)
    alone = torch.stack([(member(xb) / t).softmax(1) for member, t in pairs])
    assert torch.allclose(ensemble(xb).softmax(1), alone.mean(0), atol=1e-6)
    assert not torch.allclose(alone[0], alone[2], atol=0.01)


@torch.no_grad()
def test_equal_members_are_one_network_for_each_measure_of_familiarity(xb):
    model = small(0)
    twice = Ensemble([model, model])
    for measure in OOD_SCORES.values():
        assert torch.allclose(measure(twice(xb), 1.3), measure(model(xb), 1.3), atol=1e-4)


def test_members_that_exclude_each_other_have_finite_logits():
    class Says(nn.Module):
        min_side, hparams = 1, dict(num_classes=2)

        def __init__(self, logits):
            super().__init__()
            self.logits = torch.tensor([logits])

        def forward(self, xb):
            return self.logits

    found = Ensemble([Says([1e4, -1e4]), Says([-1e4, 1e4])])(None)
    assert torch.equal(found.softmax(1), torch.full((1, 2), 0.5))


def test_a_file_keeps_every_bit(ensemble, path, xb, tmp_path):
    loaded, header = load_model(path)
    with torch.no_grad():
        assert torch.equal(loaded(xb), ensemble(xb))
    save_model(tmp_path / "again", loaded, header["classes"], header["preprocess"], header["about"])
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_a_member(preset):
    with torch.device("meta"):
        model = Ensemble([create_model(preset, 3), create_model("reference", 3)])
    assert model.hparams["members"][0]["name"] == type(model.members[0]).__name__


def test_a_network_of_your_own_can_be_a_member(tmp_path, xb):
    register_network(
        "tiny", lambda n: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, n))
    )
    model = Ensemble([create_model("tiny", 4, seed=0), small(1)]).eval()
    save_model(tmp_path / "m", model, CHARACTERS, Preprocess(64))
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m")[0](xb), model(xb))


# Crafted headers


@pytest.fixture
def crafted(path, tmp_path):
    "Write the file with another description, and a digest that is right"

    def craft(**changes):
        header = json.loads(safe_open(str(path), "pt").metadata()["simpsons_cnn"])
        header["architecture"] |= changes
        return write_crafted(tmp_path / "crafted", safetensors.torch.load_file(path), header)

    return craft


def member(**changes) -> dict:
    return dict(name="SimpsonsCNN", num_classes=4, channels=[8] * 6) | changes


NESTED = dict(name="Ensemble", num_classes=4, members=[member()] * 2, temperatures=[1, 1])


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(members=[member(), NESTED]), "Unknown architecture 'Ensemble'"),
        (dict(members=[member(name="os.system")] * 2), "Unknown architecture 'os.system'"),
        (dict(members=[member()] * 1000), f"at most {MAX_MEMBERS} members, got 1,000"),
        (dict(members=[member(channels=[1] * 60)] * 30), "1,800 blocks for"),
        (dict(members=[member()]), "2 to 32 members, got 1"),
        (dict(members=[]), "2 to 32 members, got 0"),
        (dict(members="SimpsonsCNN"), "has an incomplete header"),
        (dict(members=None), "has an incomplete header"),
        (dict(members=[member(), 3]), "has an incomplete header"),
        (dict(members=[member(channels=[10**7] * 6)] * 2, temperatures=[1, 1]), "does not fit"),
        (dict(members=[member(), member(num_classes=5)], temperatures=[1, 1]), r"got \[4, 5\]"),
        (dict(members=[member(num_classes=5)] * 2, temperatures=[1, 1]), "network of 5"),
        (dict(temperatures=[1, 1]), "give 3 temperatures, got 2"),
        (dict(temperatures=[1, 1, 0]), "temperature must be a number from 0.001 to 1,000"),
        (
            dict(temperatures=[1, 1, float("nan")]),
            "temperature must be a number from 0.001 to 1,000",
        ),
        (
            dict(temperatures=[1, 1, "2"]),
            "temperature must be a number from 0.001 to 1,000, got '2'",
        ),
        (
            dict(members=[dict(name="OwnNetwork", factory="os:abort", num_classes=4)] * 2),
            "Network 'os:abort' is not registered here",
        ),
        (
            dict(members=[dict(name="OwnNetwork", factory="tiny", num_classes=10**6)] * 2),
            "names 4 characters for a network of 1000000",
        ),
    ],
)
def test_headers_that_make_no_sense(crafted, changes, words):
    with pytest.raises(ValueError, match=words):
        load_model(crafted(**changes))


def test_a_crafted_file_can_be_right(crafted, path):
    assert load_model(crafted())[1]["classes"] == load_model(path)[1]["classes"]
    assert isinstance(load_model(crafted())[0], Ensemble)


# What other rooms make of it


@pytest.fixture(scope="module")
def clf(path):
    about = dict(calibration=dict(temperature=1.7, threshold=2.0))
    model, header = load_model(path)
    return Classifier(model, header["classes"], header["preprocess"], about)


@pytest.mark.parametrize("measure", OOD_SCORES)
def test_the_exported_graph_gives_the_same_answers(clf, tmp_path, measure):
    about = dict(calibration=dict(temperature=1.7, threshold=2.0, measure=measure))
    measured = Classifier(clf.model, clf.classes, clf.preprocess, about)
    pictures = [np.random.default_rng(i).integers(0, 256, (90, 70, 3), np.uint8) for i in range(3)]
    found = export_onnx(measured, tmp_path / "e.onnx", [to_image(p) for p in pictures])
    assert found["pictures"] == 3 and found["largest_difference"] < 1e-4


def to_image(pixels):
    from PIL import Image

    return Image.fromarray(pixels)


def test_all_members_are_explained(ensemble, xb):
    targets = torch.tensor([0, 1, 2])
    first, last = ensemble.members[0], ensemble.members[2]
    alike = Ensemble([first, first]).eval()
    assert torch.allclose(grad_cam(alike, xb, targets), grad_cam(first, xb, targets), atol=1e-4)
    both = grad_cam(Ensemble([first, last]).eval(), xb, targets)
    assert not torch.allclose(both, grad_cam(last, xb, targets), atol=0.01)
    swapped = grad_cam(Ensemble([last, first]).eval(), xb, targets)
    assert torch.allclose(both, swapped, atol=1e-4)


def test_a_member_that_denies_the_answer_explains_nothing_of_it(xb):
    believer, denier = small(0), small(2)
    with torch.no_grad():
        denier.linear_stack[-1].bias[1] = -1e4
    targets = torch.ones(3, dtype=torch.long)
    together = grad_cam(Ensemble([denier, believer]).eval(), xb, targets)
    assert torch.allclose(together, grad_cam(believer, xb, targets), atol=1e-4)


def test_logits_are_adjusted_before_and_not_after(ensemble, xb):
    before = ensemble.state_dict()["members.2.linear_stack.4.bias"].clone()
    with pytest.raises(ValueError, match="for single networks, before they join an ensemble"):
        shift_logits(ensemble, torch.ones(4))
    with pytest.raises(ValueError, match="for single networks"):
        check_adjustable(ensemble, xb, 4)
    assert torch.equal(ensemble.state_dict()["members.2.linear_stack.4.bias"], before)


def test_its_card_names_its_members(clf):
    card = model_card(clf)
    assert "The mean answer of 3 convolutional networks (`SimpsonsCNN, PlainCNN`" in card
    data = dict(data=dict(splits=2), refit=dict(members=1))
    card = model_card(Classifier(clf.model, clf.classes, clf.preprocess, data))
    assert "Its networks were trained on 2 sets of pictures" in card
    assert "After these scores were measured" not in card
