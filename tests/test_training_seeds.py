"Several seeds: one split, a series that is stopped, continued or partly fails, and the command"

import warnings
from types import SimpleNamespace

import pandas as pd
import pytest

from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.core.config import Config
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.training.callbacks import Callback
from simpsons_cnn.training.history import History
from simpsons_cnn.training.runs import list_runs
from simpsons_cnn.training.seeds import _preferred, check_seeds, train_seeds


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds")
    demo_characters(root / "data/demo", train=6, test=1)
    return root


@pytest.fixture(autouse=True)
def no_figures_of_single_runs(monkeypatch):
    "They take most of the time of so short a run"
    monkeypatch.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])


@pytest.fixture
def settings(root, tmp_path):
    def settings(**changes):
        small = dict(num_epochs=1, size=64, crop_size=64, batch_size=16, split="random")
        return Config.demo(root, **small | dict(runs_directory=tmp_path, testdir=None) | changes)

    return settings


class At(Callback):
    "Does something before a run with a certain seed"

    def __init__(self, seed, action):
        self.seed, self.action = seed, action

    def on_step(self, run):
        if run.train_dl.seed == self.seed:
            self.action(run)


def fail(run):
    raise RuntimeError("no memory\nand a traceback")


def test_an_interrupted_series_goes_on_where_it_stopped(settings, tmp_path):
    "The second seed is interrupted; then there is one series as if nothing had happened"
    whole = train_seeds(settings(out_directory=tmp_path / "whole"), (4, 5), [])
    interrupt = At(5, lambda run: run.stop("interrupted by SIGINT"))
    stopped = train_seeds(settings(), (4, 5), [interrupt])
    assert list(stopped.runs) == [4] and stopped.stopped.config.seed == 5
    assert list(pd.read_csv(stopped.folder / "seeds.csv"))[1:2] == ["4"]
    resumed = train_seeds(settings(), (4, 5), [], resume=True)
    assert resumed.folder == stopped.folder == tmp_path / "001"
    assert resumed.table.equals(whole.table)
    assert (resumed.folder / "best").resolve() == resumed.best.config.out_directory.resolve()


def test_a_failed_seed_costs_the_others_nothing_and_is_tried_again(settings, tmp_path):
    with pytest.warns(UserWarning, match="^seed 5 failed: no memory$"):
        series = train_seeds(settings(), (5, 6), [At(5, fail)])
    assert list(series.runs) == [6] and series.failures == {5: "no memory"}
    assert series.table["std"].isna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = train_seeds(settings(), (5, 6), [], resume=True)
    assert again.folder == series.folder and list(again.runs) == [5, 6]
    assert [run.name for run in list_runs(again.folder)] == ["seed_5", "seed_6"]


def test_if_all_seeds_fail_the_first_error_is_raised(settings):
    failing = [At(seed, fail) for seed in (1, 2)]
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="no memory"):
        train_seeds(settings(), (1, 2), failing)


def test_other_settings_and_other_images_are_not_mixed_into_a_series(settings, root):
    train_seeds(settings(), (1, 2), [])
    with pytest.raises(ValueError, match="learning_rate is 0.1 now"):
        train_seeds(settings(learning_rate=0.1), (1, 2), [], resume=True)
    new = root / "data/demo/train/mossy_mo/new.jpg"
    new.write_bytes(next(new.parent.glob("*.jpg")).read_bytes())
    try:
        with pytest.raises(ValueError, match="The images have changed"):
            train_seeds(settings(), (1, 2), [], resume=True)
    finally:
        new.unlink()


def test_a_picture_that_is_added_meanwhile_is_in_none_of_the_runs(settings, root):
    new = root / "data/demo/train/mossy_mo/added.jpg"
    old = next(new.parent.glob("*.jpg")).read_bytes()
    try:
        series = train_seeds(settings(), (1, 2), [At(1, lambda run: new.write_bytes(old))])
    finally:
        new.unlink()
    splits = [(run.model_path.with_name("split.csv")).read_text() for run in series.runs.values()]
    assert splits[0] == splits[1] and "added.jpg" not in splits[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(batch_size=500), "batch_size must be at most"),
        (dict(traindir="nowhere"), "No folder 'nowhere'"),
        (dict(out_graphics_directory="figures"), "out_graphics_directory must be left out"),
        (dict(architecture="no_such:network"), "cannot be imported"),
    ],
)
def test_mistakes_end_the_series_and_leave_no_folder(settings, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_seeds(settings(**changes), (1, 2), [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", [[1], [1, 1], [1, -1], [1, 0.5], [1, True], ["1", "two"]])
def test_wrong_seeds(settings, tmp_path, seeds):
    with pytest.raises(ValueError, match="^seeds? must"):
        train_seeds(settings(), seeds, [])
    assert list(tmp_path.iterdir()) == []


def test_where_the_last_epoch_is_kept_the_loss_chooses_among_seeds():
    runs = {}
    for seed, (f1, loss) in enumerate([(0.9, 0.5), (0.8, 0.3), (0.7, 0.4)]):
        scores = dict(accuracy=f1, macro_f1=f1, macro_f1_common=f1)
        report = SimpleNamespace(loss=loss, **scores)
        runs[seed] = SimpleNamespace(history=History("last"), report=report)
    assert _preferred(runs) == 1


def test_the_seed_that_is_kept_is_best_after_logit_adjustment():
    "The scores of the networks as they were saved count, not those of their epochs"
    runs = {}
    for seed, (before, after) in enumerate([(0.60, 0.61), (0.59, 0.66)]):
        history = History("macro_f1", rows=[dict(macro_f1=before, valid_loss=1.0)], best_epoch=1)
        scores = dict(accuracy=after, macro_f1=after, macro_f1_common=after)
        runs[seed] = SimpleNamespace(history=history, report=SimpleNamespace(loss=1.0, **scores))
    assert _preferred(runs) == 1


OPTIONS = "--num_epochs 1 --size 64 --crop_size 64 --batch_size 16 --split random --seeds 0,1"


def test_the_command_ends_with_the_code_of_the_signal_and_resumes(
    root, tmp_path, monkeypatch, capsys, stopped_by_sigterm
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(root / "data")
    argv = [*OPTIONS.split(), "--runs_directory", "r"]
    assert stopped_by_sigterm(argv) == 143
    assert "no run in 'r/001' is finished" in capsys.readouterr().out
    simpsons_train([*argv, "--resume"])
    out, err = capsys.readouterr()
    assert "seed 1 (2 of 2)" in out and "r/001/seed_" in out and "next: simpsons_evaluate" in err


@pytest.mark.parametrize("seeds", [3, "012", None])
def test_seeds_are_a_list(seeds):
    "'012' would be three seeds"
    with pytest.raises(ValueError, match="seeds must be two or more different numbers, got"):
        check_seeds(seeds)
