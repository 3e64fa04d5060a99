"Files for other tools, opened by the tools that are installed; the others are skipped"

import csv

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from simpsons_cnn.data.fixes import Fix, apply_fixes
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.scoring.metrics import confusion_matrix
from simpsons_cnn.scoring.report import Report
from simpsons_cnn.training.exchange import save_metadata, save_probabilities
from simpsons_cnn.training.suspects import rank_suspects


@pytest.fixture
def root(tmp_path):
    return demo_characters(tmp_path / "demo", train=3, test=1) / "train"


def load(root, tmp_path, monkeypatch):
    "Path, label and split of each row that `datasets` reads, by file"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    how = dict(data_dir=str(root), split="train", cache_dir=str(tmp_path / "cache"))
    images = datasets.load_dataset("imagefolder", **how)
    size = images[0]["image"].size
    images = images.cast_column("image", datasets.Image(decode=False))
    assert Image.open(images[0]["image"]["path"]).size == size
    return {row["image"]["path"][len(str(root)) + 1 :]: row for row in images}, images


def test_datasets_reads_fixes_and_split(root, tmp_path, monkeypatch):
    files = ImageFiles.scan(root)
    moved, dropped = files.names[0], files.names[1]
    fixes = {moved: Fix("move", files.classes[-1]), dropped: Fix("drop")}
    fixed = apply_fixes(files, fixes)
    save_metadata(fixed, valid_idx=[0, 5])
    rows, images = load(root, tmp_path, monkeypatch)
    assert list(rows) == fixed.names and dropped not in rows
    assert rows[moved]["label"] == files.classes[-1]
    valid = images.filter(lambda side: side == "validation", input_columns="split")
    assert len(valid) == 2 and rows[fixed.names[5]]["split"] == "validation"
    numbered = images.class_encode_column("label")
    assert numbered.features["label"].names == files.classes
    assert numbered["label"] == fixed.labels.tolist()


def test_datasets_reads_any_names_from_lines_of_json(root, tmp_path, monkeypatch):
    names = ["007", "NA", "Zoë", "1e5", "a,b"]
    for folder, name in zip(sorted(root.iterdir()), names, strict=False):
        folder.rename(root / name)
    files = ImageFiles.scan(root)
    with pytest.raises(ValueError, match="'NA' would be read as a number or as missing"):
        save_metadata(files)
    assert not (root / "metadata.csv").exists()
    save_metadata(files, name="metadata.jsonl")
    rows, images = load(root, tmp_path, monkeypatch)
    assert {name: row["label"] for name, row in rows.items()} == {
        name: name.split("/")[0] for name in files.names
    }
    assert set(images.features) == {"image", "label"}


@pytest.mark.parametrize("names", [["007", "008"], ["1", "2"], ["nan", "moe"], ["1.0", "2.50"]])
def test_names_that_csv_would_change_are_refused(root, names):
    files = ImageFiles(root, [root / "a.jpg", root / "b.jpg"], np.array([0, 1]), names)
    with pytest.raises(ValueError, match="pass name='metadata.jsonl'"):
        save_metadata(files)


def test_a_table_that_is_there_is_kept(root):
    files = ImageFiles.scan(root)
    path = root / "metadata.csv"
    path.write_text("somebody else's")
    with pytest.raises(FileExistsError, match="already holds metadata.csv; pass overwrite=True"):
        save_metadata(files)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="already holds metadata.csv; remove it"):
            save_metadata(files, name="metadata.jsonl", overwrite=overwrite)
    assert path.read_text() == "somebody else's"
    save_metadata(files, overwrite=True)
    assert len(path.read_text().splitlines()) == 1 + len(files)
    with pytest.raises(ValueError, match="did you mean 'metadata.csv'"):
        save_metadata(files, name="metadata.cvs")


def test_a_table_is_no_image(root):
    files = ImageFiles.scan(root)
    before = PixelStore.build(files, 64).digest
    save_metadata(files)
    again = ImageFiles.scan(root)
    assert again.names == files.names and PixelStore.build(again, 64).digest == before


WRONG = [4, 11, 20]  # rows whose label is another character's


