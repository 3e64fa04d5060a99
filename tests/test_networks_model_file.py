"Model files that are damaged, crafted or of another program are refused; opening one stays light"

import json
import math
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import older, write_crafted
from safetensors import safe_open
from torch import nn

import simpsons_cnn.core.tensors as tensors
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.networks import model_file
from simpsons_cnn.networks.model_file import load_model, load_reference, load_weights, save_model
from simpsons_cnn.networks.reference import SimpsonsCNN


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return SimpsonsCNN(4, channels=(4, 4, 8, 8, 16, 16), hidden=(8, 8)).eval()


@pytest.fixture(scope="module")
def path(small, tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "small"
    save_model(file, small, list("abcd"), Preprocess(64))
    return file


def damaged(whole: bytes, kind: str, rng: random.Random) -> bytes:
    "A file with bytes flipped, cut out, put in or exchanged; every other time within the header"
    n = len(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    within = header if rng.random() < 0.5 else n
    data = bytearray(whole)
    if kind == "flipped":
        for i in rng.sample(range(within), rng.randint(1, 8)):
            data[i] ^= rng.randint(1, 255)
    if kind == "cut":
        i = rng.randrange(within)
        del data[i : i + rng.randint(1, n - i) if rng.random() < 0.5 else n]
    if kind == "grown":
        i = rng.randrange(within + 1)
        data[i:i] = rng.randbytes(rng.randint(1, 2000))
    if kind == "swapped":
        k = rng.randint(1, 200)
        i = rng.randrange(within - 2 * k)
        j = rng.randrange(i + k, n - k + 1)
        data[i : i + k], data[j : j + k] = data[j : j + k], data[i : i + k]
    return bytes(data)


def test_three_hundred_damaged_files(path, tmp_path):
    "Each is a `ValueError` that names the file: no other error, no model, no pause, no memory"
    whole, rng, file = path.read_bytes(), random.Random(0), tmp_path / "damaged"
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried = 0
    while tried < 300:
        data = damaged(whole, rng.choice(["flipped", "cut", "grown", "swapped"]), rng)
        if data == whole:
            continue  # two stretches that were alike
        file.write_bytes(data)
        with pytest.raises(ValueError, match="damaged' "):
            load_model(file)
        tried += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000  # KiB
    assert time.perf_counter() - start < 60


def test_every_byte_counts(path, tmp_path):
    "Also those that safetensors pads its header with"
    whole = path.read_bytes()
    for i in range(0, len(whole), 97):
        (tmp_path / "damaged").write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(ValueError, match="damaged'"):
            load_model(tmp_path / "damaged")


def test_a_header_longer_than_any_file(path, tmp_path):
    (tmp_path / "long").write_bytes((2**63 - 1).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="cannot hold a header of 9,223,372,036,854,775,807"):
        load_model(tmp_path / "long")


@pytest.mark.parametrize(
    "content",
    [
        b"hello, I am a model",
        b"",
        b"PK" + bytes(500),
        (100000).to_bytes(8, "little") + b"[" * 100000,
    ],
    ids=["text", "empty", "zip", "deep"],
)
def test_files_of_another_kind(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_model(tmp_path / "other")


def test_no_file_and_a_file_of_another_program(tmp_path):
    with pytest.raises(FileNotFoundError, match="No model file at"):
        load_model(tmp_path / "nothing")
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="was not written by save_model"):
        load_model(tmp_path / "other")


@pytest.fixture
def crafted(small, path, tmp_path):
    "Write a file with other tensors, or other entries in the header, and a digest that is right"

    def craft(changed=None, **changes):
        header = json.loads(safe_open(str(path), "pt").metadata()["simpsons_cnn"])
        weights = small.state_dict() | (changed or {})
        return write_crafted(tmp_path / "crafted", weights, header | changes)

    return craft


def test_a_crafted_file_can_be_right(small, crafted):
    bias = "conv_stack.0.bias"
    assert torch.equal(load_model(crafted())[0].state_dict()[bias], small.state_dict()[bias])


HUGE = dict(name="SimpsonsCNN", num_classes=4, channels=[10**7] * 6, hidden=[8, 8])  # 18,000 TB

DEEP = dict(name="ResidualCNN", num_classes=4, channels=[8, 8], blocks=[1, 1], dropout_rate=0.1)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(format_version=7), "format version 7; save_model of this library writes version 2"),
        (dict(classes=["a", "b"]), "names 2 characters for a network of 4"),
        (dict(classes=["a", "b", "c", "a"]), "names 3 characters for a network of 4"),
        (
            dict(architecture=dict(name="Transformer")),
            r"Unknown architecture 'Transformer'; there are OwnNetwork",
        ),
        (dict(architecture={}), "has an incomplete header"),
        (dict(preprocess={"zoom": 2}), "has an incomplete header"),
        (dict(preprocess={"size": 0}), "header that cannot be used: size must be a whole number"),
        (dict(preprocess={"size": 32}), "crop must be at least 64 px each way, got 32"),
        (dict(classes=["a", "b", "c", None]), "classes must be names as text, got None"),
        (dict(classes=[0, 1, 2, 3]), "classes must be names as text, got 0"),
        (dict(classes=["a", {}, "c", "d"]), "classes must be names as text, got {}"),
        (dict(classes=["a", "", "c", "d"]), "classes must be names as text, got ''"),
        (dict(classes=None), "has an incomplete header"),
        (dict(about=None), "has an incomplete header"),
        (dict(architecture=HUGE | dict(dropout_rate=0.1)), r"has shape \(4,\), not \(10000000,\)"),
        (dict(architecture=HUGE | dict(channels=[1] * 10**6)), "1,000,000 blocks for"),
        (dict(architecture=HUGE | dict(channels=[0] * 6)), "does not fit the network"),
        (dict(architecture=HUGE | dict(hidden=[8])), "has an incomplete header"),
        (dict(architecture=DEEP | dict(blocks=[10**9] * 2)), "2,000,000,000 blocks for"),
        (dict(architecture=DEEP | dict(blocks=[-(10**9), 10**9])), "blocks must be 2 numbers of 1"),
        (dict(architecture=DEEP | dict(channels=[10**7] * 2)), "does not fit the network"),
    ],
)
def test_headers_that_make_no_sense(crafted, changes, words):
    with pytest.raises(ValueError, match=words):
        load_model(crafted(**changes))


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"linear_stack.9.weight": torch.ones(2)}, "linear_stack.9.weight is unknown"),
        ({"conv_stack.0.bias": torch.ones(5)}, r"conv_stack.0.bias has shape \(5,\), not \(4,\)"),
        (
            {"conv_stack.0.bias": torch.ones(4).half()},
            "conv_stack.0.bias is torch.float16, not torch.float32",
        ),
        ({"conv_stack.0.bias": torch.full((4,), torch.nan)}, "conv_stack.0.bias is not finite"),
        ({"conv_stack.0.bias": torch.full((4,), torch.inf)}, "conv_stack.0.bias is not finite"),
    ],
    ids=["unknown", "shape", "type", "nan", "inf"],
)
def test_tensors_that_do_not_fit(crafted, changed, words):
    with pytest.raises(ValueError, match=words):
        load_model(crafted(changed))


