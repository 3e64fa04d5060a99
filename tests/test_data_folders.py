"Folders of images: odd names, junk, links, and folders that are refused"

import os
import stat
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from simpsons_cnn.data.folders import ImageFiles, pictures_under


def make_folder(root, *names, kind="png"):
    for name in names:
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "orange").save(path, kind)
    return Path(root)


@pytest.fixture
def training(tmp_path):
    return ImageFiles.scan(make_folder(tmp_path / "training", "apu n/1.png", "Гомер/1.png"))


REFUSED = {
    "empty": ((), "No pictures under"),
    "single": (("moe/1.png",), r"a single character \(moe\)"),
    "loose": (("1.png", "moe/1.png"), "1 pictures lie directly in"),
    "stray": (
        ("moe/1.png", "moe/old/2.png", "carl/1.png"),
        r"holds pictures and also folders \(old\)",
    ),
    "nested": (
        ("moe/1.png", "carl/1.png", "x/moe/1.png", "x/carl/1.png"),
        r"x' holds folders \(carl, moe\) .* must lie outside '.*d'; move it there",
    ),
    "test beside": (("moe/1.png", "carl/1.png", "test/moe/1.png"), "test' holds .* move it there"),
    "one level too high": (
        ("test/moe/1.png", "train/moe/1.png", "train/carl/1.png"),
        r"\(test, train\) hold folders where pictures were expected; name '.*d/train' or another",
    ),
    "by season": (("moe/s1/1.png", "carl/s1/1.png"), "put all pictures of a character directly"),
    "latin": (
        (os.fsdecode(b"moe/Jos\xe9.png"), "carl/1.png"),
        r"holds b'Jos\\xe9.png', whose name is not UTF-8 text; rename it",
    ),
    "case": (("Moe/1.png", "moe/1.png"), "differ only in case or Unicode form"),
    "unicode": (("M\u00fcller/1.png", "Mu\u0308ller/1.png"), "differ only in case or Unicode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_folders(tmp_path, case):
    names, message = REFUSED[case]
    (tmp_path / "d").mkdir()
    make_folder(tmp_path / "d", *names)
    with pytest.raises(ValueError, match=message):
        ImageFiles.scan(tmp_path / "d")


def test_a_folder_of_test_pictures_is_not_taken_for_a_character_without_a_word(tmp_path, capsys):
    make_folder(tmp_path / "d", "moe/1.png", "carl/1.png", "Test/1.png", "val/1.png")
    assert ImageFiles.scan(tmp_path / "d").classes == ["Test", "carl", "moe", "val"]
    said = capsys.readouterr().err
    assert "these names count as characters: Test, val;" in said and said.count("\n") == 1
    ImageFiles.scan(tmp_path / "d", ["Test", "carl", "moe", "val"])  # the characters are given
    assert not capsys.readouterr().err


def test_not_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder"):
        ImageFiles.scan(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file"):
        ImageFiles.scan(make_folder(tmp_path, "moe/1.png") / "moe/1.png")
    with pytest.raises(FileNotFoundError, match="Cannot look into .*No such file"):
        pictures_under(tmp_path / "nowhere")


LEFT_OUT = "files under '{}' are left out, because they are no pictures of a format that is read"


@pytest.mark.parametrize("look", [pictures_under, ImageFiles.scan], ids=["walk", "scan"])
def test_what_is_left_out_is_said_once(tmp_path, capsys, look):
    make_folder(tmp_path, "moe/1.png", "carl/1.png", "carl/.hidden.txt")
    for name in ("moe/a.jxl", "moe/b.txt", "carl/c.txt", "carl/\x1b[2K.txt"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "moe/gone.png").symlink_to("nowhere.png")
    assert len(look(tmp_path)) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith(f"note: 5 {LEFT_OUT.format(tmp_path)}, or links to nothing (")
    assert said.err.endswith(r"(carl/\x1b[2K.txt, carl/c.txt, moe/a.jxl and 2 more)" + "\n")


def test_character_without_images(tmp_path):
    make_folder(tmp_path, "moe/1.png", "lenny/1.png")
    (tmp_path / "carl").mkdir()
    with pytest.raises(ValueError, match="No pictures in 1 of the folders"):
        ImageFiles.scan(tmp_path)
    files = ImageFiles.scan(tmp_path, classes=["carl", "lenny", "moe"])
    assert files.missing == ["carl"]


def test_only_empty_folders(tmp_path):
    (tmp_path / "moe").mkdir()
    with pytest.raises(ValueError, match="its 1 subfolders are empty"):
        ImageFiles.scan(tmp_path)


def test_unknown_character(tmp_path, training):
    make_folder(tmp_path / "t", "Гомэр/1.png")
    with pytest.raises(ValueError, match="Unknown character 'Гомэр'; did you mean 'Гомер'"):
        ImageFiles.scan(tmp_path / "t", classes=training.classes)


def test_nested_copy_can_be_scanned(tmp_path):
    make_folder(tmp_path, "moe/1.png", "x/moe/1.png", "x/carl/1.png")
    assert len(ImageFiles.scan(tmp_path / "x")) == 2


@pytest.mark.parametrize("train_form, test_form", [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_forms_are_one_name(tmp_path, train_form, test_form):
    for split, form in (("train", train_form), ("test", test_form)):
        name = unicodedata.normalize(form, "Müller")
        make_folder(tmp_path / split, f"{name}/1.png", "z/1.png")
    train = ImageFiles.scan(tmp_path / "train")
    test = ImageFiles.scan(tmp_path / "test", classes=train.classes)
    assert train.classes == ["Müller", "z"]
    assert list(test.labels) == [0, 1]
    assert all(path.exists() for path in test.paths)


def test_images_are_found_by_content(tmp_path, capsys):
    for character in "ab":
        make_folder(tmp_path, *(f"{character}/{n}" for n in ("1.jfif", "2.jpe", "3")), kind="jpeg")
        make_folder(tmp_path, *(f"{character}/{n}" for n in ("4", "5.odd", "6.avif")))
        make_folder(tmp_path, f"{character}/7", kind="webp")
        make_folder(tmp_path, f"{character}/8.part")  # a download that has not ended
        (tmp_path / character / "notes").write_text("RIFF")
        (tmp_path / character / "film.webm").write_bytes(bytes(99))
    assert len(ImageFiles.scan(tmp_path)) == 14
    said = capsys.readouterr().err  # of all that is left out, junk apart
    assert (
        said.startswith("note: 6 files under") and "(a/8.part, a/film.webm, a/notes and 3" in said
    )


@pytest.mark.parametrize("suffix", [".pnm", ".pbm", ".PGM", ".apng", ".jpg_large", ".mpo"])
def test_other_suffixes_of_the_formats_that_are_read(tmp_path, capsys, suffix):
    kind = "ppm" if suffix.lower().startswith(".p") else "jpeg"
    make_folder(tmp_path, f"a/1{suffix}", f"b/1{suffix}", kind=kind)
    assert (len(ImageFiles.scan(tmp_path)), capsys.readouterr().err) == (2, "")


JUNK = ["@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".x"]


@pytest.mark.parametrize("junk", [*JUNK, "__MACOSX", ".ipynb_checkpoints"])
def test_junk_folders(tmp_path, junk):
    make_folder(tmp_path, "a/1.png", "b/1.png", f"a/{junk}/1.jpg/t.png", f"{junk}/2.png")
    assert ImageFiles.scan(tmp_path).classes == ["a", "b"]
    assert len(pictures_under(tmp_path)) == 2


def test_junk_files(tmp_path):
    make_folder(tmp_path, "a/1.png", "b/1.png", "a/._1.png", "a/Thumbs.db", "a/thumbs.db")
    assert len(ImageFiles.scan(tmp_path)) == 2


def test_links(tmp_path):
    heap = make_folder(tmp_path / "heap", "b.png", "a/deep/1.png", ".4.png")
    (heap / "a/back").symlink_to(heap)
    (heap / "gone.png").symlink_to("nowhere")
    (heap / "round.png").symlink_to("round.png")
    os.mkfifo(heap / "pipe.png")
    os.mkfifo(heap / "pipe")
    assert pictures_under(heap) == [heap / "a/deep/1.png", heap / "b.png"]


def test_what_is_left_out_is_mentioned_if_it_is_no_file_either(tmp_path, capsys):
    "Such as the links of git-annex to pictures that were not fetched"
    make_folder(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a/2.png").symlink_to("nowhere")
    (tmp_path / "a/3.png").symlink_to("3.png")
    os.mkfifo(tmp_path / "b/4.png")
    assert len(ImageFiles.scan(tmp_path)) == 2
    said = capsys.readouterr().err
    assert said.startswith("note: 3 files under") and "(a/2.png, a/3.png, b/4.png)" in said


def test_a_character_behind_a_broken_link_is_not_forgotten(tmp_path):
    make_folder(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").symlink_to("/unplugged/c")
    with pytest.raises(ValueError, match="'c', a link that leads nowhere; mend or remove it"):
        ImageFiles.scan(tmp_path)


def test_many_ways_through_links(tmp_path):
    make_folder(tmp_path, *(f"{i}/x.png" for i in range(9)))
    for i in range(9):
        for j in range(9):
            (tmp_path / f"{i}/to {j}").symlink_to(tmp_path / f"{j}")
    assert pictures_under(tmp_path) == [tmp_path / f"{i}/x.png" for i in range(9)]


def test_deep_folders(tmp_path):
    deep = tmp_path / "/".join("d" * 600)
    deep.mkdir(parents=True)
    make_folder(deep, "x.png")
    assert pictures_under(tmp_path) == [deep / "x.png"]


def test_folders_that_share_an_inode(tmp_path, monkeypatch):
    make_folder(tmp_path, *(f"{c}/{i}.png" for c in "abc" for i in range(3)))
    real = os.stat

    def same_inode(path, *args, **kwargs):
        info = real(path, *args, **kwargs)
        if not stat.S_ISDIR(info.st_mode):
            return info
        return os.stat_result((info.st_mode, 7, *info[2:]))

    monkeypatch.setattr(os, "stat", same_inode)
    assert len(pictures_under(tmp_path)) == 9


def test_select_takes_masks(training):
    mask = [False, True]
    assert training.select(mask).names == training.select(np.array(mask)).names == ["Гомер/1.png"]
    assert training.select(range(1)).names == ["apu n/1.png"]
    assert training.select([]).names == []
    with pytest.raises(IndexError):
        training.select([True])


@pytest.mark.parametrize("names", [("Гомер/1.png", "moe/1.png"), ("moe/é.png", "carl/1.png")])
def test_a_locale_of_ascii_is_blamed_and_not_the_names(tmp_path, names):
    make_folder(tmp_path / "d", *names)
    code = "import sys; from simpsons_cnn.data.folders import ImageFiles; ImageFiles.scan('d')"
    for utf8 in ("0", "1"):
        env = os.environ | dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8=utf8)
        options = dict(cwd=tmp_path, env=env, capture_output=True)
        said = subprocess.run([sys.executable, "-c", code], **options).stderr.decode("latin-1")
        assert ("the locale of this process reads names as ascii" in said) == (utf8 == "0")
        assert "rename" not in said


def test_allowed_names_in_either_unicode_form(tmp_path):
    root = make_folder(tmp_path / "d", "Mu\u0308ller/1.png", "moe/1.png")
    found = ImageFiles.scan(root, classes=["moe", "Mu\u0308ller"])
    assert found.classes == ["moe", "M\u00fcller"] and found.missing == []


@pytest.mark.parametrize(
    "classes, error, words",
    [
        (["moe", "moe"], ValueError, r"classes must differ, got moe more than once"),
        (["M\u00fcller", "Mu\u0308ller"], ValueError, "classes must differ"),
        ("moe", TypeError, "classes must be a list of names, got 'moe'"),
        (["moe", 7], TypeError, "a name must be text, got 7"),
    ],
)
def test_allowed_names_that_make_no_sense(training, classes, error, words):
    with pytest.raises(error, match=words):
        ImageFiles.scan(training.root, classes=classes)


@pytest.mark.parametrize("kind", [list, torch.tensor, lambda x: pd.Series(x, index=[7, 3])])
def test_labels_of_any_kind_become_an_array(training, kind):
    "As of files with other labels, made by `dataclasses.replace`"
    files = replace(training, labels=kind([1, 0]))
    assert files.labels.dtype == np.int64 and files.labels.tolist() == [1, 0]
    assert files.select([1]).labels.tolist() == [0]


@pytest.mark.parametrize(
    "labels", [[0], [0, 2], [0, -1], [0.0, 0.5], [True, False], ["0", "1"], [[0, 1]]]
)
def test_labels_that_do_not_fit_the_pictures(training, labels):
    with pytest.raises(ValueError, match="^labels must be"):
        replace(training, labels=labels)
