"Figures: many classes, threads, notebooks, one epoch, axes of the caller"

import json
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from simpsons_cnn.core.figures import figure_png
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.scoring.metrics import confusion_matrix
from simpsons_cnn.scoring.plotting import (
    _split_history,
    plot_batch,
    plot_confusion,
    plot_examples,
    plot_losses,
    plot_metrics,
    plot_pictures,
    plot_reliability,
    plot_top_losses,
    row_axes,
    save_figures,
)
from simpsons_cnn.scoring.report import _MAX_CHARACTERS, _WORST_CHARACTERS, Report

HISTORY = pd.DataFrame(dict(epoch=[1, 2, 3], train_loss=[3.0, 2, 1], valid_loss=[3.0, 2.5, 2]))


def names(n: int) -> list:
    return [f"character {i}" for i in range(n)]


def two_classes() -> Report:
    return Report(np.array([[3, 1], [0, 4]]), ["bart", "lisa"])


@pytest.mark.parametrize("n", [_MAX_CHARACTERS, _MAX_CHARACTERS + 1, 1000])
def test_figures_of_many_classes(n, tmp_path):
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(n), 4)
    answers = np.where(rng.random(len(truth)) < 0.8, truth, rng.integers(0, n, len(truth)))
    report = Report(confusion_matrix(truth, answers, n), names(n))
    metrics, confusion = plot_metrics(report).axes[0], plot_confusion(report).axes[0]
    shown = n if n <= _MAX_CHARACTERS else _WORST_CHARACTERS
    note = "" if n == shown else f"the {shown} of {n:,} characters with the lowest F1"
    assert len(metrics.get_yticklabels()) == len(confusion.get_yticklabels()) == shown
    assert metrics.get_ylabel() == note
    assert note in confusion.get_ylabel()
    scores = report.table.f1.to_numpy()
    bars = [bar.get_width() for bar in plot_metrics(report).axes[3].patches]
    assert np.allclose(sorted(bars), np.sort(scores)[:shown])
    shares = confusion.images[0].get_array()
    assert shares.shape == (shown, shown + (n > shown))
    assert np.allclose(shares.sum(1), 1)  # also where most answers were left out
    for path in save_figures(None, report, tmp_path):
        assert max(Image.open(path).size) < 2000


def test_figures_of_ten_thousand_classes_need_little_memory(tmp_path):
    code = """
        import resource, sys
        import numpy as np
        from simpsons_cnn.scoring.report import Report
        from simpsons_cnn.scoring.plotting import save_figures
        counts = np.eye(10_000, dtype=np.uint8)
        report = Report(counts, [f"character {i}" for i in range(10_000)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        save_figures(None, report, sys.argv[1])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 300 * 1024  # KiB; the counts alone are 100 MB


def test_characters_without_images_come_last_among_many():
    counts = np.diag([0] * 50 + [2] * 50)
    counts[50, 51] = 1
    labels = plot_confusion(Report(counts, names(100))).axes[0].get_yticklabels()
    assert labels[0].get_text() == "character 50 · 1"


def test_pyplot_is_not_used(tmp_path):
    code = """
        import sys
        import numpy as np, pandas as pd
        from simpsons_cnn.scoring.report import Report
        from simpsons_cnn.scoring.plotting import *
        table = pd.DataFrame(dict(epoch=[1, 2], train_loss=[2, 1], valid_loss=[2, 1]))
        save_figures(table, Report(np.eye(3, dtype=int), list("abc")), sys.argv[1])
        plot_reliability({"a": (np.eye(3), np.arange(3))})
        plot_pictures(np.zeros((2, 3, 8, 8), np.uint8))
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=True)


