"The letters of the library's figures on a phone, which scales a wide figure down"

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.text import Text

from simpsons_cnn.core.figures import NotebookFigure, figure_png
from simpsons_cnn.inference.explain import Explanation, _draw_figure
from simpsons_cnn.scoring.metrics import confusion_matrix
from simpsons_cnn.scoring.plotting import (
    plot_confusion,
    plot_losses,
    plot_metrics,
    plot_pictures,
    plot_reliability,
)
from simpsons_cnn.scoring.report import Report
from simpsons_cnn.training.ensemble import _draw_scores
from simpsons_cnn.training.find_rate import RateSearch
from simpsons_cnn.training.folds import _plot_folds
from simpsons_cnn.training.history import History, plot_history
from simpsons_cnn.training.runs import plot_runs
from simpsons_cnn.training.seeds import _plot_seeds

PHONE = 340  # pixels between the margins of a page


def letters_on_a_phone(figure) -> float:
    "The size of the smallest letters, in pixels"
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    points = min((text.get_fontsize() for text in texts), default=np.inf)
    shown = min(PHONE, figure.get_figwidth() * figure.dpi)
    return points * shown / (72 * figure.get_figwidth())


def history():
    names = ("train_loss", "valid_loss", "accuracy", "macro_f1", "learning_rate")
    rows = [dict.fromkeys(names, 0.123 * epoch) | dict(epoch=epoch) for epoch in range(1, 31)]
    return History(rows=rows)


def report(characters: int):
    truth = np.arange(20 * characters) % characters
    names = [f"some_rather_long_name_{i}" for i in range(characters)]
    return Report(confusion_matrix(truth, truth[::-1], characters), names)


def explanation():
    pixels, heat = np.zeros((3, 64, 64), "uint8"), np.eye(64, dtype="float32")
    return Explanation("moe", 0.9, heat, pixels)


def series():
    table = pd.DataFrame(0.5, ["accuracy", "macro F1"], [0, 1, "mean", "std", "low", "high"])
    return _plot_seeds(table, 1)


def folds():
    row = dict(pictures=2400, accuracy=0.9, low=0.8, high=0.95)
    return _plot_folds(pd.DataFrame([row, row], ["fold 1", "all"]))


def rates():
    losses = np.array([2.0, 1.0, 3.0])
    return RateSearch(np.array([1e-4, 1e-3, 1e-2]), losses, losses, 1e-3).plot()


FIGURES = dict(
    history=lambda: plot_history(history()),
    losses=lambda: plot_losses(history()),
    parts=lambda: plot_losses(history(), parts=5),
    metrics=lambda: plot_metrics(report(42)),
    confusion_of_few=lambda: plot_confusion(report(12)),
    confusion_of_many=lambda: plot_confusion(report(42)),
    reliability=lambda: plot_reliability({"plain": (np.eye(3), np.arange(3))}),
    pictures=lambda: plot_pictures(np.zeros((8, 3, 8, 8), "uint8"), ["a name"] * 8),
    four_pictures=lambda: plot_pictures(np.zeros((8, 3, 8, 8), "uint8"), ["a name"] * 8, cols=4),
    runs=lambda: plot_runs([]),
    seeds=series,
    folds=folds,
    ensemble=lambda: _draw_scores(pd.DataFrame(dict(accuracy=[0.8, 0.9]), ["a", "ensemble"])),
    rates=rates,
    explanation=lambda: _draw_figure(explanation(), "moe, 90 %"),
)


@pytest.mark.parametrize("name", FIGURES)
def test_letters_are_large_enough_for_a_phone(name):
    assert letters_on_a_phone(FIGURES[name]()) >= 9


def test_names_are_not_given_to_tex():
    "A program may let TeX draw its own texts; here it may be absent, and `_` is a formula"
    with rc_context({"text.usetex": True}):
        figure = NotebookFigure(figsize=(2, 2))
        figure.subplots().set(title="moe_szyslak", xlabel="100 %")
        assert figure_png(figure).startswith(b"\x89PNG")
        assert rcParams["text.usetex"]
