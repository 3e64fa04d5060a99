"Files of fixes: awkward names, partial lines, several writers, and what is refused"

import os
import subprocess
import sys
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from simpsons_cnn.data.fixes import Fix, apply_fixes, read_fixes, record_fix
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.quality.split import split_per_character

HEADER = "file,action,character\n"
LINES = "moe/1.jpg,move,carl\nmoe/2.jpg,drop,\ncarl/1.jpg,drop,\ncarl/1.jpg,keep,\n"
NAMES = [
    f"{c}/{i}.jpg" for c, n in (("carl", 2), ("lenny", 2), ("moe", 3)) for i in range(1, n + 1)
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "fixes.csv"
    for line in LINES.splitlines():
        record_fix(path, *line.split(","))
    assert path.read_text() == HEADER + LINES
    return path


@pytest.fixture
def files(tmp_path):
    for name in NAMES:
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name)
    return ImageFiles.scan(tmp_path / "train")


def test_undo(tmp_path):
    path = tmp_path / "undone.csv"
    for action in ("drop", "undo"):
        record_fix(path, "moe/3.jpg", action)
    record_fix(path, "moe/4.jpg", "undo")  # nothing to take back
    assert read_fixes(path) == {}
    assert len(path.read_text().splitlines()) == 4


AWKWARD = ["moe/a,b.jpg", 'moe/"q".jpg', "moe/two\nlines.jpg", "moe/r\rr.jpg", "moe/\r\n.jpg"]
AWKWARD += ["Гомер/а б.jpg", "moe/;\t.jpg", "moe/\u2028.jpg", "=1+1/x.jpg", " moe / .jpg"]


def test_awkward_names(tmp_path):
    path = tmp_path / "awkward.csv"
    for name in AWKWARD:
        record_fix(path, name, "move", name.split("/")[0])
    expected = [(name, Fix("move", name.split("/")[0])) for name in AWKWARD]
    assert list(read_fixes(path).items()) == expected


def test_spreadsheets(tmp_path, path):
    whole = path.read_bytes()
    sheet = tmp_path / "sheet.csv"
    sheet.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n") + b"\r\n")
    assert read_fixes(sheet) == read_fixes(path)
    sheet.write_bytes(whole + b",,\n,,\n")  # rows that were cleared
    assert read_fixes(sheet) == read_fixes(path)
    old_mac = tmp_path / "old_mac.csv"
    old_mac.write_bytes(whole.replace(b"\n", b"\r"))
    before = read_fixes(old_mac)
    assert before == read_fixes(path)
    record_fix(old_mac, "new/1.jpg", "drop")
    assert read_fixes(old_mac) == before | {"new/1.jpg": Fix("drop")}


def test_a_full_disk_leaves_the_file_as_it_was(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="fixes.csv"):
        record_fix(path, "new/1.jpg", "drop")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_last_line_without_line_end_counts(path, capsys):
    path.write_bytes(path.read_bytes() + b"moe/3.jpg,drop,")
    assert read_fixes(path)["moe/3.jpg"] == Fix("drop")
    record_fix(path, "lenny/1.jpg", "keep")
    assert path.read_text() == HEADER + LINES + "moe/3.jpg,drop,\nlenny/1.jpg,keep,\n"
    assert capsys.readouterr().err == ""


def test_half_a_line_is_an_error(path):
    "It may be a cut one: nobody knows what it was to say"
    whole = path.read_bytes() + b"moe/1.jpg,mo"
    path.write_bytes(whole)
    for work in (lambda: read_fixes(path), lambda: record_fix(path, "moe/2.jpg", "drop")):
        with pytest.raises(ValueError, match="Line 6 of '.*': expected file,action,character"):
            work()
    assert path.read_bytes() == whole


