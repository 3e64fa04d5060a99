"The store: what counts as changed, several builders at once, damaged files, derived facts"

import cProfile
import hashlib
import os
import pstats
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch as replaced

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from simpsons_cnn.core.files import temp_path
from simpsons_cnn.data import store as store_page
from simpsons_cnn.data.fixes import Fix, apply_fixes
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.data.store import PixelStore, with_digests
from simpsons_cnn.quality import duplicates


def save(path, seed, size=20):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(x).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    for c in "ab":
        for i in range(10):
            save(tmp_path / "train" / c / f"{i}.bmp", 10 * ord(c) + i)
    return tmp_path / "train"


@pytest.fixture
def decoded():
    "The sources that were decoded, in order"
    seen = []
    decode = Preprocess.decode

    def noting(self, source, *args, **kwargs):
        seen.append(source)
        return decode(self, source, *args, **kwargs)

    with replaced.object(Preprocess, "decode", noting):
        yield seen


def build(root, **kwargs):
    return PixelStore.build(ImageFiles.scan(root), size=16, **kwargs)


def check(store):
    "Each row is its picture"
    assert len(store) == len(store.files) == len(store.labels)
    for x, path in zip(store.pixels, store.files.paths, strict=True):
        assert torch.equal(x, store.preprocess(path, draft=True)), path


def test_changed_image_of_the_same_size_and_time(root):
    build(root)
    path = root / "a" / "3.bmp"
    was = os.stat(path)
    save(path, 999)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert os.stat(path).st_size == was.st_size
    store = build(root)
    assert store.changes == "1 changed"
    check(store)


def test_change_in_the_middle_of_a_file(root):
    build(root)
    path = root / "a" / "3.bmp"
    was = os.stat(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 128
    path.write_bytes(data)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    store = build(root)
    assert store.changes == "1 changed"
    check(store)


def test_touched_files_are_not_decoded(root, decoded):
    build(root)
    decoded.clear()
    for path in ImageFiles.scan(root).paths:
        os.utime(path, ns=(1, 1))
    assert build(root).changes == ""
    assert decoded == []


def test_copied_folder_is_not_decoded_again(root, decoded, tmp_path):
    build(root)
    decoded.clear()
    copy = tmp_path.parent / f"{tmp_path.name} copy"
    shutil.copytree(tmp_path, copy, copy_function=shutil.copy)  # with new times
    store = build(copy / "train")
    assert (store.changes, decoded) == ("", [])


def test_file_that_changes_while_it_is_decoded(root):
    path = root / "a" / "3.bmp"
    decode = store_page._decode_all

    def decode_and_change(*args):
        done = decode(*args)
        save(path, 999)
        return done

    with replaced.object(store_page, "_decode_all", decode_and_change):
        build(root)
    store = build(root)
    assert store.changes == "1 changed"
    check(store)
    assert build(root).changes == ""


def test_files_are_hashed_by_several_threads(root, monkeypatch):
    both, sha256 = threading.Barrier(2, timeout=20), store_page.file_sha256

    def hash_together(path):
        both.wait()
        return sha256(path)

    monkeypatch.setattr(store_page, "num_workers", lambda: 2)
    monkeypatch.setattr(store_page, "file_sha256", hash_together)
    files = ImageFiles.scan(root).select(np.arange(128) % 20)  # each thread takes 64 at once
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files.paths]
    assert with_digests(files) == list(zip(files.names, digests, strict=True))


# What is decoded, and what is copied


def rebuilt(files, changes, number, decoded, size=16, **kwargs):
    "Build; compare what the store says, how many images were decoded, and each row"
    decoded.clear()
    store = PixelStore.build(files, size, **kwargs)
    assert (store.changes, len(decoded)) == (changes, number)
    check(store)
    return store


def test_only_what_is_new_is_decoded(root, decoded):
    files = ImageFiles.scan(root)
    rebuilt(files, "new", 20, decoded)
    rebuilt(files, "", 0, decoded)
    (root / "a" / "5.bmp").unlink()
    save(root / "a" / "new one.bmp", 1)
    files = ImageFiles.scan(root)
    rebuilt(files, "1 added, 1 removed", 1, decoded)
    rebuilt(files, "", 0, decoded)
    rebuilt(files, "new", 20, decoded, size=20)  # another size is another store
    rebuilt(files, "", 0, decoded)
    rebuilt(files, "", 0, decoded, size=20)
    kept = sorted(p.suffix for p in (root.parent / ".pixels").iterdir() if p.name[0] != ".")
    assert kept == [".json", ".json", ".npy", ".npy"]


