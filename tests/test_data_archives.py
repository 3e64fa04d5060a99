"Archives: layouts, names and encodings, packings; those made to do harm, and damaged ones"

import gzip
import io
import os
import re
import shutil
import stat
import sys
import tarfile
import types
import zipfile
from pathlib import Path
from unittest.mock import patch as replaced

import numpy as np
import pytest
from fastcore.test import expect_fail, test_eq
from PIL import Image

from simpsons_cnn.data import archives
from simpsons_cnn.data.archives import (
    _KAGGLE_DATASET,
    _plan,
    _safe_name,
    _Zip,
    fetch,
    unpack,
)
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.demo.characters import draw_character

test_eq.__test__ = False  # a helper, not a test


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(x).save(path)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_equal_sizes_are_no_copies(tmp_path, packed):
    source = tmp_path / "d"
    for k, split in enumerate(("train", "test")):
        for c in "abc":
            for i in range(6 - 2 * k):
                save(source / split / c / f"{i}.bmp", 100 * k + 10 * ord(c) + i)
    if packed:
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as z:
            for path in sorted(source.rglob("*.bmp")):
                z.write(path, path.relative_to(source))
        source = tmp_path / "d.zip"
    found = unpack(source, tmp_path / "out")
    assert (sum(found.train.values()), sum(found.test.values())) == (18, 12)


@pytest.mark.parametrize("name", ["test-data", "my_tests", "test"])
def test_single_set_is_for_training(tmp_path, name):
    for c in "ab":
        save(tmp_path / "in" / name / c / "1.jpg", ord(c))
    assert unpack(tmp_path / "in", tmp_path / "out").train == {"a": 1, "b": 1}


@pytest.mark.parametrize("encoding", ["cp866", "utf-8"])
def test_unmarked_names(tmp_path, encoding):
    names = {"AAAAA" + "A" * 5: "Гомер", "BBBBB" + "B" * 5: "Мардж"}
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as z:
        for k, folder in enumerate(names):
            placeholder = folder if encoding == "utf-8" else folder[:5]
            z.write(save(tmp_path / "x.png", k), f"train/{placeholder}/1.png")
    data = (tmp_path / "z.zip").read_bytes()
    for folder, name in names.items():
        placeholder = folder if encoding == "utf-8" else folder[:5]
        data = data.replace(placeholder.encode(), name.encode(encoding))
    (tmp_path / "z.zip").write_bytes(data)
    if encoding == "utf-8":
        assert sorted(unpack(tmp_path / "z.zip", tmp_path / "out").train) == ["Гомер", "Мардж"]
    else:
        with pytest.raises(ValueError, match="encoding is not marked as UTF-8"):
            unpack(tmp_path / "z.zip", tmp_path / "out")


# What goes where, by names and sizes alone


@pytest.mark.parametrize(
    "name",
    [
        "../x.jpg",
        "a/../../x.jpg",
        "/etc/x.jpg",
        "C:\\x.jpg",
        "a/C:x.jpg",
        "a\\..\\..\\x.jpg",
        "\\\\server\\x.jpg",
    ],
)
def test_paths_that_lead_out(name):
    with pytest.raises(ValueError, match="leads out of the target folder"):
        _safe_name(name)


def plan(*names):
    "The plan for files whose sizes are those of their names, and whose bytes are equal"
    sizes = {name: 100 + len(name.split("/")[-1]) for name in names}
    return _plan(types.SimpleNamespace(sizes=sizes, open=lambda name: io.BytesIO()))


