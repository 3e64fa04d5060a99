"First weights of layers, and networks that cannot be kept in a file"

import numpy as np
import pytest
import torch
from torch import nn

from simpsons_cnn.core.device import make_generator
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.networks.deeper import Blur, ResidualBlock
from simpsons_cnn.networks.model_file import load_model, save_model
from simpsons_cnn.networks.presets import PRESETS, create_model, initialise_weights


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2, bias=False)])
def test_a_layer_without_bias(layer):
    torch.nn.init.constant_(layer.weight, torch.nan)
    initialise_weights(layer, make_generator(0, "init"))
    assert layer.weight.isfinite().all()


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 4), nn.PReLU(), nn.BatchNorm1d(4)])
def test_a_layer_that_nobody_fills_is_refused(layer):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer)
    with pytest.raises(TypeError, match=f"No first weights for {type(layer).__name__}"):
        initialise_weights(network, make_generator(0, "init"))


@pytest.mark.parametrize("change", ["another layer", "hparams of another network"])
def test_a_network_that_its_arguments_do_not_rebuild_is_not_saved(tmp_path, change):
    model = create_model("reference", 3, seed=0)
    if change == "another layer":
        model.linear_stack.append(nn.Linear(3, 3))
    else:
        model.hparams["channels"] = (8, 16, 32, 64, 128, 256)
    with pytest.raises(ValueError, match="must have the layers of the model"):
        save_model(tmp_path / "m.safetensors", model, [*"abc"], Preprocess())
    assert not (tmp_path / "m.safetensors").exists()


def test_what_is_saved_can_be_loaded(tmp_path):
    model = create_model("wide", 3, seed=0, dropout_rate=0.3)
    save_model(tmp_path / "m.safetensors", model, [*"abc"], Preprocess())
    again, _ = load_model(tmp_path / "m.safetensors")
    assert again.hparams == model.hparams
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("classes", "size", "value", "message"),
    [
        (["a", "b", "a"], 96, 0.0, "classes must differ, got a more than once"),
        ([*"abc"], 32, 0.0, "crop must be at least 64 px, got 32"),
        ([*"abc"], 96, torch.nan, "weights must be finite; conv_stack.0.bias are not"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, classes, size, value, message):
    model = create_model("reference", 3, seed=0)
    model.conv_stack[0].bias.data.fill_(value)
    with pytest.raises(ValueError, match=message):
        save_model(tmp_path / "m.safetensors", model, classes, Preprocess(size))
    assert not (tmp_path / "m.safetensors").exists()


def test_a_network_of_another_precision_is_not_saved(tmp_path):
    "Its file could not be opened"
    model = create_model("reference", 3).half()
    with pytest.raises(
        ValueError, match=r"conv_stack.0.bias, .* are torch.float16; call float\(\)"
    ):
        save_model(tmp_path / "m.safetensors", model, [*"abc"], Preprocess())
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_numbers(tmp_path):
    model = create_model("reference", np.int64(3), seed=0)
    means = np.array([0.5, 0.25, 0.5], dtype=np.float32)
    preprocess = Preprocess(np.int64(96), mean=means, crop=np.uint8(80))
    about = dict(data=dict(pictures=np.int64(3), share=np.float32(0.5), sides=np.arange(2)))
    save_model(tmp_path / "m.safetensors", model, np.array([*"abc"]), preprocess, about)
    _, header = load_model(tmp_path / "m.safetensors")
    assert header["preprocess"] == preprocess == Preprocess(96, mean=(0.5, 0.25, 0.5), crop=80)
    assert header["about"]["data"] == dict(pictures=3, share=0.5, sides=[0, 1])


@pytest.mark.parametrize("num_classes", ["3", 3.0, None, [3]])
def test_a_number_of_characters_that_is_none(num_classes):
    with pytest.raises(ValueError, match="num_classes must be a whole number of 2 or more, got"):
        create_model("reference", num_classes)


DEEPER = [name for name in PRESETS if name not in ("reference", "wide")]


@pytest.mark.parametrize("name", DEEPER)
def test_a_deeper_network_follows_from_its_seed_and_survives_its_file(tmp_path, name):
    before = torch.get_rng_state()
    model, same, other = [create_model(name, 3, seed=seed, dropout_rate=0.3) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    state = model.state_dict()
    assert all(torch.equal(t, same.state_dict()[k]) for k, t in state.items())
    assert not torch.equal(state["conv_stack.0.weight"], other.state_dict()["conv_stack.0.weight"])
    save_model(tmp_path / "m.safetensors", model, [*"abc"], Preprocess(64, crop=32))
    again, _ = load_model(tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 33, 50, generator=make_generator(0, "test"))
    assert again.hparams == model.hparams
    assert torch.equal(again(x), model.eval()(x))


@pytest.mark.parametrize("name", DEEPER)
def test_a_deeper_network_starts_with_fixed_blurs_and_silent_branches(name):
    model = create_model(name, 3, seed=0)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    blurs = [m.kernel for m in model.modules() if isinstance(m, Blur)]
    assert blurs and all(torch.equal(k, kernel.expand_as(k)) for k in blurs)
    blocks = [m for m in model.modules() if isinstance(m, ResidualBlock)]
    assert len(blocks) == sum(model.hparams.get("blocks", ()))
    for block in blocks:
        channels = block.branch[0].in_channels
        x = torch.rand(2, channels, 5, 5, generator=make_generator(0, "test"))
        assert not block.branch(x).any()


@pytest.mark.parametrize("name", DEEPER)
def test_a_deeper_network_trains_in_bfloat16_and_channels_last(name):
    model = create_model(name, 3, seed=0).to(memory_format=torch.channels_last)
    kernels = [m.kernel.clone() for m in model.modules() if isinstance(m, Blur)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x = torch.randn(6, 3, 40, 40, generator=make_generator(0, "test"))
    x, targets, losses = x.to(memory_format=torch.channels_last), torch.arange(6) % 3, []
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x).float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    blurs = [m.kernel for m in model.modules() if isinstance(m, Blur)]
    assert all(torch.equal(a, b) for a, b in zip(kernels, blurs, strict=True))
