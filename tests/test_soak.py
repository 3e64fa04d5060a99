"Hundreds of epochs in one process: memory, open files and threads level off"

import os
from pathlib import Path

import torch
from conftest import counts

from simpsons_cnn.data.augment import Augment
from simpsons_cnn.data.batches import Batches
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.networks.losses import FocalLoss
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.quality.split import split_per_character
from simpsons_cnn.training.callbacks import Callback
from simpsons_cnn.training.checkpoint import Checkpoint
from simpsons_cnn.training.loop import fit

EPOCHS = 200 if os.environ.get("FULL") else 24
RUNS = 5  # stopped and begun anew, in the same process


def held() -> dict:
    "What this process holds"
    status = Path("/proc/self/status").read_text()
    return {
        what: int(status.split(f"{key}:")[1].split()[0]) // unit
        for what, key, unit in (("MiB", "RssAnon", 1024), ("threads", "Threads", 1))
    } | dict(files=len(os.listdir("/proc/self/fd")))


class Watching(Callback):
    def __init__(self, seen):
        self.seen = seen

    def on_epoch(self, run):
        self.seen.append(held())


class TwoEpochs(Callback):
    def on_epoch(self, run):
        if len(run.history) == 2:
            run.stop("enough", resumable=False)


def test_soak(tmp_path):
    if not os.environ.get("FULL"):
        torch.set_num_threads(1)
    store = PixelStore.build(
        ImageFiles.scan(demo_characters(tmp_path / "drawn", train=12, test=1) / "train"), size=64
    )
    train_idx, valid_idx = split_per_character(store.files, 0.25)
    seen = []

    def run(**kwargs):
        torch.manual_seed(0)
        return fit(
            SimpsonsCNN(10, channels=(8, 16, 16, 32, 32, 64)),
            Batches(store, train_idx, 30, Augment()),
            Batches(store, valid_idx, 30),
            FocalLoss(),
            **dict(
                num_epochs=EPOCHS,
                callbacks=[],
                weight_averaging=0.9,
                checkpoint=Checkpoint(tmp_path / "last.ckpt", seconds=0.05),
            )
            | kwargs,
        )

    run(callbacks=[Watching(seen)])
    early, late = seen[EPOCHS // 4], seen[-1]
    assert (
        late["MiB"] - early["MiB"] <= 10
        and late["files"] == early["files"]
        and late["threads"] == early["threads"]
    ), (early, late)
    for _ in range(RUNS):
        run(num_epochs=3, callbacks=[TwoEpochs()])
    after = held()
    assert (
        after["MiB"] - late["MiB"] <= 10
        and after["files"] == late["files"]
        and after["threads"] == late["threads"]
    ), (late, after)
    for what in early:
        counts[f"soak of {EPOCHS} epochs, {what}"] |= {
            f"after {EPOCHS // 4}": early[what],
            f"after {EPOCHS}": late[what],
            f"after {RUNS} more runs": after[what],
        }
