"Audits: hostile file names, unknown findings, files that are written over"

import shutil

import pandas as pd
import pytest
from PIL import Image

from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.quality.audit import _file_anomalies, audit


@pytest.fixture
def train(tmp_path):
    return demo_characters(tmp_path / "demo", train=4, test=1) / "train"


def test_file_names_never_become_html(train):
    first, second = sorted(train.iterdir())[:2]
    image = sorted(second.iterdir())[0]
    shutil.copy(image, first / "<img src=x onerror=alert(1)>.jpg")
    page = audit(ImageFiles.scan(train))._repr_html_()
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_file_names_never_become_formulas(train):
    first, second = sorted(train.iterdir())[:2]
    shutil.copy(sorted(second.iterdir())[0], first / r"$\frac{.jpg")
    figure = audit(ImageFiles.scan(train)).show("conflicts")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_finding_that_does_not_exist(train):
    report = audit(ImageFiles.scan(train))
    for work in (report.pictures, report.show):
        with pytest.raises(ValueError, match="Unknown finding 'odd'; there are anomalies, con"):
            work("odd")
    assert report.pictures("duplicates") == []
    assert report.show("duplicates").axes  # an empty figure


def test_other_classes(train):
    files = ImageFiles.scan(train)
    other = ImageFiles.scan(train, classes=[*files.classes, "nobody"])
    with pytest.raises(ValueError, match="scanned with classes=files.classes"):
        audit(files, other)


def test_tables_of_an_earlier_audit_are_replaced(train, tmp_path):
    shutil.copy(sorted(train.rglob("*.jpg"))[0], train / sorted(train.iterdir())[0] / "again.jpg")
    audit(ImageFiles.scan(train)).to_csv(tmp_path / "audit")
    assert len(pd.read_csv(tmp_path / "audit/duplicates.csv")) == 1
    next(train.rglob("again.jpg")).unlink()
    audit(ImageFiles.scan(train)).to_csv(tmp_path / "audit")
    duplicates = pd.read_csv(tmp_path / "audit/duplicates.csv")
    assert len(duplicates) == 0 and {"similarity", "max_local_difference"} <= {*duplicates}


def test_a_file_without_a_suffix(tmp_path):
    Image.new("RGB", (80, 80)).save(tmp_path / "picture", "PNG")
    assert _file_anomalies(tmp_path / "picture") == ["PNG without a suffix"]


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    assert _file_anomalies(tmp_path / "x.jpg") == []


def test_tables_hold_no_formulas(train, tmp_path):
    first, second = sorted(train.iterdir())[:2]
    shutil.copy(sorted(second.iterdir())[0], first / "a.jpg")
    first.rename(train / "=1+1")
    audit(ImageFiles.scan(train)).to_csv(tmp_path / "found")
    for path in (tmp_path / "found").iterdir():
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        texts = {text for column in table for text in table[column]}
        assert not [text for text in texts if text.startswith("=")]
    assert "'=1+1/a.jpg" in (tmp_path / "found/conflicts.csv").read_text()


def test_anomalies_of_equally_named_pictures_count_each(tmp_path):
    "Training and test pictures are often numbered from the same 0"
    for folder in ("train", "test"):
        for i, character in enumerate("ab"):
            path = tmp_path / folder / character / "0.png"
            path.parent.mkdir(parents=True)
            Image.radial_gradient("L").rotate(90 * i).resize((40, 50)).save(path)
    files = ImageFiles.scan(tmp_path / "train")
    report = audit(files, ImageFiles.scan(tmp_path / "test", classes=files.classes))
    assert report.counts()["with an anomaly"] == 4  # each tiny, and each grey
    assert len(report.anomalies) == 8
