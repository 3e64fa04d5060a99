"""Training form: notes beside fields, scans of folders, names from outside"""

import asyncio
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from simpsons_cnn.core.config import Config
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.lab.controls import TrainingControls, _runs_html, _score_cells
from simpsons_cnn.lab.dashboard import TrainingDashboard
from simpsons_cnn.scoring.report import Report

EVIL = "<img src=x onerror=alert(1)>'"


@pytest.fixture
def drawn(tmp_path):
    return demo_characters(tmp_path / "demo", train=12, test=2, size=64)


@pytest.fixture
def controls(drawn, tmp_path):
    settings = dict(size=64, num_epochs=2, batch_size=32, split="random")
    folders = dict(traindir=drawn / "train", testdir=drawn / "test")
    quick = Config.demo(tmp_path, **folders, **settings)
    return TrainingControls(dict(quick=quick, reference=Config()), folder=tmp_path / "runs")


@pytest.fixture
def scans(monkeypatch):
    "Folders that are scanned, one entry for each scan"
    folders, scan = [], ImageFiles.scan

    def counted(root, classes=None):
        folders.append(str(root))
        return scan(root, classes)

    monkeypatch.setattr(ImageFiles, "scan", counted)
    return folders


def note(controls, key: str) -> str:
    "What is written beside a field while the form cannot start a run"
    return controls.settings.notes[key].value if controls.start.disabled else ""


def test_other_settings_do_not_scan(controls, scans):
    for gamma in (0.25, 0.5, 0.75):
        controls.fields["gamma"].value = gamma
    controls.fields["learning_rate"].value = "0.01"
    controls.fields["num_epochs"].value = 3
    assert scans == []
    assert "120 pictures of 10 characters" in controls.settings.notes["traindir"].value


def test_each_text_of_a_folder_is_scanned_once(controls, scans, drawn):
    train, test = str(drawn / "train"), str(drawn / "test")
    controls.fields["traindir"].value = test
    controls.fields["gamma"].value = 0.5
    assert scans == [test]  # the test folder is the same, with the same characters
    controls.fields["testdir"].value = train
    controls.fields["gamma"].value = 0.75
    assert scans == [test, train]


def test_a_folder_that_failed_is_not_scanned_for_other_settings(controls, scans, drawn):
    flat = str(drawn / "train/mossy_mo")
    controls.fields["traindir"].value = flat
    controls.fields["gamma"].value = 0.5
    controls.fields["num_epochs"].value = 3
    assert scans == [flat]
    assert "pictures lie directly in" in note(controls, "traindir")


def test_a_changed_folder_is_scanned_again(controls, drawn):
    some = sorted((drawn / "train/mossy_mo").iterdir())[0]
    some.unlink()
    controls.fields["gamma"].value = 0.5
    assert "119 pictures of 10 characters" in controls.settings.notes["traindir"].value
    missing = drawn / "later"
    controls.fields["testdir"].value = str(missing)
    assert "No folder" in note(controls, "testdir")
    (drawn / "test").rename(missing)
    controls.fields["gamma"].value = 0.75
    assert "20 pictures" in controls.settings.notes["testdir"].value
    assert not controls.start.disabled


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("traindir", EVIL, "No folder"),
        ("learning_rate", "-1", "learning_rate must be above 0, got -1"),
        ("batch_size", "many", "must be a whole number"),
        ("batch_size", "5000", "at most the number of training pictures, 102"),
    ],
)
def test_what_is_wrong_is_beside_its_field(controls, key, value, message):
    before = controls.fields[key].value
    controls.fields[key].value = value
    assert message in note(controls, key).replace("&#x27;", "")
    assert "<img" not in note(controls, key)
    controls.fields[key].value = before
    assert not controls.start.disabled and note(controls, key) == ""


def test_wrong_settings_do_not_start(controls):
    controls.fields["learning_rate"].value = "-1"
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        controls.begin()
    assert controls.runs == [] and not controls.folder.exists()


