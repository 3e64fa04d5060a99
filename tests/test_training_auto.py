"Settings that are chosen for a folder of pictures"

import numpy as np
import pytest
from PIL import Image

from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.training.auto import _choose_epochs, adapt_config, auto_config, image_sides


def make_pictures(root, characters, each, side):
    "A folder of noise: `each` pictures of each of some characters"
    rng = np.random.default_rng(0)
    for k in range(characters):
        folder = root / f"character_{k:03}"
        folder.mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.mark.parametrize(
    "characters, each, side, chosen",
    [
        (3, 30, 28, dict(batch_size=16, num_epochs=40, size=64, monitor="valid_loss")),
        (3, 5, 96, dict(batch_size=6, num_epochs=40, size=96)),
        (5, 60, 200, dict(batch_size=16, num_epochs=40, size=128)),
        (200, 5, 8, dict(batch_size=16, num_epochs=40, size=64, monitor="macro_f1")),
    ],
)
def test_settings_follow_the_pictures(tmp_path, characters, each, side, chosen):
    config, _ = auto_config(make_pictures(tmp_path / "train", characters, each, side))
    assert {name: getattr(config, name) for name in chosen} == chosen


def test_what_is_given_wins(tmp_path):
    root = make_pictures(tmp_path / "train", 3, 5, 28)
    given = dict(batch_size=4, crop_size=80, monitor="accuracy", testdir=None)
    config, choices = auto_config(root, **given)
    assert {name: getattr(config, name) for name in given} == given
    assert config.size == 96 and not set(given) & {choice.name for choice in choices}


def test_the_test_folder_is_the_sibling(tmp_path):
    root = make_pictures(tmp_path / "train", 2, 2, 28)
    assert auto_config(root)[0].testdir is None
    make_pictures(tmp_path / "test", 2, 1, 28)
    assert auto_config(root)[0].testdir == tmp_path / "test"


def test_a_recipe_keeps_its_licence_for_its_own_pictures(tmp_path):
    root = make_pictures(tmp_path / "train", 3, 5, 28)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "output_parameters: {licence: CC0}\ntraining_parameters: {batch_size: 128}\n"
        f"dataset_parameters: {{traindir: '{root}'}}\n"
    )
    config, _ = adapt_config(recipe)
    assert (config.licence, config.batch_size) == ("CC0", 6)
    config, _ = adapt_config(recipe, traindir=root)
    assert config.licence is None
    config, _ = adapt_config(recipe, traindir=root, licence="MIT", batch_size=3)
    assert (config.licence, config.batch_size) == ("MIT", 3)


@pytest.mark.parametrize("content", ["pictures without folders", "nothing", "somebody unknown"])
def test_a_folder_test_that_is_no_test_is_not_chosen(tmp_path, content):
    "Many data sets call a folder of unsorted pictures so"
    root = make_pictures(tmp_path / "train", 3, 5, 28)
    (tmp_path / "test").mkdir()
    if content != "nothing":
        make_pictures(tmp_path / "test/unknown", 1, 2, 28)
    if content == "pictures without folders":
        (tmp_path / "test/unknown/character_000/0.png").rename(tmp_path / "test/0.png")
    config, choices = auto_config(root)
    reason = next(str(choice) for choice in choices if choice.name == "testdir")
    assert config.testdir is None and reason.startswith("testdir null: 'test' beside")


def test_sides_are_the_shorter_ones_of_pictures_from_the_whole_folder(tmp_path):
    for character, height in (("first", 40), ("last", 70)):
        (tmp_path / character).mkdir()
        for i in range(4):
            Image.new("RGB", (90, height)).save(tmp_path / character / f"{i}.png")
    files = ImageFiles.scan(tmp_path)
    assert image_sides(files, 2).tolist() == [40, 70]


@pytest.mark.parametrize("side, size", [(70, 64), (73, 80), (89, 96)])
def test_the_size_is_the_nearest_multiple_of_sixteen(tmp_path, side, size):
    assert auto_config(make_pictures(tmp_path / "train", 2, 3, side))[0].size == size


def test_the_rate_follows_the_batch_size_that_is_used(tmp_path):
    root = make_pictures(tmp_path / "train", 2, 40, 28)
    rates = [auto_config(root, **given)[0].learning_rate for given in ({}, dict(batch_size=54))]
    assert rates == [0.003, 0.0045]  # of 16 and of 54; the cube root of the ratio


def test_epochs_fall_with_the_cube_root_of_the_number_of_pictures():
    assert [_choose_epochs(n).value for n in (500, 1000, 5000, 10**6)] == [40, 40, 23, 16]


@pytest.mark.parametrize("options, told", [([], True), (["--architecture", "residual"], False)])
def test_many_pictures_are_told_of_a_stronger_network(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.setattr("simpsons_cnn.cli.train._train_run", lambda *_: None)
    monkeypatch.setattr("simpsons_cnn.training.auto._MANY", 6)
    root = make_pictures(tmp_path / "train", 3, 2, 28)
    simpsons_train(["--traindir", str(root), *options])
    assert ("simpsons-strong.yaml with this --traindir" in capsys.readouterr().out) == told