def test_odd_quotes(tmp_path):
    odd = tmp_path / "odd.csv"
    odd.write_text(HEADER + '"moe/5 tv.jpg,drop,\nmoe/1.jpg,drop,\n')
    before = odd.read_bytes()
    for work in (lambda: read_fixes(odd), lambda: record_fix(odd, "moe/2.jpg", "drop")):
        with pytest.raises(
            ValueError, match="Line 2 of '.*': unexpected end of data; look at its quotation marks"
        ):
            work()
    assert odd.read_bytes() == before


def test_many_writers(tmp_path):
    path = tmp_path / "many.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: record_fix(path, f"moe/{i}.jpg", "drop"), range(200)))
    assert len(read_fixes(path)) == 200
    assert os.listdir(tmp_path) == ["many.csv"]


@pytest.mark.parametrize(
    ("number", "text"), [(38, "flock not supported"), (37, "cannot be locked (No locks available)")]
)
def test_drive_without_locks(tmp_path, refuse_locks, capsys, number, text):
    "Without the system call filelock itself warns, and makes do with a marker file"
    refuse_locks(number)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(2):
            record_fix(tmp_path / "f.csv", f"moe/{i}.jpg", "drop")
    assert read_fixes(tmp_path / "f.csv") == {f"moe/{i}.jpg": Fix("drop") for i in range(2)}
    assert text in capsys.readouterr().err + "".join(str(w.message) for w in caught)


def test_folder_without_room_for_a_lock(tmp_path, monkeypatch, capsys):
    path = tmp_path / "f.csv"
    record_fix(path, "moe/1.jpg", "drop")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", denied)
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    record_fix(path, "moe/2.jpg", "drop")
    assert len(read_fixes(path)) == 2
    assert "cannot be locked (Permission denied)" in capsys.readouterr().err


ENDLESS = """import sys, itertools
from simpsons_cnn.data.fixes import record_fix
for i in itertools.count():
    record_fix(sys.argv[1], f'moe/{i}.jpg', 'drop')
    print(i, flush=True)"""


def test_killed_while_recording(tmp_path):
    path = tmp_path / "killed.csv"
    command = [sys.executable, "-c", ENDLESS, str(path)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in program.stdout:
        if int(line) == 20:
            program.kill()
            break
    last = [20, *map(int, program.stdout.read().split())][-1]
    program.wait()
    assert list(read_fixes(path))[: last + 1] == [f"moe/{i}.jpg" for i in range(last + 1)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("picture,action\n", "must begin with the line 'file,action,character', got 'picture,"),
        ("file;action;character\na/b.jpg;drop;\n", "got 'file;action;character'"),
        ("no such file at all", "must begin with the line"),
        (HEADER.encode() + b"\xff\xfe,drop,\n", "is not UTF-8 text"),
        (HEADER + "a/b.jpg,dorp,\n", "bad.csv': Unknown action 'dorp'; did you mean 'drop'?"),
        (HEADER + "a/b.jpg,drop,\na/c.jpg,drop\n", "Line 3 of"),
        (HEADER + "a/b.jpg,move,moe,x\n", "expected file,action,character, got 4 values"),
        (HEADER + "a/b.jpg,move,\n", "a 'move' needs the right character"),
    ],
)
def test_refused_files(tmp_path, text, message):
    (tmp_path / "bad.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        read_fixes(tmp_path / "bad.csv")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "row, message",
    [
        (("a/b.jpg", "drop", "moe"), "a 'drop' takes no character, got 'moe'"),
        (("b.jpg", "drop"), "file must be 'character/picture.jpg', got 'b.jpg'"),
        (("/b.jpg", "drop"), "file must be 'character/picture.jpg', got '/b.jpg'"),
    ],
)
def test_refused_decisions(path, row, message):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        record_fix(path, *row)
    assert path.read_bytes() == before


def test_other_files_are_not_written_to(tmp_path):
    (tmp_path / "diary.txt").write_text("Dear diary,\n")
    with pytest.raises(ValueError, match="must begin with the line"):
        record_fix(tmp_path / "diary.txt", "a/b.jpg", "drop")
    assert (tmp_path / "diary.txt").read_text() == "Dear diary,\n"