@pytest.fixture
def little_memory():
    "The test may take 256 MiB of addresses more than the process has now"
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def with_holes(file, header: dict | None, size: int, shapes: dict):
    "Write a file of this size, nearly all of it a hole, whose header claims one more tensor"
    entries = {k: dict(dtype="F32", shape=s, data_offsets=[0, 4]) for k, s in shapes.items()}
    entries["w"] = dict(dtype="U8", shape=[size], data_offsets=[0, size])
    if header is not None:
        entries["__metadata__"] = {"simpsons_cnn": json.dumps(dict(sha256="0" * 64) | header)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + size)
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
@pytest.mark.parametrize(
    "version, gib, words",
    [
        (None, 20, "was not written by save_model"),
        (2, 20, "does not fit the network: w is unknown"),
        (9, 0.3, "is damaged: its content does not match its SHA-256"),
    ],
    ids=["foreign", "misfit", "version"],
)
def test_a_file_larger_than_the_memory(small, path, tmp_path, little_memory, version, gib, words):
    "It is refused for its header, or read in pieces"
    header = json.loads(safe_open(str(path), "pt").metadata()["simpsons_cnn"])
    header = None if version is None else header | dict(format_version=version)
    shapes = {name: list(tensor.shape) for name, tensor in small.state_dict().items()}
    file = with_holes(tmp_path / "huge.safetensors", header, int(gib * 2**30), shapes)
    with pytest.raises(ValueError, match=words):
        load_model(file)


