"What several tests share: the pages, and counts of what was tried, shown at the end"

import fcntl
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NBS = ROOT / "nbs"
PAGES = sorted(p for p in NBS.rglob("*.ipynb") if "checkpoints" not in p.parent.name)
sys.path.insert(0, str(ROOT / "scripts"))

# Background jobs of a script ignore Ctrl-C, and so would the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

counts = defaultdict(Counter)  # kind of test -> outcome -> how often; tests add to it


def pytest_terminal_summary(terminalreporter):
    for kind, outcomes in counts.items():
        terminalreporter.write_line(
            f"{kind}: " + ", ".join(f"{n:,} {what}" for what, n in outcomes.most_common())
        )


def page_id(page: Path) -> str:
    return page.relative_to(NBS).as_posix()


def cells_of(page: Path) -> list:
    return json.loads(page.read_text(encoding="utf-8"))["cells"]


NAMES = ["ann", "bob", "cyd"]  # of the characters that the model of `model_path` knows


@pytest.fixture(scope="session")
def model_path(tmp_path_factory):
    "The file of a small network that has learnt nothing"
    import torch

    import simpsons_cnn as sc

    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    model = sc.SimpsonsCNN(3, channels=(4, 4, 4, 4, 4, 4), hidden=(8, 8))
    sc.save_model(path, model, NAMES, sc.Preprocess(64))
    return path


@pytest.fixture
def refuse_locks(monkeypatch):
    "A function after which the system refuses each lock with the error of a given number"

    def refuse(number: int):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    return refuse


@pytest.fixture
def no_figures(monkeypatch):
    "Runs save no figures, which take most of a short run's time"
    monkeypatch.setattr("simpsons_cnn.training.train._save_figures", lambda run, data: [])