def test_renamed_and_moved_files_are_copied(root, decoded):
    build(root)
    (root / "a" / "5.bmp").rename(root / "a" / "renamed.bmp")
    (root / "a" / "6.bmp").rename(root / "b" / "moved.bmp")
    shutil.copy(root / "a" / "7.bmp", root / "b" / "copied.bmp")
    rebuilt(ImageFiles.scan(root), "3 added, 2 removed", 0, decoded)


def test_some_of_the_images_and_another_order(root, decoded):
    files = ImageFiles.scan(root)
    rebuilt(files, "new", 20, decoded)
    half = files.select(range(19, 0, -2))
    rebuilt(half, "10 removed", 0, decoded)
    rebuilt(half.select(range(9, -1, -1)), "order", 0, decoded)
    rebuilt(files, "10 added", 10, decoded)
    assert len(list((root.parent / ".pixels").glob("*.npy"))) == 1


def test_image_that_changed_under_its_old_name(root, decoded):
    files = ImageFiles.scan(root)
    rebuilt(files, "new", 20, decoded)
    rebuilt(files.select(range(5)), "15 removed", 0, decoded)
    save(root / "a" / "2.bmp", 5)
    rebuilt(files, "15 added, 1 changed", 16, decoded)
    rebuilt(files.select(range(10)), "10 removed", 0, decoded)


def test_fixes(root, decoded):
    files = ImageFiles.scan(root)
    rebuilt(files, "new", 20, decoded)
    moved, dropped = files.names[4], files.names[9]
    fixes = {moved: Fix("move", "b")}
    store = rebuilt(apply_fixes(files, fixes), "", 0, decoded)
    assert (store.labels[4].item(), store.labels[5].item()) == (1, 0)
    fixes[dropped] = Fix("drop")
    store = rebuilt(apply_fixes(files, fixes), "1 removed", 0, decoded)
    assert (len(store), store.labels[4].item(), dropped in store.files.names) == (19, 1, False)
    rebuilt(files, "1 added", 1, decoded)


def test_same_image_twice(root, decoded):
    files = ImageFiles.scan(root)
    rebuilt(files.select([3, 3, 4]), "new", 3, decoded)
    rebuilt(files.select([3, 3, 4]), "", 0, decoded)


def test_opening_many_takes_little_more_than_reading_them(root, tmp_path):
    "Calls of functions are counted, not seconds: 111 an image with Python 3.11, 208 with 3.13"
    photo = save(tmp_path / "photo.bmp", 0)
    for c in range(10):
        (tmp_path / f"many/{c:02}").mkdir(parents=True)
        for i in range(100):
            os.link(photo, tmp_path / f"many/{c:02}" / f"{i}.bmp")
    PixelStore.build(ImageFiles.scan(tmp_path / "many"), size=16)
    with cProfile.Profile() as profile:
        store = PixelStore.build(ImageFiles.scan(tmp_path / "many"), size=16)
    assert (len(store), store.changes) == (1000, "")
    most = 150 if sys.version_info < (3, 12) else 250  # pathlib is Python's own, and changes
    assert 10 < pstats.Stats(profile).total_calls / 1000 < most


# Images that cannot be read


def test_unreadable_images_are_named_together(root, decoded):
    (root / "a" / "note.jpg").write_text("not a picture")
    (root / "a" / "empty.jpg").touch()
    (root / "a" / "cut.bmp").write_bytes((root / "a" / "0.bmp").read_bytes()[:300])
    files = ImageFiles.scan(root)
    with pytest.raises(ValueError) as e:
        build(root)
    assert all(name in str(e.value) for name in ("note.jpg", "empty.jpg", "cut.bmp"))
    expected = "3 of 23 pictures cannot be read; mend or remove them, or set skip_unreadable"
    assert str(e.value).startswith(expected)
    store = rebuilt(files, "", 3, decoded, skip_unreadable=True)  # a look at the three
    assert (len(store), len(store.labels), len(store.unreadable)) == (20, 20, 3)


