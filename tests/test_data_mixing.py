"Mixing: which pictures meet, in which shares, and how often"

import numpy as np
import pytest
import torch

from simpsons_cnn.core.config import Augment
from simpsons_cnn.data.mixing import MixedLabels, balanced_chances, mix_batch

LABELS = torch.arange(4)
IMAGES = LABELS.float()[:, None, None, None].expand(4, 3, 20, 30).clone()  # each of one value


def mixed(seed, **settings):
    return mix_batch(IMAGES, LABELS, Augment(**settings), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(30))
def test_cutmix_shares_are_those_of_the_pixels(seed):
    "One rectangle for all, from the picture before; its area is what the labels say"
    before = IMAGES.clone()
    images, labels = mixed(seed, cutmix=1)
    assert torch.equal(IMAGES, before)  # the batch itself stays
    assert (labels.first.tolist(), labels.second.tolist()) == ([0, 1, 2, 3], [3, 0, 1, 2])
    for i, image in enumerate(images):
        pasted = image[0] == (i - 1) % 4
        assert bool((pasted | (image[0] == i)).all())
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns)  # a rectangle
        assert labels.share == pytest.approx(1 - pasted.double().mean().item())


@pytest.mark.parametrize("seed", range(5))
def test_mixup_shares_are_those_of_the_values(seed):
    images, labels = mixed(seed, mixup=1)
    expected = labels.share * IMAGES + (1 - labels.share) * IMAGES.roll(1, 0)
    assert torch.allclose(images, expected, atol=1e-5)
    assert 0 < labels.share < 1 and torch.equal(labels.second, LABELS.roll(1))


def test_how_often_each_is_done():
    kinds = dict(none=0, cutmix=0, mixup=0)
    for seed in range(1000):
        images, labels = mixed(seed, cutmix=0.2, mixup=0.5)
        if not isinstance(labels, MixedLabels):
            assert images is IMAGES and labels is LABELS
            kinds["none"] += 1
        else:
            whole = bool((images == images.round()).all())  # CutMix makes no new values
            kinds["cutmix" if whole else "mixup"] += 1
    assert [round(n / 1000, 1) for n in kinds.values()] == [0.3, 0.2, 0.5]


def test_shares_are_even_or_extreme_as_alpha_says():
    spread = {}
    for alpha in (0.2, 1, 8):
        shares = [mixed(seed, mixup=1, mix_alpha=alpha)[1].share for seed in range(400)]
        assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
        spread[alpha] = np.std(shares)
    expected = {alpha: np.sqrt(1 / (4 * (2 * alpha + 1))) for alpha in spread}  # of Beta(a, a)
    assert spread == pytest.approx(expected, rel=0.1)


def test_rectangles_cover_the_area_that_was_drawn_unless_an_edge_cuts_them():
    "Centres are anywhere, so the mean share is above that of the beta distribution, and edges too"
    shares, firsts = [], []
    for seed in range(400):
        images, labels = mixed(seed, cutmix=1, mix_alpha=100)  # half of the area, nearly always
        shares.append(labels.share)
        pasted = (images[0, 0] == 3).nonzero()
        firsts.append(pasted.min(0).values.tolist())
    assert np.quantile(shares, 0.05) == pytest.approx(0.46, abs=0.03)
    assert np.mean(shares) > 0.6
    assert [min(side) for side in zip(*firsts, strict=True)] == [0, 0]
    farthest = [max(side) for side in zip(*firsts, strict=True)]
    assert farthest == pytest.approx([13, 19], abs=1)  # the centre at the far edge


def test_what_is_pasted_comes_from_elsewhere_for_cutmix_only():
    def pasted(rng):
        return torch.full_like(IMAGES, 9), torch.full_like(LABELS, 9)

    for seed in range(5):
        rng = np.random.default_rng(seed)
        images, labels = mix_batch(IMAGES, LABELS, Augment(cutmix=1), rng, pasted)
        assert labels.second.tolist() == [9] * 4 and set(images.unique().tolist()) <= {
            0,
            1,
            2,
            3,
            9,
        }
        images, labels = mix_batch(IMAGES, LABELS, Augment(mixup=1), rng, pasted)
        assert torch.equal(labels.second, LABELS.roll(1)) and images.max() <= 3


def test_each_class_is_equally_likely():
    labels = np.array([5, 0, 0, 0, 2])
    chances = balanced_chances(labels)
    assert chances.sum() == pytest.approx(1)
    assert [chances[labels == k].sum() for k in (0, 2, 5)] == pytest.approx([1 / 3] * 3)
    assert balanced_chances(torch.tensor([1, 0])).tolist() == [0.5, 0.5]
