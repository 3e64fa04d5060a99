"Runs that learn from a teacher: stopped and continued, repeated, refused"

import warnings

import pytest
import torch

import simpsons_cnn as sc
from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.core.tensors import weights_hash
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.networks.ensemble import Ensemble
from simpsons_cnn.networks.losses import distillation_loss
from simpsons_cnn.networks.model_file import load_model, save_model
from simpsons_cnn.training.callbacks import StopAfter
from simpsons_cnn.training.teacher import Teacher

SMALL = dict(num_epochs=2, size=64, crop_size=64, batch_size=16, split_seed=0, testdir=None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "Drawn characters, a run on them to be a teacher, and another network"
    folder = tmp_path_factory.mktemp("taught")
    demo_characters(folder / "data/demo", train=12, test=1)
    sc.train(sc.Config.demo(folder, **SMALL), callbacks=[])
    model, header = load_model(folder / "runs/001")
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    save_model(folder / "other.safetensors", model, header["classes"], header["preprocess"])
    return folder


def pupil(place, name, **changes):
    settings = SMALL | dict(teacher=place / "runs/001", out_directory=place / name) | changes
    return sc.Config.demo(place, **settings)


def test_a_pupil_is_stopped_and_continued_to_the_same_bits(place):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the teacher has the same split
        whole = sc.train(pupil(place, "whole"), callbacks=[])
        sc.train(pupil(place, "stopped"), callbacks=[StopAfter(3)])
        continued = sc.train(pupil(place, "stopped"), callbacks=[], resume=True)
    assert weights_hash(continued.model) == weights_hash(whole.model)
    assert sc.verify(place / "whole")["same"]
    alone = sc.train(pupil(place, "alone", teacher=None), callbacks=[])
    assert weights_hash(alone.model) != weights_hash(whole.model)


@pytest.mark.filterwarnings("ignore:The teacher")
@pytest.mark.parametrize("teacher", [None, "other.safetensors"])
def test_a_run_keeps_its_teacher(place, teacher):
    if not (place / "kept/model/last.ckpt").exists():
        sc.train(pupil(place, "kept"), callbacks=[StopAfter(3)])
    other = pupil(place, "kept", teacher=teacher and place / teacher)
    with pytest.raises(ValueError, match="written with other settings: teacher is"):
        sc.train(other, callbacks=[], resume=True)


def test_a_teacher_that_may_know_the_answers_is_warned_of(place):
    with pytest.warns(UserWarning, match="was not trained on the same split"):
        sc.train(pupil(place, "other split", split_seed=1), callbacks=[StopAfter(1)])
    with pytest.warns(UserWarning, match="was not trained on the same split"):
        unknown = pupil(place, "unknown", teacher=place / "other.safetensors")
        sc.train(unknown, callbacks=[StopAfter(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sc.train(sc.Config.demo(place, **SMALL, refit=True, out_directory=place / "refit"), [])
    with pytest.warns(UserWarning, match="trained on all pictures in the end"):
        sc.train(pupil(place, "of refit", teacher=place / "refit"), callbacks=[])
    with pytest.warns(UserWarning, match="it had a teacher itself"):
        sc.train(pupil(place, "of pupil", teacher=place / "of refit"), callbacks=[StopAfter(1)])


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(teacher="nowhere"), "^The teacher cannot be opened: No model file at 'nowhere'"),
        (dict(teacher="."), "^The teacher cannot be opened: No model in '.'"),
        (dict(size=96), "different ways: size 64 and 96"),
        (dict(resize_rule="pad"), "different ways: resize_rule stretch and pad"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_decoding(place, tmp_path, changes, words):
    config = pupil(place, "refused", store_directory=tmp_path / "decoded", **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        sc.train(config, callbacks=[])
    assert not (tmp_path / "decoded").exists() and not (place / "refused").exists()


def test_a_run_opens_its_teacher_once(place, monkeypatch):
    opened = []

    def counted(path, load=load_model):
        opened.append(path)
        return load(path)

    monkeypatch.setattr("simpsons_cnn.training.teacher.load_model", counted)
    sc.train(pupil(place, "once", refit=True), callbacks=[])
    assert len(opened) == 1


def test_the_teacher_is_not_replaced(place):
    before = (place / "runs/001/model/model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="which is written to"):
        sc.train(pupil(place, "runs/001", overwrite=True), callbacks=[])
    assert (place / "runs/001/model/model.safetensors").read_bytes() == before


@pytest.mark.filterwarnings("ignore:The teacher")
def test_a_name_that_leads_to_another_run_later(place, capsys):
    latest = place / "runs/latest"
    config = pupil(place, "runs", teacher=latest, out_directory=None)
    run = sc.train(config, callbacks=None)
    assert f"teacher: {(place / 'runs/001/model').resolve()}" in capsys.readouterr().out
    assert latest.resolve() == run.model_path.parent.parent.resolve()
    assert run.config.teacher == (place / "runs/001/model/model.safetensors").resolve()
    sc.train(config, callbacks=[StopAfter(1)], resume=False)  # `latest` is its teacher, too
    last = latest.resolve()
    again = sc.train(config, callbacks=[], resume=True)
    assert again.model_path.resolve().is_relative_to(last) and len(again.history) == 2
    assert again.config.teacher == run.model_path.resolve()


def test_a_series_does_not_replace_its_teacher(place):
    series = sc.train_seeds(pupil(place, "series", teacher=None), (0, 1), callbacks=[])
    before = [run.model_path.read_bytes() for run in series.runs.values()]
    taught = pupil(place, "series", teacher=place / "series/seed_1", overwrite=True)
    with pytest.raises(ValueError, match="which is written to"):
        sc.train_seeds(taught, (0, 1), callbacks=[])
    assert [run.model_path.read_bytes() for run in series.runs.values()] == before
    with pytest.raises(FileNotFoundError, match="^The teacher cannot be opened: No model file at"):
        sc.train_seeds(pupil(place, "more", teacher="nowhere"), (0, 1), callbacks=[])
    assert not (place / "more").exists()


def test_an_ensemble_is_known_by_its_temperatures():
    members = [sc.SimpsonsCNN(3, channels=(4,) * 6, hidden=(8, 8)) for _ in range(2)]
    even, uneven = (Teacher(Ensemble(members, t)).identity() for t in ([1, 1], [5, 1]))
    assert even != uneven


@pytest.mark.parametrize("shape", [(4, 1), (1, 10), (4, 7)])
def test_answers_of_another_shape(shape):
    with pytest.raises(ValueError, match="in the shape of the logits"):
        distillation_loss(torch.zeros(4, 10), torch.zeros(shape))


def test_commands_that_have_no_use_for_a_teacher(place, capsys):
    pictures = ["--traindir", str(place / "data/demo/train"), "--teacher", str(place / "runs/001")]
    for option, words in (("--folds=2", "does not go with folds"), ("--find_lr", "labels alone")):
        with pytest.raises(SystemExit) as ended:
            simpsons_train([*pictures, option])
        assert words in str(ended.value) + capsys.readouterr().err
