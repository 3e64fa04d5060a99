"""The setting `compile`. Most tests compile for PyTorch's own backend without a C++ compiler."""

import copy
import shutil
import warnings

import pytest
import torch
from torch import nn

from simpsons_cnn.core.config import TrainingParameters, registered_networks
from simpsons_cnn.networks.presets import create_model
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.training.callbacks import Callback, StopAfter
from simpsons_cnn.training.checkpoint import Checkpoint
from simpsons_cnn.training.compiled import CompiledForward
from simpsons_cnn.training.distributed import Ranks, use_ranks
from simpsons_cnn.training.loop import fit
from simpsons_cnn.training.run import TrainingRun

RECIPE = TrainingParameters(learning_rate=8e-3, num_epochs=2, mixed_precision="off", compile=True)


@pytest.fixture
def shapes(monkeypatch):
    "What compiled code was made for; by a backend that only traces"
    seen, real = [], torch.compile

    def noted(graph, inputs):
        seen.extend(tuple(t.shape) for t in inputs if t.ndim == 4 and t.shape[-1] >= 8)
        return graph

    def traced(model, dynamic, options):
        return real(model, dynamic=dynamic, backend=noted)

    monkeypatch.setattr(torch, "compile", traced)
    return seen


def small_model():
    torch.manual_seed(0)
    return SimpsonsCNN(10, channels=(4, 4, 8, 8, 8, 8))


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


class Uses(Callback):
    "Counts what the steps of a run call"

    def __init__(self):
        self.ready = set()

    def on_step(self, run):
        self.ready |= run.compiled.ready if run.compiled else set()


def test_a_trial_leaves_weights_statistics_and_random_numbers_as_they_were(shapes):
    model = small_model().train()
    before, forward = copy.deepcopy(model.state_dict()), CompiledForward(model, [64])
    state = torch.get_rng_state()
    forward.prepare(torch.ones(4, 3, 64, 64), None)
    assert forward.ready == {64} and (4, 3, 64, 64) in shapes
    assert same_weights(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    forward.close()


def test_a_trial_begins_without_the_gradients_of_the_step_before():
    "They are in memory of a CUDA graph, which the trial may overwrite"
    model, seen = nn.Linear(8, 2), []
    forward = CompiledForward(model, [8])
    forward.compiled = lambda xb: seen.append(model.weight.grad) or model(xb)
    model.weight.grad = torch.ones_like(model.weight)
    forward.prepare(torch.ones(4, 3, 8, 8), None)
    assert forward.ready == {8} and seen == [None] and model.weight.grad is None


def test_a_compiled_run_has_plain_weights_and_can_be_resumed(loaders, shapes, tmp_path):
    "With a backend that only traces, even the bits of a run that is not compiled"
    changes, uses = dict(weight_averaging=0.8, first_crop=None), Uses()
    plain, model = small_model(), small_model()
    expected = fit(plain, *loaders, None, RECIPE, callbacks=[], compile=False, **changes)
    path = tmp_path / "last.ckpt"
    fit(small_model(), *loaders, None, RECIPE, callbacks=StopAfter(2), checkpoint=path, **changes)
    again = Checkpoint(path, resume=True)
    history = fit(model, *loaders, None, RECIPE, callbacks=uses, checkpoint=again, **changes)
    assert uses.ready == {64} and shapes == [(30, 3, 64, 64)] * 2  # once for all steps of a run
    assert history.first_steps == expected.first_steps
    assert same_weights(model.state_dict(), plain.state_dict())
    assert same_weights(history.last_weights, expected.last_weights)


def test_a_resume_without_compiling_warns_of_other_bits(loaders, shapes, tmp_path):
    path = tmp_path / "last.ckpt"
    changes = dict(first_crop=None, num_epochs=1)
    fit(small_model(), *loaders, None, RECIPE, callbacks=StopAfter(1), checkpoint=path, **changes)
    with pytest.warns(UserWarning, match="compiled is None now and was True"):
        again = Checkpoint(path, resume=True)
        changes["compile"] = False
        fit(small_model(), *loaders, None, RECIPE, callbacks=[], checkpoint=again, **changes)


def test_a_network_of_your_own_is_compiled(loaders, shapes, monkeypatch):
    "To the bits of a run that is not; its layers draw from numbers that follow the seed"
    layers = (nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5))
    network = nn.Sequential(*layers, nn.Linear(900, 10))
    monkeypatch.setitem(registered_networks, "layers", lambda _: network)
    found = []
    for compiled in (False, True):
        model = create_model("layers", 10, seed=0)
        changes = dict(compile=compiled, first_crop=None, num_epochs=1)
        found.append(fit(model, *loaders, None, RECIPE, callbacks=[], **changes))
    assert set(shapes) == {(30, 3, 64, 64)}
    assert same_weights(found[0].last_weights, found[1].last_weights)


def test_the_end_of_a_compiled_run(loaders, shapes, monkeypatch):
    "No gradient stays, in memory of a CUDA graph that is freed; PyTorch 2.12 may fail to forget"

    def fails():
        raise AssertionError

    monkeypatch.setattr(torch.compiler, "reset", fails)
    model = small_model()
    fit(model, *loaders, None, RECIPE, callbacks=[], first_crop=None, num_epochs=1)
    assert shapes and all(p.grad is None for p in model.parameters())


def test_at_most_four_sides_of_crops_are_compiled(shapes):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(2))
    forward = CompiledForward(model, [8, 9, 10, 11, 12, 12, 13, 13])
    for side in (8, 9, 10, 11, 12, 13, 8):
        forward.prepare(torch.ones(2, 3, side, side), None)
        assert forward(torch.ones(2, 3, side, side)).shape == (2, 2, (side - 2) ** 2)
    assert forward.ready == {10, 11, 12, 13} == {shape[-1] for shape in shapes}
    assert len(shapes) == 4
    forward.close()


def test_the_run_goes_on_where_compiling_fails(loaders):
    "With one warning, and the bits of a run that is not compiled"
    expected = fit(small_model(), *loaders, None, RECIPE, callbacks=[], compile=False)
    from torch._inductor import config, utils  # imports slowly

    with warnings.catch_warnings(record=True) as told, utils.fresh_cache():
        warnings.simplefilter("always")
        with config.patch({"cpp.cxx": (None, "/nonexistent")}):
            history = fit(small_model(), *loaders, None, RECIPE, callbacks=[])
    said = [str(w.message) for w in told if "compile is left out" in str(w.message)]
    assert len(said) == 1 and "\n" not in said[0]
    assert "InvalidCxxCompiler: No working C++ compiler found" in said[0]
    assert history.first_steps == expected.first_steps


def test_several_processes_train_without(loaders):
    def work(ranks):
        with use_ranks(ranks), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = TrainingRun(small_model(), *loaders, nn.CrossEntropyLoss(), RECIPE)
        return run.compiled, [str(w.message) for w in told if "several proc" in str(w.message)]

    assert [work(Ranks(rank, 2))[0] for rank in (0, 1)] == [None, None]
    assert [len(work(Ranks(rank, 2))[1]) for rank in (0, 1)] == [1, 0]


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_for_this_processor():
    "The same logits and gradients to rounding, and twice the same bits"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3, stride=4), nn.ReLU(), nn.BatchNorm2d(2))
    xb, gradients = torch.rand(4, 3, 8, 8), []
    forward = CompiledForward(model, [8])
    for f in (model, forward, forward):
        forward.prepare(xb, None)
        model.zero_grad()
        f(xb).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert forward.ready == {8} and torch.equal(gradients[1], gradients[2])
    assert not any("_orig_mod" in name for name in model.state_dict())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
    forward.close()
