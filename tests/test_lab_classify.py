"""Classify: folders that cannot be read, files that disappear, strangers, names that are HTML"""

import re
import shutil
from datetime import datetime, timezone

import ipywidgets as widgets
import numpy as np
import pytest
from ipywidgets.widgets.widget import _instances

from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.demo.characters import character_names, draw_character
from simpsons_cnn.inference.classifier import Classifier, Prediction
from simpsons_cnn.lab.classify import ClassifyPictures, _AnswerCard
from simpsons_cnn.networks.presets import create_model


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    draw_character(character_names[0], rng, size=96).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


@pytest.fixture
def clf():
    model = create_model("reference", 2, seed=0).eval()
    return Classifier(model, ["<b>bold</b>", "moe"], Preprocess(64, crop=64), device="cpu")


@pytest.mark.parametrize(
    "text, says",
    [
        ("~no such user/x", "cannot be read"),
        ("nowhere/<b>", "No folder or picture at &#x27;nowhere/&lt;b&gt;&#x27;"),
        ("{empty}", "No pictures under"),
    ],
)
def test_folders_without_pictures(clf, tmp_path, text, says):
    (tmp_path / "empty").mkdir()
    widget = ClassifyPictures(clf)
    widget.folder.value = text.format(empty=tmp_path / "empty")
    assert says in widget.status.value and widget.answers.children == ()


@pytest.mark.parametrize("name", ["k", "max_cards"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
def test_numbers_of_candidates_and_cards(clf, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        ClassifyPictures(clf, **{name: value})


def test_a_picture_that_disappears(clf, picture):
    card = _AnswerCard(clf, picture, "a.jpg", 3)
    picture.unlink()
    card.why.click()
    assert "No picture at" in card.answer.value and card.why.description == "Why?"


def test_strangers(picture):
    class Stranger:
        classes = ["moe", "carl"]

        def predict(self, source):
            return Prediction(np.array([0.6, 0.4]), self.classes, ood_score=1.0, threshold=0.0)

    widget = ClassifyPictures(Stranger())
    widget.folder.value = str(picture)
    assert "Not sure; nearest: moe" in widget.answers.children[0].answer.value


def test_uploads_are_text(clf, picture, tmp_path):
    evil = tmp_path / "<img src=x onerror='alert(1)'>.jpg"
    shutil.copy(picture, evil)
    (tmp_path / "torn.jpg").write_bytes(picture.read_bytes()[:300])
    paths = [evil, tmp_path / "torn.jpg", picture]
    today = datetime.now(timezone.utc)
    widget = ClassifyPictures(clf)
    widget.upload.value = tuple(
        dict(name=p.name, type="", size=1, last_modified=today, content=memoryview(p.read_bytes()))
        for p in paths
    )
    cards = widget.answers.children
    assert [card.name for card in cards] == [p.name for p in paths]
    assert [card.why in card.children for card in cards] == [True, False, True]
    page = "".join(part.value for card in cards for part in (card.picture, card.answer))
    page = re.sub("base64.*?>", "", page)
    assert not re.search("<img src=x|<b>bold|0x", page)


def test_the_limit_of_uploads_is_stated(clf):
    widget = ClassifyPictures(clf)
    shown = [child.value for child in widget.children if hasattr(child, "value")]
    assert any("at most 10 MiB" in value for value in shown)
    assert "at most 10 MiB" in widget.upload.tooltip


def test_without_folders_no_field_takes_a_path(clf, picture):
    made = []
    widgets.Widget.on_widget_constructed(made.append)
    try:
        widget = ClassifyPictures(clf, folders=False)
        widget.show([(picture.read_bytes(), "a.jpg")])
    finally:
        widgets.Widget.on_widget_constructed(None)
    assert widget.folder is None
    assert not [w for w in made if isinstance(w, widgets.Text)]
    shown = [w for w in made if not isinstance(w, widgets.Layout | widgets.Style)]
    texts = [str(getattr(w, key, "")) for w in shown for key in ("value", "tooltip", "description")]
    assert any("at most 10 MiB" in text for text in texts)
    assert not [text for text in texts if "folder" in text.lower()]
    assert len(widget.answers.children) == 1


def test_cards_that_leave_the_page_leave_nothing_in_memory(clf, picture):
    "Each widget of a card has a layout and a style, which are widgets of their own"
    widget = ClassifyPictures(clf, max_cards=2)
    before = len(_instances)
    for _ in range(3):
        widget.show([(picture, "a.jpg")])
    assert len(_instances) > before
    widget.clear.click()
    assert len(_instances) == before
