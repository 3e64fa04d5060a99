"Which files a run leaves, numbered folders, and the name of the latest"

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from simpsons_cnn.core.config import Config
from simpsons_cnn.core.files import find_model_file
from simpsons_cnn.core.run_folders import (
    RUN_FILES,
    _name_folders,
    check_output_folders,
    latest_run,
    link_run,
    lock_run_folders,
    new_run_folder,
    run_folders,
)


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
        ("history.csv", True, None),  # likewise, after its first epoch
    ],
)
def test_a_folder_that_holds_a_run(tmp_path, outputs, name, resume, words):
    config = Config.demo(tmp_path, **outputs)
    check_output_folders(config)
    config.out_model_directory.mkdir()
    (config.out_model_directory / name).touch()
    if words is None:
        check_output_folders(config, resume)
    else:
        with pytest.raises(FileExistsError, match=words):
            check_output_folders(config, resume)
    check_output_folders(Config.demo(tmp_path, overwrite=True, **outputs))


def test_an_output_folder_that_is_a_file(tmp_path, outputs):
    outputs["out_model_directory"] = tmp_path / "notes.txt"
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OSError, match="choose another output folder"):
        lock_run_folders(Config.load(**outputs)).__enter__()


@pytest.mark.parametrize("fails", [Path("runs"), Path("runs/001")])
def test_a_folder_of_runs_that_cannot_be_written_to(tmp_path, monkeypatch, fails):
    def mkdir(path, *args, mkdir=Path.mkdir, **kwargs):
        if path == tmp_path / fails:
            raise PermissionError(13, "Permission denied")
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    words = r"^Cannot write to '.*runs' \(Permission denied\); choose another output folder$"
    with pytest.raises(PermissionError, match=words):
        new_run_folder(tmp_path / "runs")


def test_each_run_gets_a_number(tmp_path):
    "Two threads that begin at once do not share one, and what a user put there counts"
    (tmp_path / "007").mkdir()
    (tmp_path / "notes").mkdir()
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: new_run_folder(tmp_path).name, range(8)))
    assert sorted(names) == [f"{i:03}" for i in range(8, 16)]


def test_latest_without_links(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    for name in ("001", "002"):
        (tmp_path / name).mkdir()
        link_run(tmp_path / name)
    assert (tmp_path / "latest").read_text() == "002"
    assert latest_run(tmp_path) == tmp_path / "002"
    model = tmp_path / "002/model.safetensors"
    model.touch()
    assert find_model_file(tmp_path / "latest") == model
    model.unlink()
    (tmp_path / "002").rmdir()
    assert find_model_file(tmp_path / "latest") == tmp_path / "latest"  # a file as any other
    assert latest_run(tmp_path) is None


def refuse_links(*args, **kwargs):
    raise OSError(1314, "A required privilege is not held by the client")


def test_latest_moves_from_a_drive_with_links_to_one_without(tmp_path, monkeypatch, capsys):
    "An old link is replaced by a text file, and that by a link again"
    for name in ("001", "002", "003"):
        (tmp_path / name).mkdir()
    link_run(tmp_path / "001")
    assert (tmp_path / "latest").is_symlink()
    with monkeypatch.context() as without_links:
        without_links.setattr("pathlib.Path.symlink_to", refuse_links)
        link_run(tmp_path / "002")
    assert latest_run(tmp_path) == tmp_path / "002" and not (tmp_path / "latest").is_symlink()
    link_run(tmp_path / "003")
    assert latest_run(tmp_path) == tmp_path / "003" and (tmp_path / "latest").is_symlink()
    assert capsys.readouterr().err == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["001", "002", "003", "latest"]


def test_an_old_link_stays_where_nothing_can_be_written(tmp_path, monkeypatch, capsys):
    for name in ("001", "002"):
        (tmp_path / name).mkdir()
    link_run(tmp_path / "001")
    monkeypatch.setattr("pathlib.Path.symlink_to", refuse_links)
    monkeypatch.setattr("os.fsync", refuse_links)
    link_run(tmp_path / "002")
    assert "latest' does not lead to this run" in capsys.readouterr().err
    assert latest_run(tmp_path) == tmp_path / "001"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["001", "002", "latest"]


@pytest.mark.parametrize(
    "given, found",
    [
        (dict(out_directory="a"), ["a/model", "a/graphics", "a/inference"]),
        (dict(out_model_directory="a/b"), ["a/b", "a/graphics", "a/inference"]),
        (dict(out_directory="a", out_graphics_directory="g"), ["a/model", "g", "a/inference"]),
        (dict(out_graphics_directory="g"), ["runs/001/model", "g", "runs/001/inference"]),
    ],
)
def test_folders_that_are_given_count(given, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = _name_folders(Config.load(**given))
    assert [getattr(config, key).as_posix() for key in RUN_FILES] == found


def test_a_folder_of_somebody_else_is_not_removed(tmp_path):
    "Though it has the name of a run, and no run has begun in it"
    mine = tmp_path / "runs/005"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").touch()
    config = Config.demo(tmp_path, out_directory=mine)
    with pytest.raises(RuntimeError), run_folders(config) as named, lock_run_folders(named):
        raise RuntimeError
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("there", ["folder", "unwritable"])
def test_latest_that_cannot_be_made_costs_no_run(tmp_path, monkeypatch, capsys, there):
    "It may be a copy that `cp -rL` made, or lie on a full or read-only disk"
    (tmp_path / "001").mkdir()
    if there == "folder":
        (tmp_path / "latest").mkdir()
    else:
        monkeypatch.setattr(
            "os.replace", lambda *_: (_ for _ in ()).throw(OSError(30, "read-only"))
        )
    link_run(tmp_path / "001")
    assert "latest' does not lead to this run" in capsys.readouterr().err
    assert latest_run(tmp_path) is None


def test_latest_moves_where_links_to_folders_are_not_replaced(tmp_path, monkeypatch):
    "As on Windows, which refuses to replace what it takes for a folder"

    def replace(source, target, replace=os.replace):
        if os.path.isdir(target):
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    monkeypatch.setattr("os.replace", replace)
    for name in ("001", "002"):
        (tmp_path / name).mkdir()
        link_run(tmp_path / name)
        assert latest_run(tmp_path) == tmp_path / name


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../..", b"latest", b"a/b", b"001"])
def test_latest_that_somebody_edited(tmp_path, content):
    (tmp_path / "001").mkdir()
    (tmp_path / "latest").write_bytes(content)
    assert latest_run(tmp_path) == (tmp_path / "001" if content == b"001" else None)
    if content != b"001":  # nor does a command take it for a run
        assert find_model_file(tmp_path / "latest") == tmp_path / "latest"


def test_the_reason_survives_where_no_folder_could_be_made(tmp_path):
    (tmp_path / "file").touch()
    config = Config.load(runs_directory=tmp_path / "file", out_directory=tmp_path / "file/x")
    with pytest.raises(KeyError), run_folders(config):
        raise KeyError("the reason")


def test_a_folder_in_place_of_a_file_of_the_run_is_refused(tmp_path, outputs):
    config = Config.demo(tmp_path, overwrite=True, **outputs)
    (outputs["out_model_directory"] / "last.ckpt").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="last.ckpt' is a folder or a device"):
        check_output_folders(config)