@pytest.fixture
def report(root):
    "Networks that are sure and right, of images of which three have a wrong label"
    store = PixelStore.build(ImageFiles.scan(root), 64)
    truth = store.labels.numpy().copy()
    right = truth.copy()
    truth[WRONG] = (truth[WRONG] + 1) % 10
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0, 0.02, (30, 10)).astype(np.float32)
    probabilities[np.arange(30), right] = 0.9
    probabilities[WRONG, right[WRONG]] = 2.0  # surer than the mean of a character
    probabilities /= probabilities.sum(1, keepdims=True)
    loss = -np.log(probabilities[np.arange(30), truth])
    columns = dict(row=np.arange(30), truth=truth, prediction=probabilities.argmax(1))
    images = pd.DataFrame(columns | dict(probability=probabilities.max(1), loss=loss))
    confusion = confusion_matrix(images.truth, images.prediction, 10)
    return Report(confusion, store.classes, images, store, loss.mean(), probabilities)


def read_back(path):
    "As the page does it: table, probabilities, labels as numbers"
    table = pd.read_csv(path, dtype=dict(character=str), keep_default_na=False)
    probabilities = table.iloc[:, 2:]
    labels = table.character.map({name: i for i, name in enumerate(probabilities)})
    return table, probabilities.to_numpy(), labels


def test_cleanlab_finds_the_wrong_labels(report, tmp_path):
    found = pytest.importorskip("cleanlab.filter").find_label_issues
    how = dict(return_indices_ranked_by="self_confidence", n_jobs=1)
    assert sorted(found(report.per_image.truth, report.probabilities, **how)) == WRONG
    save_probabilities(tmp_path / "p.csv", report)
    table, probabilities, labels = read_back(tmp_path / "p.csv")
    rows = found(labels, probabilities, **how)
    assert {*table.file[rows]} == {report.store.files.names[row] for row in WRONG}


def test_probabilities_come_back(report, tmp_path):
    report.per_image.loc[7, "loss"] = np.nan  # was not judged
    report.classes = ["007", "NA", *report.classes[2:]]
    save_probabilities(tmp_path / "p.csv", report)
    table, probabilities, labels = read_back(tmp_path / "p.csv")
    judged = np.delete(np.arange(30), 7)
    assert list(table.file) == [report.store.files.names[row] for row in judged]
    np.testing.assert_allclose(probabilities, report.probabilities[judged], rtol=1e-6)
    assert labels.tolist() == report.per_image.truth[judged].tolist()


@pytest.mark.parametrize("name", ["file", "character"])
def test_a_character_called_like_a_column(report, tmp_path, name):
    report.classes = [name, *report.classes[1:]]
    with pytest.raises(ValueError, match="must not be called 'file' or 'character'"):
        save_probabilities(tmp_path / "p.csv", report)


FIELDS = dict(character=str, suggestion=str, loss=float, other=str)  # as on the page


def test_fiftyone_reads_suspects(report, tmp_path):
    "Its reader only: a data set of FiftyOne needs its database"
    importer = pytest.importorskip("fiftyone.utils.csv").CSVDatasetImporter
    suspects = rank_suspects(report)
    suspects.to_csv(tmp_path / "suspects.csv", index=False)
    where = dict(data_path=str(report.store.files.root), labels_path=str(tmp_path / "suspects.csv"))
    reader = importer(**where, media_field="picture", fields=dict(FIELDS))
    reader.setup()
    samples = {sample.filepath: sample for sample in reader}
    assert set(samples) == {str(path) for path in report.store.files.paths}
    for row in suspects.itertuples():
        sample = samples[str(report.store.files.root / row.picture)]
        assert sample["character"] == row.character
        assert sample["loss"] == pytest.approx(row.loss)
    worst = samples[str(report.store.files.paths[WRONG[0]])]
    assert worst["suggestion"] == report.classes[report.per_image.prediction[WRONG[0]]]


def test_the_columns_that_the_page_names_are_those_of_suspects(report, tmp_path):
    rank_suspects(report).to_csv(tmp_path / "suspects.csv", index=False)
    with open(tmp_path / "suspects.csv", newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["picture", *FIELDS]


def test_rows_may_be_a_mask(root):
    files = ImageFiles.scan(root)
    mask = np.arange(len(files)) % 3 == 0
    sides = pd.read_csv(save_metadata(files, mask)).split
    assert ((sides == "validation") == mask).all()
    with pytest.raises(IndexError):
        save_metadata(files, [len(files)], overwrite=True)