TEMPERATURE = "temperature must be a number from 0.001 to 1,000, got "
MEAN = "mean must be three numbers from 0 to 1, got "


@pytest.mark.parametrize(
    "section, name, value, words",
    [
        ("calibration", "temperature", "hot", f"{TEMPERATURE}'hot'"),
        ("calibration", "temperature", "1.5", f"{TEMPERATURE}'1.5'"),
        ("calibration", "temperature", math.nan, f"{TEMPERATURE}nan"),
        ("calibration", "temperature", math.inf, f"{TEMPERATURE}inf"),
        ("calibration", "temperature", -1, f"{TEMPERATURE}-1"),
        ("calibration", "temperature", 10**400, f"{TEMPERATURE}1000"),
        ("calibration", "temperature", None, f"{TEMPERATURE}None"),
        ("calibration", "temperature", True, f"{TEMPERATURE}True"),
        ("calibration", "temperature", [1], f"{TEMPERATURE}\\[1\\]"),
        ("calibration", "threshold", "0", "threshold must be a finite number, got '0'"),
        ("calibration", "threshold", 10**400, "threshold must be a finite number, got 1000"),
        ("calibration", "threshold", math.nan, "threshold must be a finite number, got nan"),
        ("calibration", "kept", "95 %", "coverage must be a number from 0 to 1, got '95 %'"),
        ("calibration", "pictures", "many", "pictures must be a number from 0 to 1,000,000,000"),
        ("calibration", "ece_after", math.nan, "ece_after must be a number from 0 to 1, got nan"),
        ("calibration", "ece_before", "x", "ece_before must be a number from 0 to 1, got 'x'"),
        ("preprocess", "mean", [0, 0, "x"], MEAN),
        ("preprocess", "mean", [0, 0, math.nan], MEAN),
        ("preprocess", "mean", 0.5, MEAN),
        ("preprocess", "mean", None, MEAN),
        ("preprocess", "std", "abc", "std must be three numbers from 0.001 to 1, got 'abc'"),
        ("preprocess", "size", True, "size must be a whole number from 1 to 4,096, got True"),
        ("preprocess", "crop", "64", "crop must be a whole number from 1 to 64, got '64'"),
        ("architecture", "dropout_rate", math.nan, "dropout_rate must be a number from 0 to 1"),
        ("architecture", "dropout_rate", "0", "dropout_rate must be a number from 0 to 1, got '0'"),
        ("architecture", "num_classes", "4", "num_classes must be whole numbers, got '4'"),
        ("architecture", "channels", [4, "4"], "channels must be whole numbers, got '4'"),
        ("architecture", "hidden", [8.5, 8], "hidden must be whole numbers, got 8.5"),
        ("architecture", "hidden", None, "hidden must be whole numbers, got None"),
    ],
)
def test_numbers_of_a_header(crafted, path, section, name, value, words):
    "Those that the library uses are numbers, and in a range"
    header = json.loads(safe_open(str(path), "pt").metadata()["simpsons_cnn"])
    if section == "calibration":
        changed = dict(about=dict(calibration={name: value}))
    else:
        changed = {section: header[section] | {name: value}}
    with pytest.raises(ValueError, match=f"crafted' .*{words}") as refused:
        Classifier.load(crafted(**changed), "cpu")
    assert "TypeError" not in str(refused.value)


