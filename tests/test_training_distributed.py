"Several processes: threads with a group of their own stand for them"

import copy
import inspect
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn

from simpsons_cnn.core.config import Augment, TrainingParameters
from simpsons_cnn.core.device import fix_cublas_workspace
from simpsons_cnn.data.batches import Batches
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.networks.presets import create_model
from simpsons_cnn.scoring.report import evaluate
from simpsons_cnn.training import distributed
from simpsons_cnn.training.callbacks import Callback
from simpsons_cnn.training.checkpoint import Checkpoint, read_checkpoint
from simpsons_cnn.training.distributed import (
    LateProcess,
    LostProcess,
    Ranks,
    _explain,
    all_gather_texts,
    broadcast_bytes,
    current_ranks,
    in_threads,
    one_message,
    process_group,
    raise_together,
    sum_gradients,
    synchronised_norms,
    use_ranks,
    wait_limit,
)
from simpsons_cnn.training.loop import fit, judge
from simpsons_cnn.training.run import TrainingRun
from simpsons_cnn.training.teacher import Teacher

RECIPE = TrainingParameters(num_epochs=2, learning_rate=1e-3, mixed_precision="off")
MIXED = Augment(cutmix=0.5, cutmix_rare=True, mixup=0.4, erase=0.3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    drawn = demo_characters(tmp_path_factory.mktemp("drawn") / "data", train=4, test=1)
    return PixelStore.build(ImageFiles.scan(drawn / "train"), size=64)


class Exact(nn.Module):
    "A small network that computes in float64, so that the order of sums hardly matters"

    def __init__(self):
        super().__init__()
        self.net = create_model("reference", 10, seed=0, channels=(4, 4, 8, 8, 8, 8)).double()

    def forward(self, xb):
        return self.net(xb.double())


VALID = [*range(3, 40, 4), 38]  # 11 of the 40 pictures
TRAIN = sorted(set(range(40)) - set(VALID))


def loaders(store, batch_size=12):
    train_dl = Batches(store, TRAIN, batch_size, MIXED, device="cpu")
    return train_dl, Batches(store, VALID, 4, device="cpu")


class Losses(Callback):
    def __init__(self, stop_at=None):
        self.losses, self.stop_at = [], stop_at

    def on_step(self, run):
        self.losses.append(run.losses[-1].item())
        if len(self.losses) == self.stop_at:
            run.stop("enough for now")


def train(store, ranks=Ranks(), noted=None, **kwargs):  # noqa: B008  frozen
    noted = noted or Losses()
    with use_ranks(ranks):
        history = fit(Exact(), *loaders(store), callbacks=[noted], **(dict(recipe=RECIPE) | kwargs))
    return noted.losses, history


RECIPES = {
    "plain": {},
    "averaged": dict(weight_averaging=0.8),
    "weights": dict(class_weights="inverse", gamma=2.0, label_smoothing=0.1),
    "balanced": dict(imbalance="balanced_softmax", label_smoothing=0.1),
    "taught": dict(teacher=Teacher(Exact()), label_smoothing=0.1),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [2, 4])
def test_losses_and_scores_are_those_of_one_process(store, size, name):
    losses, history = train(store, **RECIPES[name])
    runs = in_threads(size, lambda ranks: train(store, ranks, **RECIPES[name]))
    for others, other in runs:
        assert others == pytest.approx(losses, rel=1e-6)
        assert other.first_steps == runs[0][1].first_steps
        for row, expected in zip(other.rows, history.rows, strict=True):
            assert row["accuracy"] == expected["accuracy"]
            assert row["valid_loss"] == pytest.approx(expected["valid_loss"], rel=1e-5)


def test_each_validation_picture_counts_once(store):
    "Eleven pictures on four ranks: shares of three, three, three and two"
    model = Exact()
    expected = evaluate(model, loaders(store)[1])

    def judged(ranks):
        with use_ranks(ranks):
            return judge(TrainingRun(Exact(), *loaders(store), nn.CrossEntropyLoss(), RECIPE))

    for report in in_threads(4, judged):
        assert (report.confusion == expected.confusion).all()
        assert list(report.per_image.row) == VALID
        assert report.loss == pytest.approx(expected.loss, rel=1e-6)


def test_a_callback_that_stops_at_the_start_stops_all_processes(store):
    class Stops(Callback):
        def on_start(self, run):
            run.stop("not today")

    def work(ranks):
        callbacks = [] if ranks.rank else [Stops()]
        with use_ranks(ranks):
            return fit(Exact(), *loaders(store), recipe=RECIPE, callbacks=callbacks)

    assert [len(history) for history in in_threads(2, work, seconds=5)] == [0, 0]


class Signalled(Checkpoint):
    "A signal comes after the processes have asked each other, and before the next step"

    def due(self):
        self.run.stop("interrupted by SIGTERM")
        return False


@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_between_two_steps_stops_all_processes_after_the_same(store, signalled):
    def work(ranks):
        class Notes(Losses):
            def on_start(self, run):
                if ranks.rank == signalled:
                    run.checkpoint = Signalled(None)
                    run.checkpoint.run = run

        return train(store, ranks, Notes())

    runs = in_threads(2, work, seconds=5)
    assert [(len(losses), history.resumable) for losses, history in runs] == [(2, True)] * 2


@pytest.mark.filterwarnings("ignore:Resuming in a different")
def test_a_run_is_resumed_with_another_number_of_processes(store, tmp_path):
    losses, history = train(store)
    path, settings = tmp_path / "last.ckpt", dict(order="random", num_epochs=40, crop_scale=0.5)

    def stopped(ranks):
        noted = Losses(stop_at=3 if ranks.rank == 0 else None)  # the other one is told
        return train(store, ranks, noted, checkpoint=Checkpoint(path, identity=settings))

    runs = in_threads(2, stopped)
    assert [len(first) for first, _ in runs] == [3, 3]
    assert all(other.resumable for _, other in runs)
    resumed = in_threads(
        4,
        lambda ranks: train(
            store, ranks, checkpoint=Checkpoint(path, resume=True, identity=settings)
        ),
    )
    for rest, other in resumed:
        assert runs[0][0] + rest == pytest.approx(losses, rel=1e-6)
        assert other.rows[-1]["accuracy"] == history.rows[-1]["accuracy"]


@pytest.mark.parametrize(
    "batch_size, size, message",
    [
        (12, 5, "batch_size must be a multiple of the number of processes, 5, got 12"),
        (12, 12, "validation pictures must be at least as many as processes, 12, got 11"),
    ],
)
def test_pictures_that_cannot_be_shared(store, batch_size, size, message):
    def refused(ranks):
        with use_ranks(ranks), pytest.raises(OSError if ranks.rank else ValueError) as error:
            fit(Exact(), *loaders(store, batch_size), recipe=RECIPE, callbacks=[])
        return error.value

    first, *others = in_threads(size, refused)
    assert message in str(first)
    assert {type(e) for e in others} == {LostProcess}


def float32_losses(store, ranks=Ranks()):  # noqa: B008  frozen
    noted, model = Losses(), create_model("reference", 10, seed=0, channels=(4, 4, 8, 8, 8, 8))
    recipe = RECIPE.model_copy(update=dict(learning_rate=1e-5, num_epochs=10))
    with use_ranks(ranks):
        fit(model, *loaders(store), recipe=recipe, callbacks=[noted])
    return noted.losses


def test_first_steps_in_float32(store):
    """One process rounds more in its batch norm than two and four, and AdamW makes the difference
    larger, the sooner the higher the learning rate is: at 2e-4 they agree for twelve steps."""
    one = float32_losses(store)
    two, four = (in_threads(n, lambda ranks: float32_losses(store, ranks))[0] for n in (2, 4))
    assert len(one) == 20
    assert two == pytest.approx(one, rel=1e-5)
    assert four == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(
    "norm, shape",
    [
        (nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 4)),
        (nn.BatchNorm1d(3), (8, 3)),
        (nn.BatchNorm2d(3, affine=False), (8, 3, 2, 2)),
        (nn.BatchNorm2d(3, track_running_stats=False), (8, 3, 2, 2)),
    ],
)
def test_each_kind_of_batch_norm(norm, shape):
    norm, x = norm.double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    slope, alone = torch.randn(shape, dtype=torch.float64), copy.deepcopy(norm)
    for _ in range(2):
        (expected,) = torch.autograd.grad((alone(x) * slope).sum(), [x])

    def together(ranks):
        own, part = copy.deepcopy(norm), slice(ranks.rank, None, ranks.size)
        mine = x.detach()[part].requires_grad_()
        with synchronised_norms(own, ranks):
            for _ in range(2):
                (grad,) = torch.autograd.grad((own(mine) * slope[part]).sum(), [mine])
        return own, grad

    for rank, (own, grad) in enumerate(in_threads(2, together)):
        torch.testing.assert_close(grad, expected[rank::2])
        torch.testing.assert_close(dict(own.state_dict()), dict(alone.state_dict()))


