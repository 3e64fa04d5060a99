"Batches: what is refused, and the same batches whatever way they are reached"

import numpy as np
import pytest
import torch

from simpsons_cnn.data import batches
from simpsons_cnn.data.augment import Augment
from simpsons_cnn.data.batches import Batches
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = demo_characters(tmp_path_factory.mktemp("batches") / "demo", train=13, test=1)
    return PixelStore.build(ImageFiles.scan(folder / "train"))


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        (
            {"batch_size": 1000, "augment": Augment()},
            ValueError,
            "batch_size must be at most the number of training pictures, 130, got 1,000",
        ),
        ({"indices": []}, ValueError, "indices must select at least one picture"),
        ({"indices": [False] * 130}, ValueError, "indices must select at least one picture"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of 1 or more, got 0"),
        ({"batch_size": 32.0}, ValueError, "batch_size must be a whole number of 1 or more"),
        ({"indices": [5, 130]}, IndexError, "indices must be from 0 to 129, got 5 to 130"),
        ({"indices": [-1, 3]}, IndexError, "indices must be from 0 to 129, got -1 to 3"),
        ({"indices": [2**63]}, IndexError, "indices must be from 0 to 129"),
        ({"indices": [True] * 129}, IndexError, "one value for each of 130 pictures, got shape"),
        ({"indices": [0.0, 1.7]}, TypeError, "whole numbers, or a mask, got float64 of shape"),
        ({"indices": torch.tensor([1.0])}, TypeError, "whole numbers, or a mask, got float32"),
        ({"indices": ["1"]}, TypeError, "indices must be a list of whole numbers"),
        ({"indices": [[1, 2]]}, TypeError, r"got int64 of shape \(1, 2\)"),
        ({"indices": 3}, TypeError, "indices must be a list of whole numbers"),
    ],
)
def test_refused(store, kwargs, error, words):
    with pytest.raises(error, match=words):
        Batches(store, device="cpu", **kwargs)


@pytest.mark.parametrize("start", [-1, 99, 5, 1.0, None])
@pytest.mark.parametrize("augment", [None, Augment()])
def test_start_outside_of_the_epoch(store, start, augment):
    dl = Batches(store, range(128), batch_size=32, augment=augment, device="cpu")
    with pytest.raises(ValueError, match="start must be a whole number from 0 to 4, got"):
        dl.epoch(0, start=start)  # at once, not when the first batch is asked for


@pytest.mark.parametrize("epoch", [-1, 0.5])
def test_no_epoch(store, epoch):
    with pytest.raises(ValueError, match="epoch must be a whole number of 0 or more, got"):
        Batches(store, batch_size=32, device="cpu").epoch(epoch)


def test_order(store):
    train_dl = Batches(store, range(100), 32, Augment(), device="cpu")
    centres = Batches(store, range(100), 32, shuffle=True, device="cpu")
    assert torch.equal(centres.epoch_order(0), train_dl.epoch_order(0))
    assert len(list(centres.epoch(0))) == len(list(train_dl.epoch(0))) == 3


@pytest.mark.parametrize("augment", [None, Augment()])
@pytest.mark.parametrize("start", range(5))
def test_start_gives_the_rest_of_the_epoch(store, start, augment):
    dl = Batches(store, range(128), batch_size=np.int64(32), augment=augment, device="cpu")
    whole = list(dl.epoch(3))
    rest = list(dl.epoch(3, start=start))
    assert len(whole) == 4 and len(rest) == 4 - start
    for (x, y), (xx, yy) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, xx) and torch.equal(y, yy)


def test_passes_are_epochs(store):
    dl = Batches(store, range(64), batch_size=32, augment=Augment(), device="cpu")
    for epoch in range(2):
        for (x, _), (xx, _) in zip(dl, dl.epoch(epoch), strict=True):
            assert torch.equal(x, xx)


def test_a_store_is_uploaded_once(store, monkeypatch):
    "Training and validation batches share the pixels on a GPU, as long as one of them is there"
    uploads = []

    class Pixels(torch.Tensor):
        def to(self, device):
            uploads.append(device)
            return self.clone()

    gpu = torch.device("cuda")
    pixels = store.pixels.as_subclass(Pixels)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**12, 10**12))
    first = batches._to_gpu_if_it_fits(pixels, gpu)
    assert batches._to_gpu_if_it_fits(pixels, gpu) is first and uploads == [gpu]
    batches._to_gpu_if_it_fits(pixels[:5], gpu)
    assert len(uploads) == 2  # other pixels
    del first
    batches._to_gpu_if_it_fits(pixels, gpu)
    assert len(uploads) == 3  # nobody held them, so their memory was free again
