"What all commands share: the message and the exit code of each error, options, and targets"

import contextlib
import io
import os
import sys

import pytest
import torch

from simpsons_cnn.cli.common import (
    CommandParser,
    add_network,
    check_makeable,
    check_target,
    make_out_folder,
    open_classifier,
    print_next,
    tidy_errors,
)
from simpsons_cnn.core.config import network_names


def outcome_of(error):
    @tidy_errors
    def command():
        raise error

    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(BaseException) as caught:
        command()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 6.11 GiB for an array"),
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2 bytes"),
        RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_out_of_memory(error):
    found = outcome_of(error)
    assert isinstance(found, SystemExit) and "ran out of memory; lower batch_size" in found.code


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes"), KeyError("x")])
def test_bugs_keep_their_traceback(error):
    assert outcome_of(error) is error


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_a_command_leaves_nothing_behind(monkeypatch, chosen):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))

    @tidy_errors
    def command():
        print("マージ")
        return os.environ["OMP_WAIT_POLICY"]

    assert command() == (chosen or "PASSIVE")
    assert os.environ.get("OMP_WAIT_POLICY") == chosen
    assert sys.stdout.errors == "strict"
    assert sys.stdout.buffer.getvalue().startswith(b"\\u30de")


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("no such thing"), "error: no such thing"),
        (FileNotFoundError("No folder '\x1b[2K'"), r"error: No folder '\x1b[2K'"),
        (FloatingPointError("nan"), "error: nan"),
        (ModuleNotFoundError("No module"), "error: No module"),
        (RuntimeError("CUDA out of memory"), "error: the device ran out of memory; lower batch_"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(error, message):
    found = outcome_of(error)
    assert isinstance(found, SystemExit) and found.code.startswith(message)


def test_ctrl_c_has_the_exit_code_of_shells():
    assert outcome_of(KeyboardInterrupt()).code == 130


# options


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--versio", "unknown option --versio; did you mean --version?"),
        ("--batch=3", "unknown option --batch; did you mean --batch_size?"),
        ("--batchsize=3", "unknown option --batchsize; did you mean --batch_size?"),
        ("--xyz", "unknown option --xyz; see simpsons_demo --help"),
        ("a.jpg", "unexpected argument 'a.jpg'; see simpsons_demo --help"),
        ("--batch_size=x", "argument --batch_size: invalid int value: 'x'"),
        ("--batch_size=", "an argument is empty, --batch_size=; is a variable not set?"),
        ("", "an argument is empty; is a variable not set?"),
    ],
)
def test_a_wrong_option_is_one_line(capsys, argument, message):
    parser = CommandParser("simpsons_demo", "Show what a parser does")
    parser.add_argument("--batch_size", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([argument])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_network_is_registered_before_the_model_is_looked_for():
    parser = CommandParser("simpsons_show", "Show a model")
    parser.add_argument("model")
    add_network(parser)
    args = parser.parse_args(["none", "--network", "unseen=torchvision.models:resnet18"])
    with pytest.raises(FileNotFoundError, match="No model file at 'none'"):
        open_classifier(args)
    assert "unseen" in network_names()


# what a command writes


@pytest.mark.parametrize(
    "name, overwrite, error, message",
    [
        ("there.csv", False, FileExistsError, "exists; name another --csv or pass --overwrite"),
        ("no/x.csv", False, FileNotFoundError, "No folder '.*no' to write 'x.csv' to"),
        ("no/x.csv", True, FileNotFoundError, "No folder '.*no' to write 'x.csv' to"),
        (".", True, FileExistsError, "is a folder or a device"),
    ],
)
def test_a_file_that_cannot_be_written(tmp_path, name, overwrite, error, message):
    (tmp_path / "there.csv").write_text("")
    with pytest.raises(error, match=message):
        check_target(tmp_path / name, overwrite, "name another --csv")


@pytest.mark.parametrize("option", ["--out", "--store_directory"])
def test_a_folder_that_cannot_be_made_is_said_before_the_work(tmp_path, monkeypatch, option):
    "With the name of the option that gave it"
    (tmp_path / "there.csv").write_text("")
    check_makeable(tmp_path / "new/deeper", option)
    assert not (tmp_path / "new").exists()
    with pytest.raises(NotADirectoryError, match=f"there.csv' is a file; name another {option}$"):
        check_makeable(tmp_path / "there.csv/new", option)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=f"Cannot write to .*; name another {option}$"):
        check_makeable(tmp_path / "new", option)


@pytest.mark.parametrize("name", ["there.csv", "there.csv/new"])
def test_a_folder_that_cannot_be_made(tmp_path, name):
    (tmp_path / "there.csv").write_text("")
    with pytest.raises(OSError, match=r"^Cannot make '.*' \(.*\); name another --out"):
        make_out_folder(tmp_path / name)


@pytest.mark.parametrize("why", ["scores it", ""])
def test_a_command_that_is_wider_than_a_terminal_stands_alone_to_be_copied(why, capsys):
    command = f"simpsons_evaluate {'far/' * 20}model.safetensors FOLDER"
    print_next(command, why)
    said, copied = capsys.readouterr().err.splitlines()
    assert copied == command and said.startswith("next") and why in said
