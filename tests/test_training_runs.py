"Runs as their files tell them: damaged, half written, of other versions"

import json

import pytest

from simpsons_cnn.core.config import Config
from simpsons_cnn.training.runs import list_runs, plot_runs, runs_table

HISTORY = "epoch,valid_loss,accuracy,macro_f1\n1,1.0,0.5,0.4\n2,0.5,0.6,0.3\n"


@pytest.fixture
def runs(tmp_path):
    for name, monitor in (("001", "macro_f1"), ("mine", "valid_loss")):
        model = tmp_path / name / "model"
        model.mkdir(parents=True)
        Config.demo(monitor=monitor).save(model / "config.yaml")
        (model / "history.csv").write_text(HISTORY)
    return tmp_path


def test_the_best_epoch_is_that_of_the_monitor(runs):
    assert runs_table(list_runs(runs)).macro_f1.tolist() == [0.4, 0.3]


def test_latest_is_not_listed_twice(runs):
    (runs / "latest").symlink_to("mine")
    (runs / "notes.txt").touch()
    assert [run.name for run in list_runs(runs)] == ["001", "mine"]


@pytest.mark.parametrize("stopped, state", [("", "finished"), ("interrupted by SIGINT", "stopped")])
def test_state(runs, stopped, state):
    (runs / "001/model/report.json").write_text(json.dumps(dict(stopped=stopped)))
    assert [run.state for run in list_runs(runs)] == [state, "unfinished"]


def test_a_run_without_an_epoch(runs):
    (runs / "001/model/history.csv").unlink()
    listed = list_runs(runs)
    assert runs_table(listed).epochs.tolist() == ["0/10", "2/10"]
    assert len(plot_runs(listed).axes[0].lines) == 1
