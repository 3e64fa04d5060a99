"""Do two runs make the same bits? The same small training under one change after another, each in a process of its own.

python scripts/determinism.py [PYTHON ...]      further interpreters, such as one with another version of PyTorch
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

job = """
import json, os, sys, torch
if os.environ.get('THREADS'): torch.set_num_threads(int(os.environ['THREADS']))
from simpsons_cnn.core.config import Config
from simpsons_cnn.training.train import train
folder = sys.argv[1]
run = train(Config.demo(folder, num_epochs=3, valid=.3, **{f'out_{k}_directory': sys.argv[2] for k in ('model','graphics','inference')}), progress='off')
print(json.dumps(dict(torch=torch.__version__, first=run.history.first_steps, losses=[r['train_loss'] for r in run.history.rows], accuracy=run.history.rows[-1]['accuracy'])))
"""


def outcome(pictures, python=sys.executable, **env):
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [python, "-c", job, pictures, out], env=os.environ | env, capture_output=True, text=True
        )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    from simpsons_cnn.demo.characters import demo_characters

    with tempfile.TemporaryDirectory() as folder:
        demo_characters(Path(folder) / "data/demo", train=60, test=2)
        first = outcome(folder)
        changes = {
            "nothing": {},
            "another seed of hashing": dict(PYTHONHASHSEED="7"),
            "one thread instead of all": dict(THREADS="1"),
            "an older processor (AVX2 only)": dict(
                ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2"
            ),
        }
        print(f"PyTorch {first['torch']}, three epochs, final accuracy {first['accuracy']:.3f}")
        for what, env in [
            *changes.items(),
            *((python, dict(python=python)) for python in sys.argv[1:]),
        ]:
            other = outcome(folder, **env)
            steps = [a["weights"] == b["weights"] for a, b in zip(first["first"], other["first"])]
            where = f"PyTorch {other['torch']}" if "python" in env else what
            bits = (
                "the same bits"
                if first["losses"] == other["losses"] and all(steps)
                else f"other bits from step {steps.index(False) + 1}"
                if False in steps
                else "other bits after the fifth step"
            )
            far = abs(other["first"][0]["loss"] / first["first"][0]["loss"] - 1)
            print(
                f"{where}: {bits}; loss of the first step within {far:.1e}, of the last epoch within {abs(other['losses'][-1] / first['losses'][-1] - 1):.1e}; accuracy {other['accuracy']:.3f}"
            )
