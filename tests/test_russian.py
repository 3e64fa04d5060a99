"The Russian pages are made from the English ones; stale translations are named"

import json
import warnings

import pytest
import russian
from conftest import NBS, cells_of

TRANSLATIONS = russian.translations()


def test_the_russian_pages_are_current():
    assert russian.not_current() == [], "run python scripts/russian.py"


@pytest.mark.parametrize("translation", TRANSLATIONS, ids=lambda p: p.stem[1:])
def test_translations_fit_the_english_text(translation):
    "Only a warning: who mends an English sentence need not know Russian"
    for task in russian.out_of_date(translation):
        warnings.warn(task, stacklevel=1)


@pytest.mark.parametrize("translation", TRANSLATIONS, ids=lambda p: p.stem[1:])
def test_a_russian_page_has_the_code_of_the_english_one_and_both_link(translation):
    english = russian.english_notebook(translation)
    here = NBS / "ru" / english.name
    code = [[c for c in cells_of(p) if c["cell_type"] == "code"] for p in (english, here)]
    assert code[0] == code[1]
    texts = ["".join("".join(c["source"]) for c in cells_of(p)) for p in (english, here)]
    assert f"[По-русски](../ru/{english.name})" in texts[0]
    assert f"[English](../tutorials/{english.name})" in texts[1]


@pytest.fixture
def page(tmp_path, monkeypatch):
    "A tutorial of two texts and its accepted translation; a function writes the English texts"
    monkeypatch.setattr(russian, "english_pages", tmp_path)
    monkeypatch.setattr(russian, "russian_pages", tmp_path)

    def write(**texts):
        cells = [
            dict(id=cell, cell_type="markdown", metadata={}, source=[text])
            for cell, text in texts.items()
        ]
        (tmp_path / "01_page.ipynb").write_text(json.dumps(dict(cells=cells, metadata={})))

    write(aa="One", bb="Two")
    translation = tmp_path / "_01_page.md"
    translation.write_text("<!-- cell aa -->\nОдин\n\n<!-- cell bb -->\nДва\n", encoding="utf-8")
    russian.accept(translation)
    assert russian.out_of_date(translation) == []
    return write, translation


@pytest.mark.parametrize(
    "texts, task",
    [
        (dict(aa="One!", bb="Two"), "the English text of cell aa has changed"),
        (dict(aa="One", bb="Two", cc="Three"), "translate cell cc"),
        (dict(aa="One"), "remove cell bb"),
    ],
)
def test_each_kind_of_stale_translation_is_named(page, texts, task):
    write, translation = page
    write(**texts)
    tasks = russian.out_of_date(translation)
    assert len(tasks) == 1 and task in tasks[0]


def test_what_is_not_translated_stays_english(page):
    write, translation = page
    write(aa="One", bb="Two", cc="Three")
    sources = ["".join(c["source"]) for c in russian.russian_notebook(translation)["cells"]]
    assert sources[0] == russian.header and sources[-2:] == ["Два", "Three"]


def test_nbdev_runs_no_russian_page():
    test_nb = pytest.importorskip("nbdev.test").test_nb
    page = NBS / "ru/03_use_a_model.ipynb"
    assert test_nb(page, do_print=False) == (True, 0)
