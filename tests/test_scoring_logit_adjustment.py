"Logit adjustment: what is chosen, within which rule, and what is refused"

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from simpsons_cnn.networks.losses import log_prior
from simpsons_cnn.scoring.logit_adjustment import (
    MAX_ACCURACY_LOSS,
    adjust_logits,
    check_adjustable,
    choose_adjustment,
    shift_logits,
)
from simpsons_cnn.scoring.metrics import confusion_matrix, macro_f1_score


def lopsided_answers(seed, counts, skill=1.5):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    hints = skill * nn.functional.one_hot(labels, len(counts))
    return hints + torch.randn(len(labels), len(counts), generator=rng) + log_prior(counts), labels


@pytest.mark.parametrize("seed", range(20))
def test_accuracy_is_kept_and_f1_is_never_worse(seed):
    counts = torch.tensor([300, 100, 50, 20, 10, 4, 2])
    logits, labels = lopsided_answers(seed, counts)
    found = choose_adjustment(logits, labels, counts)
    right = ((logits - found.tau * torch.tensor(found.log_prior)).argmax(1) == labels).double()
    assert found.accuracy_after == pytest.approx(right.mean().item())
    assert found.accuracy_after >= found.accuracy_before - MAX_ACCURACY_LOSS
    assert found.macro_f1_after >= found.macro_f1_before
    assert 0 <= found.tau < 1


def test_of_equal_strengths_the_weakest_is_chosen():
    labels = torch.arange(3).repeat_interleave(20)
    logits = 50.0 * nn.functional.one_hot(labels, 3)
    assert choose_adjustment(logits, labels, [500, 5, 5]).tau == 0


@pytest.mark.parametrize("of_common, moves", [(20, False), (9, True)])
def test_common_characters_decide_where_there_are_two(of_common, moves):
    "An image of a rare character was taken for another rare one"
    labels = torch.tensor([0] * of_common + [1] * of_common + [2, 3])
    logits = 18.0 * nn.functional.one_hot(labels, 4) - 9
    logits[-2] = torch.tensor([-9.0, -9, 0, 1])
    found = choose_adjustment(logits, labels, [1000, 500, 7, 100])
    assert (found.tau > 0) == moves


@pytest.mark.parametrize("counts", [[3, 0], [], [[1, 2]], [-1, 2]])
def test_counts_that_cannot_be_used(counts):
    with pytest.raises(ValueError, match="counts must be above 0 for every class"):
        log_prior(counts)


def test_the_network_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    check_adjustable(model, torch.randn(2, 4), 3)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    shift_logits(model, torch.tensor([1.0, 2.0, 3.0]))
    assert torch.allclose(model[2].bias - before["2.bias"], torch.tensor([1.0, 2.0, 3.0]))


def test_a_network_that_fails_in_the_check_is_left_as_it_was():
    class FailsOnce(nn.Sequential):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("out of memory")
            return super().forward(x)

    model = FailsOnce(nn.Linear(4, 3))
    before = model[0].bias.clone()
    with pytest.raises(RuntimeError):
        check_adjustable(model.train(), torch.zeros(2, 4), 3)
    assert torch.equal(model[0].bias, before) and model.training


class Judged(list):
    "Batches to judge by, as `adjust_logits` walks them"

    shuffle, augment, transform, indices = False, None, None, None


@pytest.mark.parametrize("counts", [[300, 30, 10], [50, 50, 50]])
def test_the_network_then_answers_as_the_adjusted_logits_do(counts):
    counts = torch.tensor(counts)
    logits, labels = lopsided_answers(0, counts)
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        model.bias.zero_()
    found = adjust_logits(model, Judged([(logits, labels)]), counts)
    assert bool(found.tau) == (len(counts.unique()) > 1)
    expected = logits - found.tau * torch.tensor(found.log_prior)
    assert torch.allclose(model(logits), expected, atol=1e-5)


def test_images_that_vary_are_no_judges():
    varied = Judged([(torch.zeros(2, 3), torch.tensor([0, 1]))])
    varied.augment = object()
    with pytest.raises(ValueError, match="dl must be without augment, transform and shuffle"):
        adjust_logits(nn.Linear(3, 3), varied, torch.tensor([1, 1, 1]))


@pytest.mark.parametrize("num_rare", [0, 40])
def test_scores_are_those_of_the_confusion_matrix(num_rare):
    counts = torch.tensor([300, 100, 50, 20, 10, 4, 2] + [1] * num_rare)
    logits, labels = lopsided_answers(1, counts)
    found = choose_adjustment(logits, labels, counts)
    for tau, accuracy, f1 in (
        (0, found.accuracy_before, found.macro_f1_before),
        (found.tau, found.accuracy_after, found.macro_f1_after),
    ):
        answers = (logits - tau * log_prior(counts)).argmax(1)
        confusion = confusion_matrix(labels, answers, len(counts))
        assert accuracy == pytest.approx(np.trace(confusion) / len(labels), abs=1e-12)
        assert f1 == pytest.approx(macro_f1_score(confusion, 10), abs=1e-12)


def test_no_table_of_all_pairs_of_characters():
    n = 2000  # a table would take 32 MB
    logits, labels = torch.randn(30, n), torch.arange(30)
    tracemalloc.start()
    try:
        choose_adjustment(logits, labels, torch.ones(n))
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_arrays_are_taken_and_misfits_refused():
    counts = torch.tensor([30, 10, 5])
    logits, labels = lopsided_answers(0, counts)
    found = choose_adjustment(logits, labels, counts)
    assert choose_adjustment(logits.numpy(), labels.tolist(), counts.numpy()) == found
    with pytest.raises(ValueError, match="counts must be one per class, 3, got 4"):
        choose_adjustment(logits, labels, [30, 10, 5, 1])
    with pytest.raises(ValueError, match="labels must be whole numbers from 0 to 2, got 3"):
        choose_adjustment(logits, labels + 1, counts)
