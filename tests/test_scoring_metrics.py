"Scores against scikit-learn, intervals by simulation, many classes, evaluation of a network"

import json
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as skm
from torch import nn
from torch.nn import functional as F

from simpsons_cnn.data.augment import Augment
from simpsons_cnn.data.batches import Batches
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.scoring import metrics, report
from simpsons_cnn.scoring.metrics import (
    class_scores,
    confusion_matrix,
    macro_f1_score,
    wilson_interval,
)
from simpsons_cnn.scoring.report import Report, collect_logits, evaluate


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = demo_characters(tmp_path_factory.mktemp("demo"), train=4, test=1)
    return PixelStore.build(ImageFiles.scan(folder / "train"), size=64)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimpsonsCNN(10)


# --- scores


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    t = rng.integers(0, n, 60)
    p = np.where(rng.random(60) < 0.7, t, rng.integers(0, n, 60))
    confusion = confusion_matrix(t, p, n)
    scores, both = class_scores(confusion), sorted({*t, *p})
    np.testing.assert_array_equal(confusion, skm.confusion_matrix(t, p, labels=range(n)))
    theirs = skm.precision_recall_fscore_support(t, p, labels=range(n), zero_division=np.nan)
    for name, their in zip(("precision", "recall", "f1"), theirs[:3], strict=True):
        np.testing.assert_allclose(scores[name], their)
    jaccard = skm.jaccard_score(t, p, labels=both, average=None, zero_division=0)
    np.testing.assert_allclose(scores["jaccard"][both], jaccard)
    f1 = skm.f1_score(t, p, average="macro", zero_division=0)
    assert macro_f1_score(confusion) == pytest.approx(f1)


def test_scores_of_many_matrices_at_once():
    both = np.stack([np.eye(3), np.arange(9).reshape(3, 3)])
    together = class_scores(both)
    for i in range(2):
        alone = class_scores(both[i])
        for name, values in together.items():
            np.testing.assert_array_equal(values[i], alone[name])


