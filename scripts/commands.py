"""The commands of this package as forks of one process that has imported their libraries.

Pages start some thirty commands, and to import PyTorch takes most of them longer than their work.
Within `forked_commands`, programs of the same names come first on the PATH. Each hands its
arguments, environment, folder and streams to a server. The server, which has computed nothing,
forks a process that runs the command, and the program ends with that process's exit code.
"""

import atexit
import configparser
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent

STAND_IN = """\
#!{python} -IS
import json, os, signal, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    job = dict(argv=sys.argv, folder=os.getcwd(), env=dict(os.environ))
    server.sendall(json.dumps(job).encode() + b"\\n")
    answers = server.makefile()
    pid = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    code = int(answers.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


def entry_points() -> dict:
    "name -> 'module:function', as settings.ini declares the commands"
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    lines = settings["DEFAULT"]["console_scripts"].split()
    return dict(line.split("=") for line in lines)


def write_stand_ins(folder: Path, address: Path):
    "Write a program for each command, which asks the server at `address` to run it"
    for name in entry_points():
        program = folder / name
        program.write_text(STAND_IN.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)


def exit_code(command) -> int:
    "Call a command; the exit code that it would give a program"
    try:
        code = command()
    except SystemExit as e:
        code = e.code
    except BaseException:
        traceback.print_exc()
        return 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return int(code or 0)


def take_cpu():
    "Have the device 'auto' mean the CPU, whose numbers pages show; cells marked cuda name theirs"
    from simpsons_cnn.core import device

    device._best_device = lambda: "cpu"


def run_and_end(command):
    "Call a command and end this process; to take all modules down as usual costs a second"
    code = exit_code(command)
    atexit._run_exitfuncs()  # temporary folders go
    with suppress(OSError):  # nobody reads it
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_command(argv: list, folder: str, env: dict, streams: list):
    "Run a command in this process, with the streams of its stand-in, and end"
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    signal.signal(signal.SIGINT, signal.default_int_handler)
    take_cpu()
    module, function = entry_points()[Path(argv[0]).name].split(":")
    run_and_end(getattr(importlib.import_module(module), function))


def call_and_end(function, connection: socket.socket):
    "Call a function in a process forked for it, and end without the clean-up of its parent"
    try:
        function(connection)
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def answer(client: socket.socket):
    "Run the command that a stand-in asks for; tell it the process and, at the end, the exit code"
    _, streams, *_ = socket.recv_fds(client, 1, 3)
    asked = client.makefile().readline()
    if not asked:
        return  # the stand-in was stopped before it could ask
    job = json.loads(asked)
    pid = os.fork()
    if pid == 0:
        client.close()
        run_command(**job, streams=streams)
    for stream in streams:
        os.close(stream)  # so that its reader sees the end
    client.sendall(f"{pid}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    client.sendall(f"{code}\n".encode())


def serve(server: socket.socket):
    "Answer stand-ins, each in a process of its own, as long as the process that started this lives"
    parent = os.getppid()
    server.settimeout(10)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the answering processes are not waited for
    while os.getppid() == parent:
        with suppress(TimeoutError):
            client, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                call_and_end(answer, client)
            client.close()


@contextmanager
def forked_commands():
    "Within, the commands on the PATH are forks of this process as it is now"
    # No `TemporaryDirectory`: each fork would remove it at its end.
    folder = Path(tempfile.mkdtemp())
    address = folder / "server"
    write_stand_ins(folder, address)
    path = os.environ["PATH"]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        server.listen()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            call_and_end(serve, server)
    os.environ["PATH"] = os.pathsep.join([str(folder), path])
    try:
        yield
    finally:
        os.environ["PATH"] = path
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        shutil.rmtree(folder)
