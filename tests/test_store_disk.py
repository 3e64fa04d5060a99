"""The store on a bad disk: full, read-only, or removed while it is used.

Each time there is a clear error and nothing half-written, and the same call works later.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

import simpsons_cnn.data.store as pixels
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters


@contextmanager
def mounted(folder: Path, options: str):
    "A small file system in memory at `folder`"
    if os.geteuid() or sys.platform != "linux":
        pytest.skip("mounting a small file system takes root on Linux")
    folder.mkdir(exist_ok=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("this machine does not let root mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return ImageFiles.scan(
        demo_characters(tmp_path_factory.mktemp("disk") / "demo", train=6, test=1) / "train"
    )


MIB = 60 * 64 * 64 * 3 / 2**20  # what the 60 pictures take at 64 pixels: .7 MiB


def same(store, files):
    "Whether the store holds just these pictures, as decoded now"
    return len(store) == len(files) and all(
        torch.equal(x, store.preprocess(p, draft=True))
        for x, p in zip(store.pixels, files.paths, strict=True)
    )


def arrays(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix not in (".json", ".lock"))


def test_full_disk_is_told_before_decoding(files, tmp_path):
    with mounted(tmp_path / "small", "size=512k") as small:
        with (
            patch.object(pixels, "_decode_all", side_effect=AssertionError("decoded")),
            pytest.raises(OSError) as e,
        ):
            PixelStore.build(files, size=64, folder=small)
        assert (
            str(small) in str(e.value)
            and "needs 0.7 MiB" in str(e.value)
            and "0.5 MiB are free" in str(e.value)
        )
        assert arrays(small) == []
        remount(small, "size=2m")
        assert same(PixelStore.build(files, size=64, folder=small), files)


def test_earlier_store_survives_a_full_disk(files, tmp_path):
    some = files.select(range(0, 60, 2))
    with mounted(tmp_path / "small", "size=900k") as small:
        PixelStore.build(some, size=64, folder=small)
        kept = arrays(small)
        with pytest.raises(OSError, match="needs 0.7 MiB"):
            PixelStore.build(files, size=64, folder=small)
        assert arrays(small) == kept
        with patch.object(pixels, "_decode_all", side_effect=AssertionError("decoded")):
            assert same(PixelStore.build(some, size=64, folder=small), some)
        remount(small, "size=3m")
        assert same(PixelStore.build(files, size=64, folder=small), files)


BUILD = """
import sys
from pathlib import Path
from unittest.mock import patch
import simpsons_cnn.data.store as pixels
from simpsons_cnn.data.folders import ImageFiles
root,folder,filler = map(Path, sys.argv[1:])
decode = pixels._decode_all
def decode_while_it_fills(*args):
    "Another program takes the room that was free a moment ago"
    try: filler.write_bytes(bytes(2**22))
    except OSError: pass
    return decode(*args)
with patch.object(pixels, '_decode_all', decode_while_it_fills):
    try: pixels.PixelStore.build(ImageFiles.scan(root), size=64, folder=folder)
    except OSError as e: sys.exit(f'refused: {e}')