def test_batch_norm_without_an_eps_of_zero(monkeypatch):
    "PyTorch 2.10 refuses one, also where there is nothing to divide by"
    batch_norm = nn.functional.batch_norm
    signature = inspect.signature(batch_norm)

    def strict(*args, **kwargs):
        assert signature.bind(*args, **kwargs).arguments.get("eps", 1e-5) > 0
        return batch_norm(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "batch_norm", strict)

    def together(ranks):
        norm, x = nn.BatchNorm2d(3), torch.randn(8, 3, 4, 4, requires_grad=True)
        with synchronised_norms(norm, ranks):
            norm(x).square().sum().backward()
        return x.grad

    assert all(grad.abs().sum() > 0 for grad in in_threads(2, together))


def test_bfloat16_keeps_its_statistics_in_float32():
    norm, x = nn.BatchNorm2d(3), torch.randn(8, 3, 4, 4).bfloat16()
    expected = norm(x)

    def together(ranks):
        own = nn.BatchNorm2d(3)
        with synchronised_norms(own, ranks):
            y = own(x[ranks.rank :: ranks.size].clone().requires_grad_())
        y.sum().backward()
        return own, y

    for rank, (own, y) in enumerate(in_threads(2, together)):
        assert (y.dtype, own.running_var.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(y, expected[rank::2], atol=0.02, rtol=0.02)
        torch.testing.assert_close(own.running_var, norm.running_var, atol=1e-3, rtol=1e-3)


def test_texts_and_bytes_of_any_length():
    texts = ["", "a", "née Bouvier " * 50]
    assert in_threads(3, lambda ranks: all_gather_texts(texts[ranks.rank], ranks)) == [texts] * 3
    data = bytes(range(256)) * 3
    sent = in_threads(
        2, lambda ranks: broadcast_bytes(data if ranks.rank == 0 else b"x" * 999, ranks)
    )
    assert sent == [data, data]


def test_an_error_of_the_first_keeps_its_kind():
    def failing(ranks):
        with raise_together(ranks):
            if ranks.rank == 0:
                raise FileExistsError("'runs/1' already holds a run")

    errors = in_threads(2, lambda ranks: pytest.raises(OSError, failing, ranks).value)
    assert [type(e) for e in errors] == [FileExistsError, LostProcess]


def test_a_rank_that_is_gone_is_noticed():
    def leaves(ranks):
        ranks.all_reduce(torch.ones(1))  # both are there
        if ranks.rank == 0:
            return None
        return pytest.raises(LostProcess, ranks.all_reduce, torch.ones(1)).value

    assert "process 1 of 2 lost the connection" in str(in_threads(2, leaves, seconds=1)[1])


def test_the_one_that_hangs_is_named_once():
    "Three processes, one of which sleeps: one of the others says so"
    board = dist.HashStore()

    def waits(ranks):
        if ranks.rank == 1:
            return time.sleep(2)
        error = pytest.raises(LateProcess, ranks.all_reduce, torch.ones(1)).value
        return _explain(error, ranks, board)

    said = [str(error) for error in in_threads(3, waits, seconds=1) if error]
    assert len(said) == 1
    assert said[0].startswith("process 1 of 3 has not answered for 1,800 seconds, so all have")


def test_a_lost_connection_leaves_the_word_to_its_cause(monkeypatch):
    board = dist.HashStore()

    def fails(ranks):
        error = KeyError("mistake") if ranks.rank == 2 else LostProcess("gone")
        return _explain(error, ranks, board)

    assert [type(error) for error in in_threads(3, fails)] == [type(None), type(None), KeyError]
    monkeypatch.setattr(time, "sleep", lambda _: None)
    alone = [_explain(LostProcess("gone"), Ranks(rank, 2), board) for rank in (0, 1)]
    assert alone == [None, None]  # somebody has spoken
    assert isinstance(_explain(LostProcess("gone"), Ranks(0, 2), dist.HashStore()), LostProcess)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "604801"])
