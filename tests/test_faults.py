"Full disks, vanished folders, numbers that are none: told clearly, and nothing is lost"

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import counts
from forked import forks

import simpsons_cnn.cli.bench as bench
import simpsons_cnn.training.outputs as outputs
from simpsons_cnn.cli.bench import save_jpegs
from simpsons_cnn.core.config import Config
from simpsons_cnn.core.files import atomic_write, replace_file, replace_folder
from simpsons_cnn.data.fixes import record_fix
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.inference.shards import Shard, _write_names
from simpsons_cnn.inference.web import _write_examples
from simpsons_cnn.networks.losses import FocalLoss
from simpsons_cnn.networks.model_file import load_model
from simpsons_cnn.training.callbacks import Callback
from simpsons_cnn.training.checkpoint import read_checkpoint
from simpsons_cnn.training.history import NonFiniteLoss
from simpsons_cnn.training.train import train


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "The networks are small; two threads that wait for each other take longer than one"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return demo_characters(tmp_path_factory.mktemp("drawn") / "data", train=12, test=2)


@pytest.fixture
def small_disk(tmp_path):
    "A file system of its own, of 200 MiB"
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=200m none '{disk}' 2>/dev/null"):
        pytest.skip("no right to mount a small file system here")
    yield disk
    os.system(f"umount -l '{disk}'")


def settings(pictures, folder, **kwargs):
    folders = {f"out_{kind}_directory": folder for kind in ("model", "graphics", "inference")}
    return Config.load(
        **dict(
            traindir=pictures / "train",
            testdir=pictures / "test",
            num_epochs=3,
            size=64,
            crop_size=64,
            batch_size=24,
            learning_rate=4e-3,
            part_of_partitions=1,
        )
        | folders
        | kwargs
    )


def after_epoch(n, do):
    "A callback that does something after an epoch"

    class AfterEpoch(Callback):
        def on_epoch(self, run):
            if len(run.history) == n:
                do()

    return AfterEpoch()


def weights_of(folder):
    return {
        k: v.tolist() for k, v in load_model(folder / "model.safetensors")[0].state_dict().items()
    }


def survives(pictures, folder, break_it, mend_it, words, epochs=1):
    "A run that breaks after an epoch names the path in its error, and resumes once it is mended"
    with pytest.raises(OSError) as told:
        train(settings(pictures, folder), callbacks=[after_epoch(epochs + 1, break_it)])
    assert str(folder) in str(told.value) and words in str(told.value), str(told.value)
    assert (
        len(read_checkpoint(folder / "last.ckpt")[1]["history"]["rows"]) == epochs
    )  # the last good one can be read
    mend_it()
    train(settings(pictures, folder), callbacks=[], resume=True)
    return weights_of(folder)


@pytest.fixture(scope="module")
def straight(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    train(settings(pictures, folder), callbacks=[])
    return weights_of(folder)


def test_full_disk(pictures, small_disk, straight):
    filler = small_disk / "filler"

    def fill():
        with open(filler, "wb") as f:
            try:
                while True:
                    f.write(bytes(2**20))
            except OSError:
                pass

    assert (
        survives(pictures, small_disk / "run", fill, filler.unlink, "No space left on device")
        == straight
    )
    counts["disk faults"]["full"] += 1


def shard_names(folder, pictures):
    _write_names(pictures / "train", Shard(), folder / "names")


WRITERS = {  # file or folder that is named -> function of a folder on a small disk, and of pictures
    "drawn": lambda folder, pictures: demo_characters(folder / "drawn", train=9, test=9),
    "enlarged": lambda folder, pictures: save_jpegs(pictures / "train", 9, (900, 900)),
    "fixes.csv": lambda folder, pictures: record_fix(folder / "fixes.csv", "a/1.jpg", "drop"),
    "names": shard_names,
    "note.txt": lambda folder, pictures: atomic_write(folder / "note.txt", bytes(2**16)),
    "piece.txt": lambda folder, pictures: write_pieces(folder / "piece.txt"),
    "site": lambda folder, pictures: write_examples(folder / "site", pictures),
}


def write_pieces(path):
    with replace_file(path) as temp, open(temp, "wb") as file:
        file.write(bytes(2**16))


def write_examples(folder, pictures):
    with replace_folder(folder) as temp:
        _write_examples(sorted(pictures.glob("train/*/*.jpg")), temp)


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_writes_on_a_full_disk_is_told_where(pictures, small_disk, monkeypatch, name):
    (small_disk / "filler").write_bytes(b"")
    with open(small_disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**12))
    if name in ("drawn", "site"):  # there is room for the lock, and for some pictures
        os.truncate(small_disk / "filler", (small_disk / "filler").stat().st_size - 2**15)
    monkeypatch.setattr(bench.tempfile, "mkdtemp", lambda dir: make(small_disk / "enlarged"))
    with pytest.raises(OSError, match="No space left on device") as told:
        WRITERS[name](small_disk, pictures)
    assert str(told.value).startswith(f"Cannot write '{small_disk / name}' (No space left")
    assert " 0.0 MiB are free" in str(told.value)
    assert told.value.errno == errno.ENOSPC


