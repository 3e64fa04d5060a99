"A run that is killed again and again, and resumed each time, ends as one that was never stopped"

import json
import os
import random
import signal
from pathlib import Path

import pandas as pd
import pytest
from conftest import counts
from forked import forks

from simpsons_cnn.core.config import Config
from simpsons_cnn.core.tensors import read_tensors
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.training.checkpoint import read_checkpoint

FULL = bool(os.environ.get("FULL"))
KILLS, THREADS = (25, 2) if FULL else (5, 1)
NETWORK = "reference" if FULL else "killed_run:small_network"  # its checkpoints are soon written


def run(config, moment=None) -> int:
    "The exit code of a process that trains, and is killed at a moment"
    ended = forks("killed_run:job", str(config), moment, THREADS)
    print(ended.err, end="")  # pytest shows it if the test fails
    return ended.code


def settings(tmp, name, **kwargs) -> Path:
    folders = {f"out_{kind}_directory": tmp / name for kind in ("model", "graphics", "inference")}
    config = Config.demo(
        tmp,
        **dict(
            architecture=NETWORK,
            num_epochs=6,
            size=64,
            crop_size=64,
            batch_size=24,
            weight_averaging=0.9,
            cutmix=0.4,
            mixup=0.4,
            checkpoint_seconds=0.05,
            part_of_partitions=2,
        )
        | folders
        | kwargs,
    )
    config.save(tmp / f"{name}.yaml")
    return tmp / f"{name}.yaml"


def left_by(folder) -> dict:
    "All that a run leaves, as far as it does not tell the time"
    tensors, header, file = read_checkpoint(folder / "last.ckpt")
    assert file == folder / "last.ckpt"
    tensors.pop("history/seconds")
    model = read_tensors(folder / "model.safetensors", 2, "save_model")[0]
    for row in header["history"]["rows"]:
        row.pop("seconds")
    return dict(
        checkpoint={k: v.tolist() for k, v in tensors.items()},
        model={k: v.tolist() for k, v in model.items()},
        history=header["history"],
        table=pd.read_csv(folder / "history.csv").drop(columns="seconds").to_csv(),
        report=json.loads((folder / "report.json").read_text()),
        split=(folder / "split.csv").read_text(),
        predictions=(folder / "predictions.csv").read_text(),
    )


def moments(n: int, rng) -> list:
    "Moments to be killed at: in a step, in the first second, within a file, beside a rename"
    kinds = {
        "step": lambda: rng.randint(1, 3),
        "half written": lambda: rng.randint(1, 9),
        "seconds": lambda: round(rng.uniform(0, 1), 3),
        "after a rename": lambda: rng.randint(1, 9),
        "before a rename": lambda: rng.randint(1, 9),
    }
    return [(kind, kinds[kind]()) for kind in (list(kinds) * n)[:n]]


def test_killed_and_resumed(tmp_path):
    demo_characters(tmp_path / "data/demo", train=12, test=2)
    assert run(settings(tmp_path, "straight")) == 0
    config, codes = settings(tmp_path, "killed"), []
    for moment in moments(KILLS, random.Random(0)):
        codes.append(run(config, moment))
        assert codes[-1] in (0, -signal.SIGKILL), moment
        counts["kills"][moment[0] if codes[-1] else "too late"] += 1
    assert codes.count(-signal.SIGKILL) >= 0.8 * KILLS
    assert run(config) == 0
    straight, killed = (left_by(tmp_path / name) for name in ("straight", "killed"))
    for what in straight:
        assert killed[what] == straight[what], what
    assert not [
        p.name for p in (tmp_path / "killed").iterdir() if p.name.startswith(".")
    ]  # nothing half-written is left lying about
    counts["kills"]["survived with the same bits"] += codes.count(-signal.SIGKILL)


@pytest.mark.parametrize(
    "kind",
    ["half written", "before a rename", "after a rename"] if FULL else ["half written"],
)
def test_killed_while_the_model_is_written(tmp_path, kind):
    "The end of a run is a row of files; each of them may be the last that was touched"
    demo_characters(tmp_path / "data/demo", train=12, test=2)
    config = settings(tmp_path, "run", num_epochs=1)
    assert run(config) == 0
    whole = left_by(tmp_path / "run")
    for call in range(1, 10 if FULL else 4):
        if run(config, (kind, call)) == 0:
            break
        counts["kills"]["in the last files"] += 1
        read_tensors(
            tmp_path / "run/model.safetensors", 2, "save_model"
        )  # what was there is still whole
    assert call >= 3
    assert run(config) == 0
    assert left_by(tmp_path / "run") == whole