def test_unreadable_images_are_tried_again(root, decoded):
    save(root / "a" / "locked.bmp", 7)
    for name in ("cut", "empty", "note"):
        (root / "a" / f"{name}.jpg").write_text(name)
    files = ImageFiles.scan(root)
    decode = Preprocess.decode

    def locked(self, source, *args, **kwargs):
        if source.name == "locked.bmp":
            raise PermissionError("locked")
        return decode(self, source, *args, **kwargs)

    with replaced.object(Preprocess, "decode", locked):
        store = build(root, skip_unreadable=True)
    assert store.unreadable["a/locked.bmp"] == "PermissionError: locked"
    decoded.clear()
    store = PixelStore.build(files, 16, skip_unreadable=True)
    assert store.changes == "some can be read again"
    # until one can be read, with and without the lock, and then all four once more
    assert len(decoded) <= 4 + 4 + 4
    check(store)
    assert (len(store), sorted(store.unreadable)) == (
        21,
        ["a/cut.jpg", "a/empty.jpg", "a/note.jpg"],
    )
    save(root / "a" / "new.bmp", 8)
    rebuilt(ImageFiles.scan(root), "1 added", 1 + 3, decoded, skip_unreadable=True)


def test_no_image_can_be_read(tmp_path):
    for c in "ab":
        (tmp_path / "train" / c).mkdir(parents=True)
        (tmp_path / "train" / c / "1.jpg").write_text(c)
    with pytest.raises(ValueError, match="None of the 2 pictures under '.*' can be read"):
        build(tmp_path / "train", skip_unreadable=True)
    assert list((tmp_path / ".pixels").glob("*.npy")) == []


def test_image_that_is_gone(root):
    files = ImageFiles.scan(root)
    build(root)
    files.paths[3].unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.bmp' has disappeared since the scan; scan"):
        PixelStore.build(files, size=16)


def test_an_image_that_may_not_be_looked_at_is_not_gone(root, monkeypatch):
    "As in a folder that may be listed and not entered"
    files, stat = ImageFiles.scan(root), os.stat

    def refused(path, *args, **kwargs):
        if str(path) == str(files.paths[3]):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(ValueError, match=r"a/3\.bmp: .*Permission denied"):
        PixelStore.build(files, size=16)


# The folder


def test_folder_that_cannot_be_used(root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="name another folder that can be written"):
        build(root, folder=tmp_path / "file")


def test_free_space(root, tmp_path):
    usage = type("", (), {"free": 10**4, "total": 10**9})
    with (
        replaced("shutil.disk_usage", lambda p: usage),
        pytest.raises(OSError, match="needs 0.0 MiB, and 0.0 MiB are free in '.*elsewhere'") as e,
    ):
        build(root, folder=tmp_path / "elsewhere")
    assert "store_directory in a Config" in str(e.value)
    assert [p for p in (tmp_path / "elsewhere").iterdir() if p.suffix != ".lock"] == []
    assert build(root, folder=tmp_path / "elsewhere").changes == "new"


def test_one_folder_for_two_roots(root, tmp_path):
    shutil.copytree(root, tmp_path / "other" / "train")
    save(tmp_path / "other" / "train" / "a" / "0.bmp", 1)
    for _ in range(2):
        for folder in (root, tmp_path / "other" / "train"):
            check(build(folder, folder=tmp_path / "kept"))
    assert build(root, folder=tmp_path / "kept").changes == ""


def test_path_is_the_file_of_the_array(root):
    store = build(root)
    assert torch.equal(store_page.open_memmap(store.path), store.pixels)
    assert build(root).digest == store.digest != build(root, exact=True).digest


def test_memmap_of_another_kind(tmp_path):
    np.save(tmp_path / "other.npy", np.zeros((2, 64, 64, 3)))
    with pytest.raises(ValueError, match=r"got float64 of shape \(2, 64, 64, 3\)"):
        store_page.open_memmap(tmp_path / "other.npy")


def test_manifest_of_another_kind():
    with pytest.raises(ValueError, match="pictures.0"):
        store_page.Manifest(settings="64-stretch", pictures=[["a.jpg"]], unreadable={})


# Exact decoding


