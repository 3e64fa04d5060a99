"""No name from outside becomes HTML, wherever it stands"""

from html.parser import HTMLParser

import numpy as np
import pytest

from simpsons_cnn.lab.html import (
    bar_html,
    html_bars,
    html_pictures,
    picture_html,
    svg_curves,
    table_html,
    track_html,
)
from simpsons_cnn.lab.run_view import progress_html

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
