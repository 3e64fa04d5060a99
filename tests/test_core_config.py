"Configuration: mistakes in values, in names, in YAML files, and text that stands for a value"

import os
import re
import sys
from pathlib import Path

import pytest

import simpsons_cnn.core.config as config_page
from simpsons_cnn.core.config import Config, is_split_file, setting_sections

# As a whole, `<<` would begin a shortcode of the site
BOMB = "a0: &a0 {k: 1}\n" + "\n".join(  # 9 to the 9th
    f"a{i + 1}: &a{i + 1} {{{'<' * 2}: [{', '.join([f'*a{i}'] * 9)}]}}" for i in range(9)
)


@pytest.fixture(autouse=True)
def longest_number():
    "Python's own limit of digits: SymPy, which PyTorch imports, lifts it for the whole process"
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(4300)
    yield
    sys.set_int_max_str_digits(before)


@pytest.fixture
def load_text(tmp_path):
    def load(text):
        (tmp_path / "c.yaml").write_text(text)
        return Config.load(tmp_path / "c.yaml")

    return load


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(epoch=3), "Unknown setting 'epoch'; did you mean 'num_epochs'?"),
        (dict(num_epochs=0), "num_epochs must be 1 or more, got 0"),
        (dict(learning_rate=-0.1), "learning_rate must be above 0, got -0.1"),
        (dict(learning_rate=float("nan")), "learning_rate must be a finite number, got nan"),
        (dict(batch_size="many"), "batch_size must be a whole number, got 'many'"),
        (
            dict(size=192, crop_size=80),
            "crop_size must be from 116 to 192 for a size of 192, got 80",
        ),
        (dict(first_crop=96), "first_crop must be at most 80, the side of later crops, got 96"),
        (dict(traindir=""), "traindir must not be empty, got ''"),
        (dict(out_directory=""), "out_directory must not be empty"),
        (dict(seed=True), "seed must not be true or false, got True"),
        (
            dict(monitor="f1"),
            "monitor must be one of 'macro_f1', 'macro_f1_common', 'accuracy', 'valid_loss' or",
        ),
        (dict(transform="vary"), "transform must have the form 'module:function', got 'vary'"),
        (dict(monitor="last", patience=3), "patience waits for a better epoch, and with monitor"),
        (dict(imbalance="focal"), "imbalance must be one of none, auto, weights, balanced_softmax"),
        (dict(imbalance={"otto": 0}), "imbalance must hold weights above 0, got {'otto': 0}"),
        (dict(imbalance={"otto": float("inf")}), "imbalance must hold weights above 0"),
        (dict(imbalance={7: 1.0}), "must hold names as text"),
        (dict(imbalance=3), "imbalance must be one of none"),
        (
            dict(imbalance="auto", class_weights="inverse"),
            "class_weights must be 'none' or left out with imbalance 'auto', got 'inverse'",
        ),
        (
            dict(cutmix=0.8, mixup=0.4),
            "cutmix and mixup must be at most 1 together, got 0.8 and 0.4",
        ),
        (dict(cutmix_rare=True), "cutmix_rare needs cutmix above 0, got 0"),
        (
            dict(num_epochs=10**5000),
            "num_epochs must be 1,000,000 or less, got a value of type int too long to be written",
        ),
        (dict(num_epochs="x" * 10**5), "… (100,002 characters)"),
        (
            dict(num_epochs=0, flip=2, size="big"),
            "size must be a whole number, got 'big'\n"
            "num_epochs must be 1 or more, got 0\n"
            "flip must be 1 or less, got 2",
        ),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Config.load(**settings)


def test_weights_by_name_are_kept(tmp_path):
    config = Config.load(imbalance={"otto": 3, "007": 0.5})
    config.save(tmp_path / "used.yaml")
    assert Config.load(tmp_path / "used.yaml") == config
    assert Config.load(imbalance="weights", class_weights="inverse").class_weights == "inverse"