TRAIN = ["train/apu/1.jpg", "train/moe/1.jpg"]
LAYOUTS = {  # files, targets, reason -> names left out
    "test images without names": (
        [f"train/simpsons_dataset/{c}/1.jpg" for c in ("apu", "moe")]
        + ["testset/testset/img0.jpg", "testset/testset/img1.jpg"],
        TRAIN,
        {
            "not named after a character of the training pictures": [
                "testset/testset/img0.jpg",
                "testset/testset/img1.jpg",
            ]
        },
    ),
    "train and test": (
        [*TRAIN, "test/apu/22.jpg", "test/moe/33.jpg", "test/carl/44.jpg"],
        ["test/apu/22.jpg", "test/moe/33.jpg", *TRAIN],
        {"of a character without training pictures": ["test/carl/44.jpg"]},
    ),
    "test images among the characters": (
        ["apu/1.jpg", "moe/1.jpg", "the_test/apu_1.jpg", "the_test/moe_1.jpg"]
        + ["other/deep/apu_1.jpg"],
        ["test/apu/apu_1.jpg", "test/moe/moe_1.jpg", *TRAIN],
        {"a second copy of 'the_test'": ["other/deep/apu_1.jpg"]},
    ),
    "an earlier attempt inside": (
        ["apu/1.jpg", "moe/1.jpg"]
        + ["my_latest/apu/1.jpg", "my_latest/moe/1.jpg", "my_latest/moe/222.jpg"],
        TRAIN,
        {
            "a second copy of '.'": ["my_latest/apu/1.jpg", "my_latest/moe/1.jpg"],
            "only in a second copy of '.'": ["my_latest/moe/222.jpg"],
        },
    ),
    "no word test in it": (["my_latest/apu/1.jpg", "my_latest/moe/1.jpg"], TRAIN, {}),
    "test above both": (
        ["my_test/train/apu/0.jpg", "my_test/train/moe/1.jpg"]
        + ["my_test/test/apu/2.jpg", "my_test/test/moe/3.jpg"],
        ["test/apu/2.jpg", "test/moe/3.jpg", "train/apu/0.jpg", "train/moe/1.jpg"],
        {},
    ),
    "a single set is for training": (["test/apu/1.jpg", "test/moe/1.jpg"], TRAIN, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    files, targets, expected = LAYOUTS[layout]
    goes, left = plan(*files)
    assert (sorted(goes.values()), left) == (targets, expected)


def test_layout_of_kaggle():
    names = ("apu/pic_0000.jpg", "apu/pic_0001.jpg", "abraham_grampa_simpson/pic_0000.jpg")
    inner = [f"simpsons_dataset/{name}" for name in (*names, "moe/pic_0000.jpg")]
    tests = [
        f"{folder}/{name}_0.jpg"
        for folder in ("testset", "testset/testset")
        for name in ("abraham_grampa_simpson", "nobody")
    ]
    others = ["annotation.txt", ".DS_Store", "__MACOSX/testset/apu_1.jpg"]
    inside = ["simpsons_dataset/apu/old/apu_7.jpg"]
    more = ["characters_illustration.png", "illustrations/all.png"]
    layout = inner + [f"simpsons_dataset/{name}" for name in inner] + tests + others + inside + more
    goes, left = plan(*layout)
    assert goes == {name: name.replace("simpsons_dataset", "train") for name in inner} | {
        tests[0]: "test/abraham_grampa_simpson/abraham_grampa_simpson_0.jpg"
    }
    assert {*layout} == {*goes, *(name for names in left.values() for name in names)}
    assert left["hidden, or no picture"] == others
    assert left["in a folder inside a character's folder"] == inside


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            [
                f"{s}/{c}/{i}.jpg"
                for i, (s, c) in enumerate(
                    (s, c) for s in ("train", "test_a", "test_b") for c in ("apu", "moe")
                )
            ],
            "it has 2 test sets ('test_a', 'test_b')",
        ),
        (
            ["apu/1.jpg", "moe/1.jpg", "b/apu/22.jpg", "b/moe/1.jpg", "b/moe/333.jpg"],
            "it has 2 sets of pictures ('.', 'b')",
        ),
        (
            ["a/apu/1.jpg", "a/moe/1.jpg", "b/apu/22.jpg", "b/moe/22.jpg"],
            "it has 2 sets of pictures ('a', 'b')",
        ),
        ([], "it holds no pictures"),
    ],
)
def test_layouts_that_are_not_clear(names, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        plan(*names)


# Archives that were made to do harm, or that were harmed; none of them leaves anything behind


def drawn(character, i):
    f = io.BytesIO()
    draw_character(character, np.random.default_rng(i), 64).save(f, "jpeg")
    return f.getvalue()


who = dict(
    granny_nebula="abraham_grampa_simpson",
    professor_plank="apu_nahasapeemapetilon",
    mossy_mo="moe_szyslak",
)
content = {
    f"simpsons_dataset/{name}/pic_{i:04}.jpg": drawn(ours, i)
    for ours, name in who.items()
    for i in range(4)
}
tests = {
    f"kaggle_simpson_testset/kaggle_simpson_testset/{name}_{i}.jpg": drawn(ours, 9 + i)
    for ours, name in who.items()
    for i in range(2)
}
content |= (
    {f"simpsons_dataset/{name}": data for name, data in content.items()}
    | tests
    | {name.split("/", 1)[1]: data for name, data in tests.items()}
)
content |= {
    "annotation.txt": b"x",
    "number_pic_char.csv": b"x",
    "characters_illustration.png": drawn("mossy_mo", 1),
    "__MACOSX/._simpsons_dataset": b"x",
    "simpsons_dataset/.DS_Store": b"x",
}


def make_zip(path, content, **kwargs):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **kwargs) as z:
        for name, data in content.items():
            z.writestr(name, data)
    return path


