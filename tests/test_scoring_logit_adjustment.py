"Logit adjustment: what is chosen, within which rule, and what is refused"

import pytest
import torch
from torch import nn

from simpsons_cnn.networks.losses import log_prior
from simpsons_cnn.scoring.logit_adjustment import (
    MAX_ACCURACY_LOSS,
    check_adjustable,
    choose_adjustment,
    shift_logits,
)


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