def test_weights_of_another_network(small):
    some = {k: v for k, v in small.state_dict().items() if k != "conv_stack.0.bias"}
    with pytest.raises(ValueError, match="conv_stack.0.bias is missing"):
        load_weights(small, some, "it")
    larger = SimpsonsCNN(42).state_dict()
    with pytest.raises(ValueError, match=r"linear_stack.4.weight has shape \(42, 84\), not \(3, 8"):
        load_weights(SimpsonsCNN(3), larger, "it")


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="classes must be 42 names, got 2"):
        save_model(tmp_path / "x", SimpsonsCNN(42), ["a", "b"], Preprocess())
    with pytest.raises(ValueError, match="classes must be names as text, got 0"):
        save_model(tmp_path / "x", SimpsonsCNN(2), [0, 1], Preprocess())
    with pytest.raises(ValueError, match="Unknown architecture 'Linear'; there are OwnNetwork"):
        save_model(tmp_path / "x", nn.Linear(2, 2), ["a", "b"], Preprocess())
    assert not list(tmp_path.iterdir())


def test_pt_files_that_are_not_the_reference_s(small, tmp_path):
    torch.save(small, tmp_path / "whole.pt")  # reading a whole object would mean running code
    with pytest.raises(ValueError, match="is not a file of plain weights"):
        load_reference(tmp_path / "whole.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="it is not the reference's network"):
        load_reference(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="No weights at"):
        load_reference(tmp_path / "none.pt")


@pytest.mark.skipif(older("torch", "2.11"), reason="import torchvision imports sympy there")
@pytest.mark.parametrize(
    "what",
    [
        "from simpsons_cnn.networks.model_file import load_model; load_model(sys.argv[1])",
        "import simpsons_cnn as sc; sc.Classifier.load(sys.argv[1], 'cpu')",
    ],
    ids=["load_model", "Classifier"],
)
def test_opening_a_model_imports_no_compiler(path, what):
    "PyTorch's compiler takes a second to import with warm caches, and up to ten with cold ones"
    compiler = "[k for k in ('torch._dynamo', 'torch._inductor', 'sympy') if k in sys.modules]"
    code = f"import sys; {what}; print({compiler})"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_model_of_1700_characters_can_be_read_again(tmp_path):
    "With two confusion matrices in its header, as `train` writes them"
    names = [f"character {i}" for i in range(1700)]
    model = SimpsonsCNN(1700, channels=(4, 4, 8, 8, 16, 16), hidden=(8, 8))
    scores = dict(accuracy=0.5, confusion=[[0] * 1700] * 1700)
    save_model(
        tmp_path / "many", model, names, Preprocess(64), dict(validation=scores, test=scores)
    )
    about = load_model(tmp_path / "many")[1]["about"]
    assert [len(about[name]["confusion"]) for name in ("validation", "test")] == [1700, 1700]


def test_a_header_that_could_not_be_read_is_not_written(small, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "_HEADER_LIMIT", 10_000)
    words = "header must be at most 10,000 bytes of JSON, got .*; put what grows into tensors"
    with pytest.raises(ValueError, match=words):
        save_model(tmp_path / "x", small, list("abcd"), Preprocess(64), dict(note="x" * 10_000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["data", "validation", "versions", "logit_adjustment"])
def test_metadata_that_no_reader_could_use(small, tmp_path, monkeypatch, name):
    "Refused when it is written, and when it is read"
    with pytest.raises(ValueError, match=f"{name} must be a dictionary, got 'drawn'"):
        save_model(tmp_path / "x", small, list("abcd"), Preprocess(64), {name: "drawn"})
    monkeypatch.setattr(model_file, "_check_about", lambda about: None)
    save_model(tmp_path / "x", small, list("abcd"), Preprocess(64), {name: "drawn"})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"{name} must be a dictionary, got 'drawn'"):
        load_model(tmp_path / "x")


def test_the_folder_of_a_run_stands_for_its_model(tmp_path):
    for folder in ("one/model", "two", "series/seed_0/model", "series/best/model"):
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / "model.safetensors"
        save_model(path, SimpsonsCNN(2), ["ann", "bob"], Preprocess(64))
        assert load_model(path.parent)[1]["classes"] == ["ann", "bob"]
    assert load_model(tmp_path / "one")[1]["classes"] == ["ann", "bob"]
    with pytest.raises(FileNotFoundError, match="did you mean '.*series/best'?"):
        load_model(tmp_path / "series")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="No model in '.*none'; give a model file"):
        load_model(tmp_path / "none")
