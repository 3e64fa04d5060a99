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
