"""The step loop on a CUDA device that does not exist.

Under FakeTensorMode a tensor has a shape, a type and a device, but no numbers, so operations on
CUDA tensors can be walked through on any machine. They raise where devices are mixed, and where
the program asks for a number (`.item()`, `bool(tensor)`), for which a GPU would be waited for.
Backward passes start threads for the device, which is not there, so they are left out.
A copy to or from the device that waits for it does not raise there, so copies are counted.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import simpsons_cnn as sc
from simpsons_cnn.core.config import TrainingParameters
from simpsons_cnn.inference.classifier import _forward
from simpsons_cnn.networks.presets import PRESETS
from simpsons_cnn.scoring.report import collect_logits
from simpsons_cnn.training import average as average_module
from simpsons_cnn.training import run as run_module
from simpsons_cnn.training.checkpoint import _optimizer_tensors, _restore_optimizer
from simpsons_cnn.training.loop import train_epoch

CUDA = torch.device("cuda:0")
N, BATCH = 8, 4


class Store(SimpleNamespace):
    "As much of a store as batches and the loop ask for, with its pixels on a given device"

    def __init__(self, device):
        pixels = torch.zeros(N, 96, 96, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
        files = SimpleNamespace(names=[f"{i}.png" for i in range(N)])
        labels, prep = torch.zeros(N, dtype=torch.int64), sc.Preprocess(96)
        classes = ["ann", "bob", "cyd"]
        super().__init__(
            pixels=pixels, labels=labels, preprocess=prep, classes=classes, files=files
        )

    def __len__(self):
        return N


def empty_on_cuda(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)


def on_cuda(model):
    "`model.to(CUDA)`, which a module of fake tensors refuses"
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = torch.nn.Parameter(empty_on_cuda(p))
        for name, b in module._buffers.items():
            if b is not None:
                module._buffers[name] = empty_on_cuda(b)
    return model


@pytest.fixture
def fake(monkeypatch):
    "Within a test, all tensors are fake, and generators, which cannot be, belong to the CPU"
    real = run_module.make_generator

    def on_cpu(*args, device="cpu"):
        return real(*args)

    monkeypatch.setattr(run_module, "make_generator", on_cpu)
    monkeypatch.setattr("simpsons_cnn.data.batches.pick_device", torch.device)
    monkeypatch.setattr("simpsons_cnn.data.batches._to_gpu_if_it_fits", lambda pixels, _: pixels)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda images, stream: None)
    streams = SimpleNamespace(record_event=lambda: None, wait_event=lambda event: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: streams)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(run_module, "_move", lambda model, loss, _: (on_cuda(model), on_cuda(loss)))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def loaders(pixels_on=CUDA, augment=None):
    store = Store(pixels_on)
    train_dl = sc.Batches(store, None, BATCH, augment or sc.Augment(), device=CUDA)
    return train_dl, sc.Batches(store, None, BATCH, device=CUDA)


def begun(architecture="reference", loss=None, pixels_on=CUDA, augment=None, **recipe):
    "A run before its second epoch; the first steps ask for numbers on purpose"
    model = sc.create_model(architecture, 3)
    recipe = TrainingParameters(mixed_precision="off", num_epochs=2, **recipe)
    run = run_module.TrainingRun(
        model, *loaders(pixels_on, augment), loss or sc.FocalLoss(), recipe
    )
    run.epoch = 1
    return run


def second_epoch(*args, **kwargs):
    "Walk through an epoch"
    run = begun(*args, **kwargs)
    train_epoch(run)
    return run


@pytest.mark.parametrize("architecture", PRESETS)
def test_the_loop_neither_waits_nor_mixes_devices(fake, architecture):
    run = second_epoch(architecture)
    assert [loss.device for loss in run.losses] == [CUDA] * (N // BATCH)
    assert {p.device for p in run.model.parameters()} == {CUDA}


def test_growing_crops(fake):
    assert len(second_epoch(first_crop=64).losses) == N // BATCH


@pytest.mark.parametrize("mixing", ["cutmix", "mixup"])
def test_mixed_pictures(fake, mixing):
    assert second_epoch(augment=sc.Augment(**{mixing: 1.0})).losses[0].device == CUDA


def test_bfloat16(fake, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    run, seen = begun("residual"), []
    run.dtype = torch.bfloat16
    run.model.conv_stack[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    train_epoch(run)
    assert set(seen) == {torch.bfloat16}
    assert {loss.dtype for loss in run.losses} == {torch.float32}


def test_a_restored_optimizer(fake):
    run = begun()
    for p in run.model.parameters():
        p.grad = torch.empty_like(p)
    run.optimizer.step()
    saved = _optimizer_tensors(run.model, run.optimizer)
    saved = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in saved.items()}
    _restore_optimizer(run.model, run.optimizer, saved)
    run.optimizer.step()
    state = [t for tensors in run.optimizer.state.values() for t in tensors.values()]
    assert {t.device for t in state} == {CUDA} and len(state) == len(saved)


def test_prediction(fake):
    "In float64 there, see `_forward`"
    model = on_cuda(sc.create_model("residual", 3)).eval()
    with torch.inference_mode():
        logits = _forward(model, torch.empty(2, 3, 80, 80, device=CUDA))
    assert (logits.device, logits.dtype, logits.shape) == (CUDA, torch.float32, (2, 3))


def test_averaged_weights(fake):
    averaged, model = (on_cuda(sc.create_model("reference", 3)) for _ in range(2))
    average_module._update_average(list(averaged.parameters()), list(model.parameters()), 0.9)
    average = average_module.WeightAverage(torch.nn.Identity(), 0.9)
    average.network = averaged  # a copy of fake tensors may crash
    average.measure_statistics(model.train(), loaders()[0].epoch(0))


class Copies(TorchDispatchMode):
    "Counts the copies between the device and the processor for which the program waits"

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            goes_on = (kwargs or {}).get("non_blocking") or args[2:] == (True,)
            tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
            self.waits += not goes_on and len({t.device.type for t in tensors}) > 1
        return out


@pytest.mark.parametrize("pixels_on", ["cpu", "cuda"])
def test_no_copy_is_waited_for(fake, pixels_on):
    augment = sc.Augment(cutmix=0.5, cutmix_rare=True, mixup=0.5, erase=0.5, trivial_augment=True)
    run = begun(pixels_on=pixels_on, augment=augment)
    with Copies() as copies:
        train_epoch(run)
        list(run.valid_dl)
    assert copies.waits == 0


def test_a_copy_that_is_waited_for_is_noticed(fake):
    with Copies() as copies:
        torch.ones(1).to(CUDA)
        torch.ones(1, device=CUDA).cpu()
        torch.ones(1, device=CUDA).copy_(torch.ones(1))
        torch.ones(1).to(CUDA, non_blocking=True)
        torch.ones(1).double()
    assert copies.waits == 3


def test_a_weighted_loss(fake):
    loss = sc.FocalLoss(2.0, label_smoothing=0.1)
    loss.weight = torch.ones(3)
    assert second_epoch(loss=loss).losses[0].device == CUDA


def test_pixels_that_stay_in_memory(fake):
    assert second_epoch(pixels_on="cpu").losses[0].device == CUDA


def test_evaluation_neither_waits_nor_mixes_devices(fake):
    model = on_cuda(sc.create_model("reference", 3))
    logits, targets = collect_logits(model, loaders()[1], tta=True)
    assert (logits.device, logits.shape, targets.device) == (CUDA, (N, 3), CUDA)
    assert sc.focal_loss(logits, targets, gamma=2.0).device == CUDA


class AsksForTheLoss(torch.nn.Module):
    def forward(self, logits, targets):
        loss = logits.sum()
        return loss if loss.item() else loss


class KeepsWeightsElsewhere(torch.nn.Module):
    def forward(self, logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets.cpu())


def test_a_wait_is_noticed(fake):
    with pytest.raises(DataDependentOutputException):
        second_epoch(loss=AsksForTheLoss())


def test_mixed_devices_are_noticed(fake):
    with pytest.raises(RuntimeError, match="cpu"):
        second_epoch(loss=KeepsWeightsElsewhere())
