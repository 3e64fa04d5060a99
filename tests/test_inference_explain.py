"Explanations: other threads, inference mode, and an error leave no trace"

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformer

from simpsons_cnn.inference.explain import (
    Explanation,
    _logits_and_maps,
    _record_feature_maps,
    grad_cam,
)
from simpsons_cnn.networks.ensemble import Ensemble
from simpsons_cnn.networks.presets import PRESETS, create_model
from simpsons_cnn.networks.reference import SimpsonsCNN


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SimpsonsCNN(4).eval()


@pytest.fixture(scope="module")
def xb():
    return torch.randn(5, 3, 80, 80, generator=torch.Generator().manual_seed(0))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_other_threads_are_ignored(model, xb):
    targets = torch.tensor([0, 1])
    alone = grad_cam(model, xb[:2], targets)

    def meanwhile(*_):
        handle.remove()
        other = threading.Thread(target=lambda: model(xb[2:5]))
        other.start()
        other.join()

    handle = model.linear_stack[1].register_forward_hook(meanwhile)
    assert torch.equal(grad_cam(model, xb[:2], targets), alone)
    assert hooks(model) == 0


def test_works_in_inference_mode(model, xb):
    with torch.inference_mode():
        cam = grad_cam(model, xb[:2] + 0, torch.tensor([0, 1]))
    assert cam.shape == (2, 80, 80)


@pytest.mark.parametrize("average_gradient", [False, True])
def test_range(model, xb, average_gradient):
    cam = grad_cam(model, xb, torch.arange(5) % 4, average_gradient)
    assert cam.min() >= 0 and cam.max() <= 1


def test_hooks_go_after_an_error(model, xb):
    with pytest.raises(ValueError, match="feature map of 90×90 or more"):
        grad_cam(model, xb[:1], torch.tensor([0]), min_side=90)
    with pytest.raises(ValueError, match="at least"):
        grad_cam(model, xb[:1, :, :8, :8], torch.tensor([0]))
    assert hooks(model) == 0


def test_parameters_keep_no_gradient(model, xb):
    grad_cam(model, xb[:1], torch.tensor([0]))
    assert all(p.grad is None for p in model.parameters())


def test_names_are_text():
    source = "<img src=x>.jpg"
    shown = Explanation("<b>", 0.5, np.eye(4), np.zeros((3, 4, 4), np.uint8), source)
    page = shown._repr_html_()
    assert "<b>" not in page and "<img src=x>" not in page and page.count("<img ") == 1


def last_map_and_output(network, layer, xb) -> tuple:
    "The feature map that a heat map would rest on, and the output of a layer in the same pass"
    outputs = []
    handle = layer.register_forward_hook(lambda m, i, output: outputs.append(output))
    with _record_feature_maps(network, 8) as feature_maps:
        network(xb)
    handle.remove()
    return feature_maps[-1], outputs[0]


def test_a_residual_block_is_explained_with_its_shortcut(xb):
    "In ResNet-18, 80 px leave 10×10 positions after the second stage, and 5×5 after the third"
    network = resnet18(weights=None, num_classes=4).eval()
    last_map, output = last_map_and_output(network, network.layer2, xb)
    assert last_map is output
    assert hooks(network) == 0
    assert grad_cam(network, xb, torch.arange(5) % 4).shape == (5, 80, 80)


def small_resnet(**kwargs):
    "ResNet-50 with one block in each stage; 80 px leave 10×10 inside the block that halves them"
    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=4, **kwargs).eval()


def test_a_layer_inside_a_block_gives_way_to_the_map_before_the_block(xb):
    "Its branch without the shortcut is not the network's answer; here it even adds nothing"
    network = small_resnet(zero_init_residual=True)
    last_map, output = last_map_and_output(network, network.layer2, xb)
    assert last_map is output
    assert grad_cam(network, xb, torch.arange(5) % 4).max() == 1
    assert hooks(network) == 0


@pytest.mark.parametrize("stem", [nn.Identity(), nn.Conv2d(3, 3, 1)], ids=["no stem", "stem"])
def test_a_body_of_many_blocks_is_no_block(stem, xb):
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.Sequential(*list(small_resnet().children())[:-2])

        def forward(self, images):
            return self.stages(images)  # 3×3 positions

    body = Body()
    network = nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    network.eval()(xb)
    with _record_feature_maps(network, 8) as feature_maps:
        network(xb)
    assert feature_maps[-1].shape[1:] == (512, 10, 10)


def test_channels_in_the_last_place_are_not_taken_for_columns(xb):
    "Swin has (rows, columns, channels) behind its first convolution"
    size = dict(patch_size=[4, 4], window_size=[4, 4], embed_dim=24)
    network = SwinTransformer(**size, depths=[1] * 3, num_heads=[2] * 3, num_classes=4).eval()
    _, feature_maps = _logits_and_maps(network, xb, 8)
    assert feature_maps[0].shape[1:] == (24, 20, 20)
    with pytest.raises(ValueError, match="feature map of 21×21 or more"):
        grad_cam(network, xb, torch.arange(5) % 4, min_side=21)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("reference", "wide")])
@pytest.mark.parametrize("side", [32, 80])
def test_deeper_networks(name, side):
    network = create_model(name, 4, seed=0).eval()
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    cam = grad_cam(network, images, torch.tensor([0, 1]))
    assert cam.shape == (2, side, side) and cam.amax((1, 2)).tolist() == [1, 1]


def certain_network(seed, scale=700):
    "Random weights, scaled up until the best logit leads by about 25"
    network = create_model("reference", 4, seed=seed, channels=(8, 8, 8, 16, 16, 16)).eval()
    with torch.no_grad():
        network.linear_stack[-1].weight.mul_(scale)
    return network


@pytest.mark.parametrize("seeds", [[0], [0, 0], [0, 1, 2]], ids=["one", "agree", "disagree"])
def test_a_certain_answer_keeps_its_map(seeds, xb):
    "In float32, p is exactly 1; the map of float64, which still tells p from 1, is right"
    networks = [certain_network(seed) for seed in seeds]
    model = networks[0] if len(networks) == 1 else Ensemble(networks).eval()
    targets = model(xb).argmax(1)
    logits = networks[0](xb).double()
    lead = (logits.sort(1).values @ torch.tensor([0.0, 0, -1, 1]).double()).tolist()
    assert min(lead) > 17 and max(lead) < 33  # float32 rounds p to 1, float64 does not
    cam = grad_cam(model, xb, targets)
    exact = grad_cam(model.double(), xb.double(), targets)
    assert (cam - exact).abs().max() < 1e-3 and cam.amax((1, 2)).tolist() == [1] * len(xb)


def test_a_network_with_one_class_has_a_map(xb):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 78 * 78, 1)).eval()
    assert grad_cam(network, xb, torch.zeros(5, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("targets", [torch.tensor([1]), torch.tensor([[0], [1]]), torch.tensor(1)])
def test_a_class_for_each_image(model, xb, targets):
    "One alone would be taken for all of them"
    with pytest.raises(ValueError, match="targets must be one class for each image, got shape"):
        grad_cam(model, xb[:2], targets)
