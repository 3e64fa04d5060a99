"Calibration: what cannot be used, thresholds at the edge, model files of before"

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simpsons_cnn.scoring.calibration import (
    OOD_SCORES,
    Calibration,
    calibrate_logits,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(measure="logits"), "Unknown measure 'logits'; did you mean 'logit'"),
        (dict(temperature=0), "temperature must be a number from 0.001 to 1,000, got 0"),
        (dict(temperature=math.nan), "temperature must be a number from 0.001 to 1,000, got nan"),
        (dict(threshold=math.inf), "threshold must be a finite number, got inf"),
        (dict(threshold=math.nan), "threshold must be a finite number, got nan"),
    ],
)
def test_values_that_cannot_be_used(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Calibration(**kwargs)


def test_key_of_model_files():
    found = Calibration(2.0, 0.5, "energy", 0.9, 60, 0.1, 0.02)
    saved = found.to_dict()
    assert [*saved] == [
        "temperature",
        "threshold",
        "measure",
        "kept",
        "pictures",
        "ece_before",
        "ece_after",
    ]
    assert saved["kept"] == 0.9
    assert Calibration.from_dict(saved) == found
    assert Calibration.from_dict({}) == Calibration()


@pytest.mark.parametrize("saved", [{"heat": 1}, [1], 3, {"temperature": "hot"}, {1: 2}])
def test_what_is_no_calibration(saved):
    with pytest.raises((TypeError, ValueError)):
        Calibration.from_dict(saved)


@pytest.mark.parametrize("measure", OOD_SCORES)
def test_strangers_score_higher_and_files_hold_the_least_familiarity(measure):
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.2, 0.1, 0.0]])  # a face, and nobody
    face, nobody = Calibration(measure=measure).ood_score(logits).tolist()
    assert face < nobody
    found = Calibration(threshold=(face + nobody) / 2, measure=measure)
    assert nobody > found.threshold >= face
    saved = found.to_dict()["threshold"]  # as written since the first model files
    assert saved == -found.threshold
    assert Calibration.from_dict(dict(threshold=saved, measure=measure)) == found


def test_thresholds_at_the_edge():
    right = np.array([True] * 100 + [False] * 50)
    scores = np.r_[np.arange(100), np.arange(50) + 75]
    assert (scores[:7] <= choose_threshold(scores[:7], right[:7])).all()  # of seven none may go
    assert choose_threshold(scores, ~right, 1) == 124
    assert choose_threshold([1.0], [False]) is None


@pytest.mark.parametrize("coverage", [0, -1, 1.01, 95, math.nan])
def test_coverage_out_of_range(coverage):
    with pytest.raises(ValueError, match="coverage must be above 0 and at most 1"):
        choose_threshold([1.0], [True], coverage)


@pytest.mark.parametrize("bins", [1, 2, 15])
def test_each_answer_is_in_one_bin(bins):
    rng = np.random.default_rng(0)
    p = np.r_[rng.dirichlet([0.3] * 4, 500), np.eye(4), np.full((1, 4), 0.25)]
    table = reliability(p, np.zeros(len(p), int), bins)
    assert table.pictures.sum() == len(p)
    assert ((table.low <= table.confidence) & (table.confidence <= table.high + 1e-12)).all()
    assert 0 <= expected_calibration_error(p, np.zeros(len(p), int), bins) <= 1


@pytest.mark.parametrize("factor", [0.5, 1, 5])
def test_temperature_undoes_a_factor(factor):
    rng = torch.Generator().manual_seed(1)
    honest = 2 * torch.randn(4000, 6, generator=rng)
    labels = torch.multinomial(honest.softmax(1), 1, generator=rng)[:, 0]
    assert fit_temperature(factor * honest, labels) == pytest.approx(factor, rel=0.06)


def test_all_right_stays_in_doubt():
    labels = torch.arange(300) % 8
    z = 5 * F.one_hot(labels, 8)
    temperature = fit_temperature(z, labels)
    doubt = 1 - (z / temperature).softmax(1).amax().item()
    assert 0.1 < temperature < 1 and doubt == pytest.approx(
        2 / 300 * (1 - temperature) / 5, rel=0.01
    )


