"Batches: what is refused, and the same batches whatever way they are reached"

import dataclasses
import random
import weakref

import numpy as np
import pytest
import torch
from late_copies import LateCopies

from simpsons_cnn.data import batches
from simpsons_cnn.data.augment import Augment
from simpsons_cnn.data.batches import Batches, local_order
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.shards import PixelParts
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
        ({"seed": -1}, ValueError, "seed must be a whole number of 0 or more, got -1"),
        ({"seed": 1.5}, ValueError, "seed must be a whole number of 0 or more, got 1.5"),
        ({"seed": None}, ValueError, "seed must be a whole number of 0 or more, got None"),
        ({"shuffle": "locally"}, ValueError, "shuffle must be true, false or 'local', got 'loc"),
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


def test_the_random_order_is_that_of_earlier_versions(store):
    dl = Batches(store, range(0, 130, 2), 32, Augment(), seed=3, device="cpu")
    assert dl.epoch_order(2)[:6].tolist() == [90, 8, 120, 84, 56, 92]


@pytest.mark.parametrize(
    "n, block, window", [(1, 32, 8192), (1000, 7, 64), (64, 1, 1), (90, 9, 90)]
)
def test_a_local_order_has_each_row_once_and_neighbours_together(n, block, window):
    order = local_order(n, torch.Generator().manual_seed(0), block, window)
    assert torch.equal(order.sort().values, torch.arange(n))
    for rows in order.split(window):
        assert len((rows // block).unique()) <= window // block + 2
    if n > 500:  # in its window, each row has any other behind it
        assert (order.diff() == 1).float().mean() < 0.1


def local(store):
    return Batches(store, range(1, 129), 32, Augment(), shuffle="local", device="cpu")


def test_each_image_is_asked_for_before_it_is_wanted(store, monkeypatch):
    "Once, by the process that wants it"
    monkeypatch.setattr(batches, "WINDOW", 64)
    monkeypatch.setattr(batches.local_order, "__defaults__", (4, 64))
    asked = []
    monkeypatch.setattr(batches, "read_ahead", lambda _, rows: asked.extend(rows.tolist()))
    dl = Batches(store, range(1, 129), 16, Augment(), shuffle="local", device="cpu").share(1, 3)
    wanted = []
    for (_, rows), _ in zip(dl.steps(2, 1), dl.epoch(2, start=1), strict=True):
        wanted += rows[1::3].tolist()
        assert set(wanted) <= set(asked) and len(asked) <= len(wanted) + 2 * 64 / 3
    assert sorted(asked) == sorted(wanted)
    asked.clear()
    list(Batches(store, range(1, 129), 16, Augment(), device="cpu").epoch(0))
    assert asked == []


def test_nothing_is_left_of_a_local_order_after_its_last_step(store):
    "As for a run that was stopped there, before the epoch was judged"
    dl = local(store)
    assert list(dl.epoch(0, start=len(dl))) == []


def test_a_local_order_can_be_resumed_and_shared(store, monkeypatch):
    monkeypatch.setattr(batches.local_order, "__defaults__", (4, 16))
    orders = [local(store).epoch_order(epoch) for epoch in (0, 1, 1)]
    assert torch.equal(orders[1], orders[2]) and not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0].sort().values, torch.arange(1, 129))
    whole = list(local(store).epoch(3))
    assert len(whole) == 4
    for (x, y), (xx, yy) in zip(whole[2:], local(store).epoch(3, start=2), strict=True):
        assert torch.equal(x, xx) and torch.equal(y, yy)
    for rank in range(3):
        assert torch.equal(next(local(store).share(rank, 3).epoch(3))[0], whole[0][0][rank::3])


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


def speckle(xb):
    "A transform that draws from the random numbers of torch, NumPy and Python"
    n = random.randrange(1, 9) + np.random.randint(1, 9)
    return torch.where(torch.rand(xb.shape) < n / 100, 255, xb)


