"Near-duplicates: images that have nothing to be recognised by"

import numpy as np
import pytest
from PIL import Image

from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.quality.duplicates import near_duplicates


def make_store(folder, tones):
    for name, tone in tones.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), tone).save(folder / name)
    return PixelStore.build(ImageFiles.scan(folder), 32)


def pairs_of(*stores):
    table = near_duplicates(*stores)
    return list(zip(table.a, table.b, table.kind, strict=True))


def test_equal_files_of_one_tone_are_copies(tmp_path):
    tones = {"a/1.png": 50, "a/2.png": 200, "b/3.png": 50, "b/4.png": 90, "b/5.png": 50}
    store = make_store(tmp_path / "one", tones)
    assert pairs_of(store) == [(0, 2, "copy"), (0, 4, "copy")]
    assert pairs_of(store) == [(0, 2, "copy"), (0, 4, "copy")]  # as it was kept
    other = make_store(tmp_path / "other", {"a/1.png": 90, "b/2.png": 51})
    assert pairs_of(other, store) == [(0, 3, "copy")]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_pair_is_found_once(tmp_path, mirrored):
    noise = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for name, pixels in (("a/1", noise[0]), ("b/2", noise[1]), ("b/3", noise[0])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
        if mirrored and name == "b/3":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(tmp_path / f"{name}.png")
    table = near_duplicates(PixelStore.build(ImageFiles.scan(tmp_path), 64))
    assert table[["a", "b", "mirrored"]].values.tolist() == [[0, 2, mirrored]]


def test_equal_white_files_are_copies(tmp_path):
    "No variance is to be explained, and the damping of the fit leaves a rest"
    store = make_store(tmp_path / "one", {"a/1.png": 255, "a/2.png": 90, "b/3.png": 255})
    table = near_duplicates(store)
    columns = ["a", "b", "kind", "similarity", "max_local_difference"]
    assert table[columns].values.tolist() == [[0, 2, "copy", 1, 0]]


def test_stores_of_two_sizes_are_not_compared(tmp_path):
    store = make_store(tmp_path / "train", {"a/1.png": 50, "b/2.png": 200})
    larger = PixelStore.build(store.files, 48)
    with pytest.raises(ValueError, match="of one size to be compared, got 32 and 48 pixels"):
        near_duplicates(store, larger)