def test_figures_drawn_in_threads(tmp_path):
    errors, paths = [], []

    def draw(folder):
        try:
            paths.extend(save_figures(HISTORY, two_classes(), folder, parts=2))
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=draw, args=(tmp_path / str(i),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(tmp_path.rglob("*.png")) == sorted(paths)
    assert len(paths) == 3 * len(save_figures(HISTORY, two_classes(), tmp_path / "alone", parts=2))


SETUP = """
import pandas as pd
from simpsons_cnn.scoring.plotting import plot_losses
table = pd.DataFrame(dict(epoch=[1, 2], train_loss=[2, 1], valid_loss=[2, 1]))
"""


@pytest.mark.parametrize("first", ["", "%matplotlib inline\nimport matplotlib.pyplot as plt\n"])
def test_notebook_shows_the_figure_once(first, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    sources = [first + SETUP, "plot_losses(table)", "figure = plot_losses(table)"]
    if first:
        sources.append("_, ax = plt.subplots()\nplot_losses(table, axs=ax)")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    images = [sum("image/png" in o.get("data", {}) for o in c["outputs"]) for c in notebook.cells]
    assert images == ([0, 1, 0, 1] if first else [0, 1, 0])
    assert len(json.dumps(notebook.cells[1]["outputs"])) < 100_000


@pytest.mark.parametrize(
    "draw, panels",
    [
        (lambda axs: plot_losses(HISTORY, 2, axs), 2),
        (lambda axs: plot_metrics(two_classes(), axs), 4),
        (lambda axs: plot_confusion(two_classes(), axs), 1),
        (lambda axs: plot_reliability({"a": (np.eye(2), [0, 1])}, ax=axs), 1),
    ],
)
def test_axes_of_the_caller(draw, panels):
    axs = Figure().subplots(1, panels)
    assert draw(axs) is None
    assert all(ax.has_data() for ax in np.ravel(axs))


def test_one_epoch_has_markers():
    lines = plot_losses(HISTORY.head(1)).axes[0].lines
    assert [line.get_marker() for line in lines] == ["o", "s"]


@pytest.mark.parametrize("rows, parts, lengths", [(30, 4, [8, 8, 7, 7]), (2, 5, [1, 1])])
def test_split_history(rows, parts, lengths):
    table = pd.DataFrame(dict(epoch=range(rows)))
    assert [len(part) for part in _split_history(table, parts)] == lengths


def test_pictures_without_texts_or_without_any():
    drawn = plot_pictures(np.zeros((5, 3, 8, 8), np.uint8), cols=3).axes[0]
    assert (len(drawn.images), drawn.get_xlim(), drawn.get_ylim()) == (5, (0, 3), (2, 0))
    assert not plot_pictures(np.zeros((0, 3, 8, 8), np.uint8)).axes[0].images
    none = pd.DataFrame(columns=["row", "truth", "prediction", "probability"])  # no mistake
    assert not plot_examples(PICTURES, none).axes[0].images


def test_a_report_of_counts_has_no_pictures():
    with pytest.raises(ValueError, match="holds counts only; `evaluate` makes one that knows"):
        plot_top_losses(two_classes())


def test_names_of_the_files_of_a_run(tmp_path):
    paths = save_figures(HISTORY, two_classes(), tmp_path / "graphics", parts=2)
    assert [path.name for path in paths] == [
        "0th part of learning and testing.png",
        "1th part of learning and testing.png",
        "metrics.png",
        "confusion.png",
    ]


def test_names_in_other_scripts_give_one_warning(tmp_path):
    report = Report(np.eye(3, dtype=np.int64), ["マージ", "होमर", "bart"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save_figures(None, report, tmp_path)
    texts = [str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning)]
    assert sum("letters of the names are not in the figure's font" in text for text in texts) == 1
    assert len(texts) == len(set(texts)) <= 2  # older Matplotlib says that it cannot join Hindi


@pytest.mark.parametrize("n", (2, 3, 5, 12, 13, 16))
def test_a_confusion_matrix_says_what_it_shows(n):
    "Numbers of images, written into the squares, or shares on a scale; no text is cut"
    figure = plot_confusion(
        Report(4 * np.eye(n, dtype=int), [f"captain_kelp_{i}" for i in range(n)])
    )
    figure.draw_without_rendering()
    ax, *scale = figure.axes
    written = [text.get_text() for text in ax.texts]
    if n <= 12:
        assert (ax.get_title(loc="right"), written) == ("number of images", ["4"] * n) and not scale
        text = ax._right_title
    else:
        assert written == [] and ax.get_title() == ""
        text = scale[0].xaxis.label
        assert text.get_text() == "share of each character's images"
    extent = text.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width


PICTURES = np.zeros((3, 3, 8, 8), np.uint8)


@pytest.mark.parametrize("texts", [["a", "b"], [*"abcd"], "ab"])
def test_a_text_for_each_picture(texts):
    with pytest.raises(ValueError, match="texts must be one for each of 3 pictures, got"):
        plot_pictures(PICTURES, texts)


@pytest.mark.parametrize("yb", [[0, -1, 1], [0, 1], [True, False, True]])
def test_the_characters_of_a_batch_are_numbers_of_names(yb):
    "-1 would be the last name"
    xb = Preprocess(8).normalise(torch.tensor(PICTURES))
    with pytest.raises(ValueError, match="yb must be"):
        plot_batch(xb, yb, ["ann", "bob"], Preprocess(8))


def test_long_names_of_rows_leave_room_for_the_scores():
    "Folders of which some have few pictures get a score with a name of 65 letters"
    names = ["validation accuracy"]
    names += ["validation macro F1 of the 16 characters with 10 pictures or more"]
    figure, ax = row_axes(names, "Three runs", "score", head=1.1)
    ax.plot([0.5, 0.6], [0, 1], "o")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns of a layout without room
        figure_png(figure)
    assert 0.3 < ax.get_position().x0 < 0.6  # of the width: names on the left, scores on the right