def loader(store, transform=speckle, **kwargs):
    return Batches(
        store, range(96), 32, Augment(), device="cpu", **dict(transform=transform) | kwargs
    )


def test_a_transform_follows_from_seed_epoch_and_step(store):
    third = loader(store).batch(torch.arange(32), epoch=3, step=2)[0]
    random.random(), np.random.random(), torch.rand(1)
    assert torch.equal(loader(store).batch(torch.arange(32), epoch=3, step=2)[0], third)
    for kwargs, position in [({}, (3, 1)), ({}, (2, 2)), (dict(seed=1), (3, 2))]:
        plain = loader(store, None, **kwargs).batch(torch.arange(32), *position)[0]
        other = loader(store, **kwargs).batch(torch.arange(32), *position)[0]
        assert not torch.equal(other, third) and not torch.equal(other, plain)


def test_a_transform_leaves_the_random_numbers_of_the_process(store):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before, dl = state(), loader(store)
    for _ in dl:
        pass
    assert state() == before

    def breaks(xb):
        torch.rand(1)
        raise ZeroDivisionError

    dl.transform = breaks
    with pytest.raises(ZeroDivisionError):
        next(dl.epoch(0))
    assert state() == before


def test_each_process_makes_its_part_of_the_same_transformed_batch(store):
    whole = next(loader(store).epoch(1))[0]
    for rank in range(3):
        assert torch.equal(next(loader(store).share(rank, 3).epoch(1))[0], whole[rank::3])


def test_a_transform_cannot_change_the_store(store):
    before = store.pixels[:2].clone()
    loader(store, lambda xb: xb.fill_(0))
    assert torch.equal(store.pixels[:2], before)


@pytest.mark.parametrize(
    ("transform", "error", "words"),
    [
        (3, TypeError, "transform must be a function of the images of a batch, got int"),
        (lambda xb: None, ValueError, "transform must return uint8 images .* got NoneType"),
        (lambda xb: xb / 255, ValueError, r"got torch.float32 of shape \(2, 3, 96, 96\)"),
        (lambda xb: xb[:1], ValueError, r"got torch.uint8 of shape \(1, 3, 96, 96\)"),
        (lambda xb: xb[..., :64], ValueError, r"got torch.uint8 of shape \(2, 3, 96, 64\)"),
        (lambda xb: 1 / 0, ValueError, "transform failed on 2 images .ZeroDivisionError"),
    ],
)
def test_transforms_that_are_refused(store, transform, error, words):
    with pytest.raises(error, match=words):
        loader(store, transform)


def test_settings_name_a_transform(store):
    path = "torchvision.transforms.v2.functional:horizontal_flip"
    flipped = Batches(store, range(96), 32, Augment(transform=path), device="cpu")
    assert flipped.transform.__name__ == "horizontal_flip"
    with pytest.raises(ValueError, match="'no_such:thing' cannot be imported"):
        Batches(store, range(96), 32, Augment(transform="no_such:thing"), device="cpu")


def on_gpu(loader):
    "The same batches for a GPU, where the pixels are not"
    loader.device = torch.device("cuda")
    return loader


def in_parts(store):
    parts = PixelParts(list(store.pixels.split(50)), torch.arange(len(store)))
    return dataclasses.replace(store, pixels=parts)


