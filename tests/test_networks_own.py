"Networks that somebody else wrote: registered, tried, trained, saved, loaded and exported"

import sys
import warnings
from collections import namedtuple

import pytest
import torch
from torch import nn

import simpsons_cnn as sc
from simpsons_cnn.core.config import import_function, network_names, registered_networks
from simpsons_cnn.core.device import make_generator
from simpsons_cnn.networks.model_file import _network_of
from simpsons_cnn.networks.presets import check_network
from simpsons_cnn.networks.reference import set_dropout_generator
from simpsons_cnn.training.prepare import TrainingData, check_own_network
from simpsons_cnn.training.train import _with_all_images

SOURCE = """
from torch import nn

def make_net(num_classes):
    layers = [nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, num_classes))
"""


@pytest.fixture(autouse=True)
def no_names_left():
    before = dict(registered_networks)
    yield
    registered_networks.clear()
    registered_networks.update(before)


@pytest.fixture
def my_nets(tmp_path, monkeypatch):
    "A module in the working folder"
    (tmp_path / "my_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield "my_nets:make_net"
    sys.modules.pop("my_nets", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sc.demo_characters(tmp_path_factory.mktemp("own") / "data/demo", train=6, test=1)


def test_a_network_of_the_working_folder(folder, my_nets, tmp_path):
    "Trained, saved, loaded, explained, exported, and not loaded where it is not registered"
    before = torch.get_rng_state()
    few = dict(num_epochs=1, batch_size=16, size=64, first_crop=None, split="random")
    places = dict(traindir=folder / "train", testdir=None, out_directory=tmp_path / "run")
    run = sc.train(sc.Config.load(architecture=my_nets, **few, **places), [])
    assert torch.equal(torch.get_rng_state(), before)
    clf = sc.Classifier.load(run.model_path)
    pictures = sc.ImageFiles.scan(folder / "train").paths[:3]
    assert clf.explain(pictures[0]).cam.max() == pytest.approx(1)
    assert sc.export_onnx(clf, tmp_path / "m.onnx", pictures)["largest_difference"] < 1e-4
    registered_networks.clear()
    sys.modules.pop("my_nets")
    with pytest.raises(
        ValueError, match=r"cannot be used here: Network 'my_nets:make_net' is not reg"
    ):
        sc.Classifier.load(run.model_path)
    assert "my_nets" not in sys.modules  # a file's word imports nothing


class StopAt(sc.Callback):
    def on_step(self, run):
        if (run.epoch, run.step) == (1, 0):
            run.stop("enough")


def test_foreign_dropout_resumes_to_the_same_bits(folder, my_nets, tmp_path):
    store = sc.PixelStore.build(sc.ImageFiles.scan(folder / "train"), 64)
    train_dl = sc.Batches(store, batch_size=16, augment=sc.Augment(), device="cpu")
    loaders = (train_dl, sc.Batches(store, device="cpu"))

    def trained(callbacks, checkpoint=None):
        model = sc.create_model(my_nets, 10, seed=0)
        sc.fit(model, *loaders, callbacks=callbacks, checkpoint=checkpoint, num_epochs=2)
        return model.state_dict()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = trained([])
        trained([StopAt()], tmp_path / "cut")
        cut = trained([], sc.Checkpoint(tmp_path / "cut", resume=True))
    assert all(torch.equal(cut[name], weights) for name, weights in whole.items())


def test_a_header_with_other_numbers_of_characters_calls_nothing():
    sc.register_network("never", lambda n: pytest.fail("called"))
    network = dict(name="OwnNetwork", factory="never", num_classes=10**9)
    with pytest.raises(ValueError, match="names 2 characters for a network of 1000000000"):
        _network_of(dict(architecture=network, classes=["a", "b"]), num_tensors=9)


Outputs = namedtuple("Outputs", "logits aux")


class Aux(nn.Module):
    "Answers with two tensors in training, as GoogLeNet does"

    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(3, num_classes)

    def forward(self, xb):
        logits = self.linear(xb.mean((2, 3)))
        return Outputs(logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (Aux, "in training it answered with Outputs"),
        (
            lambda n: nn.Sequential(nn.Flatten(), nn.Linear(12, n)),
            "it failed .RuntimeError: .*mat1",
        ),
        (lambda n: nn.Conv2d(3, n, 3), r"it answered with shape \(2, 4, 62, 62\)"),
        (lambda n: sc.SimpsonsCNN(7), r"it answered with shape \(2, 7\)"),
        (lambda n: nn.LazyLinear(n), "must make layers of known sizes"),
        (lambda n: nn.Linear, "must make a torch.nn.Module, got type"),
        (lambda n: 1 / 0, r"made no network of 4 outputs \(ZeroDivisionError"),
    ],
)
def test_networks_that_cannot_be_trained(factory, message):
    sc.register_network("mine", factory)
    config = sc.Config.load(architecture="mine", size=64, first_crop=None)
    with pytest.raises(ValueError, match=message):
        check_own_network(config, 4)


def patches(n):
    "A network that takes sides that are multiples of 16"
    layers = [nn.PixelUnshuffle(16), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(768, n))


def test_a_network_that_does_not_take_a_crop_between_the_first_and_the_last():
    sc.register_network("mine", patches)
    config = sc.Config.load(architecture="mine", size=96, first_crop=64)
    with pytest.raises(ValueError, match=r"images .2, 3, 68, 68. into logits .2, 4.; in training"):
        check_own_network(config, 4)
    check_own_network(sc.Config.load(architecture="mine", size=96, first_crop=None), 4)


def test_a_network_that_needs_two_images():
    squeezed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    squeezed.register_forward_hook(lambda module, inputs, logits: logits.squeeze())
    with pytest.raises(ValueError, match=r"images .1, 3, 64, 64. into .*; in evaluation it answer"):
        check_network(squeezed, 4, [64])


def test_trying_a_network_does_not_change_it():
    model = sc.create_model("reference", 3, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_network(model, 3, [64])
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("name", ["", "two words", "a=b", "x" * 101, "wide"])
def test_names_that_cannot_be_registered(name):
    with pytest.raises(ValueError, match="^name must"):
        sc.register_network(name, Aux)
    with pytest.raises(TypeError, match="factory must be a function"):
        sc.register_network("aux", "Aux")


def test_paths_that_lead_nowhere(my_nets):
    assert import_function(my_nets)(3)[-1].out_features == 3
    with pytest.raises(ValueError, match="'my_nets:other' cannot be imported .AttributeError"):
        import_function("my_nets:other")
    with pytest.raises(ValueError, match="No module named 'your_nets'"):
        import_function("your_nets:make_net")


def test_the_form_offers_registered_networks_and_keeps_those_of_its_settings():
    from simpsons_cnn.lab.controls import TrainingControls

    sc.register_network("aux", Aux)
    controls = TrainingControls(dict(own=sc.Config.load(architecture="my_nets:make_net")))
    options = controls.fields["architecture"].options
    assert [*options] == [*network_names(), "my_nets:make_net"]
    assert controls.config.architecture == "my_nets:make_net"


def test_ranks_drop_different_places():
    class Drops(nn.Module):
        def forward(self, xb):
            return nn.functional.dropout(xb, 0.5)

    sc.register_network("drops", lambda n: Drops())
    answers = {}
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        model = sc.create_model("drops", 2, seed=0).train()
        set_dropout_generator(model, make_generator(0, "dropout", 0, 3), rank, size)
        answers[rank, size] = model(torch.ones(1, 64))
    assert torch.equal(answers[0, 1], answers[0, 2])
    assert not torch.equal(answers[0, 2], answers[1, 2])


def test_models_share_no_weights_where_a_function_returns_one_network(tmp_path):
    only = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    sc.register_network("only", lambda n: only)
    kept = only[1].weight.clone()
    for i in (0, 1):
        model = sc.create_model("only", 2, seed=0)
        assert torch.equal(model.network[1].weight, kept)  # not what was trained before
        with torch.no_grad():
            model.network[1].weight.fill_(i)
        sc.save_model(tmp_path / f"{i}.safetensors", model, ["a", "b"], sc.Preprocess(64))
    zeros, ones = (sc.Classifier.load(tmp_path / f"{i}.safetensors", "cpu") for i in (0, 1))
    assert zeros.model.network[1].weight.sum() == 0
    assert ones.model.network[1].weight.sum() == 24


def test_a_refit_sees_transformed_images(folder):
    store = sc.PixelStore.build(sc.ImageFiles.scan(folder / "train"), 64)
    how = dict(batch_size=16, augment=sc.Augment(), device="cpu", transform=torch.neg)
    train_dl = sc.Batches(store, range(40), **how)
    valid_dl = sc.Batches(store, range(40, 60), device="cpu")
    data = TrainingData(train_dl, valid_dl, test_dl=None, groups=range(60))
    assert _with_all_images(data).train_dl.transform is torch.neg


VARY = """
import torch

def vary(xb):
    return torch.where(torch.rand(xb.shape) < 0.1, 255, xb)
"""


def test_a_transform_of_the_settings_resumes_and_refits_to_the_same_bits(
    folder, tmp_path, monkeypatch
):
    (tmp_path / "my_views.py").write_text(VARY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])
    few = dict(num_epochs=2, batch_size=16, size=64, first_crop=None, split="random")
    places = dict(traindir=folder / "train", testdir=None)

    def trained(name, callbacks=(), resume=False, **changes):
        settings = few | places | dict(transform="my_views:vary", refit=True) | changes
        run = sc.train(sc.Config.load(out_directory=tmp_path / name, **settings), callbacks, resume)
        return run.model.state_dict()

    whole = trained("whole")
    trained("cut", [StopAt()])
    cut = trained("cut", resume=True)
    assert all(torch.equal(cut[name], weights) for name, weights in whole.items())
    with pytest.raises(ValueError, match="transform is None now and was 'my_views:vary'"):
        trained("cut", resume=True, transform=None)
    with pytest.raises(ValueError, match="transform must return uint8 images"):
        trained("none", transform="torchvision.transforms.v2.functional:to_dtype")
    assert not (tmp_path / "none").exists()