def test_two_wrong_settings_have_two_notes(controls):
    controls.fields["learning_rate"].value = "-1"
    controls.fields["batch_size"].value = "many"
    assert "must be a whole number" in note(controls, "batch_size")
    assert "must be above 0" in note(controls, "learning_rate")


def elements_of(text: str) -> list:
    "Names of the elements of a page, as a browser finds them"
    found, parser = [], HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append(tag)
    parser.feed(text)
    return found


def test_names_are_text(controls):
    failed = TrainingDashboard(Config.load(None, traindir=EVIL, testdir=EVIL))
    failed.control.move("failed")
    found = elements_of(_runs_html([failed, TrainingDashboard(Config.demo())], (1, 2)))
    assert "img" not in found and "script" not in found
    assert found.count("svg") == 2
    controls.fields["traindir"].value = EVIL
    assert elements_of(controls.settings.notes["traindir"].value) == ["div"]


def test_forms_of_one_folder_share_their_runs(controls, tmp_path):
    "After a page is loaded again, its cell makes a new form; the run must be heard there"
    run = TrainingDashboard(lambda callbacks: None)
    run.config = Config.demo()
    run.control.move("paused")
    controls.runs.append(run)
    again = TrainingControls(controls.settings.presets, folder=tmp_path / "x/../runs")
    elsewhere = TrainingControls(controls.settings.presets, folder=tmp_path / "other")
    assert again.runs == [run] and elsewhere.runs == []
    assert again.start.disabled and again.again.disabled
    run.control.move("finished")
    run.at_end(run)  # tells the newest form
    assert not again.start.disabled


def test_a_cell_that_is_run_again_trains_again(controls, tmp_path, monkeypatch):
    "And does not hand out the finished run of the form before it"
    run = TrainingDashboard(lambda callbacks: None)
    run.config = Config.demo()
    run.control.move("finished")
    controls.runs.append(run)
    again = TrainingControls(controls.settings.presets, folder=tmp_path / "runs")
    begun = []

    def begin():
        begun.append(True)
        again.runs.append(TrainingDashboard(lambda callbacks: "done"))
        again.runs[-1].config = Config.demo()

    monkeypatch.setattr(again, "begin", begin)
    assert asyncio.run(again._wait()) == "done"
    assert asyncio.run(again._wait()) == "done" and begun == [True]


def test_a_reloaded_page_says_how_to_see_the_run_that_is_under_way(controls, monkeypatch):
    "The form is as it was then, and the display of the run is not"
    monkeypatch.setattr(TrainingDashboard, "start", lambda run: None)
    shown = controls.run_table.choice.layout
    for number in (1, 2):
        monkeypatch.setattr(TrainingDashboard, "ended", lambda run: False)
        controls.runs.append(TrainingDashboard(controls.config))
        controls._refresh()
        assert "run this cell again" in controls.under_way.value
        assert (shown.display == "none") == (number == 1)  # there are two to compare, or not
        monkeypatch.setattr(TrainingDashboard, "ended", lambda run: True)
        controls._refresh()
        assert controls.under_way.value == ""


def test_each_field_is_explained(controls):
    for key, field in controls.fields.items():
        assert "title='" in field.description and field.description_allow_html, key


def test_scores_of_a_run_that_has_ended_are_those_of_the_network_that_was_kept():
    "Logit adjustment comes after the best epoch"
    run = TrainingDashboard(Config())
    best = dict(epoch=1, accuracy=0.5, macro_f1=0.25)
    run.history = SimpleNamespace(best=best)
    assert _score_cells(run) == ["0.5000", "0.2500", "–"]
    run.job.returned = SimpleNamespace(report=Report(np.eye(2, dtype=int), ["ann", "bob"]))
    assert _score_cells(run) == ["1.0000", "1.0000", "–"]


def test_a_run_that_is_stopped_in_its_first_epoch_can_be_continued(controls):
    controls.begin()
    controls.runs[-1].stop()
    history = controls.runs[-1].result().history
    assert (len(history), history.resumable, controls.can_resume()) == (0, True, True)
