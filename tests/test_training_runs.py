"Runs as their files tell them: damaged, half written, of other versions"

import json
import shutil

import pytest

from simpsons_cnn.cli.runs import _print_runs, simpsons_runs
from simpsons_cnn.core.config import Config
from simpsons_cnn.training.history import History
from simpsons_cnn.training.runs import list_runs, plot_runs, read_run, runs_table

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


def test_the_last_epoch_is_the_best_where_nothing_is_chosen(runs):
    Config.demo(monitor="last").save(runs / "001/model/config.yaml")
    assert runs_table(list_runs(runs)).macro_f1.tolist() == [0.3, 0.3]


def test_a_finished_run_has_the_scores_of_the_network_that_was_saved(runs):
    "Logit adjustment comes after the epochs"
    report = dict(stopped="", validation=dict(accuracy=0.55, macro_f1=0.45))
    (runs / "001/model/report.json").write_text(json.dumps(report))
    table = runs_table(list_runs(runs))
    assert table.accuracy.tolist() == [0.55, 0.6]
    assert table.macro_f1.tolist() == [0.45, 0.3]


def test_settings_are_not_rounded(runs):
    for name, decay in (("001", 1e-5), ("mine", 4e-5)):
        Config.demo(weight_decay=decay).save(runs / name / "model/config.yaml")
    assert runs_table(list_runs(runs)).weight_decay.tolist() == [1e-5, 4e-5]


def test_a_table_of_a_terminal_is_no_wider_than_it(runs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    for report in runs.glob("*/model"):
        scores = dict(stopped="", test=dict(macro_f1=0.5))
        (report / "report.json").write_text(json.dumps(scores))
    Config.demo(learning_rate=0.001, num_epochs=8).save(runs / "001/model/config.yaml")
    _print_runs(list_runs(runs))
    assert len(capsys.readouterr().out.splitlines()) == 3  # in a file: a line for each run
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _print_runs(list_runs(runs))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) > 3
    _print_runs(list_runs(runs)[:1])  # nothing differs, so no settings are shown
    header, run = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "run" and run.split()[0] == "001" and len(run) <= 80


def test_series_are_not_left_out_without_a_word(runs, capsys):
    for number in (9, 10):
        (runs / f"{number}").mkdir()
        shutil.copytree(runs / "001", runs / f"{number}/seed_0")
    (runs / "latest").symlink_to("10")
    simpsons_runs([str(runs)])
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3 and f"simpsons_runs {runs}/10\n" in said.err
    assert f"series of runs: {runs}/9, {runs}/10\n" in said.err
    for name in ("001", "mine"):
        shutil.rmtree(runs / name)
    with pytest.raises(SystemExit, match=f"No runs in '{runs}'; simpsons_runs {runs}/10 lists"):
        simpsons_runs([str(runs)])


def test_latest_is_not_listed_twice(runs):
    (runs / "latest").symlink_to("mine")
    (runs / "best").symlink_to("001")
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


def test_a_run_that_was_stopped_in_its_first_epoch(runs):
    history = History()
    (runs / "001/model/history.csv").write_text(history.table.to_csv(index=False))
    assert runs_table(list_runs(runs)).epochs.tolist() == ["0/10", "2/10"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.yaml", "training_parameters:\n  a_setting_of_old: 1\n"),
        ("history.csv", 'epoch,"'),
        ("report.json", "{"),
        ("report.json", "[]"),
        ("report.json", '{"scores": 1}'),
        ("report.json", '{"stopped": false, "validation": [1]}'),
        ("report.json", '{"stopped": false, "test": null}'),
        ("report.json", '{"stopped": false, "validation": {"accuracy": "good"}}'),
        ("report.json", "[" * 100_000),
        ("history.csv", "epoch;valid_loss;accuracy;macro_f1\n1;0.5;0.5;0.5\n"),
        ("history.csv", "epoch,valid_loss,accuracy\n1,0.5,0.5\n"),
        ("history.csv", "epoch,valid_loss,accuracy,macro_f1\n1,0.5,0.5,good\n"),
    ],
)
def test_a_run_that_cannot_be_read_does_not_hide_the_others(runs, name, content):
    (runs / "001/model" / name).write_text(content)
    with pytest.warns(UserWarning, match="001 is left out: "):
        listed = list_runs(runs)
    assert [run.name for run in listed] == ["mine"]
    assert len(runs_table(listed)) == len(plot_runs(listed).axes[0].lines) == 1


def test_the_printed_table_fits_a_terminal(runs, capsys):
    _print_runs([read_run(runs / "001")] * 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80


def test_the_thousandth_run_comes_after_the_999th(runs):
    for name in ("1000", "999"):
        shutil.copytree(runs / "001", runs / name)
    assert [run.name for run in list_runs(runs)] == ["001", "999", "1000", "mine"]


def test_names_are_no_formulas_and_no_commands_of_a_terminal(runs, capsys):
    for name in ("_under", "$\\foo$", "\x1b[2J"):
        shutil.copytree(runs / "001", runs / name)
    simpsons_runs([str(runs), "--out", str(runs / "curves.png")])
    assert "\x1b" not in capsys.readouterr().out
    legend = plot_runs(list_runs(runs)).axes[0].get_legend()
    assert len(legend.get_texts()) == 5


def test_a_folder_that_is_not_there_is_no_empty_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="name the one that holds your runs"):
        list_runs(tmp_path / "nowhere")
