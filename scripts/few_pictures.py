"""Folders of few pictures, to try settings as somebody with few pictures would.

python scripts/few_pictures.py RUN TARGET     # for example runs/simpsons-0 runs/few

Of the ten characters with the most pictures, TARGET/10/train, 30/train, 100/train and 400/train
hold so many each, drawn from the training pictures of the finished run RUN, and TARGET/test holds
up to a hundred each of its validation pictures. So no scene is in both. TARGET/valid holds all
validation pictures of all characters. Pictures are hard links.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from simpsons_cnn.core.config import Config

COUNTS = (10, 30, 100, 400)


def link(files, root: Path, folder: Path):
    "Hard links to some files of `root`, each in the folder of its character"
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.link(root / name, path)


def main(run: Path, target: Path):
    root = Config.load(run / "model/config.yaml").traindir
    split = pd.read_csv(run / "model/split.csv", dtype=str)
    folders = split.file.str.split("/").str[0]
    in_train = split.split == "train"
    link(split.file[~in_train], root, target / "valid")
    rng = np.random.default_rng(0)
    for folder in folders[in_train].value_counts().index[:10]:
        files = split.file[in_train & (folders == folder)].to_numpy()
        files = files[rng.permutation(len(files))]
        for count in COUNTS:
            link(files[:count], root, target / str(count) / "train")
        files = split.file[~in_train & (folders == folder)].to_numpy()
        link(files[rng.permutation(len(files))[:100]], root, target / "test")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
