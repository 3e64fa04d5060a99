"What is refused before training, and what is removed before it"

import numpy as np
import pytest

from simpsons_cnn.core.config import Config
from simpsons_cnn.core.run_folders import RUN_FILES
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.training.prepare import (
    certainty,
    check_room,
    prepare,
    scan_folders,
)
from simpsons_cnn.training.train import _with_all_images


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    demo_characters(folder / "data/demo", train=8, test=2)
    return folder


@pytest.fixture
def outputs(tmp_path):
    return {key: tmp_path / key.split("_")[1] for key in RUN_FILES}


@pytest.mark.parametrize("order, shuffle", [("random", True), ("local", "local")])
def test_the_order_of_the_settings_is_that_of_the_batches(root, order, shuffle):
    config = Config.demo(root, size=64, batch_size=30, testdir=None, order=order)
    data = prepare(config, *scan_folders(config))
    assert data.train_dl.shuffle == _with_all_images(data).train_dl.shuffle == shuffle
    assert data.valid_dl.shuffle is False


def test_too_little_room(root, outputs):
    config = Config.demo(root, **outputs)
    config.out_model_directory.mkdir()
    with pytest.raises(OSError, match="A run with its checkpoints and its model needs 6,485,111.1"):
        check_room(config, 10**9)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (dict(split="grouped"), FileNotFoundError, "got 'grouped', which is no file"),
        (dict(traindir="no"), FileNotFoundError, "No folder"),
        (dict(testdir="no"), FileNotFoundError, "No folder"),
        (dict(fixes="none.csv"), FileNotFoundError, "No file of fixes"),
        (dict(batch_size=70), ValueError, "batch_size must be at most"),
    ],
)
def test_settings_that_do_not_fit_the_folders(root, changes, error, words):
    with pytest.raises(error, match=words):
        scan_folders(Config.demo(root, **dict(batch_size=30) | changes))


@pytest.mark.parametrize(
    "folders, words",
    [
        (dict(out_directory="train/run"), "'train/run' lies in 'train', which is searched"),
        (dict(out_directory="test"), "'test' lies in 'test', which is searched for pictures"),
        (dict(out_graphics_directory="x/../train/g"), "'x/../train/g' lies in 'train'"),
        (dict(runs_directory="train/runs"), "'train/runs' lies in 'train'"),
        (dict(runs_directory="train/r", out_graphics_directory="g"), "'train/r' lies in 'train'"),
        (dict(store_directory="train/pixels"), "'train/pixels' lies in 'train'"),
        (dict(out_directory="run", runs_directory="train/runs"), ""),
        (dict(store_directory="train/.pixels"), ""),
        (dict(out_directory="."), ""),
        (dict(out_directory="train2"), ""),
    ],
)
def test_results_are_no_characters(root, tmp_path, monkeypatch, folders, words):
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test"):
        (tmp_path / name).symlink_to(root / "data/demo" / name)
    config = Config.load(traindir="train", testdir="test", batch_size=8, **folders)
    if not words:
        assert len(scan_folders(config)[0]) == 80
        return
    with pytest.raises(ValueError, match=words):
        scan_folders(config)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test", "train"]


def test_near_duplicates_make_a_score_less_sure():
    "At worst each of 25 scenes is right or wrong as a whole: 200 pictures say what 25 would"
    alone, scenes = np.arange(200), np.arange(200) // 8
    assert certainty(alone) == "200 validation pictures: expect an accuracy within ±7 points"
    assert certainty(scenes) == (
        "200 validation pictures in 25 groups of near-duplicates:\n  expect an accuracy within ±20"
        " points"
    )
    rng = np.random.default_rng(0)
    shares = [np.repeat(rng.integers(0, 2, 25), 8).mean() for _ in range(2000)]
    assert 0.93 < np.mean(np.abs(np.array(shares) - 0.5) <= 0.20) < 0.97


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            dict(valid=0.99999, batch_size=64),
            "0 of 80 with valid 0.99999, got 64; lower batch_size or val",
        ),
        (
            dict(valid=0.5, batch_size=41),
            "40 of 80 with valid 0.5, got 41; lower batch_size or valid",
        ),
        (
            dict(valid=0.5, batch_size=81),
            "number of training pictures, 40 of 80 with valid 0.5, got 81",
        ),
    ],
)
def test_too_few_pictures_are_left_to_train_on(root, changes, words):
    "The message names the setting that leaves too few"
    with pytest.raises(ValueError, match=words):
        scan_folders(Config.demo(root, **changes))


def test_a_split_file_decides_how_many_are_left(root, tmp_path):
    (tmp_path / "split.csv").touch()
    files, _ = scan_folders(Config.demo(root, split=tmp_path / "split.csv", batch_size=79))
    assert len(files) == 80


@pytest.mark.parametrize("changes", [dict(split="random", valid=0.05), {}])
def test_what_is_said_of_the_scores_is_no_wider_than_a_terminal(root, changes):
    config = Config.demo(root, size=64, batch_size=30, testdir=None, **changes)
    first, *lines = repr(prepare(config, *scan_folders(config))).splitlines()
    assert any(" more" in line for line in lines)
    assert max(len(line) for line in lines) <= 80
