"Checkpoints that are damaged, old, of another run or very long"

import warnings

import pytest
import torch
from torch import nn

from simpsons_cnn.core.tensors import write_tensors
from simpsons_cnn.training.checkpoint import Checkpoint, read_checkpoint
from simpsons_cnn.training.history import History


class Trainee:
    "Stands in for a `TrainingRun`"

    threads = 1

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(100, 10)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.1)
        self.loss = nn.functional.mse_loss
        self.averaged, self.history, self.losses = None, History("valid_loss"), []
        self.device = torch.device("cpu")

    def identity(self):
        return dict(seed=0)

    def environment(self):
        return dict(threads=self.threads)

    def seconds(self):
        return 1.5


@pytest.fixture
def saved(tmp_path):
    "A checkpoint with three losses, and the one before it with two"
    run = Trainee()
    run.losses = [torch.tensor(0.1), torch.tensor(0.2)]
    path = tmp_path / "last.ckpt"
    Checkpoint(path).save(run)
    run.losses.append(torch.tensor(0.3))
    Checkpoint(path).save(run)
    return path


def restored(path):
    run = Trainee()
    Checkpoint(path, resume=True).restore(run)
    return run


@pytest.mark.parametrize("reason, kept", [("no better macro_f1 for 3 epochs", ""), ("enough",) * 2])
def test_an_older_file_that_keeps_the_end_by_early_stopping(tmp_path, reason, kept):
    "With more patience the run goes on; an end by another callback is one"
    run = Trainee()
    run.history.stop_reason = reason
    Checkpoint(tmp_path / "last.ckpt").save(run)
    assert restored(tmp_path / "last.ckpt").history.stop_reason == kept


def flipped(whole):
    return whole[:1500] + bytes([whole[1500] ^ 1]) + whole[1501:]


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b[:100], lambda b: b"", flipped],
    ids=["one byte less", "cut short", "empty", "one byte changed"],
)
def test_the_checkpoint_before_a_damaged_one_is_taken(saved, damage):
    first = saved.with_name("last.previous.ckpt").read_bytes()
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.warns(UserWarning, match="Resuming from the checkpoint before it"):
        run = restored(saved)
    assert len(run.losses) == 2
    assert [p.name for p in saved.parent.iterdir()] == ["last.ckpt"]
    assert saved.read_bytes() == first  # the good one is the last now


def test_both_are_damaged(saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1])
    saved.with_name("last.previous.ckpt").write_bytes(b"gone as well")
    with pytest.raises(ValueError, match="No checkpoint is left to resume from"):
        restored(saved)
    saved.write_bytes(whole)
    assert len(restored(saved).losses) == 3


def test_another_run_an_old_version_and_a_pickle(saved, tmp_path):
    Checkpoint(saved, identity=dict(seed=0)).save(Trainee())
    with pytest.raises(ValueError, match="was written with other settings: seed is 1 now and was"):
        read_checkpoint(saved, dict(seed=1))
    write_tensors(tmp_path / "old.ckpt", {}, dict(format_version="checkpoint 1"))
    with pytest.raises(ValueError, match="has format version 'checkpoint 1'; fit of this library"):
        read_checkpoint(tmp_path / "old.ckpt")
    torch.save(nn.Linear(1, 1), tmp_path / "pickle.ckpt")  # a pickle is not even opened
    with pytest.raises(ValueError, match="is not a safetensors file"):
        read_checkpoint(tmp_path / "pickle.ckpt")
    assert read_checkpoint(tmp_path / "none.ckpt") is None


def test_another_environment_is_warned_of(saved):
    elsewhere = Trainee()
    elsewhere.threads = 64
    with pytest.warns(UserWarning, match="threads is 64 now and was 1"):
        Checkpoint(saved, resume=True).restore(elsewhere)


def test_clear_leaves_no_checkpoint(saved):
    Checkpoint(saved).clear()
    assert not list(saved.parent.iterdir())


def test_ninety_thousand_epochs_can_be_read_again(tmp_path):
    "What is written can be read; each epoch adds 56 bytes"
    run = Trainee()
    values = dict.fromkeys(["train_loss", "valid_loss", "accuracy", "macro_f1", "seconds"], 1 / 3)
    run.history.rows = [dict(epoch=i + 1) | values for i in range(90_000)]
    run.history.best_epoch, run.history.best_weights = 90_000, {}
    path = tmp_path / "last.ckpt"
    Checkpoint(path).save(run)
    again = restored(path).history
    assert again.rows == run.history.rows
    assert [type(v) for v in again.rows[0].values()] == [int] + [float] * 5
    assert list(again.rows[0]) == list(run.history.rows[0])
    assert path.stat().st_size < 90_000 * 60


def test_a_run_without_epochs_has_no_rows(tmp_path):
    Checkpoint(tmp_path / "last.ckpt").save(Trainee())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restored(tmp_path / "last.ckpt").history.rows == []