def test_exact_store_holds_what_prediction_sees(tmp_path):
    for k, c in enumerate("ab"):
        (tmp_path / "train" / c).mkdir(parents=True)
        noise = np.random.default_rng(k).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((200, 200)).save(tmp_path / "train" / c / "1.jpg")
        save(tmp_path / "train" / c / "2.bmp", k)
    exact = build(tmp_path / "train", exact=True)
    for x, path in zip(exact.pixels, exact.files.paths, strict=True):
        assert torch.equal(x, exact.preprocess(path))
    reduced = build(tmp_path / "train")
    check(reduced)
    differ = [not torch.equal(x, y) for x, y in zip(exact.pixels, reduced.pixels, strict=True)]
    assert differ == [True, False, True, False]
    assert build(tmp_path / "train", exact=True).changes == ""


# Several builders


def test_threads_build_a_store_once(root, decoded):
    files = ImageFiles.scan(root)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: PixelStore.build(files, size=16), range(4)))
    assert sorted(s.changes for s in stores) == ["", "", "", "new"]
    assert len(decoded) == 20
    for store in stores:
        check(store)


def test_threads_with_other_files(root):
    files = ImageFiles.scan(root)

    def build_some(k):
        for i in range(6):
            store = PixelStore.build(files.select(range(k, 20 - i)), size=16)
            check(store)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(build_some, range(3)))


def test_two_builders_where_nothing_can_be_locked(root, refuse_locks, monkeypatch):
    "A builder that is overtaken fails, and never takes the pixels of the other for its own"
    refuse_locks(37)
    files = ImageFiles.scan(root)
    ours, theirs = files.select(range(10)), files.select(range(5, 15))  # equally many
    check_readable, decoded, go_on = store_page.check_any_readable, threading.Event(), None

    def overtaken(job, bad):
        nonlocal go_on
        if go_on is None:  # ours have been decoded; now the other begins, and fills its array
            go_on = threading.Event()
            other.append(pool.submit(PixelStore.build, theirs, 16))
            assert decoded.wait(20)
        else:
            decoded.set()
            assert go_on.wait(20)
        check_readable(job, bad)

    monkeypatch.setattr(store_page, "check_any_readable", overtaken)
    other = []
    with ThreadPoolExecutor(2) as pool:
        try:
            check(PixelStore.build(ours, 16))
        except OSError as e:
            assert "Cannot keep decoded pictures in" in str(e)
        finally:
            go_on.set()
        check(other[0].result())
    monkeypatch.setattr(store_page, "check_any_readable", check_readable)
    check(PixelStore.build(ours, 16))


def test_what_a_killed_builder_left_is_removed(root):
    pixels = root.parent / ".pixels"
    pixels.mkdir()
    left = temp_path(pixels / "train-16-stretch")
    of_others = temp_path(pixels / "train-16-stretch-exact")
    for path in (left, of_others):
        path.write_bytes(b"half")
    check(build(root))
    assert not left.exists() and of_others.exists()


MANY_TIMES = """
import sys
import torch
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore

files = ImageFiles.scan(sys.argv[1])
k = int(sys.argv[2])
print("ready", flush=True)
input()
for i in range(20):
    store = PixelStore.build(files.select(range(k, 20 - i % 3)), size=16)
    for x, path in zip(store.pixels, store.files.paths, strict=True):
        assert torch.equal(x, store.preprocess(path, draft=True)), path
"""


def test_processes_with_other_files(root):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY_TIMES, root, str(k)], text=True, **pipes)
        for k in range(3)
    ]
    for p in processes:
        assert p.stdout.readline() == "ready\n"
    for p in processes:
        p.stdin.write("\n")
        p.stdin.flush()
    for p in processes:
        _, err = p.communicate(timeout=300)
        assert p.returncode == 0, err
    kept = [p.name for p in (root.parent / ".pixels").iterdir() if p.suffix != ".json"]
    assert len(kept) == 1


# Derived results


def test_cached_until_the_content_changes(root):
    calls = []

    def mean():
        calls.append(1)
        return {"mean": store.pixels.float().mean((1, 2, 3))}

    store = build(root)
    for _ in range(2):
        assert torch.equal(store.cached("mean", mean)["mean"], mean()["mean"])
    assert len(calls) == 1 + 2
    store.cached("mean", mean, "another key")
    assert len(calls) == 4
    save(root / "a" / "3.bmp", 999)
    before = store.path.with_suffix(".mean.safetensors")
    assert before.exists()
    store = build(root)
    assert torch.equal(store.cached("mean", mean)["mean"], mean()["mean"])
    assert not before.exists()  # removed with its array


