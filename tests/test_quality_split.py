"Splits: rules that cannot be met, and split files that are damaged, partial or from elsewhere"

import shutil
import unicodedata
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.quality.duplicates import group_pictures, near_duplicates
from simpsons_cnn.quality.split import (
    _rebalance,
    load_split,
    make_split,
    read_split,
    save_split,
    split_by_group,
    split_differences,
    split_per_character,
    split_table,
    warn_of_torn_pairs,
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
    with pytest.raises(ValueError, match="groups must be one for each of 1,000 pictures"):
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
    "into 'train'; both 'train' and 'valid' are needed": lambda t: t.assign(split="train"),
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
    b"file,split,split\nmoe/1.jpg,train,valid\n": "'split' stands twice in its first line",
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
    with pytest.raises(ValueError, match="is a folder; expected a split file"):
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


def test_a_random_split_is_random_and_follows_from_its_seed():
    labels = np.repeat([0, 1], 40)
    first, again, other = (split_per_character(labels, 0.25, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, [*range(10), *range(40, 50)])  # the first of each
    assert np.array_equal(first, np.sort(first)) and (labels[first] == 0).sum() == 10


def test_each_character_of_two_pictures_is_judged_and_taught():
    labels = np.repeat([0, 1, 2], [3, 2, 1])
    train_idx, valid_idx = split_per_character(labels, 0.1)
    assert labels[valid_idx].tolist() == [0, 1] and {*labels[train_idx]} == {0, 1, 2}
    assert labels[split_per_character(labels, 0.99)[0]].tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(8))
def test_what_another_character_holds_out_counts(seed):
    "Forty pictures of the second character lie in a group that the first one may hold out"
    labels = np.repeat([0, 1, 0, 1], [6, 40, 6, 60])
    groups = np.concatenate([np.zeros(46), np.ones(6), 2 + np.arange(60) // 6]).astype(int)
    _, valid_idx = split_by_group(labels, groups, 0.4, seed)
    assert (labels[valid_idx] == 1).sum() / 100 == pytest.approx(0.4, abs=0.03)


def test_one_smallest_group_is_moved_to_the_side_that_lacks_one():
    held_out = {0: False, 1: False, 2: False}
    _rebalance({0: {0: 5, 1: 1, 2: 5}}, held_out)
    assert held_out == {0: False, 1: True, 2: False}


@pytest.mark.parametrize("seed", [158, 176, 177, 235, 265, 367, 382, 385])
def test_groups_are_moved_in_exchange_for_others(seed):
    "Six characters in eight groups, most of which show several of them; a split is possible"
    shows = np.random.default_rng(seed).random((8, 6)) < 0.35
    labels, groups = np.nonzero(shows)[::-1]
    held_out = set(groups[split_by_group(labels, groups, 0.15, seed)[1]])
    for label in np.unique(labels):
        own = set(groups[labels == label])
        assert own - held_out and (len(own) == 1 or own & held_out)


def test_no_group_is_moved_that_another_character_needs_where_it_is():
    held_out = {0: False, 1: False, 2: True}
    _rebalance({0: {0: 1, 1: 5}, 1: {0: 3, 2: 3}}, held_out)
    assert held_out == {0: False, 1: True, 2: True}


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("sha256", "0" * 64, "1 changed"),
        ("character", "nobody", "1 with another character"),
        ("split", "elsewhere", "1 on the other side of the split"),
        ("file", "nobody/1.jpg", "1 added"),
    ],
)
def test_each_kind_of_difference_is_said(table, column, value, message):
    now = table.copy()
    now.loc[0, column] = value
    assert split_differences(table, table) == ""
    assert split_differences(table, now).startswith(message)


def test_a_split_file_from_excel(files, table, tmp_path):
    "It begins with a byte order mark, and its last line may lack an end"
    path = tmp_path / "split.csv"
    expected = load_split(path, files)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip())
    assert all(np.array_equal(a, b) for a, b in zip(load_split(path, files), expected, strict=True))
    same_group = np.subtract.outer(expected[2], expected[2]) == 0
    assert np.array_equal(same_group, np.subtract.outer(*[np.arange(60) // 2] * 2) == 0)


@pytest.mark.parametrize("sides, torn", [([0, 1], True), ([1, 1], False), ([0, 0], False)])
def test_near_duplicates_on_both_sides_are_warned_of(sides, torn):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_torn_pairs(pd.DataFrame(dict(a=[0], b=[1])), np.array(sides))
    assert [str(w.message).startswith("Near-duplicate pairs") for w in said] == [True] * torn


def test_share_and_seed_reach_the_split(files):
    store = PixelStore.build(files, 32)
    groups, _ = group_pictures(near_duplicates(store), store.labels)
    for how, split in (
        ("random", lambda seed: split_per_character(store.labels, 0.4, seed)[1]),
        ("group", lambda seed: split_by_group(store.labels, groups, 0.4, seed)[1]),
    ):
        found = [make_split(store, how, 0.4, seed)[1] for seed in (0, 1)]
        assert not np.array_equal(*found)
        assert all(np.array_equal(found[seed], split(seed)) for seed in (0, 1))


def test_a_blank_group_is_none(files, table, tmp_path):
    "Images without a group are not one group"
    table["group"] = table["group"].astype(str).where(table["group"] < 5, "")
    table.loc[20, "group"] = " "
    table.to_csv(tmp_path / "blank.csv", index=False)
    groups = load_split(tmp_path / "blank.csv", files)[2]
    named = int((table["group"].str.strip() != "").sum())
    assert len(set(groups)) == 5 + len(files) - named
    assert len(set(groups[:named])) == 5


@pytest.mark.parametrize("kind", ["mask", "list of bools", "series", "tensor"])
def test_validation_rows_may_be_a_mask(files, kind):
    _, rows = split_per_character(files, 0.3)
    mask = np.isin(np.arange(len(files)), rows)
    series = pd.Series(mask, index=np.arange(len(files))[::-1])
    kinds = {"mask": mask, "list of bools": mask.tolist(), "series": series, "tensor": rows}
    valid_idx = torch.tensor(rows) if kind == "tensor" else kinds[kind]
    expected = split_table(files, np.arange(len(files)), rows)
    pd.testing.assert_frame_equal(split_table(files, range(len(files)), valid_idx), expected)


@pytest.mark.parametrize("valid_idx", [[0, 99], [1.0, 2.0], ["1"], [True]])
def test_rows_that_there_are_not(files, tmp_path, valid_idx):
    with pytest.raises(IndexError):
        save_split(tmp_path / "s.csv", files, np.arange(len(files)), valid_idx)
    assert not (tmp_path / "s.csv").exists()


def test_groups_go_by_position_whatever_their_index(files):
    "The column of a table that was sorted or filtered has an index of its own"
    groups = np.arange(len(files)) // 2
    for index in (groups[::-1], np.arange(len(files)) + 100):
        found = split_table(files, pd.Series(groups, index=index), [0, 1]).group
        assert found.tolist() == groups.tolist()


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
@pytest.mark.parametrize("name", ["a", 1])
def test_a_picture_without_a_group(files, missing, name):
    groups = [name] * (len(files) - 1) + [missing]
    for work in (split_by_group, lambda *args: split_table(*args, [0])):
        with pytest.raises(ValueError, match="groups must have a value for each .* NaN or None"):
            work(files, groups)


@pytest.mark.parametrize("seed", [None, -1, 1.5, "0", True])
def test_the_seed_of_a_split_is_a_whole_number(files, seed):
    "With `None`, NumPy would make another split each time"
    for work in (
        lambda: split_per_character(files, seed=seed),
        lambda: split_by_group(files, np.arange(len(files)), seed=seed),
    ):
        with pytest.raises(ValueError, match="seed must be a whole number of 0 or more, got"):
            work()


@pytest.mark.parametrize("labels", [[[0, 1], [1, 0]], [0, None, 1], 3])
def test_labels_of_a_split_are_one_for_each_picture(labels):
    with pytest.raises((TypeError, ValueError)) as told:
        split_per_character(np.array(labels) if labels != 3 else labels)
    assert labels == 3 or "labels must " in str(told.value)
    with pytest.raises(ValueError, match="No character has two pictures"):
        split_per_character([])
