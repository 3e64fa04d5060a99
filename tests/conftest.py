"What several tests share: the pages, and counts of what was tried, shown at the end"

import fcntl
import hashlib
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NBS = ROOT / "nbs"
PAGES = sorted(p for p in NBS.rglob("*.ipynb") if "checkpoints" not in p.parent.name)
sys.path.insert(0, str(ROOT / "scripts"))

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tests compare bits, which are those of a CPU

# Background jobs of a script ignore Ctrl-C, and so would the runs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

counts = defaultdict(Counter)  # kind of test -> outcome -> how often; tests add to it


def pytest_terminal_summary(terminalreporter):
    for kind, outcomes in counts.items():
        terminalreporter.write_line(
            f"{kind}: " + ", ".join(f"{n:,} {what}" for what, n in outcomes.most_common())
        )


def older(package: str, version: str) -> bool:
    "Whether a package is installed in an older version"
    return Version(metadata.version(package)) < Version(version)


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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Twelve pictures of each drawn character, decoded"
    from simpsons_cnn.data.folders import ImageFiles
    from simpsons_cnn.data.store import PixelStore
    from simpsons_cnn.demo.characters import demo_characters

    drawn = demo_characters(tmp_path_factory.mktemp("drawn") / "data", train=12, test=1)
    return PixelStore.build(ImageFiles.scan(drawn / "train"), size=64)


@pytest.fixture
def loaders(store):
    "Batches of `store` to train and to validate on"
    from simpsons_cnn.data.augment import Augment
    from simpsons_cnn.data.batches import Batches
    from simpsons_cnn.quality.split import split_per_character

    train_idx, valid_idx = split_per_character(store.files, 0.25)
    valid_dl = Batches(store, valid_idx, 30, device="cpu")
    return Batches(store, train_idx, 30, Augment(), device="cpu"), valid_dl


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
    monkeypatch.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])


@pytest.fixture
def stopped_by_sigterm(monkeypatch):
    "A function: the exit code of `simpsons_train(argv)`, which gets SIGTERM after its first step"
    from simpsons_cnn.cli.train import simpsons_train

    def interrupt(self, run):
        os.kill(os.getpid(), signal.SIGTERM)

    def stopped(argv: list):
        before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
                patched.setattr("simpsons_cnn.training.callbacks.Progress.on_step", interrupt)
                simpsons_train(argv)
        finally:
            signal.signal(signal.SIGTERM, before)
        return ended.value.code

    return stopped


def write_crafted(path: Path, weights: dict, header: dict) -> Path:
    "Write a model file with any header, and a digest that is right"
    import safetensors.torch

    data = safetensors.torch.save(
        weights, {"simpsons_cnn": json.dumps(header | dict(sha256="0" * 64))}
    )
    digest = hashlib.sha256(data).hexdigest()
    path.write_bytes(data.replace(b"0" * 64, digest.encode(), 1))
    return path
