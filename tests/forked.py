"""Programs that start at once: forks of a process that has imported their libraries.

python tests/forked.py MODULE… imports the modules and then reads jobs as JSON, one a line. Each job
is a process of its own that calls a function and ends as a program does; the answer to each is its
exit code. A fork takes milliseconds; importing PyTorch and what its optimizers need takes seconds.
Tests share `forks`, one such process for each of Pytest's workers.
Nothing is computed before a fork: a process forked after a convolution hangs at its own.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from commands import run_and_end  # noqa: E402  found there


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Forks:
    "Runs functions in processes of their own, which start with `modules` imported"

    def __init__(self, *modules):
        self.modules, self.process = modules, None

    def _start(self):
        "A process that ends when this one does, since its input ends then"
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        command = [sys.executable, __file__, *self.modules]
        self.process = subprocess.Popen(command, **pipes)

    def __call__(self, function: str, *args, argv=(), folder=".", env=None) -> Ended:
        "Call `module:function` with `args` that JSON can hold, and with more environment"
        if self.process is None:
            self._start()
        with tempfile.TemporaryDirectory() as outputs:
            files = [Path(outputs, name) for name in ("out", "err")]
            job = dict(function=function, args=args, argv=[function, *argv])
            job |= dict(folder=os.path.abspath(folder), env=env or {})
            self.process.stdin.write(json.dumps([job, [str(file) for file in files]]) + "\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            return Ended(code, *(file.read_text("utf-8", errors="replace") for file in files))


def redirect(outputs: list):
    "Send what is printed from now on to files; no input"
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, path in enumerate(outputs, 1):
        with open(path, "w") as file:
            os.dup2(file.fileno(), number)


def execute(code: str, *argv):
    "Run a program text"
    sys.argv = ["-c", *argv]
    exec(code, {"__name__": "__main__"})


def run(function: str, args: list, argv: list, folder: str, env: dict):
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = argv
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)(*args)


def main():
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()  # a fork's garbage collector visits, and so copies, none of it
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.alarm(300)
            job, outputs = json.loads(line)
            redirect(outputs)
            run_and_end(partial(run, **job))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


forks = Forks("torch._dynamo", "pandas", "matplotlib.figure", "simpsons_cnn.training.train")


if __name__ == "__main__":
    main()
