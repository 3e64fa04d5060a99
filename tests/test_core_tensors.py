"Files of tensors: every damaged byte, every length, headers that lie, files of others"

import json
import tracemalloc

import pytest
import safetensors.torch
import torch

from simpsons_cnn.core.tensors import DamagedFile, read_tensors, write_tensors

WEIGHTS = dict(a=torch.arange(6.0).view(2, 3), b=torch.tensor(True))


@pytest.fixture
def whole(tmp_path):
    write_tensors(tmp_path / "some", WEIGHTS, dict(format_version=1, note="two of them"))
    return (tmp_path / "some").read_bytes()


def refused(path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        read_tensors(path, 1, "this test")
    except DamagedFile as e:
        return f"{path.name}'" in str(e)
    return False


def test_every_byte(tmp_path, whole):
    changed = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    assert all(refused(tmp_path / "bad", data) for data in changed)


def test_every_length(tmp_path, whole):
    assert all(refused(tmp_path / "bad", whole[:i]) for i in range(len(whole)))
    assert refused(tmp_path / "bad", whole + b"\0")


def with_header(header) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes cannot hold a header of 0"),
        ((2**60).to_bytes(8, "little"), "8 bytes cannot hold a header of 1,152,921"),
        (with_header([1, 2]), "its header cannot be read"),
        (with_header({"a": 1}), "its header cannot be read"),
        (with_header({"a": {"data_offsets": [0, 40]}}) + b"x" * 12, "expected 40 bytes after its"),
        (with_header({"__metadata__": {"simpsons_cnn": "[]"}}), "was not written by this test"),
        (with_header({"__metadata__": {"simpsons_cnn": "{"}}), "was not written by this test"),
    ],
    ids=range(7),
)
def test_headers_that_lie(tmp_path, data, message):
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(DamagedFile, match=message):
        read_tensors(tmp_path / "bad", 1, "this test")


def test_files_of_another_kind(tmp_path, whole):
    message = "has format version 1; this test of this library writes version 2"
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "some", 2, "this test")
    safetensors.torch.save_file(WEIGHTS, tmp_path / "foreign")
    with pytest.raises(DamagedFile, match="was not written by this test"):
        read_tensors(tmp_path / "foreign", 1, "this test")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none", 1, "this test")


def test_a_header_that_was_read_is_written_again(tmp_path, whole):
    write_tensors(tmp_path / "some", *read_tensors(tmp_path / "some", 1, "this test"))
    tensors, header = read_tensors(tmp_path / "some", 1, "this test")
    assert header["note"] == "two of them"
    assert torch.equal(tensors["a"], WEIGHTS["a"])


def test_a_file_is_read_once_into_memory(tmp_path):
    "Its bytes, and the tensors made of them"
    n = 2**22
    write_tensors(tmp_path / "large", dict(a=torch.zeros(n)), dict(format_version=1))
    tracemalloc.start()
    read_tensors(tmp_path / "large", 1, "this test")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * 4 * n
