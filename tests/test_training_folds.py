"Cross-validation: who judges whom, what is kept, series that stop or are killed, and the command"

import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from forked import forks

from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.core.config import Config
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.inference.card import model_card
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.training.callbacks import Callback
from simpsons_cnn.training.folds import _assign_folds, _check_number, _check_taught, train_folds
from simpsons_cnn.training.loop import fit
from simpsons_cnn.training.verify import verify

FOUR = ("captain_kelp", "duke_dawdle", "madame_turnip", "mossy_mo")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "Four characters with six pictures; each first picture is there twice"
    root = tmp_path_factory.mktemp("folds")
    demo_characters(root / "data/demo", train=6, test=1)
    for folder in [*root.glob("data/demo/*/*/")]:
        if folder.name not in FOUR:
            shutil.rmtree(folder)
    for folder in root.glob("data/demo/train/*/"):
        shutil.copy(min(folder.iterdir()), folder / "twin.jpg")
    return root


@pytest.fixture(autouse=True)
def no_figures_of_single_runs(monkeypatch):
    "They take most of the time of so short a run"
    monkeypatch.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])


def settings_in(root, runs, **changes):
    small = dict(num_epochs=1, size=64, crop_size=64, batch_size=8)
    return Config.demo(root, **small | dict(runs_directory=runs, testdir=None) | changes)


@pytest.fixture
def settings(root, tmp_path):
    return lambda **changes: settings_in(root, tmp_path, **changes)


class InFold(Callback):
    "Does something in the steps of the n-th training"

    def __init__(self, number, action):
        self.number, self.action = number, action

    def on_start(self, run):
        self.number -= 1

    def on_step(self, run):
        if self.number == 0:
            self.action(run)


def files_of(folder) -> dict:
    "What a series leaves, without what tells the time"
    names = ("folds.csv", "suspects.csv", "refit/model/model.safetensors")
    names += ("refit/model/split.csv", "refit/inference/predictions.csv")
    report = json.loads((folder / "refit/model/report.json").read_text())
    return {name: (folder / name).read_bytes() for name in names} | report


def test_each_picture_is_judged_once_by_a_network_that_knows_no_copy_of_it(settings, root):
    series = train_folds(settings(testdir=root / "data/demo/test"), 3, [])
    files = {
        path.relative_to(root / "data/demo/train") for path in root.glob("data/demo/train/*/*")
    }
    answers = pd.read_csv(series.folder / "refit/inference/predictions.csv")
    assert sorted(answers.picture) == sorted(path.as_posix() for path in files)
    folds = pd.read_csv(series.folder / "folds.csv")
    assert (folds.groupby("group").fold.nunique() == 1).all()
    assert folds.group.nunique() == len(folds) - len(FOUR)
    for number, run in enumerate(series.runs, 1):
        split = pd.read_csv(run.model_path.with_name("split.csv"))
        assert set(split.file[split.split == "valid"]) == set(folds.file[folds.fold == number])
        own = run.report.per_image.merge(series.report.per_image, on="row")
        assert (own.prediction_x == own.prediction_y).all() and len(own) == (
            folds.fold == number
        ).sum()
    assert len(series.final.test_report) == series.final.test_report.num_groups == len(FOUR)


def test_the_model_to_keep_has_seen_all_and_says_whose_its_scores_are(settings):
    series = train_folds(settings(), 2, [])
    clf = Classifier.load(series.final.model_path, "cpu")
    picture = next((series.final.config.traindir / FOUR[0]).iterdir())
    assert clf.predict(picture).name in FOUR
    about = clf.about
    assert about["validation"]["pictures"] == about["refit"]["pictures"] == 28
    assert about["refit"]["scores"].startswith("on validation pictures out of fold, of 2 networks")
    assert clf.calibration == series.final.calibration and clf.calibration.pictures == 28
    assert "out of fold: 2 networks" in model_card(clf)
    split = series.final.model_path.with_name("split.csv")
    assert clf.count_trained_on([picture], split) == dict(train=1, valid=0)
    with pytest.raises(ValueError, match="does not say how the run's first steps went"):
        verify(series.folder / "refit")
    assert verify(series.folder / "fold_2")["same"]


