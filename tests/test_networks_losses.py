"Losses: settings out of range, weights that cannot be used, gradients of certain answers"

import math

import pytest
import torch

from simpsons_cnn.networks.losses import FocalLoss, class_weights, focal_loss, weights_by_name

LOGITS, TARGETS = torch.zeros(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(gamma=-1), "gamma must be 0 or more, got -1"),
        (dict(gamma=math.nan), "gamma must be 0 or more, got nan"),
        (dict(gamma="2"), "gamma must be 0 or more, got '2'"),
        (dict(label_smoothing=True), "label_smoothing must be from 0 to 1, got True"),
        (dict(label_smoothing=2), "label_smoothing must be from 0 to 1, got 2"),
        (dict(label_smoothing=math.nan), "label_smoothing must be from 0 to 1, got nan"),
        (dict(reduction="avg"), "reduction must be 'mean', 'sum' or 'none', got 'avg'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        focal_loss(LOGITS, TARGETS, **settings)
    with pytest.raises(ValueError, match=message):
        FocalLoss(**settings)


@pytest.mark.parametrize("logits, targets", [(LOGITS, TARGETS[:5]), (LOGITS[0], TARGETS[0])])
def test_shapes_that_do_not_fit(logits, targets):
    with pytest.raises(ValueError, match=r"logits must be \(n, classes\) and targets \(n,\), got"):
        focal_loss(logits, targets)


@pytest.mark.parametrize(
    "weight", [[0.0, 0.0, 0.0, 1.0], [1.0, -1.0, 1.0, 1.0], [1.0, math.nan, 1.0, 1.0], [math.inf]]
)
def test_weights_that_cannot_be_used(weight):
    with pytest.raises(ValueError, match="weight must be above 0 and finite for every class"):
        FocalLoss(weight=weight)


def test_message_of_ten_thousand_weights_is_short():
    with pytest.raises(ValueError) as e:
        FocalLoss(weight=[0.0] * 10_000)
    assert len(str(e.value)) < 500


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_certain_answer_has_a_finite_gradient(gamma):
    certain = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    focal_loss(certain, torch.tensor([0]), gamma=gamma).backward()
    assert certain.grad.isfinite().all()


@pytest.mark.parametrize("counts", [[3, 0], [], [[1, 2]], [1.0, math.nan], [-1, 2]])
def test_counts_that_cannot_be_used(counts):
    with pytest.raises(ValueError, match="counts must be above 0 for every class"):
        class_weights(counts)


def test_unknown_scheme():
    message = "scheme must be one of none, inverse, reference, effective, got 'sqrt'"
    with pytest.raises(ValueError, match=message):
        class_weights([3, 1], "sqrt")


def test_class_with_few_images_in_the_mean():
    assert class_weights([1, 1], "effective").tolist() == [1, 1]


def test_names_of_weights_are_compared_in_nfc():
    "A settings file written on a Mac may hold the letters in two parts"
    assert weights_by_name({"Mu\u0308ller": 3}, ["M\u00fcller", "otto"]).tolist() == [3, 1]


@pytest.mark.parametrize("gamma", [0, 1, 2])
def test_smoothing_holds_back_a_certain_answer(gamma):
    "Also where the loss fades: beyond the smoothed target the slope points back"
    logits = torch.tensor([[8.0, 0.0, 0.0, 0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0]), gamma, label_smoothing=0.1).backward()
    assert logits.grad[0, 0] > 0


@pytest.mark.parametrize("classes", [3, 5, (4, 1), 1])
def test_a_weight_for_each_class(classes):
    "Of too many, the first would be taken; a column would be spread over all pictures"
    with pytest.raises(ValueError, match="weight must be one per class, 4, got"):
        focal_loss(LOGITS, TARGETS, weight=torch.ones(classes))


def test_weights_as_a_list_or_an_array():
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    logits = torch.arange(24.0).view(6, 4).sin()
    expected = focal_loss(logits, TARGETS, weight=weight)
    for given in (weight.tolist(), weight.numpy()):
        assert focal_loss(logits, TARGETS, weight=given) == expected
