"The search for a learning rate: other losses, other dropout, a network that cannot learn"

import signal
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from simpsons_cnn.core.config import Augment, Config, TrainingParameters
from simpsons_cnn.data.batches import Batches
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.networks.losses import FocalLoss
from simpsons_cnn.networks.presets import register_network
from simpsons_cnn.training.find_rate import find_learning_rate, search_rate

RECIPE = TrainingParameters(num_epochs=1, mixed_precision="off", first_crop=None)


@pytest.fixture(scope="module")
def train_dl(tmp_path_factory):
    folder = demo_characters(tmp_path_factory.mktemp("demo"), train=2, test=1)
    store = PixelStore.build(ImageFiles.scan(folder / "train"), size=64)
    return Batches(store, None, 10, Augment(), device="cpu")


class Small(nn.Module):
    "With dropout that draws from the random numbers of the process"

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 64 * 64), nn.Dropout(0.5))
        self.last = nn.Linear(3 * 64 * 64, 10)

    def forward(self, x):
        return self.last(self.layers(x))


def test_random_numbers_of_the_process_are_put_back(train_dl):
    torch.manual_seed(1)
    model = Small().eval()
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    loss = FocalLoss(1.0, torch.arange(1.0, 11.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that of the unseeded dropout stays inside
        find_learning_rate(model, train_dl, loss, RECIPE, num_steps=10)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not model.training and model.last.weight.grad is None
    assert torch.equal(loss.weight, torch.arange(1.0, 11.0))


def test_the_seed_of_an_average_and_the_schedule_do_not_matter(train_dl):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
    first, second = [
        find_learning_rate(model, train_dl, None, recipe, num_steps=10).losses
        for recipe in (
            RECIPE,
            RECIPE.model_copy(
                update=dict(
                    schedule="constant",
                    patience=3,
                    weight_averaging=0.9,
                    monitor="macro_f1_common",
                )
            ),
        )
    ]
    assert np.array_equal(first, second)


def test_a_flat_curve_suggests_nothing(train_dl):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
    found = find_learning_rate(
        model, train_dl, None, RECIPE, num_steps=20, highest=1e-9, lowest=1e-10
    )
    assert found.suggestion is None and "no suggestion" in repr(found)
    assert found._repr_png_()[:4] == b"\x89PNG"


def test_an_exploding_loss_ends_the_search(train_dl):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
    found = find_learning_rate(model, train_dl, None, RECIPE, num_steps=100, highest=1e3)
    assert 10 <= len(found.losses) < 100 and np.isfinite(found.losses).all()


def test_networks_of_your_own_are_searched_and_tried_first(tmp_path):
    demo_characters(tmp_path / "data/demo", train=4, test=1, size=64)
    settings = dict(size=64, crop_size=64, batch_size=10, first_crop=None)
    register_network("small-search", lambda n: Small())
    config = Config.demo(tmp_path, architecture="small-search", **settings)
    assert len(search_rate(config, num_steps=10).losses)
    register_network("no-search", lambda n: nn.Flatten())
    with pytest.raises(ValueError, match="A network must turn images"):
        search_rate(Config.demo(tmp_path, architecture="no-search", **settings), num_steps=10)


class Interrupts(FocalLoss):
    "Sends the process SIGINT while the loss of the fourth step is computed"

    steps = 0

    def forward(self, logits, targets):
        Interrupts.steps += 1
        if Interrupts.steps == 4:
            signal.raise_signal(signal.SIGINT)
        return super().forward(logits, targets)


def test_an_interrupt_in_the_first_epoch_ends_the_search(train_dl, monkeypatch):
    monkeypatch.setattr(Interrupts, "steps", 0)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    dl = Batches(train_dl.store, None, 2, Augment(), device="cpu")  # ten steps in an epoch
    try:
        with pytest.raises(KeyboardInterrupt, match="interrupt"):
            find_learning_rate(Small(), dl, Interrupts(), RECIPE, num_steps=10)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert Interrupts.steps == 4


def test_a_loss_that_is_nan_from_the_start_is_named(train_dl):
    def nan(logits, targets):
        return logits.sum() * float("nan")

    with pytest.raises(ValueError, match="The loss of the first step is NaN or infinite"):
        find_learning_rate(Small(), train_dl, nan, RECIPE, num_steps=10)
