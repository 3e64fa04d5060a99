"Which epoch is the best, also where a run was stopped and continued; files that are no report"

import pytest
import torch
from torch import nn

from simpsons_cnn.training.checkpoint import _columns, _rows
from simpsons_cnn.training.history import History, read_report, read_table, warn_if_diverging

EPOCHS = [(0.5, 0.9), (1 / 3, 0.8), (0.5, 0.7), (0.5, 0.7), (0.5, 0.75), (0.4, 0.1)]


def add_epochs(history, epochs):
    for f1, loss in epochs:
        epoch = len(history) + 1
        history.add(dict(epoch=epoch, macro_f1=f1, valid_loss=loss), nn.Linear(1, 1))
    return history


def test_of_equal_epochs_the_one_with_the_lower_loss_is_best():
    history = add_epochs(History("macro_f1"), EPOCHS)
    assert history.best_epoch == 3
    assert add_epochs(History("valid_loss"), EPOCHS).best_epoch == 6


@pytest.mark.parametrize("stopped_after", range(1, len(EPOCHS)))
def test_a_continued_run_has_the_same_best_epoch(stopped_after):
    history = add_epochs(History("macro_f1"), EPOCHS[:stopped_after])
    rows = _rows(_columns(history.rows), list(history.rows[0]))
    history = History("macro_f1", rows, history.best_epoch, history.best_weights)
    assert add_epochs(history, EPOCHS[stopped_after:]).best_epoch == 3


def test_the_last_epoch_is_kept_whatever_its_scores():
    history = add_epochs(History("last"), EPOCHS[:5])
    assert history.best_epoch == 5
    assert history.best_weights is history.last_weights


NO_REPORTS = [b"", b"{", b"[]", b'"a"', b"null", b"[" * 100_000, b"\xff\xfe{"]


@pytest.mark.parametrize("content", NO_REPORTS, ids=lambda content: repr(content[:5]))
def test_what_is_no_report(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="report.json' is not the report of a run"):
        read_report(path)


@pytest.mark.parametrize("first", [0.0, -1.0])
def test_nothing_is_said_of_growth_from_a_loss_of_nothing(first, recwarn):
    history = History("last", rows=[], first_steps=[dict(loss=first, weights="a")])
    warn_if_diverging(torch.tensor([1.0, 2.0]), history)
    assert not recwarn.list


@pytest.mark.parametrize("data", [b"a,b\n1,2\n1,2,3\n", b"a\n\xe9", b'a\n"b'])
def test_a_table_that_is_none_is_named(tmp_path, data):
    (tmp_path / "split.csv").write_bytes(data)
    with pytest.raises(ValueError, match="split.csv' is not the table of a run: "):
        read_table(tmp_path / "split.csv")
    (tmp_path / "split.csv").write_bytes(b"")
    assert read_table(tmp_path / "split.csv").empty


@pytest.mark.parametrize("read", [read_table, read_report])
def test_what_is_too_large_for_a_run_is_not_read(tmp_path, read):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**35)
    with pytest.raises(ValueError, match="large' is"):
        read(tmp_path / "large")
