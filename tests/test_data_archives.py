"Archives: sets of equal sizes, names of sets, old encodings"

import gzip
import io
import os
import re
import stat
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
from simpsons_cnn.data.archives import _Zip, unpack
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
        refused("archive.zip", "more than 0.01 GiB, whatever it claims", max_gib=0.01)
    with replaced.object(_Zip, "open", lambda self, name: io.BytesIO(bytes(7))):
        refused("archive.zip", "bytes and has 7")
    i = tarfile.TarInfo("././@LongLink")
    i.type = tarfile.GNUTYPE_LONGNAME
    i.size = 2**30
    with gzip.open("bad.tar", "wb") as f:
        f.write(i.tobuf())
    refused("bad.tar", "one of its headers is longer than 16 MiB")
    with replaced.object(archives, "MAX_ENTRIES", 20):
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
        refused("archive.zip", "'out/new' needs 0.0 MiB, and 0.0 MiB are free in ", OSError)
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