def test_applied(files, path):
    fixed = apply_fixes(files, path)
    assert fixed.names == [n for n in NAMES if n != "moe/2.jpg"]
    assert list(fixed.labels) == [0, 0, 1, 1, 0, 2]  # no longer sorted
    assert (list(fixed.counts), list(files.counts)) == ([3, 2, 1], [2, 2, 3])
    assert all(p.exists() for p in files.paths)
    assert apply_fixes(files, {}).names == files.names
    assert apply_fixes(fixed, {"moe/1.jpg": Fix("keep")}).names == fixed.names


def test_split_and_table_go_by_the_label(files, path):
    fixed = apply_fixes(files, path)
    _, valid_idx = split_per_character(fixed, valid=0.34)
    assert list(np.bincount(fixed.labels[valid_idx], minlength=3)) == [1, 1, 0]
    assert dict(zip(fixed.table.character, fixed.table.pictures, strict=True)) == dict(
        carl=3, lenny=2, moe=1
    )


def test_missing_images(files, capsys):
    fixes = {"moe/l.jpg": Fix("drop")}
    assert apply_fixes(files, fixes).names == files.names
    assert "note: 1 of 1 fixes are for pictures that are not under" in capsys.readouterr().err
    with pytest.raises(ValueError, match="'moe/l.jpg'.*; did you mean 'moe/"):
        apply_fixes(files, fixes, strict=True)


@pytest.mark.parametrize(
    "fixes, message",
    [
        ({"carl/1.jpg": Fix("move", "moo")}, r"did you mean 'moe'\? \(in the fix of 'carl/1.jpg'"),
        ({n: Fix("drop") for n in NAMES[:4]}, "leave no picture of carl, lenny;"),
        ({n: Fix("move", "moe") for n in NAMES[:2]}, "leave no picture of carl;"),
    ],
)
def test_refused_fixes(files, fixes, message):
    with pytest.raises(ValueError, match=message):
        apply_fixes(files, fixes)


def test_class_that_was_empty_before(files):
    known = ImageFiles.scan(files.root, classes=["apu", *files.classes])
    assert apply_fixes(known, {"moe/1.jpg": Fix("drop")}).missing == ["apu"]


def test_unicode_forms(tmp_path):
    for name in ("Mu\u0308ller/1.jpg", "z/1.jpg", "z/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    files = ImageFiles.scan(tmp_path)
    fixes = {"z/1.jpg": Fix("move", unicodedata.normalize("NFD", "Müller"))}
    fixes["M\u00fcller/1.jpg"] = Fix("drop")
    assert list(apply_fixes(files, fixes, strict=True).labels) == [0, 1]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "moe/\u00e9.jpg") for form in ("NFC", "NFD"))


def test_unicode_forms_are_one_picture(tmp_path):
    path = tmp_path / "forms.csv"
    record_fix(path, DECOMPOSED, "drop")
    record_fix(path, COMPOSED, "keep")
    assert read_fixes(path) == {COMPOSED: Fix("keep")}
    record_fix(path, DECOMPOSED, "undo")
    assert read_fixes(path) == {}


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac takes both names for one file")
@pytest.mark.parametrize("dropped", [COMPOSED, DECOMPOSED])
def test_unicode_forms_side_by_side(files, dropped):
    for name in (COMPOSED, DECOMPOSED):
        Image.new("RGB", (8, 8)).save(files.root / name)
    files = ImageFiles.scan(files.root)
    left = apply_fixes(files, {dropped: Fix("drop")}, strict=True)
    assert {*files.names} - {*left.names} == {dropped}


@pytest.mark.parametrize(
    "fix, words", [(("Drop", ""), "Unknown action 'Drop'"), (("move", ""), "needs the right")]
)
def test_fixes_that_were_made_in_a_program_are_checked(tmp_path, fix, words):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=words):
        apply_fixes(ImageFiles.scan(tmp_path), {NAMES[0]: fix})
