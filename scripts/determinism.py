"""Do two runs make the same bits? The same small training, changed in one way after another.

python scripts/determinism.py [PYTHON ...]   # further interpreters, other versions of PyTorch

Each training has a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

JOB = """
import json, os, sys, torch
import simpsons_cnn as sc
if os.environ.get('THREADS'):
    torch.set_num_threads(int(os.environ['THREADS']))
folders = {f'out_{kind}_directory': sys.argv[2] for kind in ('model', 'graphics', 'inference')}
run = sc.train(sc.Config.demo(sys.argv[1], num_epochs=3, valid=.3, **folders), callbacks=[])
rows = run.history.rows
print(json.dumps(dict(
    torch=torch.__version__,
    first=run.history.first_steps,
    losses=[row['train_loss'] for row in rows],
    accuracy=rows[-1]['accuracy'],
)))
"""
CHANGES = {
    "nothing": {},
    "another seed of hashing": dict(PYTHONHASHSEED="7"),
    "one thread instead of all": dict(THREADS="1"),
    "an older processor (AVX2 only)": dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2"),
}


def train_once(images: Path, python: str = sys.executable, **env) -> dict:
    "Train in a process of its own, and return what it reports"
    with tempfile.TemporaryDirectory() as out:
        command = [python, "-c", JOB, str(images), out]
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def first_difference(a: dict, b: dict) -> str:
    "Where two trainings part, in words"
    for step, (x, y) in enumerate(zip(a["first"], b["first"], strict=True), 1):
        if x["weights"] != y["weights"]:
            return f"other bits from step {step}"
    return "the same bits" if a["losses"] == b["losses"] else "other bits after the first steps"


def compare(name: str, first: dict, other: dict) -> None:
    "Print how a changed training differs from the first"
    at_start = abs(other["first"][0]["loss"] / first["first"][0]["loss"] - 1)
    at_end = abs(other["losses"][-1] / first["losses"][-1] - 1)
    print(
        f"{name}: {first_difference(first, other)}; loss of the first step within {at_start:.1e},"
        f" of the last epoch within {at_end:.1e}; accuracy {other['accuracy']:.3f}"
    )


def main(pythons: list) -> None:
    import simpsons_cnn as sc

    with tempfile.TemporaryDirectory() as folder:
        sc.demo_characters(Path(folder) / "data/demo", train=60, test=2)
        first = train_once(folder)
        print(f"PyTorch {first['torch']}, 3 epochs, final accuracy {first['accuracy']:.3f}")
        for name, env in CHANGES.items():
            compare(name, first, train_once(folder, **env))
        for python in pythons:
            other = train_once(folder, python)
            compare(f"PyTorch {other['torch']}", first, other)


if __name__ == "__main__":
    main(sys.argv[1:])
