"""Label cleaner: refused decisions, read-only files, killed kernels, names that are HTML"""

import re
import shutil
import unicodedata

import pandas as pd
import pytest
from forked import forks

from simpsons_cnn.data.fixes import Fix, read_fixes, record_fix
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.lab.cleaner import Decisions, LabelCleaner


@pytest.fixture
def files(tmp_path):
    demo_characters(tmp_path / "demo", train=3, test=1)
    return ImageFiles.scan(tmp_path / "demo/train")


def make_table(names):
    return pd.DataFrame(dict(picture=names, suggestion="", other=""))


def test_refused_decisions(files, tmp_path):
    decisions = Decisions(files, tmp_path / "fixes.csv")
    a, b, c = files.names[:3]
    with pytest.raises(ValueError, match="did you mean"):
        decisions.decide(a + "g", "keep")
    decisions.decide(a, "drop")
    decisions.decide(b, "drop")
    with pytest.raises(ValueError, match=f"leave no picture of {files.classes[0]}"):
        decisions.decide(c, "drop")
    assert read_fixes(tmp_path / "fixes.csv") == {a: Fix("drop"), b: Fix("drop")}


def test_missing_folder(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"to keep 'fixes.csv' in; make it first"):
        Decisions(files, tmp_path / "nowhere/fixes.csv")