def make(folder):
    folder.mkdir()
    return folder


def test_disk_full_at_the_end(pictures, small_disk, straight):
    "When the last epoch has been made and its checkpoint written, only the model file is missing"
    folder = small_disk / "run"
    real = outputs.save_model

    def no_room(path, *args, **kwargs):
        raise OSError(28, "No space left on device")

    outputs.save_model = no_room
    try:
        with pytest.raises(OSError):
            train(settings(pictures, folder), callbacks=[])
    finally:
        outputs.save_model = real
    assert len(train(settings(pictures, folder), callbacks=[], resume=True).history) == 3
    assert weights_of(folder) == straight
    counts["disk faults"]["full at the end"] += 1


def test_read_only(pictures, small_disk, straight):
    folder = small_disk / "run"

    def lock():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)], check=True)

    def unlock():
        subprocess.run(["umount", str(folder)], check=True)

    with pytest.raises(
        OSError, match=f"Cannot write '{folder / 'last.ckpt'}' .Read-only file system"
    ):
        train(settings(pictures, folder), callbacks=[after_epoch(2, lock)])
    unlock()
    train(settings(pictures, folder), callbacks=[], resume=True)
    assert weights_of(folder) == straight
    counts["disk faults"]["read-only"] += 1


def test_folder_removed(pictures, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError) as told:
        train(
            settings(pictures, folder),
            callbacks=[after_epoch(2, lambda: shutil.rmtree(folder))],
        )
    assert f"Cannot write '{folder / 'last.ckpt'}' (No such file or directory)" in str(told.value)
    counts["disk faults"]["folder removed"] += 1


def test_too_little_room_is_said_at_once(pictures, small_disk):
    start = time.monotonic()
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    with pytest.raises(OSError, match="A run with its checkpoints and its model needs 125.8 MiB"):
        train(settings(pictures, small_disk / "run"), callbacks=[])
    assert time.monotonic() - start < 1
    counts["disk faults"]["too little room"] += 1