def test_a_time_limit_that_is_none(monkeypatch, text):
    monkeypatch.setenv("SIMPSONS_CNN_TIMEOUT", text)
    with pytest.raises(ValueError, match="SIMPSONS_CNN_TIMEOUT must be seconds, above 0 and at"):
        wait_limit()


class LeavesOut(nn.Module):
    "Two layers, the second of which a rank may leave out"

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)


def test_gradients_of_a_layer_that_some_ranks_left_out():
    def summed(ranks):
        net = LeavesOut()
        net.first.requires_grad_(False)
        if ranks.rank == 1:
            net.second(torch.ones(1, 2)).sum().backward()
        sum_gradients(net, ranks)
        return net

    for net in in_threads(3, summed, seconds=5):
        assert net.second.weight.grad.tolist() == [[1, 1], [1, 1]]
        assert net.first.weight.grad is None  # held: not trained at all


@pytest.fixture
def as_torchrun_starts(monkeypatch):
    "The variables of a single process; leaves no group"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    variables = dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    for name, value in (variables | dict(TORCHELASTIC_RUN_ID="test")).items():
        monkeypatch.setenv(name, str(value))
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_is_left_at_the_end(as_torchrun_starts):
    with process_group() as ranks:
        assert dist.is_initialized() and (ranks.rank, ranks.size) == (0, 1)
    assert not dist.is_initialized()