def test_text_means_a_value():
    text = Config.load(learning_rate="1e-3", skip_unreadable="true", testdir="null")
    assert text == Config.load(learning_rate=0.001, skip_unreadable=True, testdir=None)
    assert text.learning_rate == 0.001 and text.testdir is None
    assert Config.load(size=192, crop_size=116).crop_size == 116


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training_parameter: {seed: 1}",
            "Unknown section 'training_parameter'; did you mean 'training_parameters'?",
        ),
        (
            "model_parameters: {seed: 1}",
            "'seed' belongs under 'training_parameters:', not 'model_parameters:'",
        ),
        ("training_parameters: {epoch: 1}", "Unknown setting 'epoch'; did you mean"),
        ("seed: 1", "Setting 'seed' belongs under 'training_parameters:'"),
        ("training_parameters: 3", "must hold 'setting: value' lines, got 3"),
        ("training_parameters: {seed: 1", "is not a YAML file"),
        ("just some words", "must hold sections"),
        ("[]", "must hold sections"),
        ("false", "must hold sections"),
        (
            "training_parameters: {seed: 2001-99-99}",
            "seed must be a whole number, got '2001-99-99'",
        ),
        ("training_parameters: {seed: " + "9" * 5000 + "}", "c.yaml' is not a YAML file"),
        (
            "training_parameters: {seed: 1}\ntraining_parameters: {num_epochs: 3}",
            "'training_parameters' stands 2 times; keep one of them",
        ),
        ("training_parameters:\n  seed: 1\n  seed: 2\n", "'seed' stands 2 times"),
        ("training_parameters: {imbalance: {moe: 2, moe: 3}}", "'moe' stands 2 times"),
        (BOMB, "'*name' stands for a value written elsewhere; write the value itself"),
        ("[" * 3000, "lists and sections lie more than 20 deep in each other"),
        ("#" * 5 * 10**6, "bytes; expected a configuration file of at most 4,194,304"),
    ],
    ids=lambda value: value[:20],
)
def test_wrong_files(load_text, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_text(text)


@pytest.mark.parametrize("path", [".", "/dev/zero"])
def test_no_files(path):
    with pytest.raises(
        ValueError, match=f"'{path}' is a (folder|pipe or a device); expected a configuration file"
    ):
        Config.load(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="No configuration file at 'nowhere.yaml'"):
        Config.load("nowhere.yaml")


@pytest.mark.parametrize("text", ["", "training_parameters:"])
def test_empty(load_text, text):
    assert load_text(text) == Config()


def test_table():
    table = Config.load(num_epochs=3, split="a|b.csv")._repr_markdown_()
    assert "| `num_epochs` | **3** |" in table and "| `seed` | 0 |" in table
    assert "**a&#124;b.csv**" in table


def test_what_is_saved_can_be_loaded_with_a_weight_for_each_of_many_names(tmp_path):
    "Three thousand names take more than 64 KiB"
    config = Config.load(imbalance={f"character_{i:05}_of_a_series": 1.5 for i in range(3000)})
    config.save(tmp_path / "c.yaml")
    assert Config.load(tmp_path / "c.yaml") == config


def test_names_that_yaml_reads_as_something_else(load_text):
    with pytest.raises(ValueError, match="put a number or a word such as no in quotes"):
        load_text("training_parameters: {imbalance: {123: 2.0}}")
    assert load_text("training_parameters: {imbalance: {'123': 2.0}}").imbalance == {"123": 2.0}


@pytest.mark.parametrize(
    ("text", "read_as"), [("010", 8), ("-0_17", -15), ("1:30", 90), ("1:30.5", 90.5), ("+012", 10)]
)
@pytest.mark.parametrize(
    "line", ["training_parameters: {{num_epochs: {}}}", "dataset_parameters:\n  traindir: {}\n"]
)
def test_octal_and_sexagesimal_numbers(load_text, text, read_as, line):
    "YAML 1.1 reads 010 as 8 and 1:30 as 90"
    with pytest.raises(ValueError, match=re.escape(f"{text} stands for {read_as} in YAML")):
        load_text(line.format(text))


@pytest.mark.parametrize("word", ["off", "no", "On", "yes", "2024-01-02"])
def test_words_and_dates_are_text_where_text_is_meant(load_text, word):
    assert str(load_text(f"dataset_parameters: {{traindir: {word}}}").traindir) == word
    weights = load_text(f"training_parameters: {{imbalance: {{{word}: 2.0}}}}").imbalance
    assert weights == {word: 2.0}


def test_words_are_truth_values_where_these_are_meant(load_text):
    assert load_text("training_parameters: {mixed_precision: off}").mixed_precision == "off"
    for word, meant in dict(no=False, off=False, yes=True, On=True, true=True, FALSE=False).items():
        assert load_text(f"training_parameters: {{refit: {word}}}").refit is meant


def test_usual_numbers(load_text):
    for text in ("10", "0", "0x0a", "1_0", "10.0", "'010'"):
        assert load_text(f"training_parameters: {{seed: {text}}}").seed in (0, 10)


def test_the_home_folder_is_written_out(load_text, monkeypatch):
    "A shell does it, YAML and `--option=~/folder` do not"
    monkeypatch.setenv("HOME", "/home/moe")
    config = load_text("dataset_parameters: {traindir: ~/train, split: ~/split.csv, testdir: ~}")
    assert config.traindir.as_posix() == "/home/moe/train"
    assert config.split == "/home/moe/split.csv" and config.testdir is None
    assert Config.load(runs_directory="~/runs").runs_directory.as_posix() == "/home/moe/runs"
    assert Config.load(split="group", fixes="a/~b").fixes.as_posix() == "a/~b"


def test_a_config_survives_json():
    config = Config.load(traindir="pictures", out_directory="~/runs")
    assert Config.model_validate_json(config.model_dump_json()) == config


PATHS = [name for name in setting_sections() if name == "split" or "dir" in name or name == "fixes"]


class OwnPath:
    "What os.fspath takes, as paths of other libraries are"

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


@pytest.mark.parametrize("name", PATHS)
def test_paths_are_paths_or_text(name):
    assert len(PATHS) == 10
    given = [Path("~/a.csv"), "~/a.csv", OwnPath("~/a.csv")]
    found = {str(getattr(Config.load(**{name: path}), name)) for path in given}
    assert found == {os.path.expanduser("~/a.csv")}
    with pytest.raises(ValueError, match=f"{name} must not be empty, got ''"):
        Config.load(**{name: ""})


def test_the_words_for_a_drawn_split_stand_once():
    "Who asks whether a split is a file asks `is_split_file`"
    package = Path(config_page.__file__).parent.parent
    found = [p.name for p in package.rglob("*.py") if '("group", "random")' in p.read_text("utf-8")]
    assert found == ["config.py"]
    assert [is_split_file(split) for split in ("group", "random", "a.csv")] == [False, False, True]
