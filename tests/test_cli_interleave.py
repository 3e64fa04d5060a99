"What `interleave` measures on a machine with GPUs"

from pathlib import Path

import pytest
import torch

from simpsons_cnn.cli.interleave import interleave


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_on_gpus_counts_too(monkeypatch):
    "In use are 100 MiB on each of two GPUs; the part takes 3,000 more on the second for a while"
    used = [100 * 2**20] * 2
    peak = list(used)

    def part():
        peak[1] = max(peak[1], used[1] + 3000 * 2**20)
        return 1

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: peak[gpu])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda gpu: peak.__setitem__(gpu, used[gpu])
    )
    _, memory = interleave(dict(part=part), rounds=2)
    assert memory.part.tolist() == pytest.approx([3000] * 2, abs=25)
