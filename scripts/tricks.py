"""What each setting is worth: train the reference's network with one setting changed.

python scripts/tricks.py train [--seeds 0,1,2] [--out runs/tricks] [TRICK …]
python scripts/tricks.py record [--out runs/tricks]     # scores only, for *Which network?*

The settings are those of configs/simpsons-fast.yaml, with smaller pictures and without logit
adjustment (BASE). All runs hold out the same scenes. A run that is there already is not repeated.
"""

import argparse
import json
import subprocess
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent.parent / "nbs/tutorials/results/tricks.csv"
SCORES = ["accuracy", "macro_f1", "macro_f1_common"]
BASE = "--size 96 --crop_size 80 --epochs 16 --imbalance none --monitor macro_f1"
NO_AUGMENTATION = "--crop_scale 1 --crop_aspect 1 --flip 0 --rotation 0"
NO_COLOURS = "--brightness 0 --contrast 0 --colour 0"
TRICKS = {
    "as it is": "",
    "no augmentation": f"{NO_AUGMENTATION} {NO_COLOURS}",
    "logit adjustment": "--imbalance logit_adjustment",
    "balanced softmax": "--imbalance balanced_softmax",
    "weights": "--imbalance weights",
    "inverse weights": "--class_weights inverse",
    "focal loss": "--gamma 2",
    "CutMix": "--cutmix 0.5",
    "Mixup": "--mixup 0.5",
    "TrivialAugment": f"--trivial_augment --rotation 0 {NO_COLOURS}",
    "random erasing": "--erase 0.25",
    "averaged weights": "--weight_averaging 0.998",
    "no label smoothing": "--label_smoothing 0",
    "no growing crops": "--first_crop null",
    "constant learning rate": "--schedule constant --learning_rate 0.001",
    "no weight decay": "--weight_decay 0",
    "larger pictures, fewer epochs": "--size 128 --crop_size 96 --epochs 11",
    "CutMix of rare characters": "--cutmix 0.5 --cutmix_rare",
    "smaller crops": "--crop_scale 0.3",
}


def folder(out: Path, trick: str, seed: int) -> Path:
    return out / f"{trick.replace(', ', '-').replace(' ', '-')}-{seed}"


def train(out: Path, trick: str, seed: int):
    "Train with one trick, unless this has been done; raises `CalledProcessError`"
    run = folder(out, trick, seed)
    if (run / "model/report.json").exists():
        return
    command = ["simpsons_train", "configs/simpsons-fast.yaml"]
    command += [*BASE.split(), *TRICKS[trick].split()]
    command += ["--seed", str(seed), "--split_seed", "0", "--out", str(run), "--overwrite"]
    subprocess.run(command, check=True)


def record(out: Path, seeds: list):
    "Keep the scores of all runs that are there"
    rows = []
    for trick in TRICKS:
        for seed in seeds:
            report = folder(out, trick, seed) / "model/report.json"
            if report.exists():
                scores = json.loads(report.read_text(encoding="utf-8"))["validation"]
                values = {name: scores[name] for name in SCORES}
                rows.append(dict(trick=trick, options=TRICKS[trick], seed=seed, **values))
    pd.DataFrame(rows).round(4).to_csv(RESULTS, index=False)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["train", "record"])
    parser.add_argument("tricks", nargs="*", metavar="TRICK", help="of all: " + ", ".join(TRICKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/tricks"))
    args = parser.parse_intermixed_args()
    if unknown := [name for name in args.tricks if name not in TRICKS]:
        parser.error(f"no trick {unknown[0]!r}; there are {', '.join(TRICKS)}")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    if args.what == "record":
        return record(args.out, seeds)
    for seed in seeds:
        for trick in args.tricks or TRICKS:
            train(args.out, trick, seed)


if __name__ == "__main__":
    main()