def test_damaged_checkpoint(pictures, tmp_path, straight, no_figures):
    "The newest is damaged: the one before it is taken, with a word, and the bits are the same"
    train(
        settings(pictures, tmp_path),
        callbacks=[after_epoch(3, lambda: os.kill(os.getpid(), signal.SIGINT))],
    )
    for damage in (lambda b: b[: len(b) // 2], lambda b: b[:-1000] + bytes(1000)):
        for name in ("model.safetensors", "report.json"):
            (tmp_path / name).unlink(missing_ok=True)
        whole = (tmp_path / "last.ckpt").read_bytes()
        (tmp_path / "last.ckpt").write_bytes(damage(whole))
        with pytest.warns(UserWarning, match="Resuming from the checkpoint before it"):
            train(settings(pictures, tmp_path), callbacks=[], resume=True)
        assert weights_of(tmp_path) == straight
        counts["disk faults"]["damaged checkpoint"] += 1


def test_a_second_run_is_refused_while_the_first_lives(pictures, tmp_path, no_figures):
    refused = []

    def another():
        with pytest.raises(FileExistsError) as told:
            train(settings(pictures, tmp_path, overwrite=True), callbacks=[])
        refused.append(str(told.value))

    train(settings(pictures, tmp_path, num_epochs=1), callbacks=[after_epoch(1, another)])
    assert refused == [
        f"Another run (process {os.getpid()}) is writing to '{tmp_path}'; "
        "wait for its end, or choose another output folder"
    ]
    train(settings(pictures, tmp_path, num_epochs=1, overwrite=True), callbacks=[])


class Twice(Callback):
    "Sends its own process the same signal twice in the first step"

    def __init__(self, number):
        self.number = number

    def on_epoch(self, run):
        raise AssertionError("not stopped")

    def on_step(self, run):
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)
        os.kill(os.getpid(), self.number)
        time.sleep(5)


def test_the_second_interrupt_stops_at_once(pictures, tmp_path, no_figures):
    with pytest.raises(KeyboardInterrupt):
        train(settings(pictures, tmp_path), callbacks=[Twice(signal.SIGINT)])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # the folder is free again
    train(settings(pictures, tmp_path, num_epochs=1, overwrite=True), callbacks=[])


TERMINATED_TWICE = """
import signal, sys
from pathlib import Path
from test_faults import Twice, settings, train

pictures, folder = map(Path, sys.argv[1:3])
train(settings(pictures, folder), callbacks=[Twice(signal.SIGTERM)])
"""


def test_the_second_termination_ends_the_process(pictures, tmp_path, no_figures):
    "In a process of its own, which it ends"
    done = forks("forked:execute", TERMINATED_TWICE, str(pictures), str(tmp_path))
    assert done.code == -signal.SIGTERM, done.err
    train(settings(pictures, tmp_path, num_epochs=1, overwrite=True), callbacks=[])


# numbers


class Grown(torch.autograd.Function):
    "The identity, with a gradient that is no number"

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("inf")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_number(pictures, tmp_path, monkeypatch, what):
    "In the second step of the second epoch"

    class Broken(FocalLoss):
        calls = 0

        def forward(self, logits, targets):
            if torch.is_grad_enabled():
                self.calls += 1
            if torch.is_grad_enabled() and self.calls == 4 + 2:
                logits = Grown.apply(logits) if what == "gradient" else logits * float("nan")
            return super().forward(logits, targets)

    monkeypatch.setattr("simpsons_cnn.training.loop.FocalLoss", Broken)
    step = 2 if what == "loss" else 3
    message = f"became nan in epoch 2, step {step}; the weights are those after epoch 1"
    with pytest.raises(NonFiniteLoss, match=message):
        train(settings(pictures, tmp_path), callbacks=[])
    assert all(
        v.isfinite().all()
        for v in load_model(tmp_path / "model.safetensors")[0].state_dict().values()
    )
    assert json.loads((tmp_path / "report.json").read_text())["best_epoch"] == 1


def test_a_loss_that_grows_is_told_of(pictures, tmp_path, no_figures):
    with pytest.warns(UserWarning, match="it grows instead of falling"):
        train(
            settings(pictures, tmp_path, learning_rate=10.0, schedule="constant", num_epochs=1),
            callbacks=[],
        )


def test_identical_pictures(pictures, tmp_path):
    "One picture over and over, of two characters: no split can be honest, and that is said"
    for character in ("a", "b"):
        (tmp_path / "same" / character).mkdir(parents=True)
        for i in range(20):
            shutil.copy(
                next((pictures / "train" / "mossy_mo").iterdir()),
                tmp_path / "same" / character / f"{i}.jpg",
            )
    with pytest.warns(UserWarning, match="Near-duplicate pairs on both sides of the split"):
        train(
            settings(
                pictures, tmp_path / "run", traindir=tmp_path / "same", testdir=None, num_epochs=1
            ),
            callbacks=[],
        )


def test_one_picture_of_a_character(pictures, tmp_path, capsys):
    shutil.copytree(pictures / "train", tmp_path / "few")
    for p in sorted((tmp_path / "few/mossy_mo").iterdir())[1:]:
        p.unlink()
    run = train(
        settings(
            pictures,
            tmp_path / "run",
            traindir=tmp_path / "few",
            num_epochs=1,
            class_weights="inverse",
        ),
        callbacks=None,
    )
    unjudged = "no validation pictures, so the scores say nothing of:\n  mossy_mo\n"
    assert unjudged in capsys.readouterr().out
    assert run.report.table.set_index("character").pictures.mossy_mo == 0


def test_two_processes_make_the_same_weights(pictures, tmp_path, straight):
    settings(pictures, tmp_path / "other").save(tmp_path / "other.yaml")
    config = str(tmp_path / "other.yaml")
    code = f"import simpsons_cnn as sc; sc.train(sc.Config.load({config!r}), callbacks=[])"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONHASHSEED="5"),
    )
    assert weights_of(tmp_path / "other") == straight
