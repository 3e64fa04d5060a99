"Real processes: the command, kills, and what their messages say"

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from torch.distributed import HashStore

from simpsons_cnn.cli.common import tidy_errors
from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.core.config import Config
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.training import launch as launch_page
from simpsons_cnn.training.checkpoint import read_checkpoint
from simpsons_cnn.training.distributed import LostProcess, Ranks, _explain
from simpsons_cnn.training.launch import launch, run_processes

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
TRAIN = [sys.executable, "-m", "simpsons_cnn", "train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    demo_characters(folder / "data/demo", train=8, test=1)
    return folder


def settings(folder, name, **kwargs) -> Path:
    config = dict(num_epochs=2, size=64, crop_size=64, batch_size=16, checkpoint_seconds=0.01)
    path = folder / f"{name}.yaml"
    Config.demo(folder, out_directory=folder / name, **config | kwargs).save(path)
    return path


def start(path, *options, env=None) -> subprocess.Popen:
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command = [*TRAIN, str(path), "--nproc", "2", *options]
    return subprocess.Popen(command, env=os.environ | (env or {}), **pipes)


def workers_of(parent: int) -> dict:  # rank -> process
    "The processes that torchrun has started"
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            environ = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [line[5:] for line in environ if line.startswith(b"RANK=")]
        if int(status[1]) == parent and ranks:
            found[int(ranks[0])] = int(folder.name)
    return found


def remain(pids, seconds=10) -> list:
    "Those that are still there; a process closes its streams a moment before it has ended"
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


def left_by(folder) -> dict:
    "The checkpoint of a run, as far as it does not tell the time"
    tensors, header, _ = read_checkpoint(folder / "model/last.ckpt")
    tensors.pop("history/seconds")
    return {k: v.tolist() for k, v in tensors.items()}, header["history"]["first_steps"]


def kill_in_an_epoch(path, rank) -> tuple:  # Seconds until all had ended, exit code, messages
    process = start(path)
    checkpoint = path.with_suffix("") / "model/last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.02)
    workers = workers_of(process.pid)
    os.kill(workers[rank], signal.SIGKILL)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    assert not remain(workers.values())
    return seconds, process.returncode, err


@pytest.mark.skipif("FULL" not in os.environ, reason="takes a minute; FULL=1 runs it")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_a_resume_has_the_same_bits(folder, rank):
    killed = settings(folder, f"killed{rank}", num_epochs=40)
    seconds, code, err = kill_in_an_epoch(killed, rank)
    assert (code, seconds < 30) == (1, True)
    assert err == (
        f"error: process {rank} of 2 was killed (SIGKILL), so all have ended; the same command with"
        " --resume continues from the last checkpoint\n"
    )
    resumed = start(killed, "--resume")
    assert resumed.communicate()[1].startswith("next")
    straight = start(settings(folder, f"straight{rank}", num_epochs=40))
    straight.communicate()
    assert (resumed.returncode, straight.returncode) == (0, 0)
    assert left_by(folder / f"killed{rank}") == left_by(folder / f"straight{rank}")


@pytest.mark.skipif("FULL" not in os.environ, reason="takes a minute; FULL=1 runs it")
def test_two_launches_at_once_and_an_interrupt(folder):
    first = start(settings(folder, "first", num_epochs=60))
    second = start(settings(folder, "second", num_epochs=2))
    assert second.communicate()[1].startswith("next")
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (130, 0)
    assert err.count("--resume continues from there") == 1


def test_a_failed_launch_says_why_and_leaves_no_folder(folder, monkeypatch, capsys):
    failing = [sys.executable, "-c", "print('error: no luck'); print('bye'); raise SystemExit(1)"]
    monkeypatch.setattr("simpsons_cnn.training.launch._command", lambda *_: failing)
    config = Config.demo(folder, runs_directory=folder / "runs")
    with pytest.raises(RuntimeError, match="^no luck$"):
        launch(config, nproc=2)
    assert capsys.readouterr().out == "error: no luck\nbye\n"
    assert not list((folder / "runs").iterdir())


def test_an_interrupt_of_a_launch_stops_the_processes(folder, monkeypatch, capsys):
    code = """
import os, signal, time
def stop(*_):
    os.write(1, b'stopped\\n')  # it may come while `print` is at work
    os._exit(143)
signal.signal(signal.SIGTERM, stop)
print('epoch 1', flush=True)
time.sleep(60)
"""
    monkeypatch.setattr(
        "simpsons_cnn.training.launch._command", lambda *_: [sys.executable, "-c", code]
    )
    real = print

    def interrupted(line, **kwargs):
        real(line, **kwargs)
        if line == "epoch 1\n":
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(Config.demo(folder, runs_directory=folder / "runs"), nproc=2)
    assert capsys.readouterr().out == "epoch 1\nstopped\n"


def test_running_processes_leaves_nothing_behind(tmp_path, monkeypatch):
    "torchrun changes variables and signals of the program that it runs in"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    program = tmp_path / "program.py"
    program.write_text("import os; raise SystemExit(0 if os.environ['OMP_NUM_THREADS'] else 1)")

    def state():
        return (
            dict(os.environ),
            [signal.getsignal(s) for s in SIGNALS],
            logging.root.manager.disable,
        )

    logging.disable(logging.DEBUG)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    before = state()
    try:
        assert run_processes([str(program)], 1) == 0
        assert state() == before
    finally:
        signal.signal(signal.SIGHUP, hangup)
        logging.disable(logging.NOTSET)


SILENT = """
import os, signal, sys, time
if os.environ["RANK"] == "0":
    os.kill(ASKED, signal.SIGTERM)
time.sleep(60)
"""
ENDS = """
import signal, sys
from simpsons_cnn.cli.common import tell_launcher
def end(*_):
    WORD
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
"""
KINDS = dict(
    killed="",  # while Python starts, for example
    silent=ENDS.replace("WORD", ""),
    speaks=ENDS.replace("WORD", "tell_launcher()"),
)


@pytest.mark.parametrize("asked", ["os.getppid()", "os.getpid()"], ids=["all", "one"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_is_spoken_of_once(tmp_path, asked, kind):
    program = tmp_path / "program.py"
    program.write_text(KINDS[kind] + SILENT.replace("ASKED", asked))
    before = {s: signal.signal(s, signal.SIG_DFL) for s in SIGNALS}
    try:
        if kind == "speaks":
            assert run_processes([str(program)], 2) == 143
        else:
            with pytest.raises(KeyboardInterrupt, match="^interrupted by SIGTERM$"):
                run_processes([str(program)], 2)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@pytest.mark.parametrize("launched", [False, True])
def test_what_the_launcher_says_its_processes_do_not(launched, monkeypatch, capsys):
    @tidy_errors
    def command():
        raise KeyboardInterrupt("interrupted by SIGTERM")

    if launched:
        monkeypatch.setenv("SIMPSONS_CNN_LAUNCHER", str(os.getppid()))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    lost = _explain(LostProcess("lost"), Ranks(0, 2), HashStore())
    assert (lost is None) == launched
    with pytest.raises(SystemExit) as exit:
        command()
    assert exit.value.code == 143
    assert capsys.readouterr().err == ("" if launched else "interrupted by SIGTERM\n")


def test_a_signal_that_the_parent_ignores_is_not_handled(monkeypatch):
    given = []
    monkeypatch.setattr(launch_page, "torchrun", given.append)
    before = {s: signal.signal(s, signal.SIG_DFL) for s in SIGNALS}  # ignored in the background
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_processes(["-m", "program"], 2) == 0
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    assert "--signals_to_handle=SIGTERM,SIGINT,SIGQUIT" in given[0]


@pytest.mark.skipif("FULL" not in os.environ, reason="takes half a minute; FULL=1 runs it")
def test_processes_end_with_a_checkpoint_if_the_one_that_started_them_is_killed(folder):
    path = settings(folder, "orphans", num_epochs=200)
    process = start(path)
    checkpoint = path.with_suffix("") / "model/last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate(timeout=60)  # until the last of them has closed its streams
    assert not remain(workers.values())
    stopped = json.loads((path.with_suffix("") / "model/report.json").read_text())["stopped"]
    either_first = ("interrupted by SIGTERM", "another process was asked to stop")
    assert stopped in either_first  # each process looks for itself whether its parent is there


NETWORK = """
import os, time
from torch import nn

class Net(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.head, self.steps = nn.Linear(3, n), 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 3 and os.environ.get("RANK") == "1":
            FAULT
        return self.head(x.mean((2, 3)))
"""
GO_ON = "the same command with --resume continues from the last checkpoint"
FAULTS = {
    "raise ValueError('no luck')": "error: no luck (in process 1 of 2, on ",
    "os._exit(7)": f"error: process 1 of 2 has ended with exit code 7, so all have ended; {GO_ON}",
    "time.sleep(1e6)": "error: process 1 of 2 has not answered for 5 seconds, so all have ended; if"
    f" it was at work, set SIMPSONS_CNN_TIMEOUT to more seconds; {GO_ON}",
}


@pytest.mark.skipif("FULL" not in os.environ, reason="takes two minutes; FULL=1 runs it")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_fails_in_one_process_alone(folder, fault):
    name = f"fails{list(FAULTS).index(fault)}"
    (folder / f"{name}_network.py").write_text(NETWORK.replace("FAULT", fault))
    path = settings(folder, name)
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    env = dict(PYTHONPATH=paths, SIMPSONS_CNN_TIMEOUT="5")
    process = start(path, f"--architecture={name}_network:Net", env=env)
    while len(workers := workers_of(process.pid)) < 2 and process.poll() is None:
        time.sleep(0.02)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert err.startswith(FAULTS[fault]) and err.count("\n") == 1
    assert not remain(workers.values())


@pytest.mark.skipif("FULL" not in os.environ, reason="takes a minute; FULL=1 runs it")
def test_a_mistake_of_the_first_ends_those_that_wait_for_it(folder):
    "Before the group there is no connection that could be lost"
    empty = folder / "no pictures"
    empty.mkdir()
    began = time.monotonic()
    process = start(settings(folder, "empty"), f"--traindir={empty}")
    err = process.communicate()[1]
    assert err.startswith("error: ") and err.count("\n") == 1
    assert (process.returncode, time.monotonic() - began < 30) == (1, True)


@pytest.mark.skipif("FULL" not in os.environ, reason="takes a minute; FULL=1 runs it")
@pytest.mark.parametrize("phase, name", [("start", "SIGTERM"), ("steps", "SIGHUP")])
def test_a_signal_to_the_command_ends_all(folder, phase, name):
    path = settings(folder, f"signal in {phase}", num_epochs=100)
    process = start(path)
    checkpoint = path.with_suffix("") / "model/last.ckpt"
    while len(workers := workers_of(process.pid)) < 2 and process.poll() is None:
        time.sleep(0.005)
    while phase == "steps" and not checkpoint.exists() and process.poll() is None:
        time.sleep(0.02)
    number = signal.Signals[name]
    process.send_signal(number)
    _, err = process.communicate(timeout=120)  # until the last has closed its streams
    assert process.returncode == 128 + number
    more = "; the same command with --resume continues from there"
    assert err == f"interrupted by {name}{more if phase == 'steps' else ''}\n"
    assert not remain(workers.values())


PROCESSES = {
    (2, "cpu"): None,
    (3, "cpu"): "nproc must be at most 2 with 1 processor to use, got 3",
    (2, "auto"): None,
    (2, "cuda"): None,
    (3, "auto"): "nproc must be at most 2 with 2 GPUs to use, got 3",
    (3, "cuda"): "nproc must be at most 2 with 2 GPUs to use, got 3",
    (2, "cuda:1"): "nproc must be at most 1 with 1 GPU to use, got 2",
}


@pytest.mark.parametrize("nproc, device", PROCESSES)
def test_more_processes_than_there_is_to_compute_on(monkeypatch, nproc, device):
    monkeypatch.setattr(launch_page, "num_workers", lambda: 1)  # two can be tried anywhere
    monkeypatch.setattr(launch_page.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch_page.torch.cuda, "device_count", lambda: 2)
    message = PROCESSES[nproc, device]
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        launch_page.check_nproc(nproc, device)


def test_a_command_starts_no_more_processes_than_processors(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(launch_page, "run_processes", lambda *how: started.append(how) or 0)
    monkeypatch.setattr(launch_page, "num_workers", lambda: 2)
    with pytest.raises(SystemExit, match="nproc must be at most 2 with 2 processors"):
        simpsons_train(["--nproc", "99", "--device", "cpu"])
    assert not started