@pytest.mark.parametrize(
    "targets, predictions, message",
    [
        ([0, 1], [0], "targets and predictions must be equally many, got 2 and 1"),
        ([0, -1], [0, 0], "targets must be whole numbers from 0 to 2, got -1"),
        ([0, 1], [0, 3], "predictions must be whole numbers from 0 to 2, got 3"),
        ([True, False], [0, 1], "targets must be whole numbers from 0 to 2, .* got bool"),
        ([0, 1], torch.eye(2, 3), "predictions must be whole numbers .* got float64 of shape"),
        ([0, 1], [0, 1.9], "predictions must be whole numbers from 0 to 2, got 1.9"),
        ([0, 1], ["0", "1"], "predictions must be whole numbers"),
    ],
)
def test_wrong_classes(targets, predictions, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(targets, predictions, 3)


# --- intervals


def scenes_of_characters(rng, groups_of_each, skill, mean_size=6):
    "Truth, answers and scene of images; in a hard scene most images are wrong, in the same way"
    k = len(groups_of_each)
    truth_of_scene = np.repeat(np.arange(k), groups_of_each)
    n = len(truth_of_scene)
    hard = skill[truth_of_scene] + rng.normal(size=n)
    wrong = (truth_of_scene + rng.choice([1, 2, 3], n)) % k
    scene = np.repeat(np.arange(n), rng.geometric(1 / mean_size, n))
    right = rng.random(len(scene)) < 1 / (1 + np.exp(-hard[scene]))
    truth = truth_of_scene[scene]
    return truth, np.where(right, truth, wrong[scene]), scene


def plain_bootstrap(confusion, seed):
    "The method used before: images, drawn over all characters, percentiles"
    n = confusion.sum()
    p = confusion.ravel() / n
    draws = np.random.default_rng(seed).multinomial(n, p, size=200).reshape(200, *confusion.shape)
    return np.quantile(macro_f1_score(draws), [0.025, 0.975])


def test_intervals_hold_the_truth_as_often_as_they_say():
    "A small version of the simulation by which the method was chosen"
    rng = np.random.default_rng(0)
    n, runs = 30, 150
    groups_of_each = np.maximum(2, 40 * np.exp(-np.arange(n) / 10)).astype(int)
    skill = rng.uniform(0.8, 3.5, n)
    t, p, _ = scenes_of_characters(rng, groups_of_each * 300, skill)
    truth = macro_f1_score(confusion_matrix(t, p, n))
    held, held_before = 0, 0
    for seed in range(runs):
        t, p, scene = scenes_of_characters(rng, groups_of_each, skill)
        confusion = confusion_matrix(t, p, n)
        per_image = pd.DataFrame(dict(truth=t, prediction=p, group=scene))
        report = Report(confusion, [f"c{i}" for i in range(n)], per_image)
        low, high = report.bootstrap_interval("macro_f1", draws=200, seed=seed)
        held += low <= truth <= high
        low, high = plain_bootstrap(confusion, seed)
        held_before += low <= truth <= high
    assert held / runs >= 0.88
    assert held_before / runs < 0.84


@pytest.mark.parametrize("of_each, skill", [([4] * 3, 0.9), ([4] * 3, 0.97), ([10] * 5, 0.95)])
def test_intervals_of_few_images_hold_the_truth(of_each, skill):
    rng, n, held = np.random.default_rng(0), len(of_each), 0
    t = np.repeat(np.arange(n), of_each)
    for seed in range(100):
        p = np.where(rng.random(len(t)) < skill, t, (t + rng.integers(1, n, len(t))) % n)
        report = Report(confusion_matrix(t, p, n), [*"abcde"][:n])
        low, high = report.bootstrap_interval("accuracy", draws=200, seed=seed)
        held += low <= skill <= high
    assert held >= 90  # without Wilson's 62, 33 and 75


def test_twelve_of_twelve_right_is_no_certainty():
    report = Report(np.diag([4, 4, 4]), [*"abc"])
    for metric in ("accuracy", "macro_f1"):
        assert report.bootstrap_interval(metric) == pytest.approx((0.7575, 1), abs=1e-3)
    scenes = np.repeat([0, 1, 2], 4)  # three scenes know less than twelve images
    report.per_image = pd.DataFrame(dict(truth=scenes, prediction=scenes, group=scenes))
    assert report.bootstrap_interval("accuracy") == pytest.approx((0.4385, 1), abs=1e-3)


def test_an_interval_holds_its_own_score():
    rng = np.random.default_rng(0)
    for seed in range(60):
        n = int(rng.integers(2, 8))
        t = np.repeat(np.arange(n), rng.integers(1, 6, n))
        p = np.where(rng.random(len(t)) < rng.uniform(0.2, 1), t, rng.integers(0, n, len(t)))
        per_image = pd.DataFrame(dict(truth=t, prediction=p, group=np.arange(len(t)) // 2))
        report = Report(confusion_matrix(t, p, n), [*"abcdefgh"][:n], per_image)
        for groups in (None, np.arange(len(t))):
            for metric in ("accuracy", "macro_f1"):
                low, high = report.bootstrap_interval(metric, draws=50, seed=seed, groups=groups)
                assert low <= getattr(report, metric) <= high


def test_common_characters_have_ten_images():
    counts = np.array([[10, 0, 0], [2, 8, 0], [3, 0, 6]])
    report = Report(counts, [*"abc"])
    t, p = (np.repeat(labels, counts.ravel()) for labels in np.indices((3, 3)).reshape(2, 9))
    f1 = skm.f1_score(t, p, labels=[0, 1], average="macro")
    assert (report.num_common, report.macro_f1_common) == (2, pytest.approx(f1))
    low, high = report.bootstrap_interval("macro_f1_common")
    assert low < report.macro_f1_common < high
    assert "macro F1 of the 2 characters with 10 pictures or more" in report._repr_markdown_()
    assert "of the" not in Report(counts[:2, :2], ["a", "b"])._repr_markdown_()


def test_draws_are_not_shifted_by_rare_characters():
    confusion = np.diag([300, 200, 100, *[2] * 20])
    confusion[0, 1] = 30
    report = Report(confusion, [f"c{i}" for i in range(23)])
    low, high = report.bootstrap_interval("macro_f1")
    assert low < report.macro_f1 < high
    assert (low + high) / 2 == pytest.approx(report.macro_f1, abs=0.005)


def test_groups_of_one_are_like_no_groups():
    rng = np.random.default_rng(0)
    t = rng.integers(0, 4, 400)
    p = np.where(rng.random(400) < 0.8, t, rng.integers(0, 4, 400))
    per_image = pd.DataFrame(dict(truth=t, prediction=p))
    report = Report(confusion_matrix(t, p, 4), [*"abcd"], per_image)
    names = [f"group {i}" for i in range(400)]  # of any type
    for which in (("accuracy", None), ("macro_f1", None), ("precision", "b")):
        single = report.bootstrap_interval(*which, draws=4000)
        grouped = report.bootstrap_interval(*which, draws=4000, groups=names)
        assert single == pytest.approx(grouped, abs=0.01)


def test_a_group_of_several_characters_is_drawn_whole():
    per_image = pd.DataFrame(dict(truth=[0, 0, 1, 0, 1], prediction=[0, 0, 1, 1, 1]))
    report = Report(confusion_matrix(per_image.truth, per_image.prediction, 2), ["a", "b"])
    report.per_image = per_image
    low, high = report.bootstrap_interval("accuracy", groups=[7, 7, 7, 7, 7])
    assert low < 0.15 and high > 0.98  # one group tells nothing about others


def test_intervals_are_repeatable_and_depend_on_the_level():
    report = Report(np.array([[40, 9], [6, 30]]), ["a", "b"])
    assert report.bootstrap_interval("macro_f1") == report.bootstrap_interval("macro_f1")
    wide, narrow = (report.bootstrap_interval("macro_f1", level=level) for level in (0.99, 0.5))
    assert wide[0] < narrow[0] < report.macro_f1 < narrow[1] < wide[1]


def test_interval_of_an_undefined_score_is_undefined():
    report = Report(np.array([[3, 0], [0, 0]]), ["a", "b"])
    assert np.isnan(report.bootstrap_interval("precision", "b")).all()
    low, high = report.bootstrap_interval("f1", "a")
    assert (low, high) == (pytest.approx(wilson_interval(3, 3)[0]), 1.0)
    assert np.isnan(report.bootstrap_interval("macro_f1_common")).all()


@pytest.mark.parametrize(
    "args, message",
    [
        (("acuracy",), "Unknown metric 'acuracy'; did you mean 'accuracy'.*all characters"),
        (("macro_f1", "a"), "Unknown metric 'macro_f1'"),
        (("recall", "c"), "Unknown character 'c'"),
        (("accuracy", None, 95), "level must be a number from 0.01 to 0.9999, got 95"),
        (("accuracy", None, 0.95, 0), "draws must be a whole number of 1 or more, got 0"),
        (("accuracy", None, 0.95, 99, None), "seed must be a whole number of 0 or more, got None"),
    ],
)
def test_unknown_names(args, message):
    with pytest.raises(ValueError, match=message):
        Report(np.eye(2, dtype=int), ["a", "b"]).bootstrap_interval(*args)


@pytest.mark.parametrize("as_kind", [np.ndarray.tolist, torch.tensor])
def test_counts_of_any_kind(as_kind):
    counts = np.array([[30, 4], [2, 9]])
    for metric, character in (("accuracy", None), ("f1", 0)):
        interval = metrics.bootstrap_interval(counts, metric, character)
        assert metrics.bootstrap_interval(as_kind(counts), metric, character) == interval


def test_groups_that_do_not_fit():
    report = Report(np.eye(2, dtype=int), ["a", "b"])
    with pytest.raises(ValueError, match="groups need a report that knows its images"):
        report.bootstrap_interval("accuracy", groups=[0, 1])
    report.per_image = pd.DataFrame(dict(truth=[0, 1], prediction=[0, 1]))
    with pytest.raises(ValueError, match="groups must be one for each of 2 pictures"):
        report.bootstrap_interval("accuracy", groups=[0, 1, 1])
    with pytest.raises(ValueError, match="holds no pictures"):
        Report(np.zeros((2, 2), int), ["a", "b"]).bootstrap_interval("accuracy")


# --- reports


def test_report_as_json():
    report = Report(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]), ["<b>moe", "otto", "x|y"])
    saved = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert saved["accuracy"] == 0.75
    assert saved["table"][0]["recall"] == 0.75
    assert saved["table"][1]["recall"] is None
    assert (saved["macro_f1_common"], saved["macro_f1_common_interval"]) == (None, [None, None])
    assert (saved["num_common"], saved["not_judged"]) == (0, ["otto", "x|y"])
    assert [*saved] == [
        "pictures",
        "groups",
        "loss",
        "accuracy",
        "accuracy_interval",
        "macro_f1",
        "macro_f1_interval",
        "macro_f1_common",
        "macro_f1_common_interval",
        "num_common",
        "not_judged",
        "classes",
        "table",
        "confusion",
    ]
    assert [*saved["table"][0]] == [
        "character",
        "pictures",
        "named",
        "accuracy",
        "precision",
        "recall",
        "recall_low",
        "recall_high",
        "f1",
    ]


def test_report_of_hostile_names_and_of_nothing():
    assert "<b>" not in Report(np.eye(2, dtype=int), ["<b>moe", "x|y"])._repr_markdown_()
    assert Report(np.zeros((2, 2), int), ["a", "b"])._repr_markdown_() == "**No pictures**"


def test_most_confused_keeps_to_the_order_of_classes_where_equal():
    report = Report(np.array([[5, 2, 2], [0, 5, 3], [2, 0, 5]]), ["a", "b", "c"])
    found = report.most_confused(3)
    assert found.values[:, :3].tolist() == [["b", "c", 3], ["a", "b", 2], ["a", "c", 2]]
    assert list(found.share) == pytest.approx([3 / 8, 2 / 9, 2 / 9])
    assert Report(np.eye(2, dtype=int), ["a", "b"]).most_confused().empty


def test_report_of_a_thousand_classes():
    n, rng = 1000, np.random.default_rng(0)
    t = np.repeat(np.arange(n), 5)
    p = np.where(rng.random(len(t)) < 0.8, t, rng.integers(0, n, len(t)))
    report = Report(confusion_matrix(t, p, n), [f"c{i}" for i in range(n)])
    text = report._repr_markdown_()
    assert "Shown: the 30 of 1,000 characters with the lowest F1" in text
    assert text.count("\n| c") == 31  # and the header
    low, high = report.bootstrap_interval("macro_f1", draws=100)
    assert low < report.macro_f1 < high
    assert len(report.to_dict()["confusion"]) == n


def test_report_of_ten_thousand_classes_needs_little_memory():
    code = """
        import json, resource
        import numpy as np
        from simpsons_cnn.scoring.report import Report
        counts = np.eye(10_000, dtype=np.uint8) * 3
        counts[:-1, 1:] += np.eye(9_999, dtype=np.uint8)
        report = Report(counts, [f"character {i}" for i in range(10_000)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report.bootstrap_interval("macro_f1", draws=20)
        report.most_confused()
        report.bootstrap_interval = lambda metric: (0, 1)
        saved = report.to_dict()
        assert saved["confusion"] is None and len(saved["confusion_cells"]) == 19_999
        assert len(json.dumps(saved)) < 5e6 and len(report._repr_markdown_()) < 5000
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 300 * 1024  # KiB; the counts alone are 100 MB


# --- judging a network


def test_modes_come_back_after_a_failure():
    def failing_batches():
        yield torch.zeros(2, 3), torch.zeros(2)
        raise RuntimeError("broken")

    frozen = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    frozen[1].eval()
    with pytest.raises(RuntimeError, match="broken"):
        collect_logits(frozen, failing_batches())
    assert [module.training for module in frozen.modules()] == [True, True, False]


def test_weighted_loss_is_taken_over_all_images(store, model):
    weighted = nn.CrossEntropyLoss(torch.arange(1.0, 11.0))
    losses = [evaluate(model, Batches(store, batch_size=n), weighted).loss for n in (7, 40)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_mirrored_images(store, model):
    model.eval()
    with torch.no_grad():
        plain, mirrored = (
            model(store.preprocess.normalise(x)) for x in (store.pixels, store.pixels.flip(3))
        )
    expected = F.cross_entropy((plain + mirrored) / 2, store.labels).item()
    found = evaluate(model, Batches(store, batch_size=16), tta=True).loss
    assert found == pytest.approx(expected, abs=1e-5)


def test_rows_groups_and_mode(store, model):
    report = evaluate(model.train(), Batches(store, [3, 1]), groups=np.arange(40) * 10)
    assert report.per_image.row.tolist() == [3, 1]
    assert report.per_image.group.tolist() == [30, 10]
    assert model.training
    assert "group" not in report.top_losses(1)
    assert list(report.top_losses(1)) == [
        "row",
        "picture",
        "truth",
        "prediction",
        "probability",
        "loss",
    ]


@pytest.mark.parametrize(
    "kwargs", [dict(shuffle=True), dict(augment=Augment()), dict(transform=torch.clone)]
)
def test_shuffled_or_augmented_batches_are_refused(kwargs, store, model):
    with pytest.raises(ValueError, match="dl must be without augment, transform and shuffle"):
        evaluate(model, Batches(store, batch_size=8, **kwargs))


def test_groups_of_another_store_are_refused(store, model):
    dl = Batches(store, range(20), batch_size=8)
    with pytest.raises(ValueError, match="groups must be one for each of 40 pictures"):
        evaluate(model, dl, groups=np.arange(39))
    groups = [*range(39), None]
    assert evaluate(model, dl, groups=groups).num_groups == 20
    with pytest.raises(ValueError, match="groups must have a value for each picture, got NaN"):
        evaluate(model, dl, groups=groups[::-1])


def test_top_losses_need_images():
    with pytest.raises(ValueError, match="holds counts only"):
        Report(np.eye(2, dtype=int), ["a", "b"]).top_losses()


def test_interval_holds_the_estimate_where_absent_characters_are_named():
    counts = np.zeros((40, 40), int)
    for k in range(20):
        counts[k, k] = 48 - (k < 10)
        counts[k, (k + 1) % 20] = 2
        if k < 10:
            counts[k, 20 + k] = 1
    report = Report(counts, [str(k) for k in range(40)])
    low, high = report.bootstrap_interval("macro_f1")
    assert low < report.macro_f1 < high
    assert high - low > 0.005


def test_a_character_is_found_in_either_unicode_form():
    report = Report(np.array([[5, 1], [0, 4]]), ["M\u00fcller", "otto"])
    composed = report.bootstrap_interval("recall", "M\u00fcller")
    assert report.bootstrap_interval("recall", "Mu\u0308ller") == composed


def test_sixty_characters_are_all_shown_and_of_more_the_worst_in_order():
    f1 = np.linspace(1, 0, 61)
    assert report.characters_to_show(f1[:60])[1] == ""
    shown, note = report.characters_to_show(f1)
    assert shown.tolist() == [*range(31, 61)] and "30 of 61 characters with the lowest" in note


def test_what_is_drawn_of_a_class_stands_for_all_of_it():
    "So no class weighs more in one draw than in another (Rao and Wu, 1988)"
    units = metrics._single_images(np.array([[5, 2, 0], [0, 3, 1], [0, 0, 1]]))
    weights = metrics._draw_weights(units, 50, np.random.default_rng(0))
    sums = metrics._sum_by(units.truth, weights, 3)
    assert np.allclose(sums, [7, 4, 1])
    assert len({*weights[:, 0]}) > 1


def test_draws_that_equal_the_score_count_half_on_each_side():
    values = np.repeat([0.4, 0.5, 0.6], [10, 80, 10])
    assert metrics._bias_corrected(values, 0.5, 0.95) == pytest.approx((0.4, 0.6))


def test_a_mean_over_classes_is_worth_little_more_than_its_rarest_class():
    units = metrics._single_images(np.diag([10, 1000]))
    assert metrics._effective_number(units, [0, 1]) == pytest.approx(4 / (1 / 10 + 1 / 1000))
    assert metrics._effective_number(units, [1]) == pytest.approx(1000)


@pytest.mark.parametrize("wrong, few", [(4, True), (5, False)])
def test_few_mistakes_are_fewer_than_five_in_the_classes_asked_for(wrong, few):
    confusion = np.array([[50, wrong, 0], [0, 50, 0], [0, 30, 20]])
    units = metrics._single_images(confusion)
    assert metrics._few_mistakes(units, [0, 1]) == few
    assert not metrics._few_mistakes(units, [0, 1, 2])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_network_that_always_answers_the_same_is_not_sure_of_its_score(metric):
    confusion = np.zeros((10, 10), dtype=int)
    confusion[:, 3] = 10
    report = Report(confusion, [*"abcdefghij"])
    low, high = report.bootstrap_interval(metric)
    assert low < getattr(report, metric) - 0.01
    assert high > getattr(report, metric) + 0.03


@pytest.mark.parametrize("named", [2, 6])
def test_a_precision_of_few_answers_is_not_sure(named):
    "Of 600 images, few were named so, all rightly"
    report = Report(np.array([[named, 300 - named], [0, 300]]), ["a", "b"])
    low, high = report.bootstrap_interval("precision", "a")
    assert low == pytest.approx(wilson_interval(named, named)[0], abs=1e-6)
    assert high == 1


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_one_scene_of_each_character_says_little(metric):
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(10), 50)
    prediction = np.where(rng.random(500) < 0.6, scene, (scene + 1) % 10)
    per_image = pd.DataFrame(dict(truth=scene, prediction=prediction, group=scene))
    report = Report(confusion_matrix(scene, prediction, 10), [*"abcdefghij"], per_image)
    low, high = report.bootstrap_interval(metric)
    assert high - low > 0.4


def test_the_recall_of_a_character_in_one_scene_is_not_sure():
    "Its three pictures are in a scene of another character"
    truth = np.array([0] * 6 + [1] * 3 + [0] * 20)
    prediction = np.array([0] * 6 + [1, 0, 0] + [0] * 19 + [1])
    per_image = pd.DataFrame(dict(truth=truth, prediction=prediction, group=[0] * 9 + [*range(20)]))
    report = Report(confusion_matrix(truth, prediction, 2), ["a", "b"], per_image)
    low, high = report.bootstrap_interval("recall", "b")
    assert low < 0.1 and high > 0.8


def test_a_group_counts_all_its_images_in_each_draw():
    per_image = pd.DataFrame(dict(truth=[0] * 6 + [0], prediction=[0] * 6 + [1]))
    units = metrics._whole_groups(per_image, [1] * 6 + [2])
    sums = np.concatenate([t for _, t, _ in metrics._redrawn_sums(units, 2, 200, 0)])
    # One of the two groups is drawn and stands for both: six images twice, or one twice.
    assert sorted({*sums[:, 0]}) == [2, 12]


def test_a_group_is_drawn_among_those_of_its_most_frequent_character():
    per_image = pd.DataFrame(dict(truth=[0, 1, 1, 1, 0], prediction=[0, 1, 1, 1, 0]))
    units = metrics._whole_groups(per_image, ["x", "x", "x", "y", "z"])
    assert units.stratum.tolist() == [1, 1, 0]


def test_an_interval_is_widened_at_either_end_and_never_narrowed():
    low, high = wilson_interval(90, 100, 1.96)
    assert metrics._widened((0.89, 0.91), 0.9, 100, 0.95) == pytest.approx((low, high), abs=1e-4)
    assert metrics._widened((0.1, 0.99), 0.9, 100, 0.95) == (0.1, 0.99)


def test_as_many_sets_are_drawn_as_are_asked_for(monkeypatch):
    units = metrics._single_images(np.array([[5, 2], [1, 3]]))
    monkeypatch.setattr(metrics, "_BLOCK", 4 * 3)  # three draws a block
    blocks = [len(true) for _, true, _ in metrics._redrawn_sums(units, 2, 10, 0)]
    assert blocks == [3, 3, 3, 1]


@pytest.mark.parametrize(
    "groups", [[1, None, 2, None], np.array([0, np.nan, 1, np.nan]), ["a", np.nan, "b", np.nan]]
)
def test_a_missing_group(groups):
    "Images without a group are not one group"
    frames = pd.DataFrame(dict(truth=[0, 0, 1, 1], prediction=[0, 1, 1, 1]))
    report = Report(np.array([[1, 1], [0, 2]]), ["a", "b"], frames)
    with pytest.raises(ValueError, match="got NaN or None for 2 of 4; give each"):
        report.bootstrap_interval("accuracy", groups=groups)


@pytest.mark.parametrize(
    "confusion",
    [np.ones((2, 3), int), np.ones(3), -np.eye(3), np.full((3, 3), np.nan), np.eye(3) / 2, [["a"]]],
    ids=["shape", "row", "negative", "nan", "half", "text"],
)
def test_counts_that_are_none_are_refused(confusion):
    with pytest.raises(ValueError, match=r"confusion must hold counts, shape \(3, 3\), got"):
        Report(confusion, [*"abc"])


@pytest.mark.parametrize("counts", [[[3, 1], [0, 2]], torch.tensor([[3, 1], [0, 2]])])
def test_counts_of_any_kind_are_taken(counts):
    report = Report(counts, ["a", "b"])
    assert (len(report), report.accuracy) == (6, 5 / 6)
    assert report.to_dict()["confusion"] == [[3, 1], [0, 2]]


@pytest.mark.parametrize("n", [-1, 1.5, "3", True, None])
def test_how_many_rows_is_a_whole_number(n):
    with pytest.raises(ValueError, match="n must be a whole number of 0 or more"):
        Report(np.ones((2, 2), int), ["a", "b"]).most_confused(n)


@pytest.mark.parametrize("confusion", [np.ones((3, 1)), np.ones((2, 3)), np.ones(3), 1])
def test_a_confusion_matrix_is_square(confusion):
    with pytest.raises(ValueError, match="confusion must be of shape"):
        class_scores(confusion)


def test_confusion_matrices_of_torch():
    confusion = torch.tensor([[3, 1], [0, 2]])
    assert macro_f1_score(confusion, 3) == macro_f1_score(confusion.numpy(), 3)


def test_names_of_a_report_are_found_in_either_unicode_form():
    report = Report(np.array([[5, 1], [0, 4]]), ["Mu\u0308ller", "otto"])
    assert report.bootstrap_interval("recall", "Mu\u0308ller")[0] > 0
    with pytest.raises(TypeError, match="a name must be text, got 1"):
        report.bootstrap_interval("recall", 1)