@pytest.mark.parametrize("name, most", [("page", "1 to 1,000"), ("side", "16 to 1,024")])
@pytest.mark.parametrize("value", [0, -1, 10**7, 2.5, "12", True, None])
def test_a_page_and_its_pictures_have_sizes(files, tmp_path, name, most, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number from {most}, got"):
        LabelCleaner(files, make_table(files.names), tmp_path / "fixes.csv", **{name: value})


def test_bad_arguments(files, tmp_path):
    (tmp_path / "diary.csv").write_text("Dear diary,\n")
    with pytest.raises(ValueError, match="must begin with the line"):
        LabelCleaner(files, make_table(files.names), tmp_path / "diary.csv")


def test_a_file_that_cannot_be_written(files, tmp_path):
    cleaner = LabelCleaner(files, make_table(files.names), tmp_path / "fixes.csv", page=4)
    cleaner.cards[0].keep.click()
    good, cleaner.decisions.path = cleaner.decisions.path, tmp_path  # a folder is no file
    cleaner.cards[1].keep.click()
    assert "is not decided" in cleaner.status.value
    cleaner.toolbar.undo.click()
    assert "Nothing is undone" in cleaner.status.value
    assert [*cleaner.decisions.fixes] == [*read_fixes(good)] == files.names[:1]


def test_letters(files, tmp_path):
    cleaner = LabelCleaner(files, make_table(files.names), tmp_path / "fixes.csv", page=4)
    field = cleaner.key_field
    for text in ("k", "kx", "k", "kK"):  # the third is a backspace
        field.value = text
    assert [*read_fixes(tmp_path / "fixes.csv")] == files.names[:2]
    field.value = "kKi"  # no suggestion: refused, with a message
    assert "is not decided" in cleaner.status.value
    field.value = "kKinnnnnnnnnnnn"  # beyond the last page
    assert cleaner.toolbar.page_label.value.startswith("<span>page 8 of 8")
    field.value += "uu"
    assert cleaner.pages.index == 0 and not read_fixes(tmp_path / "fixes.csv")


def test_focus(files, tmp_path):
    cleaner = LabelCleaner(files, make_table(files.names[:5]), tmp_path / "fixes.csv", page=4)
    a, b, c, d = (card.keep for card in cleaner.cards)
    focused = []
    for button in (a, b, c, d, cleaner.toolbar.next, cleaner.toolbar.undo):
        button.focus = lambda button=button: focused.append(button)
    for button in (b, d, a, c):  # a was passed over; the last one is the end of the page
        button.click()
    cleaner.toolbar.next.click()
    a.click()  # the only picture of the last page
    cleaner.cards[0].character.value = "nobody"  # refused: the focus stays
    assert focused == [c, a, c, cleaner.toolbar.next, cleaner.toolbar.undo]


def test_a_killed_kernel_loses_nothing(files, tmp_path):
    table, fixes = tmp_path / "table.csv", tmp_path / "fixes.csv"
    make_table(files.names).to_csv(table, index=False)
    program = f"""
import os
import pandas as pd
from simpsons_cnn.lab.cleaner import LabelCleaner
table = pd.read_csv({str(table)!r})
cleaner = LabelCleaner({str(files.root)!r}, table, {str(fixes)!r}, page=4)
cleaner.grid.children[0].drop.click()
cleaner.grid.children[1].keep.click()
os.kill(os.getpid(), 9)
"""
    assert forks("forked:execute", program).code == -9
    cleaner = LabelCleaner(files.root, pd.read_csv(table), fixes, page=4)
    assert [card.name for card in cleaner.grid.children] == files.names[2:6]
    cleaner.toolbar.view.value = "Decided"
    assert [card.name for card in cleaner.grid.children] == files.names[1::-1]
    verdicts = [re.sub("<.*?>", "", card.verdict.value) for card in cleaner.grid.children]
    assert verdicts == ["✓ kept", "✗ dropped"]
    cleaner.toolbar.undo.click()
    assert [*read_fixes(fixes)] == files.names[:1]


def test_names_are_text(files, tmp_path):
    evil = "<b>/<img src=x onerror=alert(1)>.jpg"
    (files.root / "<b>").mkdir()
    shutil.copy(files.paths[0], files.root / evil)
    shutil.copy(files.paths[1], files.root / "<b>/ok.jpg")
    table = make_table([evil, "<b>/ok.jpg"])
    table.loc[1, ["suggestion", "other"]] = [files.classes[4], evil]
    cleaner = LabelCleaner(files.root, table, tmp_path / "fixes.csv")
    cleaner.cards[0].keep.click()
    cleaner.cards[1].character.value = "<b>"
    parts = [w for card in cleaner.cards for w in (card.picture, card.verdict)]
    page = "".join(w.value for w in [*parts, cleaner.status, cleaner.toolbar.page_label])
    page = re.sub("base64[^>]*", "", page)
    assert page.count("<img") == 3 and "&lt;b&gt;" in page
    assert "<img src=x" not in page and "<b><" not in page
    fixes = read_fixes(tmp_path / "fixes.csv")
    assert fixes == {evil: Fix("keep"), "<b>/ok.jpg": Fix("move", "<b>")}


def test_more_decisions_than_suspects(files, tmp_path):
    decisions = Decisions(files, tmp_path / "fixes.csv")
    for name in files.names[:5]:
        decisions.decide(name, "keep")
    cleaner = LabelCleaner(files, make_table(files.names[5:7]), tmp_path / "fixes.csv")
    cleaner.toolbar.view.value = "Decided"
    assert len(cleaner.grid.children) == 5


def test_an_argument_that_a_table_makes_useless(files, tmp_path):
    with pytest.raises(TypeError, match="'fixse' goes to find_suspects, which a table replaces"):
        LabelCleaner(files, make_table(files.names), fixse=tmp_path / "fixes.csv")


def test_a_file_of_the_other_unicode_form(files, tmp_path):
    composed, decomposed = (
        unicodedata.normalize(form, f"{files.classes[0]}/\u00e9.jpg") for form in ("NFC", "NFD")
    )
    shutil.copy(files.root / files.names[0], files.root / composed)
    files = ImageFiles.scan(files.root)
    record_fix(tmp_path / "fixes.csv", decomposed, "drop")
    decisions = Decisions(files, tmp_path / "fixes.csv")
    assert decisions.fixes == {composed: Fix("drop")}
    assert composed not in decisions.apply().names
    assert decisions.undo() == composed
    assert read_fixes(tmp_path / "fixes.csv") == {}


def test_fixes_of_a_larger_data_set_are_left_alone(files, tmp_path):
    "They neither count nor can be undone here, where nobody sees their pictures"
    path, name = tmp_path / "fixes.csv", files.names[0]
    record_fix(path, name, "keep")
    record_fix(path, "elsewhere/1.jpg", "drop")
    cleaner = LabelCleaner(files, make_table(files.names), path)
    assert "1 decided" in cleaner.toolbar.page_label.value
    cleaner.toolbar.undo.click()
    assert cleaner.toolbar.undo.disabled
    assert read_fixes(path) == {"elsewhere/1.jpg": Fix("drop")}
