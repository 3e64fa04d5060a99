"Train as a configuration says, and die at a chosen moment by a real SIGKILL"

import os
import signal
import threading

import torch

from simpsons_cnn.core.config import Config
from simpsons_cnn.networks.reference import SimpsonsCNN
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


def kill_while_writing(kind: str, when: int):
    "Die within the `when`-th file, or beside its rename; other kinds of moments do nothing"
    if kind == "half written":
        kill_at_call("fsync", when, half)
    if kind == "before a rename":
        kill_at_call("replace", when, lambda *_: None)
    if kind == "after a rename":
        kill_at_call("replace", when, None)


def small_network(num_classes: int) -> SimpsonsCNN:
    return SimpsonsCNN(num_classes, channels=(8,) * 6, hidden=(16, 16))


def job(config, moment=None, threads=1):
    "Train, and resume what there is; `moment` is a kind of moment and when"
    torch.set_num_threads(threads)
    kind, when = moment or ("never", 0)
    if kind == "seconds":
        timer = threading.Timer(when, die)
        timer.daemon = True
        timer.start()
    kill_while_writing(kind, when)
    train(Config.load(config), callbacks=[KilledAfter(when if kind == "step" else -1)], resume=True)