def test_steps_and_preparations_have_limits_of_their_own(as_torchrun_starts, monkeypatch):
    monkeypatch.setenv("SIMPSONS_CNN_TIMEOUT", "77")
    limits = []
    for name in ("init_process_group", "new_group"):
        real = getattr(dist, name)

        def noted(*args, real=real, timeout, **kwargs):
            limits.append(timeout.total_seconds())
            return real(*args, timeout=timeout, **kwargs)

        monkeypatch.setattr(dist, name, noted)
    with process_group() as ranks:
        assert current_ranks() is ranks
        assert (ranks.group, ranks.patient().group) != (dist.group.WORLD, ranks.group)
        assert ranks.patient().group is dist.group.WORLD
        assert ranks.all_reduce_max(3) == ranks.patient().all_reduce_max(3) == 3
    assert limits == [604_800, 77]


def test_signals_end_a_process_that_joins(as_torchrun_starts, monkeypatch):
    "Python could not handle them there; one that is ignored stays ignored"
    numbers, during = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), []
    before = [signal.signal(n, lambda *_: None) for n in numbers[:2]]
    before.append(signal.signal(signal.SIGHUP, signal.SIG_IGN))
    own, real = [signal.getsignal(n) for n in numbers], dist.new_group

    def noted(*args, **kwargs):
        during.extend(signal.getsignal(n) for n in numbers)
        return real(*args, **kwargs)

    monkeypatch.setattr(dist, "new_group", noted)
    try:
        with process_group():
            assert [signal.getsignal(n) for n in numbers] == own
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert during == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]


@pytest.mark.parametrize("error", [ValueError("no pictures"), KeyboardInterrupt("interrupted")])
def test_only_the_first_error_is_raised(as_torchrun_starts, error):
    with pytest.raises(type(error)), process_group():
        with pytest.raises(type(error), match=str(error)), one_message():
            raise error
        with pytest.raises(SystemExit), one_message():
            raise error
        raise error


