"The files of a run: of one run only, read back as they were written, and written once"

import json
import os
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

import simpsons_cnn.data.store as store_page
import simpsons_cnn.quality.duplicates as duplicates
import simpsons_cnn.scoring.logit_adjustment as adjustment
import simpsons_cnn.scoring.report as report
import simpsons_cnn.training.loop as loop
import simpsons_cnn.training.outputs as outputs
import simpsons_cnn.training.train as training
import simpsons_cnn.training.verify as repeating
from simpsons_cnn.core.config import Config
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.inference.card import model_card
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.inference.export import onnx_graph
from simpsons_cnn.networks.losses import FocalLoss
from simpsons_cnn.networks.model_file import load_model
from simpsons_cnn.training.callbacks import Callback, Stop
from simpsons_cnn.training.history import NonFiniteLoss
from simpsons_cnn.training.train import _doubts, train
from simpsons_cnn.training.verify import verify


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return demo_characters(tmp_path_factory.mktemp("drawn") / "data", train=12, test=2)


@pytest.fixture
def settings(images, tmp_path):
    def make(name="run", **changes):
        folders = {
            f"out_{kind}_directory": tmp_path / name for kind in ("model", "graphics", "inference")
        }
        sizes = dict(size=64, crop_size=64, batch_size=30, num_epochs=1)
        folders |= dict(traindir=images / "train", testdir=images / "test")
        return Config.load(**folders | sizes | changes)

    return make


OWN = dict(architecture="torch.nn:Identity")  # never made
DOUBTS = [
    (dict(imbalance="weights", cutmix=0.5), "weights beside mixed pictures: a little of a rare"),
    (dict(imbalance={"ann": 2.0}, mixup=0.5), "weights beside mixed pictures: a little of a rare"),
    (dict(class_weights="inverse", mixup=0.5), "weights beside mixed pictures: a little of a rare"),
    (OWN | dict(dropout_rate=0.5), "dropout_rate 0.5 is not used: the network 'torch.nn:Identity'"),
    (dict(split="a.csv", split_seed=3), "split_seed 3 is not used: the split file decides"),
    (dict(mix_alpha=0.4), "mix_alpha 0.4 is not used: cutmix and mixup are 0"),
    (OWN | dict(dropout_rate=0), "dropout_rate 0 is not used: the network 'torch.nn:Identity'"),
]
NO_DOUBTS = [
    {},
    dict(imbalance="weights"),
    dict(imbalance="balanced_softmax", cutmix=0.5, mixup=0.5),
    dict(dropout_rate=0.5),
    OWN,
    OWN | dict(dropout_rate=0.1),
    dict(split="random", valid=0.3, split_seed=3),
    dict(mix_alpha=0.4, mixup=0.5),
]


@pytest.mark.parametrize("changes, line", [*DOUBTS, *[(changes, "") for changes in NO_DOUBTS]])
def test_doubts(changes, line):
    found = _doubts(Config.load(**changes))
    assert len(found) == bool(line) and all(doubt.startswith(line) for doubt in found)


