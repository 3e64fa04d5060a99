"Splits: rules that cannot be met, and split files that are damaged, partial or from elsewhere"

import shutil
import unicodedata
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.quality.split import (
    load_split,
    make_split,
    read_split,
    save_split,
    split_by_group,
    split_per_character,
)


@pytest.mark.parametrize("valid", [15, 0, 1, -0.1, float("nan")])
def test_valid_is_a_share(valid):
    for work in (
        lambda: split_per_character([0, 0, 1, 1], valid),
        lambda: split_by_group([0, 0, 1, 1], [0, 1, 2, 3], valid),
    ):
        with pytest.raises(ValueError, match=f"valid must be between 0 and 1, got {valid}"):
            work()


def test_nothing_to_hold_out():
    with pytest.raises(ValueError, match="No character has two pictures"):
        split_per_character([0, 1, 2])
    with pytest.raises(ValueError, match="No group can be held out"):
        split_by_group([0, 0, 1, 1], [0, 0, 1, 1])


def test_as_many_groups_as_pictures():
    with pytest.raises(ValueError, match="a number for each of the 1,000 pictures, got 3"):
        split_by_group([0] * 1000, [0, 1, 2])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    return ImageFiles.scan(demo_characters(folder / "demo", train=6, test=1) / "train")


@pytest.fixture
def table(files, tmp_path):
    groups = np.arange(len(files)) // 2
    _, valid_idx = split_by_group(files, groups, 0.3)
    return save_split(tmp_path / "split.csv", files, groups, valid_idx)


CHANGED = {
    "columns 'file' and 'split', got 'file', 'group'": lambda t: t[["file", "group"]],
    "says nothing of 1 of 60 pictures": lambda t: t[1:],
    "more than once": lambda t: pd.concat([t, t[:1]]),
    "did you mean 'valid'": lambda t: t.assign(split="val"),
    "both 'train' and 'valid' are needed": lambda t: t.assign(split="train"),
}


@pytest.mark.parametrize("message", CHANGED)
def test_a_split_that_does_not_fit(files, table, tmp_path, message):
    CHANGED[message](table).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(ValueError, match=message):
        load_split(tmp_path / "bad.csv", files)


DAMAGED = {
    b"\xff\xfe\x00": "is not a split file",
    b"file,split\nmoe/1.jpg,train,more\n": "its lines hold different numbers of values",
    b'file,split\n"moe/1.jpg,train\n': "is not a split file",
    b"": "is not a split file: it is empty",
    b"\n\n": "is not a split file: it is empty",
}


@pytest.mark.parametrize("data", DAMAGED)
def test_a_file_that_is_no_table(files, tmp_path, data):
    (tmp_path / "bad.csv").write_bytes(data)
    with pytest.raises(ValueError, match=DAMAGED[data]):
        load_split(tmp_path / "bad.csv", files)


def test_no_file(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="No split file"):
        load_split(tmp_path / "none.csv", files)
    rule = "is a folder, a device or longer than 268,435,456 bytes; expected a split file"
    with pytest.raises(ValueError, match=rule):
        load_split(tmp_path, files)


def test_a_header_alone(tmp_path):
    (tmp_path / "bad.csv").write_text("file,split\n")
    assert read_split(tmp_path / "bad.csv") == {"file": (), "split": ()}


@pytest.mark.parametrize(("written", "now"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_form(tmp_path, written, now):
    "macOS and Linux write é differently; a split of one works on the other"
    for form in (written, now):
        for character in ("a", "b"):
            for i in range(2):
                name = unicodedata.normalize(form, f"é{i}.png")
                (tmp_path / form / character).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8)).save(tmp_path / form / character / name)
    was, moved = (ImageFiles.scan(tmp_path / form) for form in (written, now))
    assert was.names != moved.names
    save_split(tmp_path / "split.csv", was, range(4), [1, 3])
    assert load_split(tmp_path / "split.csv", moved)[1].tolist() == [1, 3]


def test_exact_names_come_first(tmp_path):
    "Two files whose names differ in their Unicode form only are two images"
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    for character in ("a", "b"):
        (tmp_path / "train" / character).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (8, 8)).save(tmp_path / "train" / character / name)
    files = ImageFiles.scan(tmp_path / "train")
    save_split(tmp_path / "split.csv", files, range(4), [1, 2])
    assert load_split(tmp_path / "split.csv", files)[1].tolist() == [1, 2]


def test_a_character_of_one_picture_many_times(files, tmp_path):
    "They cannot all be on one side, and the split says so"
    for character in ("a", "b"):
        (tmp_path / "same" / character).mkdir(parents=True)
    for i in range(20):
        shutil.copy(files.paths[i], tmp_path / "same/a")
        shutil.copy(files.paths[-1], tmp_path / f"same/b/{i}.jpg")
    store = PixelStore.build(ImageFiles.scan(tmp_path / "same"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make_split(store)
    assert "Near-duplicate pairs on both sides of the split" in str(told[0].message)
