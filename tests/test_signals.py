"Signals that ask a training to end, in each of its phases: one line, an exit code, nothing left"

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.core.files import interrupting_signals, on_first_signal

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)


@pytest.fixture(autouse=True)
def usual_handlers():
    "Those of a program that a shell has started"
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def argv(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ann", "bob", "cyd"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(8):
            noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((64, 64))
            picture.save(tmp_path / "pictures" / name / f"{i}.png")
    settings = dict(traindir=tmp_path / "pictures", runs_directory=tmp_path / "runs", size=64)
    settings |= dict(batch_size=8, num_epochs=1, device="cpu")
    return [f"--{name}={value}" for name, value in settings.items()]


def ended(argv: list) -> int:
    "The exit code of a training"
    try:
        simpsons_train(argv)
    except SystemExit as e:
        return e.code
    return 0


def left_behind(folder: Path) -> list:
    "Temporary files, locks and empty folders of ours"
    names = [
        p for p in folder.rglob("*") if p.name.endswith((".simpsons_part", ".part", ".holder"))
    ]
    locks = list(folder.rglob("*.lock"))
    return names + locks + [p for p in (folder / "runs").glob("*") if not any(p.rglob("*.*"))]


def signal_in(monkeypatch, place: str, number: int):
    "Let a function get a signal when it is called for the first time"
    module, name = place.rsplit(".", 1)
    module = __import__(module, fromlist=[name])
    real = getattr(module, name)

    def interrupted(*args, **kwargs):
        monkeypatch.setattr(module, name, real)
        os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)


PLACES = dict(
    scan="simpsons_cnn.data.folders._number_images",
    decoding="simpsons_cnn.data.store.check_any_readable",
    duplicates="simpsons_cnn.data.store.write_tensors",
    split="simpsons_cnn.quality.split.split_by_group",
    start="simpsons_cnn.training.train._check_imbalance",
    step="simpsons_cnn.training.run._note_first_steps",
    validation="simpsons_cnn.training.loop.judge",
    judging="simpsons_cnn.training.train.calibrate_logits",
    model="simpsons_cnn.training.outputs.save_model",
    figures="simpsons_cnn.training.outputs.plot_batch",
    report="simpsons_cnn.training.outputs._report",
)
CASES = [(phase, "SIGTERM") for phase in PLACES]
CASES += [(phase, name) for phase in ("decoding", "step", "model") for name in ("SIGINT", "SIGHUP")]


@pytest.mark.parametrize("phase, name", CASES)
def test_a_signal_ends_a_training(tmp_path, argv, monkeypatch, capsys, request, phase, name):
    number = signal.Signals[name]
    if phase != "figures":  # which take most of the time
        request.getfixturevalue("no_figures")
    with monkeypatch.context() as patched:
        signal_in(patched, PLACES[phase], number)
        assert ended(argv) == 128 + number
    said = capsys.readouterr().err
    line = f"interrupted by {name}" if name != "SIGINT" or "--resume" in said else "interrupted"
    assert [text for text in said.splitlines() if "interrupted" in text][0].startswith(line)
    assert "Traceback" not in said
    assert left_behind(tmp_path) == []
    if phase in ("scan", "decoding", "duplicates", "split"):
        assert not list((tmp_path / "runs").glob("*"))
    else:
        assert ended([*argv, "--resume"]) == 0
        assert (tmp_path / "runs/001/model/report.json").is_file()
        assert not (tmp_path / "runs/002").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_verification(tmp_path, argv, monkeypatch, capsys, no_figures, name):
    assert ended(argv) == 0
    signal_in(monkeypatch, PLACES["step"], signal.Signals[name])
    assert ended(["--verify", str(tmp_path / "runs/001")]) == 128 + signal.Signals[name]
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted by {name}"
    assert left_behind(tmp_path) == []


def test_a_second_hang_up_says_nothing_new():
    "A shell and the system may both send one"
    reasons = []
    with interrupting_signals(), on_first_signal(reasons.append):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
    assert reasons == ["interrupted by SIGHUP"]


def test_a_second_request_to_end_is_not_waited_for():
    again = pytest.raises(KeyboardInterrupt, match="interrupted by SIGTERM")
    with again, interrupting_signals(), on_first_signal(lambda reason: None):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_output_goes_nowhere_where_the_terminal_is_gone():
    "Each line would be an error, and the run would be lost for it"
    lead, terminal = os.openpty()
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(terminal, 1)
        os.close(lead)
        reasons = []
        with on_first_signal(reasons.append):
            os.write(tell, b"1")
            while not reasons:
                time.sleep(0.01)
            os._exit(os.write(1, b"x") - 1)  # not reached where the line is an error
        os._exit(1)
    os.read(ready, 1)
    for number in (lead, terminal, ready, tell):
        os.close(number)
    os.kill(child, signal.SIGHUP)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ignored_signals_stay_ignored(number):
    "As in the background job of a script, or under nohup"
    signal.signal(number, signal.SIG_IGN)
    reasons = []
    with interrupting_signals(), on_first_signal(reasons.append):
        os.kill(os.getpid(), number)
    assert reasons == [] and signal.getsignal(number) == signal.SIG_IGN


def test_handlers_from_outside_python_are_left_alone(monkeypatch):
    "`getsignal` knows nothing of them, and they could not be put back"
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("changed"))
    with interrupting_signals(), on_first_signal(pytest.fail):
        pass
    monkeypatch.undo()
