"""Train as a configuration says, and die at a chosen moment.

python tests/killed_run.py reads jobs as JSON, one a line: {"config": PATH, "moment": [KIND, WHEN]}

Each job is a process of its own that really gets SIGKILL; the answer to each is its exit code.
It is forked from a process that has imported everything and computed nothing yet, which saves
the seconds of importing.
"""

import json
import os
import signal
import sys
import threading

from simpsons_cnn.core.config import Config
from simpsons_cnn.training.callbacks import Callback
from simpsons_cnn.training.train import train


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class KilledAfter(Callback):
    "Dies after so many steps"

    def __init__(self, steps):
        self.left = steps

    def on_step(self, run):
        self.left -= 1
        if self.left == 0:
            die()


def kill_at_call(name: str, when: int, before):
    "Let the `when`-th call of a function of `os` be the last thing that happens"
    real, calls = getattr(os, name), [0]

    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == when:
            before(*args) if before else real(*args, **kwargs)
            die()
        return real(*args, **kwargs)

    setattr(os, name, call)


def half(fd, *_):
    "What a file looks like in the middle of being written"
    os.ftruncate(fd, os.fstat(fd).st_size // 2)


def job(config, moment):
    kind, when = moment or ("never", 0)
    if kind == "seconds":
        threading.Timer(when, die).start()
    if kind == "half written":
        kill_at_call("fsync", when, half)
    if kind == "before a rename":
        kill_at_call("replace", when, lambda *_: None)
    if kind == "after a rename":
        kill_at_call("replace", when, None)
    train(Config.load(config), callbacks=[KilledAfter(when if kind == "step" else -1)], resume=True)


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            os.dup2(2, 1)  # the answers alone go to standard output
            try:
                job(**json.loads(line))
                code = 0
            except BaseException as e:
                print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