@pytest.mark.parametrize("damage", ["cut", "text", "folder", "foreign"])
def test_damaged_results_are_computed_again(root, damage):
    store = build(root)
    first = store.cached("mean", lambda: {"mean": torch.tensor(1.0)})
    path = store.path.with_suffix(".mean.safetensors")
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    if damage == "text":
        path.write_text("no tensors")
    if damage == "folder":
        path.unlink()
        path.mkdir()
    if damage == "foreign":
        safetensors.torch.save_file({"mean": torch.tensor(9.0)}, path)
    assert store.cached("mean", lambda: {"mean": torch.tensor(1.0)}) == first


def test_results_of_a_store_in_memory_are_computed(root):
    files = ImageFiles.scan(root)
    store = PixelStore(files, build(root).pixels, Preprocess(16))
    assert store.cached("n", lambda: {"n": torch.tensor(20)}) == {"n": torch.tensor(20)}


def test_near_duplicates_are_searched_once(root, tmp_path):
    shutil.copy(root / "a" / "0.bmp", root / "b" / "copy.bmp")
    shutil.copytree(root, tmp_path / "other" / "train")
    store, other = build(root), build(tmp_path / "other" / "train")
    within = duplicates.near_duplicates(store)
    across = duplicates.near_duplicates(store, other)
    assert (0, 20) in set(zip(within.a, within.b, strict=True)) and len(across) > len(within)
    again = AssertionError("searched again")
    with replaced.object(duplicates, "_find_pairs", side_effect=again) as search:
        assert duplicates.near_duplicates(build(root)).equals(within)
        assert duplicates.near_duplicates(build(root), other).equals(across)
        save(tmp_path / "other" / "train" / "a" / "1.bmp", 7)
        for pair in (
            (store, build(tmp_path / "other" / "train")),  # changed
            (store, PixelStore(other.files, other.pixels, other.preprocess)),  # in memory
        ):
            with pytest.raises(AssertionError, match="searched again"):
                duplicates.near_duplicates(*pair)
        with (
            replaced.object(duplicates, "MIN_SIMILARITY", 0.9),
            pytest.raises(AssertionError, match="searched again"),
        ):
            duplicates.near_duplicates(store)
    assert search.call_count == 3


def test_results_are_computed_by_one_at_a_time(root):
    "Processes that train together, or two runs on the same images, ask at the same moment"
    stores, calls, started = [build(root) for _ in range(4)], [], threading.Barrier(4)

    def slow():
        calls.append(1)
        time.sleep(0.2)
        return {"n": torch.tensor(20)}

    def ask(store):
        started.wait()
        return store.cached("slow", slow)["n"].item()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, stores)) == [20] * 4
    assert len(calls) == 1
    assert not list(stores[0].path.parent.glob(".*.slow.*"))  # no lock is left


def test_results_where_no_lock_can_be_had(root, monkeypatch):
    def no_lock(path):
        raise OSError(30, "Read-only file system")

    store = build(root)
    monkeypatch.setattr(store_page, "file_lock", no_lock)
    assert store.cached("n", lambda: {"n": torch.tensor(7)})["n"] == 7


@pytest.mark.parametrize("name", ["pixels", "ann/pixels"])
def test_a_store_among_the_pictures_is_refused(tmp_path, name):
    root = tmp_path / "train"
    for character in ("ann", "bob"):
        (root / character).mkdir(parents=True)
        Image.new("RGB", (70, 70)).save(root / character / "a.png")
    files = ImageFiles.scan(root)
    with pytest.raises(ValueError, match="which is searched for pictures"):
        PixelStore.build(files, 64, folder=root / name)
    assert ImageFiles.scan(root).classes == ["ann", "bob"]
    assert len(PixelStore.build(files, 64, folder=root / ".pixels")) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: pixels[:19],
        lambda pixels: pixels.float() / 255,
        lambda pixels: pixels.numpy(),
        lambda pixels: pixels[..., :8, :8],
        lambda pixels: pixels.permute(0, 2, 3, 1),
    ],
)
def test_pixels_that_do_not_fit_the_pictures(root, change):
    store = build(root)
    with pytest.raises(ValueError, match=r"pixels must be a uint8 tensor of shape \(20, 3, 16, 16"):
        PixelStore(store.files, change(store.pixels), store.preprocess)
