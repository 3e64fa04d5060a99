"What is refused before training, and what is removed before it"

import pytest

from simpsons_cnn.core.config import Config
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.training.prepare import RUN_FILES, check_room, make_output_folders, scan_folders


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    demo_characters(folder / "data/demo", train=8, test=2)
    return folder


@pytest.fixture
def outputs(tmp_path):
    return {key: tmp_path / key.split("_")[1] for key in RUN_FILES}


@pytest.mark.parametrize(
    "name, resume, words",
    [
        ("last.ckpt", False, r"already holds a run \(last.ckpt\); choose other .*, or resume it"),
        ("last.ckpt", True, None),
        ("report.json", False, r"already holds a run \(report.json\); choose other .* overwrite$"),
        ("report.json", True, r"already holds a run \(report.json\); choose other .* overwrite$"),
        ("split.csv", False, r"already holds a run \(split.csv\)"),
        ("split.csv", True, None),  # a run that died before its first checkpoint
    ],
)
def test_a_folder_that_holds_a_run(root, outputs, name, resume, words):
    config = Config.demo(root, **outputs)
    make_output_folders(config)
    (config.out_model_directory / name).touch()
    if words is None:
        make_output_folders(config, resume)
    else:
        with pytest.raises(FileExistsError, match=words):
            make_output_folders(config, resume)
    make_output_folders(Config.demo(root, overwrite=True, **outputs))


def test_an_output_folder_that_is_a_file(root, outputs):
    outputs["out_model_directory"] = root / "data/demo/drawn.json"
    with pytest.raises(OSError, match="choose another output folder"):
        make_output_folders(Config.load(**outputs))


def test_too_little_room(root, outputs):
    config = Config.demo(root, **outputs)
    make_output_folders(config)
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
