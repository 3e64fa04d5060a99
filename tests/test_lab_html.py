"""No name from outside becomes HTML, wherever it stands; curves can be read on a phone"""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from simpsons_cnn.lab.html import (
    STYLE,
    bar_html,
    html_bars,
    html_pictures,
    picture_html,
    svg_curves,
    table_html,
    track_html,
)
from simpsons_cnn.lab.run_view import dashboard_html, progress_html
from simpsons_cnn.scoring.metrics import confusion_matrix
from simpsons_cnn.scoring.report import Report

EVIL = "'\"><img src=x onerror=alert(1)>"
PIXELS = np.zeros((3, 8, 8), dtype=np.uint8)


class Elements(HTMLParser):
    "Collects elements and attributes, as a browser finds them"

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "page, images",
    [
        (svg_curves(EVIL, {EVIL: [1.0]}, 1), 0),
        (html_bars(EVIL, [EVIL], [1.0]), 0),
        (bar_html(EVIL, 0.5, EVIL), 0),
        (html_pictures(EVIL, [(PIXELS, EVIL, EVIL)]), 1),
        (html_pictures("none", [], EVIL), 0),
        (picture_html(PIXELS, EVIL), 1),
        (picture_html("nothing.jpg", EVIL), 0),
        (table_html([EVIL], [[EVIL, EVIL]]), 0),
        (progress_html(0.5, EVIL), 0),
    ],
)
def test_names_are_text(page, images):
    found = Elements(page).found
    assert not [name for _, attrs in found for name in attrs if name.startswith("on")]
    sources = [attrs["src"] for tag, attrs in found if tag == "img"]
    assert len(sources) == images
    assert all(source.startswith("data:image/jpeg") for source in sources)


@pytest.mark.parametrize("frac, width", [(float("nan"), "0.0%"), (0, "0.0%"), (1, "100.0%")])
def test_tracks(frac, width):
    assert f"width:{width}" in track_html(frac)


def test_no_epochs_yet():
    page = svg_curves("Loss", dict(training=[], validation=[]), 3)
    assert "points=''" in page and "circle" not in page
    assert "polyline" not in svg_curves("Loss", {}, 3)


class Store:
    pixels = np.zeros((6, 3, 8, 8), dtype=np.uint8)

    class files:
        names = [f"{EVIL}/{i}.jpg" for i in range(6)]


def test_characters_of_a_dashboard_are_text():
    truth, answers = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 1, 1])
    per_image = pd.DataFrame(dict(row=range(6), truth=truth, prediction=answers, probability=0.9))
    per_image["loss"] = 1.0
    confusion = confusion_matrix(truth, answers, 2)
    page = dashboard_html(report=Report(confusion, [EVIL, "<b>"], per_image, Store), num_epochs=3)
    found = Elements(page).found
    assert not [tag for tag, _ in found if tag == "b"]
    assert not [name for _, attrs in found for name in attrs if name.startswith("on")]
    assert sum(tag == "img" for tag, _ in found) == 2
    assert ">0.33<" in page  # one in three is found


def test_letters_of_curves_are_large_enough_for_a_phone():
    phone = 340  # pixels between the margins of a page
    (rule,) = re.findall(r"\.sc svg \{[^}]*\}", STYLE)
    svg = svg_curves("Loss", {"training": [0.0123, 0.5]}, 10)
    (width,) = re.findall(r"viewBox='0 0 (\d+) ", svg)
    sizes = re.findall(r"font-size:([\d.]+)px", rule) + re.findall(r"font-size='([\d.]+)'", svg)
    assert len(sizes) == 2  # of the rule, and of the title
    assert min(map(float, sizes)) * phone / int(width) >= 9


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "I;16", "F", "CMYK"])
def test_a_picture_of_any_mode_is_shown(mode):
    assert "cannot be shown" not in picture_html(Image.new(mode, (20, 20)), "x")
