"""What the order of an epoch is worth: pictures a second from a disk, and the score.

python scripts/epoch_order.py reading FOLDER   # writes half a GiB there, on the disk in question
python scripts/epoch_order.py score            # on drawn characters

`reading`: pictures of 96 pixels in the order `random`, in `local`, and in `local` with each window
asked for beforehand, as `Batches` does. warm: all of the file is in
memory. cold: none of it is at first. small memory: again and again none of it is, after as many
pictures as a window holds, as it is with a store many times larger than memory. A virtual machine
may still read from the memory of its host. `score`: accuracy of a small training in the random
order and in two that are local, with fewer blocks in a window than the library's own 256.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from simpsons_cnn.core.device import make_generator
from simpsons_cnn.data.augment import Augment
from simpsons_cnn.data.batches import Batches, local_order
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.data.shards import read_ahead
from simpsons_cnn.data.store import PixelStore, open_memmap
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.networks.presets import create_model
from simpsons_cnn.training.loop import fit

BATCH, WINDOW = 128, 2048  # a file of half a GiB holds ten such windows
MODES = {"warm": 0, "cold": 10**9, "small memory": WINDOW}  # pictures until memory is empty again


def write_array(path: Path, n: int):
    "An array of noise, which no file system makes smaller"
    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (n, 96, 96, 3))
    for rows in np.array_split(np.arange(n), n // 1000 + 1):
        array[rows] = rng.integers(0, 256, (len(rows), 96, 96, 3), np.uint8)
    array.flush()


def forget(path: Path):
    "Take a file that nobody maps out of the memory of the system"
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_mib() -> float:
    "What this process has read from disks so far"
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock / 2048


def read(path: Path, order: torch.Tensor, ahead: bool, until_empty: int) -> tuple:
    "Read a file in an order, batch by batch; seconds, and MiB from the disk"
    seconds, before = 0.0, disk_mib()
    for part in order.split(until_empty or len(order)):
        if until_empty:
            forget(path)
        start = time.perf_counter()
        store = PixelStore(None, open_memmap(path), Preprocess(), path=path)
        for window in part.split(WINDOW):
            read_ahead(store, window if ahead else window[:0])
            for rows in window.split(BATCH):
                store.pixels[rows]
        del store
        seconds += time.perf_counter() - start
    return seconds, disk_mib() - before


def compare_reading(folder: Path, n: int, rounds: int):
    path = folder / "epoch order.npy"
    try:
        write_array(path, n)
        rng = make_generator(0, "orders")
        local = local_order(n, rng, window=WINDOW)
        ways = {
            "random": (torch.randperm(n, generator=rng), False),
            "local": (local, False),
            "local, asked for": (local, True),
        }
        print(f"{n:,} pictures, {n * 96 * 96 * 3 / 2**20:,.0f} MiB")
        read(path, local, False, 0)
        for mode, until_empty in MODES.items():
            found = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    found[name].append(read(path, *way, until_empty))
            for name, results in found.items():
                rates = sorted(n / seconds for seconds, _ in results)
                mib = statistics.median(mib for _, mib in results)
                print(
                    f"{mode:>12} {name:>16}: {statistics.median(rates):8,.0f} pictures/s "
                    f"({rates[0]:,.0f} to {rates[-1]:,.0f}), {mib:8,.0f} MiB from the disk"
                )
    finally:
        path.unlink(missing_ok=True)


class LocalBatches(Batches):
    "Batches in a local order with other blocks and windows"

    sizes = (32, 8192)

    def epoch_order(self, epoch: int) -> torch.Tensor:
        rng = make_generator(self.seed, "order", epoch)
        return self.indices[local_order(len(self.indices), rng, *self.sizes)]


def accuracy(stores: tuple, sizes, seed: int, epochs: int) -> float:
    "Train on one store in an order and judge on the other; share of right answers"
    train, valid = stores
    kind = Batches if sizes is None else type("Local", (LocalBatches,), dict(sizes=sizes))
    train_dl = kind(train, batch_size=32, augment=Augment(), seed=seed, device="cpu")
    model = create_model("reference", len(train.classes), seed)
    how = dict(num_epochs=epochs, first_crop=None, monitor="last", callbacks=[])
    history = fit(model, train_dl, Batches(valid, batch_size=64, device="cpu"), **how)
    return history.rows[-1]["accuracy"]


def compare_scores(pictures: int, seeds: int, epochs: int):
    with tempfile.TemporaryDirectory() as tmp:
        drawn = demo_characters(Path(tmp) / "demo", train=pictures, test=pictures)
        train = ImageFiles.scan(drawn / "train")
        test = ImageFiles.scan(drawn / "test", classes=train.classes)
        stores = PixelStore.build(train, size=64), PixelStore.build(test, size=64)
        orders = {"random": None, "32 blocks of 4": (4, 128), "8 blocks of 16": (16, 128)}
        print(f"{len(train)} pictures of {len(train.classes)} characters, {epochs} epochs")
        found = {name: [] for name in orders}
        for seed in range(seeds):
            for name, sizes in orders.items():
                found[name].append(accuracy(stores, sizes, seed, epochs))
        for name, values in found.items():
            each = ", ".join(f"{value:.3f}" for value in values)
            print(f"{name:>14}: accuracy {statistics.mean(values):.3f} ({each})")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    reading = what.add_parser("reading")
    reading.add_argument("folder", type=Path)
    reading.add_argument("--pictures", type=int, default=20_000)
    reading.add_argument("--rounds", type=int, default=3)
    score = what.add_parser("score")
    score.add_argument("--pictures", type=int, default=60, help="of each character")
    score.add_argument("--seeds", type=int, default=3)
    score.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    if args.what == "reading":
        compare_reading(args.folder, args.pictures, args.rounds)
    else:
        compare_scores(args.pictures, args.seeds, args.epochs)


if __name__ == "__main__":
    main()
