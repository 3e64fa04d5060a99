"Processors that are lent: affinity, and control groups of both versions"

import os
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from simpsons_cnn.core import device
from simpsons_cnn.core.device import make_generator, num_workers, seeded_generators, worker_pool

V1 = "4:memory:/a\n1:cpu,cpuacct:/docker/abc\n0::/"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    "A function that lends processors, by files of control groups and by affinity"

    def lend(membership: str, files: dict, affinity: int = 8):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
        monkeypatch.setattr(device, "Path", lambda name: tmp_path / str(name).lstrip("/"))

    return lend


@pytest.mark.parametrize(
    "membership, files, affinity, expected",
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 8, 2),
        ("0::/", {"cpu.max": "max 100000\n"}, 8, 8),
        ("0::/", {"cpu.max": "50000 100000\n"}, 8, 1),
        ("0::/a/b", {"a/cpu.max": "350000 100000", "a/b/cpu.max": "max 100000"}, 8, 3),
        ("0::/a/b", {"cpu.max": "100000 100000"}, 8, 1),  # a container that shows its own root
        ("0::/", {"cpu.max": "400000 100000"}, 2, 2),
        ("0::/", {}, 3, 3),
        ("", {}, 3, 3),
        ("0::/", {"cpu.max": "nonsense"}, 3, 3),
        (
            V1,
            {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "1"},
            8,
            8,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8, 2),
    ],
)
def test_processors_that_are_lent(machine, membership, files, affinity, expected):
    machine(membership, files, affinity)
    assert num_workers() == expected
    with worker_pool() as pool:
        assert pool._max_workers == expected


def test_apples_random_numbers_follow_from_the_seed(monkeypatch):
    "MPS cannot be run here: its functions are recorded"
    said = []
    for name, answer in dict(get_rng_state="before", set_rng_state=None, manual_seed=None).items():

        def called(*args, name=name, answer=answer):
            said.append((name, *args))
            return answer

        monkeypatch.setattr(torch.mps, name, called)
    with pytest.raises(KeyError), seeded_generators(7, torch.device("mps")):
        raise KeyError
    assert said == [("get_rng_state",), ("manual_seed", 7), ("set_rng_state", "before")]


def test_parts_of_a_batch_share_the_numbers_of_python_and_numpy_alone():
    drawn = []
    for part in (0, 1, 2):
        before = torch.get_rng_state()
        with seeded_generators(7, part=part):
            drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
        assert torch.equal(torch.get_rng_state(), before)
    ours, numpys, pythons = map(set, zip(*drawn, strict=True))
    assert (len(ours), len(numpys), len(pythons)) == (3, 1, 1)


@pytest.mark.parametrize("seed", [None, "3", True, 1.5, -1])
def test_a_seed_is_a_whole_number(seed):
    "NumPy would take '3' for 3, and True for 1"
    with pytest.raises(ValueError, match="seed must be a whole number of 0 or more, got"):
        make_generator(seed, "order")


def test_bfloat16_is_asked_of_the_device_that_computes(monkeypatch):
    "In a machine with an old GPU beside a new one"
    current = [0]

    @contextmanager
    def chosen(gpu):
        current.append(gpu.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1] == 1)
    found = [device.pick_dtype("auto", torch.device("cuda", i)) for i in (0, 1)]
    assert found == [None, torch.bfloat16]
