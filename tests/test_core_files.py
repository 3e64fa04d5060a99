"Files: races, strangers' files, drives without locks or free space, odd paths"

import errno
import os
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest

from simpsons_cnn.core.files import (
    _TEMP_SUFFIX,
    atomic_write,
    file_lock,
    lock_folder,
    read_limited,
    remove_temp_files,
    replace_file,
    replace_folder,
    require_empty_folder,
    require_free_space,
    temp_path,
)

HOLD = """import sys, time
from pathlib import Path
from simpsons_cnn.core import files
with getattr(files, sys.argv[1])(sys.argv[2]) as inside:
    if inside:
        (Path(inside) / 'half').touch()
    print('held', flush=True)
    time.sleep(60)"""


def holder(function: str, folder):
    "A process that holds a folder until it is killed"
    command = [sys.executable, "-c", HOLD, function, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


# Writing


def test_errors_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no/note.txt' \(No such file or directory\): 0.0"):
        atomic_write(tmp_path / "no/note.txt", "")
    with pytest.raises(FileExistsError, match="is a folder or a device"):
        atomic_write(tmp_path, "not over a folder")
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(f".*{_TEMP_SUFFIX}"))


def test_a_device_stays_a_device(tmp_path):
    "A rename would replace /dev/null, where its folder may be written to, as in containers"
    device = tmp_path / "device"
    os.mkfifo(device)  # of all that is no file, what everybody may make
    with pytest.raises(FileExistsError, match="is a folder or a device"):
        atomic_write(device, "text")
    with pytest.raises(FileExistsError, match="is a folder or a device"), replace_file(device):
        pass
    assert device.is_fifo() and [p.name for p in tmp_path.iterdir()] == ["device"]


def test_many_writers_of_one_file(tmp_path):
    path = tmp_path / "note.txt"
    texts = [str(i) * 10_000 for i in range(10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: atomic_write(path, text), texts * 10))
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["note.txt"]


def test_temp_names_differ_between_processes(tmp_path):
    code = "from simpsons_cnn.core.files import temp_path; print(temp_path('a'))"
    names = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(names) == 2


@pytest.mark.parametrize(
    "stranger",
    [".video.mp4.part", ".note.txt.123-456.part", "note.part", f"visible{_TEMP_SUFFIX}", ".a.b"],
)
def test_files_of_others_stay(tmp_path, stranger):
    (tmp_path / stranger).touch()
    remove_temp_files(tmp_path)
    assert os.listdir(tmp_path) == [stranger]


def test_remove_temp_files_of_one_name(tmp_path):
    ours, *others = [temp_path(tmp_path / n) for n in ("a[1]", "a1", "a[1].txt", "b.a[1]")]
    for path in (ours, *others):
        path.touch()
    remove_temp_files(tmp_path, "a[1]")  # not a pattern, and not the beginning of a longer name
    assert sorted(tmp_path.iterdir()) == sorted(others)
    remove_temp_files(tmp_path)
    assert not list(tmp_path.iterdir())


# Reading


def test_read_limited(tmp_path):
    note = tmp_path / "note.txt"
    note.write_bytes(b"second")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="expected a note"):
            read_limited(path, "note")
    with pytest.raises(ValueError, match="has 6 bytes; expected a note of at most 3"):
        read_limited(note, "note", max_bytes=3)
    with pytest.raises(FileNotFoundError, match="No note at"):
        read_limited(tmp_path / "none", "note")
    with pytest.raises(OSError, match="Cannot read the note at"):
        read_limited("a\0b", "note")


# Free space


@pytest.mark.parametrize(
    ("total", "free", "needed", "passes"),
    [
        (0, 0, 2**60, True),  # a mount that does not say
        (2**30, 0, 1, False),  # a full disk
        (2**30, 0, 0, True),
        (2**30, 2**20, 2**20, True),
        (2**30, 2**20, 2**20 + 1, False),
    ],
)
def test_free_space(tmp_path, monkeypatch, total, free, needed, passes):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=total, free=free))
    if passes:
        return require_free_space(tmp_path, needed, "A run")
    message = f"A run needs .* MiB, and .* MiB are free in '{tmp_path}'; make room or choose"
    with pytest.raises(OSError, match=message) as e:
        require_free_space(tmp_path, needed, "A run")
    assert e.value.errno == errno.ENOSPC


