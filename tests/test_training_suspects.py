"Suspects: what fits no folds, what was not judged, a run that is stopped"

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import older
from sklearn.model_selection import StratifiedGroupKFold

from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.scoring.report import Report
from simpsons_cnn.training import suspects
from simpsons_cnn.training.suspects import (
    add_label_noise,
    cross_validate,
    deal_folds,
    rank_suspects,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suspects")
    files = ImageFiles.scan(demo_characters(folder / "demo", train=5, test=1) / "train")
    return PixelStore.build(files, size=64)


@pytest.mark.parametrize("folds", [1, 0, 51, 2.5, True])
def test_folds(store, folds):
    message = f"folds must be from 2 to the number of pictures, 50, got {folds}"
    with pytest.raises(ValueError, match=message):
        cross_validate(store, folds=folds)


def test_more_folds_than_groups(store):
    message = r"number of groups \(2\) and of pictures of the largest character \(5\), got 3"
    with pytest.raises(ValueError, match=message):
        cross_validate(store, np.arange(50) % 2, folds=3)


def test_more_folds_than_pictures_of_a_character(store):
    with pytest.raises(ValueError, match=r"of the largest character \(5\), got 6"):
        cross_validate(store, np.arange(50), folds=6)


@pytest.mark.parametrize("changes", [dict(num_epoch=1), dict(num_epochs=0), dict(batch=8)])
def test_wrong_settings(store, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        cross_validate(store, np.arange(50), **changes)


def test_no_picture_is_judged_by_a_network_that_knows_its_group(store, monkeypatch):
    trained, really_fit = [], suspects.fit

    def spying_fit(model, train_dl, judged_dl, *args, **kwargs):
        trained.append((train_dl.indices, judged_dl.indices))
        return really_fit(model, train_dl, judged_dl, *args, **kwargs)

    monkeypatch.setattr(suspects, "fit", spying_fit)
    groups = np.arange(50) // 2
    cross_validate(store, groups, num_epochs=1)
    assert [len(set(groups[t]) & set(groups[j])) for t, j in trained] == [0] * 3
    judged = torch.cat([j for _, j in trained]).sort().values
    assert judged.tolist() == list(range(50))


def test_probabilities_are_in_the_order_of_the_images(store):
    report = cross_validate(store, np.arange(50), num_epochs=1)
    assert report.probabilities.shape == (50, 10)
    assert report.probabilities.argmax(1).tolist() == report.per_image.prediction.tolist()
    np.testing.assert_allclose(report.probabilities.max(1), report.per_image.probability)
    of_label = report.probabilities[np.arange(50), report.per_image.truth]
    np.testing.assert_allclose(-np.log(of_label), report.per_image.loss, rtol=1e-4)


def test_a_stopped_run_is_no_result(store, monkeypatch):
    class Stopping(suspects._Epochs):
        def on_epoch(self, run):
            run.stop("enough")

    monkeypatch.setattr(suspects, "_Epochs", Stopping)
    with pytest.raises(KeyboardInterrupt, match="fold 1 of 3 was stopped: enough"):
        cross_validate(store, np.arange(50), num_epochs=2)


def test_a_conflict_of_a_picture_that_was_not_judged(store):
    "Its loss is unknown, and not minus infinity"
    images = dict(row=range(50), truth=store.labels, prediction=store.labels, probability=0.5)
    images = pd.DataFrame(images | dict(loss=[np.nan] + [0.1] * 49))
    report = Report(np.diag([5] * 10), store.classes, images, store, 0.1)
    name = store.files.names[0]
    pair = dict(file=[name], character=["a"], other=["gone.jpg"], other_character=["b"])
    first = rank_suspects(report, pd.DataFrame(pair)).iloc[0]
    assert (first.picture, first.suggestion, first.other) == (name, "b", "gone.jpg")
    assert np.isnan(first.loss)


def test_the_higher_loss_is_asked_about_whatever_the_order(store):
    images = dict(row=range(50), truth=store.labels, prediction=store.labels, probability=0.5)
    images = pd.DataFrame(images | dict(loss=np.linspace(0, 1, 50)))
    report = Report(np.diag([5] * 10), store.classes, images, store)
    first, second = report.top_losses(2).picture
    for file, other in ((first, second), (second, first)):
        label = {first: "y", second: "x"}
        pair = dict(file=[file], other=[other])
        pair |= dict(character=[label[file]], other_character=[label[other]])
        asked = rank_suspects(report, pd.DataFrame(pair)).iloc[0]
        assert asked[["picture", "character", "suggestion"]].tolist() == [first, "y", "x"]
        assert asked.other == second
    assert list(rank_suspects(report).picture) == list(report.top_losses(50).picture)


def test_the_closest_conflict_counts(store):
    images = dict(row=range(50), truth=store.labels, prediction=store.labels, probability=0.5)
    report = Report(np.diag([5] * 10), store.classes, pd.DataFrame(images | dict(loss=0.1)), store)
    name = store.files.names[0]
    pairs = dict(file=[name] * 2, character=["a"] * 2, other=["x", "y"], other_character=["b", "c"])
    table = rank_suspects(report, pd.DataFrame(pairs))
    assert table.iloc[0][["picture", "suggestion", "other"]].tolist() == [name, "b", "x"]
    assert len(table) == 50


@pytest.mark.parametrize("seed", range(5))
def test_folds_have_like_shares_of_the_characters(seed):
    "scikit-learn before 1.8 mixes up the characters of groups that it shuffles"
    rng = np.random.default_rng(seed)
    of_group = rng.integers(0, 4, 80)  # its character; groups have one to eight pictures
    groups = np.repeat(np.arange(80), rng.integers(1, 9, 80))
    labels = of_group[groups]
    for _, judged in deal_folds(labels, groups, 4, seed):
        shares = np.bincount(labels[judged], minlength=4) / np.bincount(labels, minlength=4)
        assert np.abs(shares - 1 / 4).max() < 0.05


@pytest.mark.skipif(older("scikit-learn", "1.8"), reason="it mixes up groups there")
@pytest.mark.parametrize("seed", range(5))
def test_folds_are_those_that_scikit_learn_shuffles(seed):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 5, 120), rng.integers(0, 50, 120)
    wanted = StratifiedGroupKFold(3, shuffle=True, random_state=seed).split(labels, labels, groups)
    for fold, of_sklearn in zip(deal_folds(labels, groups, 3, seed), wanted, strict=True):
        assert all(map(np.array_equal, fold, of_sklearn))


@pytest.mark.parametrize("seed", [None, 1.5, "3", -1])
def test_the_seed_is_a_whole_number(store, seed):
    for work in (
        lambda: cross_validate(store, np.arange(50), seed=seed),
        lambda: add_label_noise(store.files, seed=seed),
    ):
        with pytest.raises(ValueError, match="seed must be a whole number of 0 or more"):
            work()


@pytest.mark.parametrize("groups", [[0.0, np.nan] * 25, ["a", None] * 25, range(49)])
def test_groups_are_known_for_each_picture(store, groups):
    with pytest.raises(ValueError, match="groups must"):
        cross_validate(store, groups)