@pytest.mark.parametrize("n, most", [(30, 0.05), (100, 0.03)])
@pytest.mark.parametrize("factor", [1, 2])
def test_few_images_leave_honest_probabilities_alone(n, most, factor):
    "A network that is right more often than a few images can tell is not made doubtful"
    rng = torch.Generator().manual_seed(0)
    honest = 8 * torch.randn(2000, 10, generator=rng)
    labels = torch.multinomial(honest.softmax(1), 1, generator=rng)[:, 0]
    errors = []
    for rows in torch.arange(2000).split(n)[:20]:
        t = fit_temperature(factor * honest[rows], labels[rows])
        errors.append(expected_calibration_error((factor * honest / t).softmax(1), labels))
    assert np.mean(errors) < most


def test_a_network_that_says_nothing_keeps_its_temperature():
    assert fit_temperature(torch.zeros(50, 4), torch.arange(50) % 4) == pytest.approx(1)


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(30, 4)).astype(np.float32)
MASKED = np.where(np.arange(4) == 3, -np.inf, LOGITS)
LABELS = RNG.integers(0, 4, 30)
PROBABILITIES = torch.tensor(LOGITS).softmax(1).numpy()


@pytest.mark.parametrize(
    "kind", [np.asarray, torch.tensor, np.asfortranarray, lambda x: x.tolist(), lambda x: x.copy()]
)
def test_arrays_and_tensors_are_calibrated_alike(kind):
    expected = calibrate_logits(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert calibrate_logits(kind(LOGITS), kind(LABELS)) == expected
    assert fit_temperature(kind(LOGITS), kind(LABELS)) == expected.temperature
    before = expected_calibration_error(kind(PROBABILITIES), kind(LABELS))
    assert before == pytest.approx(expected.ece_before, abs=1e-6)


@pytest.mark.parametrize(
    "probabilities",
    [LOGITS, PROBABILITIES * np.nan, PROBABILITIES[:, :2], PROBABILITIES[0], PROBABILITIES > 0.3],
    ids=["logits", "nan", "some columns", "row", "mask"],
)
def test_what_are_no_probabilities(probabilities):
    with pytest.raises(ValueError, match="probabilities must be of shape .* adding up to 1, got"):
        reliability(probabilities, LABELS)


@pytest.mark.parametrize(
    "labels", [LABELS[:, None], LABELS[:-1], LABELS + 1, LABELS > 1, LABELS.astype(str), "3", None]
)
def test_labels_that_do_not_fit(labels):
    for work in (
        lambda: expected_calibration_error(PROBABILITIES, labels),
        lambda: calibrate_logits(torch.tensor(LOGITS), labels),
        lambda: fit_temperature(LOGITS, labels),
    ):
        with pytest.raises(ValueError, match="^labels must be .*whole numbers"):
            work()


@pytest.mark.parametrize("logits", [LOGITS[0], LOGITS[None], LOGITS[:0], LOGITS * np.nan, MASKED])
def test_logits_that_cannot_be_calibrated(logits):
    with pytest.raises(ValueError, match=r"logits must be finite, of shape \(n, classes\), got"):
        calibrate_logits(torch.tensor(logits), LABELS[: len(logits)])


@pytest.mark.parametrize("right", [[0, 2, 5], LABELS == 9, LABELS, [[True] * 30], "yes"])
def test_which_answers_were_right_is_a_mask(right):
    scores = LOGITS.max(1)[: -1 if np.shape(right) == (30,) else None]
    with pytest.raises(ValueError, match="right must be true or false for each score, got"):
        choose_threshold(scores, right)


@pytest.mark.parametrize("bins", [0, -3, 2.5, "15", None])
def test_bins_are_a_whole_number(bins):
    with pytest.raises(ValueError, match="bins must be a whole number of 1 or more"):
        reliability(PROBABILITIES, LABELS, bins)