"""


def test_disk_that_fills_during_decoding(files, tmp_path):
    with mounted(tmp_path / "small", "size=1m") as small:
        done = subprocess.run(
            [sys.executable, "-c", BUILD, files.root, small, small / "other program"],
            capture_output=True,
            text=True,
        )
        assert (
            done.returncode == 1
            and f"refused: Cannot keep decoded pictures in '{small}'" in done.stderr
            and "json" in done.stderr
            and "MiB are needed" in done.stderr
        ), (done.returncode, done.stderr)
        # It left no room for the manifest, though it could not take that of the pictures.
        (small / "other program").unlink()
        assert same(PixelStore.build(files, size=64, folder=small), files)


def test_no_room_for_the_manifest(files, tmp_path):
    with mounted(tmp_path / "small", "size=2m") as small:
        with (
            patch.object(
                pixels, "atomic_write", side_effect=OSError(28, "No space left on device")
            ),
            pytest.raises(OSError) as e,
        ):
            PixelStore.build(files, size=64, folder=small)
        assert f"in '{small}' (No space left on device)" in str(e.value)
        built = PixelStore.build(files, size=64, folder=small)
        assert built.changes == "new" and same(
            built, files
        )  # an array without a manifest is not taken for a store
        assert len(arrays(small)) == 1


def test_read_only_disk(files, tmp_path):
    some = files.select(range(0, 60, 2))
    with mounted(tmp_path / "locked", "size=3m") as locked:
        PixelStore.build(some, size=64, folder=locked)
        kept = arrays(locked)
        remount(locked, "ro")
        assert same(
            PixelStore.build(some, size=64, folder=locked), some
        )  # reading needs no writing
        with pytest.raises(OSError) as e:
            PixelStore.build(files, size=64, folder=locked)
        words = f"Cannot keep decoded pictures in '{locked}' (Read-only file system); name "
        assert f"{words}another folder that can be written" in str(e.value)
        assert arrays(locked) == kept
        remount(locked, "rw")
        assert same(PixelStore.build(files, size=64, folder=locked), files)


def test_folder_removed_during_decoding(files, tmp_path):
    place = tmp_path / "store"
    decode = pixels._decode_all

    def decode_and_remove(*args):
        done = decode(*args)
        shutil.rmtree(place)
        return done

    with patch.object(pixels, "_decode_all", decode_and_remove), pytest.raises(OSError) as e:
        PixelStore.build(files, size=64, folder=place)
    assert f"Cannot keep decoded pictures in '{place}'" in str(e.value)
    assert same(PixelStore.build(files, size=64, folder=place), files)


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", "3", '{"version": 4}', '{"version": 2}', "\udcff", "[" * 10**5],
)
def test_damaged_manifest_is_no_manifest(files, tmp_path, manifest):
    some = files.select(range(10))
    PixelStore.build(some, size=64, folder=tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(manifest.encode("utf-8", "surrogateescape"))
    assert same(PixelStore.build(some, size=64, folder=tmp_path), some)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 3),
        ("version", None),
        ("pictures", {}),
        ("pictures", []),
        ("pictures", None),
        ("pictures", 3),
        ("pictures", [3] * 10),
        ("pictures", [["a"]] * 10),
        ("pictures", [[None, "a"]] * 10),
        ("pictures", [["a", "b"]] * 10),
        ("pictures", [["a", None]] * 10),
        ("unreadable", None),
        ("unreadable", []),
        ("unreadable", {"a": None}),
        ("unreadable", {"no such picture": "cut"}),
        ("settings", "32-stretch"),
        ("settings", None),
        ("array", "nowhere.npy"),
    ],
)
def test_manifest_with_a_wrong_field_is_no_manifest(files, tmp_path, field, value):
    some = files.select(range(10))
    PixelStore.build(some, size=64, folder=tmp_path)
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_bytes())
    assert content["version"] == 4 and json.loads(json.dumps(content)) == content
    path.write_text(json.dumps(content | {field: value}))
    store = PixelStore.build(some, size=64, folder=tmp_path)
    assert same(store, some) and store.changes and not store.unreadable
    assert PixelStore.build(some, size=64, folder=tmp_path).changes == ""


def test_image_that_the_manifest_calls_unreadable(files, tmp_path):
    some = files.select(range(10))
    PixelStore.build(some, size=64, folder=tmp_path)
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_bytes())
    content["unreadable"] = {some.names[3]: "cut"}
    path.write_text(json.dumps(content))
    assert same(PixelStore.build(some, size=64, folder=tmp_path), some)


OTHER_ARRAYS = {
    "float": np.zeros((10, 64, 64, 3)),
    "int8": np.zeros((10, 64, 64, 3), np.int8),
    "more rows": np.zeros((11, 64, 64, 3), np.uint8),
    "fewer rows": np.zeros((9, 64, 64, 3), np.uint8),
    "channels first": np.zeros((10, 3, 64, 64), np.uint8),
    "other size": np.zeros((10, 32, 32, 3), np.uint8),
    "flat": np.zeros(10 * 64 * 64 * 3, np.uint8),
    "columns first": np.zeros((10, 64, 64, 3), np.uint8, order="F"),
    "text": np.full((10, 64, 64, 3), "a"),
    "records": np.zeros((10, 64, 64, 3), [("a", np.uint8)]),
}


@pytest.mark.parametrize("array", OTHER_ARRAYS)
def test_array_of_another_kind_is_decoded_again(files, tmp_path, array):
    some = files.select(range(10))
    PixelStore.build(some, size=64, folder=tmp_path)
    (path,) = tmp_path.glob("*.npy")
    np.save(path, OTHER_ARRAYS[array])
    assert same(PixelStore.build(some, size=64, folder=tmp_path), some)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "zip"])
def test_damaged_array_is_decoded_again(files, tmp_path, damage):
    some = files.select(range(10))
    PixelStore.build(some, size=64, folder=tmp_path)
    (path,) = tmp_path.glob("*.npy")
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    if damage == "empty":
        os.truncate(path, 0)
    if damage == "text":
        path.write_text("no array")
    if damage == "zip":
        with open(path, "wb") as f:
            np.savez(f, np.zeros(3))
    assert same(PixelStore.build(some, size=64, folder=tmp_path), some)