def test_all_doubts_are_printed_before_training(settings, tmp_path, monkeypatch, capsys):
    "Also where the settings are those that a run has saved, in which every field is set"
    (tmp_path / "my_dropout_net.py").write_text(
        "from torch import nn\n\n\n"
        "def make(n):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, n))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    both = dict(imbalance="weights", mixup=0.1, dropout_rate=0.3)
    config = settings("again", architecture="my_dropout_net:make", **both)
    monkeypatch.setattr(training, "_train_and_save", lambda *parts: None)
    train(config)
    lines = capsys.readouterr().out.splitlines()
    begins = ("weights beside mixed", "dropout_rate 0.3 is not used")
    assert [sum(line.startswith(text) for line in lines) for text in begins] == [1, 1]
    assert len(_doubts(Config.load(tmp_path / "again/config.yaml"))) == 2


class Fails(Callback):
    def on_step(self, run):
        raise RuntimeError("the power is out")


def test_intervals_of_the_test_report_draw_whole_groups(settings, images, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_save_figures", lambda run, data: [])
    test = tmp_path / "test"
    shutil.copytree(images / "test", test)
    for path in sorted(test.glob("*/*.jpg")):
        shutil.copy(path, path.with_name(f"again {path.name}"))
    run = train(settings(testdir=test), callbacks=[])
    assert len(run.test_report) == 40 and run.test_report.num_groups == 20
    saved = json.loads((tmp_path / "run/report.json").read_text())["test"]
    assert saved["groups"] == 20
    alone = run.test_report.bootstrap_interval("accuracy", groups=range(40))
    assert np.diff(saved["accuracy_interval"]) > 1.2 * np.diff(alone)
    assert "whole groups of near-duplicates, 20 in all" in run.test_report._repr_markdown_()


def test_a_folder_holds_one_run_only(settings, tmp_path):
    "A run with overwrite that dies leaves nothing of the run before it"
    train(settings(), callbacks=[])
    with pytest.raises(RuntimeError, match="the power is out"):
        train(settings(seed=1, overwrite=True), callbacks=[Fails()])
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.yaml", "split.csv"]
    assert Config.load(tmp_path / "run/config.yaml").seed == 1


def test_a_refused_run_removes_nothing(settings, tmp_path):
    train(settings(), callbacks=[])
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    for changes in (dict(batch_size=500), dict(split="none.csv"), dict(skip_unreadable=False)):
        broken = changes.get("skip_unreadable") is False
        if broken:
            changes = dict(traindir=_with_a_broken_image(tmp_path / "broken"), batch_size=4)
        with pytest.raises((ValueError, FileNotFoundError)):
            train(settings(overwrite=True, **changes), callbacks=[])
    with pytest.raises(TypeError, match="subclass of Callback, got builtin_function"):
        train(settings(overwrite=True), callbacks=[print])
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_permission_to_overwrite_is_for_one_run(settings, tmp_path, no_figures):
    train(settings(), callbacks=[])
    train(settings(overwrite=True), callbacks=[])
    again = Config.load(tmp_path / "run/config.yaml")
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(again, callbacks=[])


def _with_a_broken_image(folder):
    for character in ("a", "b"):
        (folder / character).mkdir(parents=True)
        for i in range(4):
            Image.effect_noise((64, 64), 50 + i).save(folder / character / f"{i}.png")
    (folder / "a/0.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return folder


def test_the_model_knows_its_split(settings, tmp_path, no_figures):
    "Two images change sides in the file: the counts would be wrong"
    run = train(settings(), callbacks=[])
    clf, split = Classifier.load(run.model_path, "cpu"), tmp_path / "run/split.csv"
    paths = [settings().traindir / name for name in pd.read_csv(split).file]
    counts = clf.count_trained_on(paths, split)
    assert counts["train"] > counts["valid"] > 0
    table = pd.read_csv(split)
    table["split"] = table["split"].iloc[::-1].to_numpy()
    assert (table["split"] != pd.read_csv(split)["split"]).any()
    table.to_csv(split, index=False)
    with pytest.raises(ValueError, match="is not the split that the model was trained with"):
        clf.count_trained_on(paths, split)


def test_the_model_is_saved_once_and_judged_once(settings, monkeypatch):
    saved, judged = [], []
    real_save, real_collect = outputs.save_model, report.collect_logits

    def save(path, *args, **kwargs):
        saved.append(path)
        return real_save(path, *args, **kwargs)

    def collect(model, dl, *args, **kwargs):
        judged.append(len(dl.indices))
        return real_collect(model, dl, *args, **kwargs)

    monkeypatch.setattr(outputs, "save_model", save)
    monkeypatch.setattr(report, "collect_logits", collect)
    for module in (training, loop):
        monkeypatch.setattr(module, "collect_logits", collect)
    run = train(settings(num_epochs=2, testdir=None), callbacks=[])
    n = len(run.report)
    assert len(saved) == 1
    assert judged.count(n) == 3  # after each epoch, and at the end


def test_a_split_file_that_is_none(settings, tmp_path, no_figures):
    train(settings(), callbacks=[])
    (tmp_path / "run/split.csv").write_text("nothing,of\nthe,kind\n")
    with pytest.raises(ValueError, match="'.*split.csv' is not the split file of a run"):
        verify(tmp_path / "run")


class Broken(FocalLoss):
    "NaN in the second step of the third epoch"

    calls = 0

    def forward(self, logits, targets):
        if torch.is_grad_enabled():
            self.calls += 1
        return super().forward(logits, targets) * (float("nan") if self.calls == 2 * 3 + 2 else 1)


def test_a_finished_run_that_is_resumed_says_that_nothing_is_left(settings, no_figures, capsys):
    config = settings(num_epochs=2, testdir=None)
    for _ in range(2):
        train(config, resume=True)
    assert "resuming after 2 of 2 epochs\n" in capsys.readouterr().out


def test_a_run_that_goes_on_after_its_refit_is_refitted_again(settings, no_figures):
    class Ends(Callback):
        def on_epoch(self, run):
            run.stop_as(Stop.NO_BETTER, "no better score")  # as `EarlyStopping` does

    config = settings(num_epochs=2, monitor="last", refit=True, testdir=None)
    assert train(config, [Ends()]).refit["epochs"] == 1
    assert train(config, [], resume=True).refit["epochs"] == 2


def test_what_was_learnt_before_the_loss_broke_down_is_saved(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("simpsons_cnn.training.loop.FocalLoss", Broken)
    with pytest.raises(NonFiniteLoss, match="in epoch 3, step 2"):
        train(settings(num_epochs=6), callbacks=[])
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["stopped"].startswith("The loss became nan")
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 1 + 2
    assert load_model(tmp_path / "run/model.safetensors")[0].training is False


def test_a_loss_that_breaks_down_at_once_leaves_nothing(settings, tmp_path):
    with pytest.raises(NonFiniteLoss, match="in epoch 1"):
        train(settings(learning_rate=1e30, schedule="constant"), callbacks=[])
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.yaml", "split.csv"]


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (dict(traindir="no"), FileNotFoundError, "No folder"),
        (dict(batch_size=500), ValueError, "batch_size must be at most"),
        (dict(testdir="no"), FileNotFoundError, "No folder"),
        (dict(device="gpu"), ValueError, "cannot be used here"),
    ],
)
def test_nothing_is_made_before_the_checks(settings, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        train(settings(**changes))
    assert not (tmp_path / "run").exists()


def test_the_figures_of_an_earlier_run_go(settings, tmp_path):
    train(settings(num_epochs=2, part_of_partitions=2), callbacks=[])
    curves = "*th part of learning and testing.png"
    assert len(list((tmp_path / "run").glob(curves))) == 2
    again = settings(part_of_partitions=1, overwrite=True)
    assert len(train(again, callbacks=[]).history) == 1
    assert len(list((tmp_path / "run").glob(curves))) == 1


class Interrupting(repeating.StopAfter):
    def on_step(self, run):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)


def test_an_interrupted_verify_is_no_verdict(settings, tmp_path, monkeypatch, no_figures):
    train(settings(), callbacks=[])
    monkeypatch.setattr(repeating, "StopAfter", Interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            verify(tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)


def test_verify_needs_a_run(images, settings, tmp_path, no_figures):
    with pytest.raises(FileNotFoundError, match="No 'config.yaml' in"):
        verify(images)
    train(settings(), callbacks=[])
    assert verify(tmp_path / "run", learning_rate=0.1)["loss"] > 0.01


@pytest.mark.parametrize("given", ["", "model", "model/model.safetensors"])
def test_verify_takes_the_folder_of_a_run_and_its_model(tmp_path, given):
    "Either leads to what the run noted"
    (tmp_path / "model").mkdir()
    for name in ("config.yaml", "split.csv", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    with pytest.raises(FileNotFoundError, match="No 'report.json' in '.*/model'; verify takes"):
        verify(tmp_path / given)
    (tmp_path / "model/report.json").write_text("{}")
    with pytest.raises(ValueError, match="/model/report.json' does not say how the run's first"):
        verify(tmp_path / given)


def test_verify_refuses_a_report_that_somebody_changed(images, settings, tmp_path, no_figures):
    path = train(settings(), callbacks=[]).model_path.with_name("report.json")
    report = json.loads(path.read_text())
    steps = report["first_steps"]
    changes = [
        dict(first_steps="abc"),
        dict(first_steps=5),
        dict(first_steps=[]),
        dict(first_steps=[[]]),
        dict(first_steps=[steps[0] | dict(loss="x")]),
        dict(first_steps=[steps[0] | dict(loss=0)]),
        dict(first_steps=[steps[0] | dict(loss=float("nan"))]),
        dict(first_steps=[dict(loss=1.0)]),
        dict(surroundings=[]),
        dict(surroundings="abc"),
    ]
    damaged = [json.dumps(report | change) for change in changes]
    for text in [*damaged, "[]", "{", "[" * 100_000]:
        path.write_text(text)
        with pytest.raises(ValueError, match="does not say how the run's first steps went"):
            verify(tmp_path / "run")
    path.write_text(json.dumps(report), encoding="utf-8-sig")  # as some editors save it
    assert verify(tmp_path / "run")["same"]


def _lopsided(images, folder):
    "A copy of the images with 12, 11, … 3 of each character"
    shutil.copytree(images / "train", folder)
    for k, character in enumerate(sorted(folder.iterdir())):
        for path in sorted(character.iterdir())[12 - k :]:
            path.unlink()
    return folder


def test_an_adjusted_network_answers_the_same_everywhere(
    settings, images, tmp_path, monkeypatch, no_figures
):
    real = adjustment.choose_adjustment
    monkeypatch.setattr(
        adjustment, "choose_adjustment", lambda *args: replace(real(*args), tau=0.5)
    )
    folder = _lopsided(images, tmp_path / "lopsided")
    run = train(settings(imbalance="auto", traindir=folder, batch_size=16), callbacks=[])
    clf, found = Classifier.load(run.model_path, "cpu"), run.adjustment
    expected = dict(run.history.best_weights)
    expected["linear_stack.4.bias"] = expected["linear_stack.4.bias"] - 0.5 * torch.tensor(
        found.log_prior
    )
    for name, tensor in clf.model.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
    saved = json.loads((tmp_path / "run/report.json").read_text())
    assert saved["logit_adjustment"] == clf.about["logit_adjustment"] == found.to_dict()
    answers = clf.predict(images / "test")
    names = [run.report.classes[i] for i in run.test_report.per_image.prediction]
    assert [p.name for p in answers] == names
    session = onnxruntime.InferenceSession(onnx_graph(clf), providers=["CPUExecutionProvider"])
    for p in answers[:5]:
        pixels = np.asarray(Image.open(p.source).convert("RGB"))[None]
        probabilities, _ = session.run(None, {"pictures": pixels})
        assert np.abs(probabilities[0] - p.probabilities).max() < 1e-3
    assert "strength of 0.5" in model_card(clf)


def test_weights_of_nobody_are_refused_before_the_images_are_decoded(settings, monkeypatch):
    monkeypatch.setattr(training, "prepare", None)
    with pytest.raises(ValueError, match="Unknown character 'oto'"):
        train(settings(imbalance={"oto": 2.0}), callbacks=[])


class FailsInThirdStep(Fails):
    def on_step(self, run):
        if run.step == 2:
            super().on_step(run)


def _weights(run):
    return load_model(run.model_path)[0].state_dict()


def _same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_refit_has_seen_all_images_and_says_whose_the_scores_are(settings, tmp_path, no_figures):
    plain = train(settings("plain", num_epochs=2), callbacks=[])
    first = _weights(plain)
    report = json.loads((tmp_path / "plain/report.json").read_text())
    run = train(settings("plain", num_epochs=2, refit=True), callbacks=[], resume=True)
    assert not _same(_weights(run), first)
    assert _same(_weights(run), run.model.state_dict())
    saved = json.loads((tmp_path / "plain/report.json").read_text())
    refit = saved.pop("refit")
    assert saved == report
    assert (refit["pictures"], refit["epochs"]) == (120, plain.history.best_epoch)
    assert refit["scores"] == "those of the network before the refit"
    clf = Classifier.load(run.model_path, "cpu")
    assert clf.about["refit"] == refit and "Nobody has judged the result" in model_card(clf)
    paths = sorted((settings().traindir).rglob("*.jpg"))
    found = clf.count_trained_on(paths, tmp_path / "plain/split.csv")
    assert found == dict(train=len(paths), valid=0)
    assert "Trained in the end on all 120 pictures, for" in run._repr_markdown_()


def test_a_refit_that_dies_leaves_a_model_and_is_continued(settings, monkeypatch, no_figures):
    changes = dict(refit=True, checkpoint_seconds=1e-6)
    straight = train(settings("straight", **changes), callbacks=[])
    real_fit = training.fit

    def dying_fit(*args, **kwargs):
        if kwargs["checkpoint"].path.name == "refit.ckpt":
            kwargs["callbacks"] = [FailsInThirdStep()]
        return real_fit(*args, **kwargs)

    monkeypatch.setattr(training, "fit", dying_fit)
    with pytest.raises(RuntimeError, match="the power is out"):
        train(settings("dies", **changes), callbacks=[])
    path = settings("dies").out_model_directory / "model.safetensors"
    assert "refit" not in Classifier.load(path, "cpu").about
    assert path.with_name("refit.ckpt").exists()
    monkeypatch.setattr(training, "fit", real_fit)
    resumed = train(settings("dies", **changes), callbacks=[], resume=True)
    assert _same(_weights(resumed), _weights(straight))
    assert resumed.refit == straight.refit


def test_a_refit_that_dies_while_it_is_saved_leaves_no_report_of_another_model(
    settings, monkeypatch
):
    monkeypatch.setattr(outputs, "_save_figures", lambda run, data: [])
    write = outputs.atomic_write

    def dies(path, data, **kwargs):
        if path.name == "report.json" and b'"refit"' in data.encode():
            raise RuntimeError("the power is out")
        write(path, data, **kwargs)

    monkeypatch.setattr(outputs, "atomic_write", dies)
    changes = dict(refit=True, testdir=None)
    with pytest.raises(RuntimeError, match="the power is out"):
        train(settings("saved", **changes), callbacks=[])
    folder = settings("saved").out_model_directory
    assert "refit" in Classifier.load(folder / "model.safetensors", "cpu").about
    assert not (folder / "report.json").exists()
    monkeypatch.setattr(outputs, "atomic_write", write)
    run = train(settings("saved", **changes), callbacks=[], resume=True)
    assert (
        json.loads((folder / "report.json").read_text())["refit"]["epochs"] == run.refit["epochs"]
    )


NAMES = ["001", "1", "1e5", "NA", "nan", "null", "true", "+1", "=1", "-inf", "マージ"]


def test_names_that_look_like_numbers_or_nothing(tmp_path, recwarn):
    "They are text in each file: a run is verified, continued, and its answers are named"
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(tmp_path / f"d/{name}/{i}.png")
    (tmp_path / "fixes.csv").write_text("file,action,character\n001/0.png,move,nan\n")
    folders = {f"out_{kind}_directory": tmp_path for kind in ("model", "graphics", "inference")}
    sizes = dict(size=64, crop_size=64, batch_size=8, num_epochs=1)
    given = dict(traindir=tmp_path / "d", testdir=None, fixes=tmp_path / "fixes.csv")
    config = Config.load(**folders, **sizes, **given)
    weights = train(config, callbacks=[]).history.best_weights
    assert len([w for w in recwarn if "Some letters" in str(w.message)]) == 1
    assert verify(tmp_path)["same"]
    again = train(config, callbacks=[], resume=True).history.best_weights
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert Classifier.load(tmp_path / "model.safetensors").classes == sorted(NAMES)
    answers = pd.read_csv(tmp_path / "predictions.csv", dtype=str, keep_default_na=False)
    shown = {f"'{name}" if name[0] in "+=-" else name for name in NAMES}
    assert {*answers.truth, *answers.prediction} <= shown
    assert set(answers.truth) & {"'+1", "'=1", "'-inf"}


def test_nothing_is_done_twice(settings, images, tmp_path, monkeypatch):
    "A run on a store that is there opens no image, hashes each file once, compares none"
    train(settings("before"), callbacks=[])
    opened, hashed, searched = [], [], []
    real = store_page.file_sha256

    def sha256(path):
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(store_page, "file_sha256", sha256)
    monkeypatch.setattr(store_page, "_decode_row", lambda _, path, row: opened.append(path) or "")
    monkeypatch.setattr(duplicates, "_find_pairs", lambda *_: searched.append(1))
    train(settings(), callbacks=[])
    files = [path for side in ("train", "test") for path in (images / side).rglob("*.*")]
    assert sorted(hashed) == sorted(files)
    assert (opened, searched) == ([], [])
    hashed.clear()
    verify(tmp_path / "run")
    assert sorted(hashed) == sorted((images / "train").rglob("*.*"))