def test_free_space_is_not_known(tmp_path, monkeypatch):
    def no_such_call(_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(shutil, "disk_usage", no_such_call)
    require_free_space(tmp_path, 2**60, "A run")
    with pytest.raises(FileNotFoundError, match=r": 0.0 MiB are needed$"):
        atomic_write(tmp_path / "no/note.txt", "")


# Locks


def test_lock_folder(tmp_path):
    run = tmp_path / "run"
    first = holder("lock_folder", run)
    for _ in range(2):  # the second try must not find the name of the holder emptied by the first
        with pytest.raises(
            FileExistsError, match=rf"Another run \(process {first.pid}\) is writing to"
        ):
            lock_folder(run).__enter__()
    first.kill()
    first.wait()
    assert (run / ".lock").exists()  # left behind by the one that was killed
    with (
        lock_folder(run),
        pytest.raises(FileExistsError, match=rf"run \(process {os.getpid()}\) is"),
        lock_folder(run),  # nor twice in one process
    ):
        pass
    assert not list(run.iterdir())
    (tmp_path / "a file").touch()
    with pytest.raises(OSError, match="Cannot write to"), lock_folder(tmp_path / "a file"):
        pass


def test_lock_of_another_is_never_deleted(tmp_path):
    "Locks are taken and let go of as fast as can be; there is never more than one holder"
    path, inside, most = tmp_path / ".lock", [], []

    def work(_):
        for _ in range(30):
            with file_lock(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert max(most) == 1 and len(most) == 180
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_drive_without_locks(tmp_path, refuse_locks, capsys, number):
    refuse_locks(number)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with lock_folder(tmp_path / "run"):
                (tmp_path / "run/result").touch()
    said = capsys.readouterr().err + "".join(str(w.message) for w in caught)
    assert "cannot be locked" in said or "flock not supported" in said
    (tmp_path / "run/result").unlink()
    left = [p.name for p in (tmp_path / "run").iterdir()]
    assert set(left) <= {".lock"}


def test_other_errors_are_no_missing_locks(tmp_path, refuse_locks):
    refuse_locks(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), file_lock(tmp_path / "lock"):
        pass
    with pytest.raises(OSError, match="Cannot write to"), lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("hold", [lock_folder, replace_folder])
def test_a_folder_that_refuses_files_is_said_once(tmp_path, monkeypatch, capsys, hold):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", denied)
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    with pytest.raises(PermissionError, match=r"Cannot write to '.*' \(Permission denied\)"):
        hold(tmp_path / "new").__enter__()
    assert capsys.readouterr().err == ""


# Folders


def test_replace_folder(tmp_path):
    target = tmp_path / "a/b"
    target.mkdir(parents=True)  # empty: may be replaced
    with replace_folder(target) as building:
        assert building.parent == target.parent
        (building / "x").write_text("1")
    assert (target / "x").read_text() == "1"
    assert os.listdir(tmp_path / "a") == ["b"]
    for taken in (target, target / "x"):
        with (
            pytest.raises(FileExistsError, match="already holds something else; choose another"),
            replace_folder(taken),
        ):
            pass
    assert os.listdir(target) == ["x"]


def test_replace_folder_where_a_disk_is_mounted(tmp_path, monkeypatch):
    "It cannot be renamed to: said before the work"
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("pathlib.Path.is_mount", lambda path: path.name == "disk")
    with (
        pytest.raises(OSError, match="disk' is where a disk is mounted; choose a folder in it"),
        replace_folder(tmp_path / "disk"),
    ):
        pytest.fail("it began")
    with replace_folder(tmp_path / "disk/data"):
        pass


@pytest.mark.parametrize("letter", ["a", "ж", "面"])
def test_the_longest_name_that_is_not_refused_can_be_written(tmp_path, letter):
    name = letter * (227 // len(letter.encode()))
    atomic_write(tmp_path / name, "first")
    atomic_write(tmp_path / name, "second")
    with replace_file(tmp_path / name) as temp:
        temp.write_text("third")
    assert (tmp_path / name).read_text() == "third"
    with replace_folder(tmp_path / "folders" / name) as temp:
        (temp / "a.txt").touch()
    assert (tmp_path / "folders" / name / "a.txt").exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: atomic_write(path, ""),
        lambda path: replace_file(path).__enter__(),
        lambda path: replace_folder(path).__enter__(),
        require_empty_folder,
    ],
)
@pytest.mark.parametrize("n", [228, 255, 256, 5000])
def test_a_name_that_is_too_long_is_refused_at_once(tmp_path, write, n):
    with pytest.raises(OSError, match=f"^The name 'aaa.*' is {n} bytes long; at most 227") as e:
        write(tmp_path / ("a" * n))
    assert e.value.errno == errno.ENAMETOOLONG and not any(tmp_path.iterdir())


def test_replace_folder_names_the_folder_that_refuses(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="Cannot write to '.*file' "),
        replace_folder(tmp_path / "file/new"),
    ):
        pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_replace_folder_interrupted(tmp_path, error):
    with pytest.raises(error), replace_folder(tmp_path / "new") as building:
        (building / "x").touch()
        raise error
    assert not list(tmp_path.iterdir())


def test_replace_folder_filled_meanwhile(tmp_path):
    with pytest.raises(OSError), replace_folder(tmp_path / "new") as building:
        (building / "x").touch()
        (tmp_path / "new").mkdir()
        (tmp_path / "new/of another").touch()
    assert os.listdir(tmp_path) == ["new"] and os.listdir(tmp_path / "new") == ["of another"]


def test_replace_folder_of_a_killed_process(tmp_path):
    first = holder("replace_folder", tmp_path / "new")
    with (
        pytest.raises(FileExistsError, match=rf"Another run \(process {first.pid}\) is writing"),
        replace_folder(tmp_path / "new"),
    ):
        pass
    first.kill()
    first.wait()
    [half] = tmp_path.glob(f".new.*{_TEMP_SUFFIX}")
    stranger = temp_path(tmp_path / "new.old")
    stranger.mkdir()
    with replace_folder(tmp_path / "new") as building:
        assert not half.exists() and os.listdir(building) == []
    assert sorted(os.listdir(tmp_path)) == [stranger.name, "new"]


def test_replace_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with replace_folder("new"):
        pass
    with suppress(ValueError), replace_folder("again"):
        raise ValueError
    require_empty_folder("new")
    assert os.listdir() == ["new"]


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_file_managers_leave_is_nothing(tmp_path, name):
    target = tmp_path / "new"
    target.mkdir()
    (target / name).write_bytes(b"icons")
    with replace_folder(target) as building:
        (building / "x").touch()
    assert os.listdir(target) == ["x"]
    (target / name).write_bytes(b"icons")  # beside something of somebody
    with pytest.raises(FileExistsError), replace_folder(target):
        pass
    assert sorted(os.listdir(target)) == sorted([name, "x"])