@pytest.fixture(scope="module")
def whole(root):
    "What a series leaves that nobody stops; its folder, `root / 'runs/001'`, is free again"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])
        left = files_of(train_folds(settings_in(root, root / "runs"), 2, []).folder)
    shutil.rmtree(root / "runs")
    return left


@pytest.fixture
def goes_on(root, whole):
    "Resumes the series in `root / 'runs'`, and compares it with the whole one"
    yield lambda: train_folds(settings_in(root, root / "runs"), 2, [], resume=True)
    assert files_of(root / "runs/001") == whole
    shutil.rmtree(root / "runs")


def interrupt(run):
    run.stop("interrupted by SIGINT")


def test_a_series_interrupted_in_a_fold_goes_on(root, goes_on):
    stopped = train_folds(settings_in(root, root / "runs"), 2, [InFold(2, interrupt)])
    assert stopped.stopped.history.resumable and stopped.final is None and len(stopped.runs) == 1
    assert goes_on().folder == stopped.folder


def test_a_series_interrupted_in_the_training_on_all_goes_on(root, goes_on, monkeypatch):
    def interrupted_refit(*args, **kwargs):
        if kwargs["checkpoint"].path.name == "refit.ckpt":
            kwargs["callbacks"] = [InFold(1, interrupt)]
        return fit(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr("simpsons_cnn.training.train.fit", interrupted_refit)
        stopped = train_folds(settings_in(root, root / "runs"), 2, [])
    assert stopped.stopped.history.resumable and stopped.final is None and len(stopped.runs) == 2
    assert not (stopped.folder / "refit/model/model.safetensors").exists()
    goes_on()


KILLED = """
import os, signal, sys
import simpsons_cnn.training.outputs as module
from simpsons_cnn.core.config import Config
from simpsons_cnn.training.callbacks import Callback
from simpsons_cnn.training.folds import train_folds

class Dies(Callback):
    def on_epoch(self, run):
        if os.path.exists(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

module._save_figures = lambda run, data: []
train_folds(Config.load(sys.argv[1]), 2, [Dies()])
"""


def test_a_killed_series_goes_on_to_the_same_bytes(root, goes_on, tmp_path):
    settings_in(root, root / "runs").save(tmp_path / "job.yaml")
    second = root / "runs/001/fold_2/model/config.yaml"
    killed = forks("forked:execute", KILLED, str(tmp_path / "job.yaml"), str(second))
    assert killed.code == -signal.SIGKILL, killed.err
    assert second.exists() and not (root / "runs/001/refit").exists()
    goes_on()


def test_another_number_of_folds_and_other_images_are_not_mixed_into_a_series(settings, root):
    train_folds(settings(), 2, [])
    with pytest.raises(ValueError, match="holds a series of 2 folds, got folds 3; resume with 2"):
        train_folds(settings(), 3, [], resume=True)
    with pytest.raises(ValueError, match="learning_rate is 0.1 now"):
        train_folds(settings(learning_rate=0.1), 2, [], resume=True)
    new = root / f"data/demo/train/{FOUR[0]}/new.jpg"
    shutil.copy(root / f"data/demo/train/{FOUR[0]}/twin.jpg", new)
    try:
        with pytest.raises(ValueError, match="The images have changed"):
            train_folds(settings(), 2, [], resume=True)
    finally:
        new.unlink()


def test_a_fold_that_fails_ends_the_series_and_costs_no_other(settings, tmp_path):
    def fail(run):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        train_folds(settings(), 2, [InFold(2, fail)])
    first = (tmp_path / "001/fold_1/model/model.safetensors").read_bytes()
    assert train_folds(settings(), 2, [], resume=True).final
    assert (tmp_path / "001/fold_1/model/model.safetensors").read_bytes() == first


def test_rare_characters_are_adjusted_for_on_all_answers_at_once(settings):
    series = train_folds(settings(imbalance="logit_adjustment"), 2, [])
    adjustment = series.final.adjustment
    assert adjustment.pictures == len(series.report) == 28
    assert adjustment.accuracy_after == pytest.approx(series.report.accuracy)
    assert adjustment.log_prior == pytest.approx([np.log(1 / 4)] * 4)


MISTAKES = [
    (dict(batch_size=500), 2, "batch_size must be at most"),
    (dict(traindir="nowhere"), 2, "No folder 'nowhere'"),
    (dict(out_graphics_directory="figures"), 2, "out_graphics_directory must be left out"),
    (dict(split="mine.csv"), 2, "split must be 'group' or 'random' with folds"),
    (dict(), 1, "folds must be a whole number of 2 or more, got 1"),
    (dict(), True, "folds must be a whole number of 2 or more, got True"),
    (dict(), 8, "folds must be at most the number of groups"),
]


@pytest.mark.parametrize("changes, folds, message", MISTAKES)
def test_mistakes_are_told_before_the_training_and_leave_no_folder(
    settings, tmp_path, changes, folds, message
):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_folds(settings(**changes), folds, [])
    assert list(tmp_path.iterdir()) == []


def test_a_named_folder_with_a_series_is_left_alone(settings, tmp_path):
    (tmp_path / "mine/fold_1").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="already holds a series with fold 1; resume it"):
        train_folds(settings(out_directory=tmp_path / "mine"), 2, [])