def make_tar(path, content, mode="w:gz"):
    with tarfile.open(path, mode) as t:
        for name, data in content.items():
            i = tarfile.TarInfo(name)
            i.size = len(data)
            t.addfile(i, io.BytesIO(data))
    return path


def make_folder(path, content):
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_zip("archive.zip", content)
    return make_folder(tmp_path / "downloaded", content)


def refused(path, words, error=ValueError, **kwargs):
    tmp = Path.cwd()
    before = sorted(tmp.rglob("*"))
    with expect_fail(error, contains=words):
        unpack(path, "out/new", **kwargs)
    if Path("out").exists():
        os.rmdir("out")  # only empty
    assert sorted(tmp.rglob("*")) == before


def test_harmful_archives(folder):
    tmp = Path.cwd()
    refused(
        make_zip("bad.zip", content | {"../../escaped.txt": b"x"}),
        "it holds the path '../../escaped.txt', which leads out",
    )
    bad = make_tar(tmp / "bad.tar", content, "w:bz2")
    damaged = bytearray(bad.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    bad.write_bytes(damaged)
    refused("bad.tar", "cannot be unpacked: ")
    data = make_tar(bad, content, "w").read_bytes().rstrip(b"\0")
    bad.write_bytes(data + bytes(-len(data) % 512))  # cut where a header would begin
    refused("bad.tar", "neither a header nor the end at byte")
    refused(
        make_zip("bad.zip", content | {"/escaped.jpg": b"x"}), "'/escaped.jpg', which leads out"
    )
    refused(
        make_tar("bad.tar", content | {"simpsons_dataset/moe_szyslak/../../../escaped.jpg": b"x"}),
        "which leads out",
    )
    link = zipfile.ZipInfo("simpsons_dataset/moe_szyslak/link.jpg")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(
        make_zip("bad.zip", content | {link: b"/etc/passwd"}),
        "it holds a link or a device, 'simpsons_dataset/moe_szyslak/link.jpg'",
    )
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with tarfile.open("bad.tar", "w") as t:
            i = tarfile.TarInfo("simpsons_dataset/x.jpg")
            i.type = kind
            i.linkname = "../../.."
            t.addfile(i)
        refused("bad.tar", "it holds a link or a device, 'simpsons_dataset/x.jpg'")


def test_bombs(folder):
    bomb = make_zip(
        "bomb.zip", content | {"simpsons_dataset/moe_szyslak/big.jpg": bytes(12_345_678)}
    )
    test_eq(os.path.getsize(bomb) < 200_000, True)
    refused(
        bomb,
        "it unpacks to more than 0.01 GiB; if that is right, allow more with max_gib",
        max_gib=0.01,
    )
    refused(
        make_tar("bomb.tar", content | {"a.txt": bytes(2**24)}),
        "it unpacks to more than 0.01 GiB",
        max_gib=0.01,
    )  # would not be taken, but has to be decompressed
    data = Path(bomb).read_bytes()
    size = (12_345_678).to_bytes(4, "little")
    test_eq(data.count(size), 2)
    Path("lying.zip").write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    refused("lying.zip", "cannot be unpacked: Bad CRC-32", max_gib=0.01)
    with replaced.object(_Zip, "open", lambda self, name: io.BytesIO(bytes(2**24))):
        refused("archive.zip", "bytes and has more", max_gib=0.01)
    with replaced.object(_Zip, "open", lambda self, name: io.BytesIO(bytes(7))):
        refused("archive.zip", "bytes and has 7")
    i = tarfile.TarInfo("././@LongLink")
    i.type = tarfile.GNUTYPE_LONGNAME
    i.size = 2**30
    with gzip.open("bad.tar", "wb") as f:
        f.write(i.tobuf())
    refused("bad.tar", "one of its headers is longer than 16 MiB")
    with replaced.object(archives, "_MAX_ENTRIES", 20):
        refused("archive.zip", "it holds more than 20 entries")


def test_harmed_archives(folder):
    unpack("archive.zip", "data/simpsons")
    whole = Path("archive.zip").read_bytes()
    Path("cut.zip").write_bytes(whole[: len(whole) // 2])
    refused(
        "cut.zip",
        "'cut.zip' cannot be unpacked: File is not a zip file "
        "(is it a zip or tar archive, and whole?)",
    )
    Path("bad.zip").write_bytes(whole[:3000] + bytes(99) + whole[3099:])
    refused("bad.zip", "(is it a zip or tar archive, and whole?)")
    Path("locked.zip").write_bytes(
        re.sub(rb"(PK\x01\x02.{4})..", lambda m: m[1] + b"\x01\x00", whole, flags=re.S)
    )
    refused("locked.zip", "it is encrypted; unpack it with its password")
    whole = Path(make_tar("archive.tar.gz", content)).read_bytes()
    plain = gzip.decompress(whole)
    Path("cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    refused("cut.tar.gz", "cannot be unpacked: Compressed file ended")
    Path("cut.tar").write_bytes(plain[: len(plain) // 2])
    refused("cut.tar", "unexpected end of data")
    middle = plain.index(b"simpsons_dataset/moe_szyslak/pic_0002.jpg")
    Path("torn.tar").write_bytes(plain[:middle] + b"?" * 512 + plain[middle + 512 :])
    refused("torn.tar", f"neither a header nor the end at byte {middle:,}")
    Path("notes.txt").write_text("no archive")
    refused("notes.txt", "'notes.txt' cannot be unpacked: ")
    refused(
        make_zip("texts.zip", {"a/b.txt": b"x", "inner.tar.gz": b"x"}),
        "it holds 'a/b.txt', 'inner.tar.gz'",
    )
    with replaced("shutil.disk_usage", lambda p: types.SimpleNamespace(free=1000)):
        words = "The unpacked data set needs 0.0 MiB, and 0.0 MiB are free in '"
        refused("archive.zip", words, OSError)
    refused("nowhere.zip", "No archive or folder at 'nowhere.zip'", FileNotFoundError)
    refused("archive.zip", "max_gib must be above 0, got 0", max_gib=0)
    with expect_fail(FileExistsError, contains="'data/simpsons' already holds something else"):
        unpack("archive.zip", "data/simpsons")
    with expect_fail(ValueError, contains="which is only read"):
        unpack(folder, folder / "out")


def interrupted(self, name):
    raise KeyboardInterrupt


def test_interrupted(folder):
    with replaced.object(_Zip, "open", interrupted):
        refused("archive.zip", "", KeyboardInterrupt)


# Packings


def tree(root):
    paths = [p for p in Path(root).rglob("*") if p.is_file()]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}


def expected_tree():
    trained = {f"train/{name[17:]}": data for name, data in content.items() if name.count("/") == 2}
    trained = {k: v for k, v in trained.items() if "/pic_" in k and not k.startswith("train/simps")}
    tested = {
        f"test/{Path(name).name.rsplit('_', 1)[0]}/{Path(name).name}": data
        for name, data in tests.items()
    }
    return trained | tested


def test_what_is_unpacked_can_be_scanned(folder):
    found = unpack("archive.zip", "data/simpsons")
    assert tree("data/simpsons") == expected_tree() and os.listdir("data") == ["simpsons"]
    files = ImageFiles.scan("data/simpsons/train")
    test_files = ImageFiles.scan("data/simpsons/test", classes=files.classes)
    assert files.classes == sorted(who.values())
    assert (list(files.counts), list(test_files.counts)) == ([4] * 3, [2] * 3)
    assert found.train == dict(zip(files.classes, files.counts, strict=True))
    assert found.test == dict(zip(files.classes, test_files.counts, strict=True))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_in_each_compression(folder, mode):
    unpack(make_tar("archive.tar", content, mode), "again")
    assert tree("again") == expected_tree()


def test_tar_with_an_entry_for_its_root(folder):
    found = unpack(make_tar("archive.tar", content | {".": b"x"}), "again")
    assert found.left_out["hidden, or no picture"].count("") == 1


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_images_without_a_suffix_are_found_by_content(tmp_path, kind):
    "As a scan of the folder would find them"
    pairs = [(ours, name, i) for ours, name in who.items() for i in range(2)]
    images = {f"set/{name}/{i}": drawn(ours, i) for ours, name, i in pairs}
    for name, data in (images | {"set/moe_szyslak/notes": b"RIFF"}).items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    source = tmp_path / "in"
    if kind != "folder":
        source = shutil.make_archive(str(tmp_path / "all"), kind, source)
    found = unpack(source, tmp_path / "out")
    assert sum(found.train.values()) == len(images) == len(ImageFiles.scan(tmp_path / "out/train"))
    if kind != "folder":
        assert found.left_out == {"hidden, or no picture": ["set/moe_szyslak/notes"]}


def test_folder_is_copied(folder):
    unpack(folder, "again")
    assert (tree("again"), tree(folder)) == (expected_tree(), content)
    assert os.stat("again/train/moe_szyslak/pic_0000.jpg").st_nlink == 1  # a copy, not a link


def test_folder_one_level_further_down(folder):
    unpack(folder / "simpsons_dataset", "again")  # the nested copy is beside the characters
    expected = {k: v for k, v in expected_tree().items() if k.startswith("train/")}
    assert tree("again") == expected


def test_fetch(folder):
    asked = []
    stand_in = types.SimpleNamespace(dataset_download=lambda name: asked.append(name) or folder)
    with replaced.dict(sys.modules, kagglehub=stand_in):
        fetch("fetched")
        with pytest.raises(FileExistsError, match="'fetched' already holds"):
            fetch("fetched")  # noticed before the download
    assert (asked, tree("fetched")) == ([_KAGGLE_DATASET], expected_tree())


def test_fetch_without_kagglehub(folder):
    with (
        replaced.dict(sys.modules, kagglehub=None),
        pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'simpsons_cnn[fetch]'")),
    ):
        fetch("other")


def packed(folder, *names):
    "A zip with an image of each name"
    with zipfile.ZipFile(folder / "z.zip", "w") as z:
        for i, name in enumerate(names):
            z.write(save(folder / f"{i}.png", i), name)
    return folder / "z.zip"


NFD = "train/homer/u\u0308.png"
ALIKE = {
    "folders": ("train/Homer/1.png", "train/homer/2.png"),
    "files": ("train/homer/1.png", "train/homer/1.PNG"),
    "forms": ("train/homer/\u00fc.png", NFD),
}


@pytest.mark.parametrize("case", ALIKE)
def test_names_that_a_drive_takes_for_one(tmp_path, case, monkeypatch):
    "On a drive that knows neither case nor Unicode forms nothing is written, and both are named"
    source, seen = packed(tmp_path, *ALIKE[case], "train/marge/1.png"), set()

    def insensitive(path, mode="r", *args, **kwargs):
        name = archives.nfc(str(path)).lower()
        if "x" in mode and name in seen:
            raise FileExistsError(17, "File exists", str(path))
        seen.add(name)
        return open(path, mode, *args, **kwargs)

    monkeypatch.setattr(archives, "open", insensitive, raising=False)
    monkeypatch.setattr(archives, "_write_file", lambda *_: pytest.fail("was written"))
    with pytest.raises(ValueError) as told:
        unpack(source, tmp_path / "out")
    names = [repr(name.rsplit("/", case == "folders")[0]) for name in ALIKE[case]]
    assert all(name in str(told.value) for name in names)
    assert not (tmp_path / "out").exists()


def test_names_that_this_drive_tells_apart(tmp_path):
    source = packed(tmp_path, *ALIKE["files"], *ALIKE["forms"], "train/marge/1.png")
    assert unpack(source, tmp_path / "out").train == {"homer": 4, "marge": 1}


@pytest.mark.parametrize(
    "name", ["aux", "CON.jpg", "com1.png", "moe.", "moe ", "moe:b", "a?b", "\t"]
)
@pytest.mark.parametrize("path", ["train/{}/1.png", "train/homer/{}"])
def test_names_that_windows_cannot_write(name, path, monkeypatch):
    path = path.format(name)
    assert _safe_name(path) == path
    monkeypatch.setattr(archives, "_ON_WINDOWS", True)
    with pytest.raises(ValueError, match="which Windows cannot write"):
        _safe_name(path)
    assert _safe_name("train/auxiliary/com10.v2.png") == "train/auxiliary/com10.v2.png"


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_entries_of_one_name_are_mentioned(folder, make):
    small = {f"d/{c}/{i}.jpg": bytes([i]) * 9 for c in "ab" for i in range(2)}
    path = make(Path("twice"), small | {"d/./a/0.jpg": b"another picture"})
    found = unpack(path, "out")
    test_eq(found.left_out, {"a later entry has the same name": ["d/a/0.jpg"]})
    test_eq(Path("out/train/a/0.jpg").read_bytes(), b"another picture")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "words"),
    [("a/\udce9.jpg", "which is not UTF-8 text"), ("\udce9/1.jpg", "which is not UTF-8 text")]
    + [("x" * 256 + "/1.jpg", "of 256 bytes, and drives take 255")],
    ids=["picture", "character", "long"],
)
def test_names_that_could_not_be_scanned_or_written(folder, name, words, packed):
    few = {f"d/{c}/{i}.jpg": bytes([i]) for c in "ab" for i in range(2)} | {f"d/{name}": b"x"}
    if packed:
        refused(make_tar("bad.tar", few, "w:gz"), words)
    elif "x" not in name:
        refused(make_folder(Path("bad"), few), words)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_the_checksum_behind_the_entries_counts(folder, mode, harm):
    path = Path(make_tar("bad.tar", content, mode))
    data = path.read_bytes()
    path.write_bytes(data[:-1] if harm == "cut" else data[:-6] + b"?" + data[-5:])
    refused(path, "cannot be unpacked: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_is_no_archive(tmp_path):
    "Opening one waits until somebody writes to it"
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ValueError, match="pipe.zip' is a pipe or a device; an archive must be a"):
        unpack(tmp_path / "pipe.zip", tmp_path / "new")
    assert os.listdir(tmp_path) == ["pipe.zip"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("content", [{"../1.jpg": b"x"}, {"a/1.jpg": b"x" * 99, "b/1.jpg": b"x"}])
def test_a_refused_archive_is_closed(folder, kind, content):
    "Also while a notebook keeps the error: it may have to be removed, to download it again"
    if kind == "zip":
        make_zip("refused", content)
    else:
        make_tar("refused", content, kind)
    with pytest.raises(ValueError, match="leads out|unpacks to more") as error:
        unpack("refused", "out", max_gib=50 / 2**30)
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    assert not [link for link in links if os.path.realpath(link).endswith("/refused")]
    assert error.traceback