LOADERS = {
    "crops": dict(augment=Augment()),
    "centres": dict(),
    "a share": dict(augment=Augment()),
    "transform": dict(augment=Augment(), transform=lambda xb: xb.flip(2)),
    "parts": dict(augment=Augment()),
    "local": dict(augment=Augment(), shuffle="local"),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("start", [0, 3, 4])
def test_images_are_copied_one_batch_ahead(store, monkeypatch, kind, start):
    "The same bits; each from pinned memory of its own, which stays as it is until it is copied"
    pixels = in_parts(store) if kind == "parts" else store
    dl = Batches(pixels, range(128), 32, device="cpu", **LOADERS[kind])
    if kind == "a share":
        dl = dl.share(1, 2)
    expected = list(dl.epoch(2, 64, start))
    gpu = LateCopies(monkeypatch)
    seen = 0
    for x, y in on_gpu(dl).epoch(2, 64, start):
        assert torch.equal(x, expected[seen][0]) and torch.equal(y, expected[seen][1])
        seen += 1
    assert seen == len(expected) == gpu.kept == len(gpu.sent) == len(gpu.pinned)
    assert gpu.ahead == [2] * (seen - 1) + [1] * min(seen, 1)
    assert gpu.waited_for == 0


def test_an_epoch_that_is_broken_off_leaves_nothing(store, monkeypatch):
    dl = Batches(store, range(128), 32, Augment(), device="cpu")
    expected = list(dl.epoch(1))
    gpu = LateCopies(monkeypatch)
    epoch = on_gpu(dl).epoch(0)
    next(epoch)
    under_way = [weakref.ref(images) for copy in gpu.sent for images in copy]
    gpu.sent.clear()
    gpu.ahead.clear()
    assert any(ref() is not None for ref in under_way)
    epoch.close()
    assert all(ref() is None for ref in under_way)
    for (x, _), (xx, _) in zip(dl.epoch(1), expected, strict=True):
        assert torch.equal(x, xx)


def test_images_that_cannot_be_read_are_an_error(store, monkeypatch):
    LateCopies(monkeypatch)
    dl, real = on_gpu(Batches(store, range(128), 32, Augment(), device="cpu")), batches._gather

    def gather(pixels, rows, out=None):
        if torch.equal(rows, dl.epoch_order(0)[64:96]):
            raise OSError("the drive is gone")
        return real(pixels, rows, out)

    monkeypatch.setattr(batches, "_gather", gather)
    seen = 0
    with pytest.raises(OSError, match="the drive is gone"):
        for _ in dl.epoch(0):
            seen += 1
    assert seen == 1  # it fails one step before it is wanted


def test_a_second_batch_of_a_step_is_not_waited_for_either(store, monkeypatch):
    "The one that CutMix takes rectangles from, while an epoch is copied ahead"
    dl = Batches(store, range(128), 32, Augment(), device="cpu")
    expected = dl.batch(torch.arange(32), 0, 0, purpose="rare")[0]
    gpu = LateCopies(monkeypatch)
    monkeypatch.setattr(
        gpu, "wait_event", lambda event: gpu.sent[event][1].copy_(gpu.sent[event][0])
    )
    next(on_gpu(dl).epoch(0))
    assert torch.equal(dl.batch(torch.arange(32), 0, 0, purpose="rare")[0], expected)
    assert gpu.waited_for == 0 and len(gpu.sent) == gpu.kept + 1 == 3


@pytest.mark.parametrize("augment", [None, Augment(erase=0.5, trivial_augment=True)])
def test_only_copies_to_cuda_go_on_while_the_program_does(store, monkeypatch, augment):
    "PyTorch may copy to an Apple GPU from memory that is in use again"
    copies, to = [], torch.Tensor.to

    def noted(t, *args, **kwargs):
        copies.append(kwargs.get("non_blocking", False))
        return to(t, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    next(Batches(store, batch_size=32, augment=augment, device="cpu").epoch(0))
    assert copies and not any(copies)


def test_an_apple_gpu_gets_no_batch_in_channels_last(store, monkeypatch):
    "PyTorch until mid-2026 crashes there in the backward pass of batch norm, or computes garbage"
    dl = Batches(store, batch_size=32, shuffle=True, device="cpu")
    expected, to = next(dl.epoch(0))[0], torch.Tensor.to
    assert expected.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.Tensor, "to", lambda t, device, **how: to(t, "cpu", **how))
    dl.device = torch.device("mps")
    xb = next(dl.epoch(0))[0]
    assert xb.is_contiguous() and torch.equal(xb, expected)