def test_a_process_that_is_asked_to_end_after_another_one_was_killed_is_silent(
    as_torchrun_starts, monkeypatch
):
    "What started them names the one that was killed; a signal to all is said by the first one"
    raised = {}
    with process_group():
        for rank in ("1", "0"):
            monkeypatch.setenv("RANK", rank)
            with pytest.raises(BaseException) as caught, one_message():  # noqa: B017
                raise KeyboardInterrupt("interrupted by SIGTERM")
            raised[rank] = caught.type
    assert raised == {"1": SystemExit, "0": KeyboardInterrupt}


def test_after_an_error_the_group_is_not_torn_down(as_torchrun_starts, monkeypatch):
    "The other processes may wait in it: gloo would abort, and hide the error"
    monkeypatch.setattr(dist, "destroy_process_group", lambda: pytest.fail("torn down"))
    with pytest.raises(ValueError, match="no pictures"), process_group():
        raise ValueError("no pictures")
    monkeypatch.undo()


def test_mps_passes_no_messages(store):
    def refused(ranks):
        with use_ranks(ranks):
            train_dl, valid_dl = loaders(store)
            train_dl.device = torch.device("mps")
            fit(create_model("reference", 10, seed=0), train_dl, valid_dl, recipe=RECIPE)

    with pytest.raises((ValueError, LostProcess), match="device must be 'cpu' or 'cuda'"):
        in_threads(2, refused, seconds=5)


ORPHAN = """
import os, signal, sys, time
from simpsons_cnn.training.distributed import _ended_with_parent
if LATE:
    os.environ['SIMPSONS_CNN_PARENT'] = str(os.getpid())
if os.fork():
    signal.pause()  # until it is killed
parent = os.getppid()
if LATE:
    print(os.getpid(), flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)
def stop(*_):
    print('saved', flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
with _ended_with_parent(0.05):
    if not LATE:
        print(os.getpid(), flush=True)
    time.sleep(30)
print('trained on', flush=True)
"""


@pytest.mark.parametrize("late", [False, True])
def test_a_process_ends_with_the_one_that_started_it(late):
    "`late`: that one has ended before anybody looks"
    program = ORPHAN.replace("LATE", str(late))
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    parent.stdout.readline()
    parent.kill()
    assert parent.stdout.read() == "saved\n"  # ends when the orphan has closed it
    parent.wait()


@pytest.mark.parametrize(
    "first, second, kept",
    [
        (("good enough", False), None, "good enough"),  # this process has written the checkpoint
        (("by hand", True), ("good enough", False), "another process was asked to stop"),
        (None, ("good enough", False), "another process was asked to stop"),
        (None, ("by hand", True), ""),
    ],
)
def test_the_checkpoint_keeps_the_reason_of_the_process_that_writes_it(
    store, tmp_path, first, second, kept
):
    class Stops(Losses):
        def on_step(self, run):
            asked = (first, second)[run.ranks.rank]
            if asked:
                run.stop(*asked)

    path = tmp_path / "run.ckpt"
    own = [asked[0] if asked else "another process was asked to stop" for asked in (first, second)]
    histories = in_threads(2, lambda ranks: train(store, ranks, Stops(), checkpoint=path)[1])
    assert [history.stop_reason for history in histories] == own
    assert {history.resumable for history in histories} == {not kept}
    assert read_checkpoint(path).header["history"]["stop_reason"] == kept


def test_an_error_that_names_a_file_in_no_encoding_reaches_all_processes():
    def work(ranks):
        try:
            with raise_together(ranks):
                if ranks.rank:
                    raise OSError("cannot open '\udcff.jpg'")
        except OSError as e:
            return str(e)
        except ValueError as e:
            return str(e)

    first, second = in_threads(2, work, seconds=5)
    assert first.startswith(r"cannot open '\udcff.jpg' (in process 1 of 2") and first == second


def test_several_gpus_can_be_deterministic(monkeypatch):
    "The settings ask for it when each process has opened its GPU, which is too late for cuBLAS"
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    opened = []
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed, "_join", lambda backend: Ranks())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", opened.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(opened))
    with process_group():
        fix_cublas_workspace()
    assert opened == [1]