@pytest.mark.parametrize("seed", range(20))
def test_folds_of_many_characters_and_groups(seed):
    "Groups are whole; who has two groups is learnt in every fold; who has one is never judged"
    rng = np.random.default_rng(seed)
    labels = rng.choice(8, 200, p=np.arange(1, 9) / 36)
    labels = np.r_[labels, [8, 8, 9, 9, 9]]
    groups = np.r_[rng.integers(0, 80, 200), [100, 101, 102, 102, 102]]
    fold = _assign_folds(labels, groups, 5, seed)
    assert pd.Series(fold).groupby(groups).nunique().max() == 1
    assert (fold[labels == 9] == 0).all() and (fold[labels != 9] > 0).all()
    _check_taught(fold, 5, labels, list("abcdefghij"))
    with pytest.raises(ValueError, match="Fold 6 holds no picture; choose another split_seed or"):
        _check_taught(fold, 6, labels, list("abcdefghij"))
    counts = np.bincount(fold)[1:]
    assert counts.min() >= 30 and counts.max() <= 55


def test_nobody_can_be_judged_where_each_character_is_one_group():
    with pytest.raises(ValueError, match="No character has two groups of near-duplicates"):
        _assign_folds(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 2, 0)


OPTIONS = "--num_epochs 1 --size 64 --crop_size 64 --batch_size 8 --folds 2"


def test_the_command_suggests_stops_and_resumes(
    root, tmp_path, monkeypatch, capsys, stopped_by_sigterm
):
    monkeypatch.chdir(tmp_path)
    traindir = ["--traindir", str(root / "data/demo/train")]
    (tmp_path / "recipe.yaml").write_text("dataset_parameters:\n  valid: 0.3\n")
    argv = ["recipe.yaml", *OPTIONS.split(), "--runs_directory", "r", *traindir]
    assert stopped_by_sigterm(argv) == 143
    out = capsys.readouterr().out
    assert "0 folds in 'r/001' are finished" in out and "few to judge by" not in out
    simpsons_train([*argv, "--resume"])
    out, err = capsys.readouterr()
    assert "not used with folds: valid 0.3\nfold 1 of 2" in out
    assert "fold 2 of 2" in out and "r/001/refit/model/model.safetensors" in out
    assert "refit on all 28 pictures; the validation scores are out of fold" in out
    assert "next: simpsons_evaluate" in err


def test_few_pictures_of_ones_own_are_told_of_folds(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("simpsons_cnn.cli.train._train_run", lambda *_: None)
    simpsons_train(["--traindir", str(root / "data/demo/train")])
    assert "few to judge by: with --folds 5 all 28 pictures are judged" in capsys.readouterr().out


def test_a_table_of_folds_that_somebody_changed(tmp_path):
    (tmp_path / "folds.csv").write_text("file,fold\na.png,one\n")
    with pytest.raises(ValueError, match="folds.csv' must hold whole numbers in the column 'fold'"):
        _check_number(tmp_path, 3)
    (tmp_path / "folds.csv").write_text("file,fold\na.png,2\nb.png,5\n")
    with pytest.raises(ValueError, match="holds a series of 5 folds, got folds 3"):
        _check_number(tmp_path, 3)
    _check_number(tmp_path, 5)
