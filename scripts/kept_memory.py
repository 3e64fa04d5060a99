"""What it brings that freed memory is kept in training: steps with `kept_memory`, and without.

python scripts/kept_memory.py [--architecture residual] [--side 112] [--thread]

Each turn is a process of its own, since memory that one has kept would be there for the next.
The table has seconds a step, and new pages of memory (4 KiB) a step, of each round.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pandas as pd
import torch
from torch.nn import functional as F

import simpsons_cnn as sc
from simpsons_cnn.core.device import kept_memory, pick_dtype


def new_pages() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def one_turn(args, kept: bool) -> dict:
    "Train on a ready batch, after two steps that do not count"
    torch.manual_seed(0)
    device = torch.device("cpu")
    dtype = pick_dtype("auto", device)
    model = sc.create_model(args.architecture, 42).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    xb, yb = torch.randn(args.batch, 3, args.side, args.side), torch.randint(0, 42, (args.batch,))
    xb = xb.to(memory_format=torch.channels_last)
    with kept_memory() if kept else nullcontext():
        for step in range(args.steps + 2):
            if step == 2:
                pages, start = new_pages(), time.perf_counter()
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                logits = model(xb)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), yb).backward()
            optimizer.step()
        seconds = time.perf_counter() - start
    return dict(seconds=seconds / args.steps, pages=(new_pages() - pages) // args.steps)


def turn(args) -> dict:
    "`one_turn`, in this thread or in another"
    kept = args.turn == "kept"
    if not args.thread:
        return one_turn(args, kept)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(one_turn, args, kept).result()


def in_a_process(kept: bool) -> dict:
    command = [sys.executable, *sys.argv, "--turn", "kept" if kept else "usual"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="reference")
    parser.add_argument("--side", type=int, default=80, help="of the pictures, in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    text = "train in a thread of its own, as the dashboard does"
    parser.add_argument("--thread", action="store_true", help=text)
    parser.add_argument("--turn", choices=("kept", "usual"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(turn(args)))
        return
    rows = []
    for _ in range(args.rounds):
        usual, kept = in_a_process(False), in_a_process(True)
        rows.append({f"{name}, usual": value for name, value in usual.items()})
        rows[-1] |= {f"{name}, kept": value for name, value in kept.items()}
    table = pd.DataFrame(rows)
    table["speed, kept over usual"] = table["seconds, usual"] / table["seconds, kept"]
    print(table.round(3).to_string(index=False))
    ratio = table["speed, kept over usual"]
    print(f"median {ratio.median():.3f} ({ratio.min():.3f} to {ratio.max():.3f})")


if __name__ == "__main__":
    main()
