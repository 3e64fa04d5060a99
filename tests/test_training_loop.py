"What `fit` refuses, warns of and tells its callbacks"

import copy
import io
import math
import re
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from simpsons_cnn.core.config import TrainingParameters
from simpsons_cnn.core.device import deterministic_algorithms
from simpsons_cnn.data.augment import Augment
from simpsons_cnn.data.batches import Batches
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.lab.dashboard import TrainingDashboard
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.scoring.report import evaluate
from simpsons_cnn.training import callbacks as callback_page
from simpsons_cnn.training.average import WeightAverage
from simpsons_cnn.training.callbacks import Callback, EarlyStopping, Progress
from simpsons_cnn.training.checkpoint import Checkpoint
from simpsons_cnn.training.distributed import Ranks
from simpsons_cnn.training.history import NonFiniteLoss
from simpsons_cnn.training.loop import fit
from simpsons_cnn.training.run import TrainingRun, _check_arguments

RECIPE = TrainingParameters(learning_rate=8e-3, num_epochs=2, mixed_precision="off")


def small_model():
    torch.manual_seed(0)
    return SimpsonsCNN(10, channels=(8, 16, 16, 32, 32, 64))


class NeverStarts(Callback):
    def on_start(self, run):
        raise AssertionError("started")


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(num_epochs=0), "num_epochs must be 1 or more, got 0"),
        (dict(learning_rate=-1), "learning_rate must be above 0, got -1"),
        (dict(monitor="f1"), "monitor must be one of"),
        (dict(num_epoch=3), "did you mean 'num_epochs'"),
        (dict(batch_size=3), "batch_size is decided by the loaders"),
        (dict(refit=True), "refit True needs what comes after fit; give it to train"),
        (dict(imbalance="auto"), "imbalance auto needs what comes after fit"),
        (dict(imbalance="logit_adjustment"), "imbalance logit_adjustment needs what comes after"),
        (dict(first_crop=80), "first_crop must be at most 64, the side of later crops, and needs"),
    ],
)
def test_a_wrong_recipe_is_refused_before_the_first_step(loaders, changes, words):
    with pytest.raises(ValueError, match=words):
        fit(small_model(), *loaders, recipe=RECIPE, callbacks=[NeverStarts()], **changes)


def test_two_remedies_for_rare_characters(loaders):
    "The same pair is refused as in a `Config`, in one recipe and in a change of one"
    with pytest.raises(ValueError, match="class_weights must be 'none' or left out with imbal"):
        TrainingParameters(class_weights="inverse", imbalance={"ann": 3.0})
    recipe = TrainingParameters(class_weights="inverse")
    with pytest.raises(ValueError, match="class_weights must be 'none' or left out with imbal"):
        fit(small_model(), *loaders, recipe=recipe, imbalance="balanced_softmax", callbacks=[])


@pytest.mark.parametrize("imbalance", ["weights", "balanced_softmax"])
def test_a_character_without_training_pictures(store, loaders, imbalance):
    "As in a fold of `cross_validate`: its weight is that of a character with one picture"
    rows = [i for i in loaders[0].indices.tolist() if store.labels[i] > 0]
    few = Batches(store, rows, 30, Augment(), device="cpu")
    changes = dict(num_epochs=1, imbalance=imbalance)
    history = fit(small_model(), few, loaders[1], recipe=RECIPE, callbacks=[], **changes)
    assert history.table.valid_loss.notna().all()


def test_settings_that_a_given_loss_would_ignore(loaders):
    with pytest.raises(ValueError, match="class_weights is decided by loss"):
        loss, changes = nn.CrossEntropyLoss(), dict(class_weights="inverse")
        fit(small_model(), *loaders, loss, RECIPE, callbacks=[NeverStarts()], **changes)


@pytest.mark.parametrize(
    "remedy",
    [dict(imbalance="weights"), dict(imbalance={"ann": 3.0}), dict(class_weights="inverse")],
)
def test_a_remedy_of_the_recipe_beside_a_given_loss(loaders, remedy):
    recipe, (name,) = TrainingParameters(**RECIPE.model_dump(exclude_unset=True) | remedy), remedy
    with pytest.raises(ValueError, match=f"{name} is decided by loss; give it to the loss"):
        fit(small_model(), *loaders, nn.CrossEntropyLoss(), recipe, callbacks=[NeverStarts()])


def test_other_fields_of_the_recipe_beside_a_given_loss(loaders):
    others = dict(gamma=2.0, label_smoothing=0.2, imbalance="none", class_weights="none")
    recipe = TrainingParameters(**others | dict(num_epochs=1))
    history = fit(small_model(), *loaders, nn.CrossEntropyLoss(), recipe, callbacks=[])
    assert len(history) == 1


@pytest.mark.parametrize(
    "callback, words",
    [
        (EarlyStopping(3), "with monitor 'last' none is better; leave it out or choose another"),
        (callback_page.StopAfter(4), "steps must be from 1 to 3, as many as an epoch has, got 4"),
        (callback_page.StopAfter(0), "steps must be from 1 to 3, as many as an epoch has, got 0"),
        (callback_page.StopAfter(1.5), "steps must be from 1 to 3, .* got 1.5"),
        (callback_page.StopAfter("2"), "steps must be from 1 to 3, .* got '2'"),
    ],
)
def test_a_callback_that_could_do_nothing_is_refused_before_the_first_step(
    loaders, callback, words
):
    class NeverSteps(Callback):
        def on_step(self, run):
            raise AssertionError("a step was made")

    with pytest.raises(ValueError, match=words):
        callbacks = [NeverSteps(), callback]
        fit(small_model(), *loaders, recipe=RECIPE, callbacks=callbacks, monitor="last")


def test_a_missing_folder_is_found_before_the_first_step(loaders, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder; make it first"):
        path = tmp_path / "no/last.ckpt"
        fit(small_model(), *loaders, recipe=RECIPE, callbacks=[NeverStarts()], checkpoint=path)


def test_a_resume_needs_the_same_order(loaders, store, tmp_path):
    path = tmp_path / "last.ckpt"
    fit(small_model(), *loaders, recipe=RECIPE, callbacks=[], checkpoint=path)
    other = Batches(store, loaders[0].indices, 30, Augment(), shuffle="local", device="cpu")
    with pytest.raises(ValueError, match="written with other settings: order is 'local' now"):
        resumed = Checkpoint(path, resume=True)
        fit(small_model(), other, loaders[1], recipe=RECIPE, callbacks=[], checkpoint=resumed)


@pytest.mark.parametrize("other", ["training", "validation"])
def test_a_resume_needs_the_same_images(loaders, store, tmp_path, other):
    path = tmp_path / "last.ckpt"
    fit(small_model(), *loaders, recipe=RECIPE, callbacks=[], checkpoint=path)
    train_dl, valid_dl = loaders
    a, b = train_dl.indices.tolist(), valid_dl.indices.tolist()
    if other == "training":
        a = [*a[:-1], b[0]]
    else:
        b = [a[0], *b[1:]]
    swapped = (
        Batches(store, sorted(a), 30, Augment(), device="cpu"),
        Batches(store, sorted(b), 30, device="cpu"),
    )
    with pytest.raises(ValueError, match=f"written with other settings: {other}_images"):
        resumed = Checkpoint(path, resume=True)
        fit(small_model(), *swapped, recipe=RECIPE, callbacks=[], checkpoint=resumed)


def test_growing_crops_need_augment(loaders, store):
    plain = Batches(store, loaders[0].indices, 30, shuffle=True, device="cpu")
    with pytest.raises(ValueError, match="needs augment, got 72"):
        fit(small_model(), plain, loaders[1], recipe=RECIPE, callbacks=[], first_crop=72)


def test_the_default_of_growing_crops_fits_any_loader(loaders, store):
    plain = Batches(store, loaders[0].indices, 30, shuffle=True, device="cpu")
    saved = TrainingParameters(**RECIPE.model_dump())  # as from `config.yaml`, which has all fields
    for recipe in (RECIPE, saved):
        assert len(fit(small_model(), plain, loaders[1], recipe=recipe, callbacks=[])) == 2


def test_wrong_loaders_losses_and_callbacks_are_refused(loaders):
    train_dl, valid_dl = loaders
    with pytest.raises(ValueError, match="train_dl must be shuffled"):
        fit(small_model(), valid_dl, valid_dl)
    with pytest.raises(ValueError, match="valid_dl must be without augment"):
        fit(small_model(), train_dl, train_dl)
    with pytest.raises(TypeError, match="subclass of Callback, got function"):
        fit(small_model(), train_dl, valid_dl, callbacks=[lambda run: None])
    with pytest.raises(TypeError, match="loss must be called with logits and targets, got int"):
        fit(small_model(), train_dl, valid_dl, 3, callbacks=[NeverStarts()])


def test_resume_needs_a_checkpoint():
    with pytest.raises(ValueError, match="resume needs a checkpoint"):
        Checkpoint(None, resume=True)


def test_a_validation_loss_that_is_no_number(store, loaders):
    "The last step of an epoch can break the weights unseen by any training loss"
    indices = loaders[0].indices
    one_step = Batches(store, indices, len(indices), Augment(), device="cpu")
    recipe = TrainingParameters(num_epochs=1, learning_rate=1e30, schedule="constant")
    with pytest.raises(NonFiniteLoss, match="on the validation pictures became nan in epoch 1"):
        fit(small_model(), one_step, loaders[1], recipe=recipe, callbacks=[])


def test_a_growing_loss_is_warned_of(loaders):
    with pytest.warns(UserWarning, match="it grows instead of falling"):
        changes = dict(num_epochs=1, learning_rate=100.0, schedule="constant")
        fit(small_model(), *loaders, nn.CrossEntropyLoss(), RECIPE, callbacks=[], **changes)


@contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


DEFAULTS = {
    "float64": float64_by_default,
    "device": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def trained_and_judged(loaders, within) -> tuple:
    train_dl, valid_dl = loaders
    model, prepared = small_model(), train_dl.store.pixels[:3]
    before = torch.get_default_dtype()
    with within():
        fit(
            model,
            train_dl,
            valid_dl,
            recipe=RECIPE,
            num_epochs=1,
            mixed_precision="bf16",
            callbacks=[],
        )
        report = evaluate(model, valid_dl)
        clf = Classifier(model, train_dl.store.files.classes, train_dl.store.preprocess)
        logits, cam = clf.logits(prepared), clf.explain(prepared[0].permute(1, 2, 0).numpy()).cam
    assert torch.get_default_dtype() == before and torch.ones(1).device.type == "cpu"
    return [p.tolist() for p in model.parameters()], report.loss, logits.tolist(), cam.tolist()


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_program_has_set_for_pytorch_does_not_reach_a_run(loaders, name):
    assert trained_and_judged(loaders, DEFAULTS[name]) == trained_and_judged(loaders, nullcontext)


class FailsAfterAnEpoch(Callback):
    def on_epoch(self, run):
        raise RuntimeError("no room")


class Ended(Callback):
    said = ""

    def on_end(self, run):
        self.said = run.summary()


def test_each_callback_hears_of_a_failure(loaders):
    ended, dashboard = Ended(), TrainingDashboard()
    with pytest.raises(RuntimeError, match="no room"):
        fit(small_model(), *loaders, callbacks=[FailsAfterAnEpoch(), dashboard, ended])
    assert ended.said == "failed: no room"
    assert dashboard.state == "failed" and "no room" in dashboard.view.bar.value


def test_an_error_is_said_once(loaders):
    "It is raised, in a command as one line, so the log has only the lines of the epochs"
    log = io.StringIO()
    with pytest.raises(RuntimeError, match="no room"):
        fit(small_model(), *loaders, callbacks=[Progress("log", log), FailsAfterAnEpoch()])
    assert log.getvalue().startswith("epoch  1/") and log.getvalue().count("\n") == 1


def test_a_plain_function_is_a_loss(loaders):
    assert len(fit(small_model(), *loaders, nn.functional.cross_entropy, RECIPE, callbacks=[])) == 2


@pytest.mark.parametrize("recipe", [30, dict(num_epochs=3), None], ids=["int", "dict", "None"])
def test_a_recipe_of_another_type_is_refused(loaders, recipe):
    words = f"recipe must be TrainingParameters.*, got {type(recipe).__name__}; .*num_epochs=30"
    with pytest.raises(TypeError, match=words):
        fit(small_model(), *loaders, recipe=recipe, callbacks=[NeverStarts()])


@pytest.mark.parametrize("callbacks, kind", [(5, "int"), (Callback, "type"), ("bar", "str")])
def test_callbacks_of_another_type_are_refused(loaders, callbacks, kind):
    with pytest.raises(TypeError, match=f"subclass of Callback, got {kind}"):
        fit(small_model(), *loaders, callbacks=callbacks)


class StopAfter(Callback):
    def __init__(self, steps):
        self.left = steps

    def on_step(self, run):
        self.left -= 1
        if self.left == 0:
            run.stop("enough for now")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_of_a_resumed_epoch_starts_behind_the_steps_made(loaders, tmp_path):
    recipe = RECIPE.model_copy(update=dict(num_epochs=1))
    path, terminal = tmp_path / "last.ckpt", Terminal()
    fit(small_model(), *loaders, recipe=recipe, callbacks=StopAfter(2), checkpoint=path)
    resumed = Checkpoint(path, resume=True)
    callbacks = Progress(out=terminal)
    fit(small_model(), *loaders, recipe=recipe, callbacks=callbacks, checkpoint=resumed)
    assert re.findall(r"(\d)/3 \[", terminal.getvalue())[0] == "2"


def flat(logits, targets):
    "A loss under which no epoch is better than the first"
    return 1 + 0 * logits.sum()


@pytest.mark.parametrize("schedule, epochs", [("one_cycle", 6), ("constant", 2)])
def test_patience_waits_for_a_low_learning_rate(store, loaders, schedule, epochs):
    few = Batches(store, loaders[0].indices[:30], 30, Augment(), device="cpu")
    changes = dict(num_epochs=8, schedule=schedule, patience=1, monitor="valid_loss")
    history = fit(small_model(), few, loaders[1], flat, RECIPE, callbacks=[], **changes)
    assert len(history) == epochs  # of 8, five count for nothing


@pytest.mark.parametrize("patience, epochs", [(1, 2), (3, 4), (0, 5)])
def test_a_run_that_patience_ended_goes_on_with_more(loaders, tmp_path, patience, epochs):
    changes = dict(num_epochs=5, schedule="constant", monitor="valid_loss", first_crop=None)
    path, model = tmp_path / "last.ckpt", small_model()
    how = dict(recipe=RECIPE, callbacks=[], **changes)
    history = fit(model, *loaders, flat, patience=1, checkpoint=path, **how)
    assert (len(history), history.stop_reason) == (2, "no better valid_loss for 1 epochs")
    resumed = Checkpoint(path, resume=True)
    history = fit(model, *loaders, flat, patience=patience, checkpoint=resumed, **how)
    assert len(history) == epochs
    assert history.stop_reason == (
        f"no better valid_loss for {patience} epochs" if patience else ""
    )


class Counting(nn.Module):
    "A loss that counts the pictures it is trained with, and depends on their number"

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, logits, targets):
        if self.training:
            self.seen += len(targets)
        return nn.functional.cross_entropy(logits, targets) / (1 + self.seen / 100)


def test_a_loss_with_a_memory_is_resumed_and_does_not_count_validation(loaders, tmp_path):
    path, losses = tmp_path / "last.ckpt", [Counting(), Counting(), Counting()]
    how = dict(recipe=RECIPE)
    straight, stopped = small_model(), small_model()
    fit(straight, *loaders, losses[0], callbacks=[], **how)
    fit(stopped, *loaders, losses[1], callbacks=StopAfter(2), checkpoint=path, **how)
    resumed = Checkpoint(path, resume=True)
    fit(stopped, *loaders, losses[2], callbacks=[], checkpoint=resumed, **how)
    assert losses[0].seen == losses[2].seen == 2 * 30 * len(loaders[0]) > losses[1].seen == 60
    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, stopped.state_dict()[name]), name


class Scripted(nn.Module):
    "Learns nothing; when it is judged for the n-th time, it gives the n-th list of answers"

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.bias = iter(answers), nn.Parameter(torch.zeros(10))

    def forward(self, x):
        if self.training:
            return self.bias.expand(len(x), 10)
        return nn.functional.one_hot(torch.tensor(next(self.answers)), 10).float()


@pytest.mark.parametrize("monitor, best", [("macro_f1_common", 1), ("macro_f1", 2)])
def test_the_best_epoch_is_best_at_the_characters_with_ten_pictures(store, monitor, best):
    "Eleven pictures of one character, one of another, which the second epoch finds at a price"
    valid_dl = Batches(store, [*range(11), 12], device="cpu")
    train_dl = Batches(store, range(24, 54), 30, shuffle=True, device="cpu")
    model = Scripted([0] * 12, [0] * 8 + [1] * 4)
    settings = dict(num_epochs=2, monitor=monitor, first_crop=None)
    history = fit(model, train_dl, valid_dl, recipe=RECIPE, callbacks=[], **settings)
    assert history.best_epoch == best
    assert f"best {monitor}" in repr(history)
    if monitor == "macro_f1_common":
        f1 = [2 * 11 / (12 + 11), 2 * 8 / (8 + 11)]  # of the one with ten pictures or more
        assert history.table.macro_f1_common.tolist() == pytest.approx(f1)


def test_a_score_of_characters_with_ten_pictures_needs_one(loaders):
    few = "ten validation pictures or more, got at most 3; choose 'macro_f1', or raise valid"
    with pytest.raises(ValueError, match=few):
        fit(small_model(), *loaders, callbacks=NeverStarts(), monitor="macro_f1_common")


def test_biases_are_spared_and_resumed(loaders, tmp_path):
    "Two groups of parameters number what the optimizer remembers in another order"
    settings = dict(num_epochs=1, decay_biases=False)
    path = tmp_path / "last.ckpt"
    straight, stopped = small_model(), small_model()
    fit(straight, *loaders, recipe=RECIPE, callbacks=[], **settings)
    fit(stopped, *loaders, recipe=RECIPE, callbacks=StopAfter(2), checkpoint=path, **settings)
    resumed = Checkpoint(path, resume=True)
    fit(stopped, *loaders, recipe=RECIPE, callbacks=[], checkpoint=resumed, **settings)
    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, stopped.state_dict()[name]), name


class OwnNetwork(nn.Module):
    "A network of a user, with PyTorch's own dropout"

    def __init__(self, p):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.drop = nn.Dropout(p)
        self.out = nn.Linear(48, 10)

    def forward(self, x):
        return self.out(self.drop(self.pool(x).flatten(1)))


def test_dropout_that_the_seed_does_not_decide_is_warned_of_once(loaders):
    with pytest.warns(UserWarning) as caught:
        fit(OwnNetwork(0.5), *loaders, recipe=RECIPE, callbacks=[])
    words = [str(w.message) for w in caught]
    assert len(words) == 1
    assert "'drop'" in words[0] and "simpsons_cnn.networks.reference.Dropout" in words[0]


@pytest.mark.parametrize("model", [OwnNetwork(0), small_model()], ids=["p=0", "ours"])
def test_other_networks_are_not_warned_of(loaders, model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, *loaders, recipe=RECIPE, callbacks=[])


def test_what_rare_characters_give_is_varied_in_its_own_way(store):
    "Else each pasted rectangle has the crop, the mirroring and the erased part of its picture"
    varied = Augment(cutmix=1, cutmix_rare=True)
    rows = torch.arange(30)
    run = TrainingRun(
        small_model(),
        Batches(store, rows, 30, varied, device="cpu"),
        Batches(store, rows, 30, device="cpu"),
        nn.CrossEntropyLoss(),
        RECIPE,
    )

    class SameRows:
        def choice(self, n, size, p):
            return rows.numpy()

    usual, _ = run.train_dl.batch(rows, 0, 0)
    pasted, _ = run.rare_batch(SameRows())
    again, _ = run.rare_batch(SameRows())
    assert torch.equal(pasted, again)
    assert not any(torch.equal(a, b) for a, b in zip(usual, pasted, strict=True))


@pytest.mark.parametrize("patience", [0, float("nan"), 1.5, "3", True, None])
def test_patience_is_a_whole_number(patience):
    "With NaN a run would never end early"
    with pytest.raises(ValueError, match="patience must be a whole number of 1 or more, got"):
        EarlyStopping(patience)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(model="m.safetensors"), TypeError, "model must be a network, such as create_model"),
        (dict(train_dl="data/train"), TypeError, "loader must be Batches, such as Batches"),
        (dict(weight_decay=-1), ValueError, "weight_decay must be a number from 0 to 1,000, got"),
        (dict(weight_decay=math.nan), ValueError, "weight_decay must be a number from 0 to 1,000"),
        (dict(weight_decay="x"), ValueError, "weight_decay must be a number from 0 to 1,000"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_step(loaders, change, error, words):
    train_dl, valid_dl = loaders
    arguments = dict(model=small_model(), train_dl=train_dl, valid_dl=valid_dl) | change
    with pytest.raises(error, match=words):
        fit(**arguments, loss=nn.CrossEntropyLoss(), callbacks=[NeverStarts()])


def test_a_network_for_other_characters(loaders):
    outputs = len(loaders[0].store.classes) + 1
    with pytest.raises(ValueError, match=f"the network has {outputs} outputs for {outputs - 1} ch"):
        fit(SimpsonsCNN(outputs), *loaders, callbacks=[NeverStarts()])
    with pytest.raises(ValueError, match=f"the network has {outputs} outputs for {outputs - 1} ch"):
        evaluate(SimpsonsCNN(outputs), loaders[1])


def test_loaders_of_other_characters(loaders):
    "As from a folder that was scanned without `classes`: the numbers would mean others"
    train_dl, valid_dl = loaders
    other = copy.copy(valid_dl)
    files = replace(valid_dl.store.files, classes=valid_dl.store.classes[::-1])
    other.store = replace(valid_dl.store, files=files)
    with pytest.raises(ValueError, match="must have the same characters: scan the folder"):
        fit(small_model(), train_dl, other, callbacks=[NeverStarts()])


class NotesFlags(Callback):
    "What PyTorch is asked for while steps are made; fails in step `fails_in`"

    def __init__(self, fails_in=None):
        self.seen, self.fails_in = set(), fails_in

    def on_step(self, run):
        self.seen.add(flags())
        if run.step == self.fails_in:
            raise RuntimeError("out of luck")


def flags():
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark


@pytest.fixture
def benchmarking(monkeypatch):
    "The flags of a program that wants cuDNN to try algorithms"
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)


@pytest.mark.parametrize("fails_in", [None, 1])
@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_algorithms_are_asked_for_within_the_run(
    loaders, benchmarking, deterministic, fails_in
):
    notes = NotesFlags(fails_in)
    try:
        fit(small_model(), *loaders, None, RECIPE, callbacks=notes, deterministic=deterministic)
    except RuntimeError as e:
        assert str(e) == "out of luck"
    assert notes.seen == {(deterministic, not deterministic)}
    assert flags() == (False, True)


def test_the_last_of_several_runs_puts_the_flags_back(benchmarking):
    first, second = deterministic_algorithms(), deterministic_algorithms()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert flags() == (True, False)
    second.__exit__(None, None, None)
    assert flags() == (False, True)


def test_a_deterministic_run_on_the_cpu_has_the_same_bits(loaders):
    runs = [
        fit(small_model(), *loaders, None, RECIPE, callbacks=[], deterministic=wanted)
        for wanted in (False, True)
    ]
    assert runs[0].first_steps == runs[1].first_steps


class PutsBack(nn.Module):
    "An operation without a deterministic form"

    def forward(self, logits, targets):
        logits = logits.clone().put_(torch.tensor([0]), torch.zeros(1))
        return nn.functional.cross_entropy(logits, targets)


def test_an_operation_without_a_deterministic_form(loaders):
    with pytest.raises(ValueError, match="deterministic must be false .*: put_ has no form that"):
        fit(small_model(), *loaders, PutsBack(), RECIPE, callbacks=[], deterministic=True)
    assert not flags()[0]


@pytest.mark.parametrize("known, refused", [(":16:8", False), (":0:0", True), (None, True)])
def test_a_deterministic_run_on_a_gpu_that_is_open(loaders, monkeypatch, known, refused):
    "cuBLAS has read its environment by then"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if known:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", known)
    loaders[0].device = torch.device("cuda")
    recipe = TrainingParameters(**RECIPE.model_dump() | dict(deterministic=True))
    run = TrainingRun.__new__(TrainingRun)  # whose network would be moved to the GPU
    vars(run).update(
        model=small_model(), train_dl=loaders[0], valid_dl=loaders[1], loss=nn.CrossEntropyLoss()
    )
    vars(run).update(recipe=recipe, weight_decay=0.0, callbacks=(), ranks=Ranks())
    if refused:
        with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"):
            _check_arguments(run)
    else:
        _check_arguments(run)


def test_a_resume_needs_the_same_algorithms(loaders, tmp_path):
    path = tmp_path / "last.ckpt"
    fit(small_model(), *loaders, None, RECIPE, callbacks=[], checkpoint=path)
    with pytest.raises(ValueError, match="deterministic is True now and was False"):
        again = Checkpoint(path, resume=True)
        fit(small_model(), *loaders, None, RECIPE, checkpoint=again, deterministic=True)


def test_a_step_does_not_walk_through_the_network_for_its_average(monkeypatch):
    "It takes a good part of a step on a fast GPU; a restored average is moved as well"
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0.9)
    average.network.load_state_dict(dict(weight=torch.zeros(1, 1), bias=torch.zeros(1)))
    weights = average.network.weight, model.weight
    monkeypatch.setattr(nn.Module, "parameters", None)
    average.update(step=10)
    assert torch.equal(weights[0], weights[1] / 2)


def test_a_step_does_not_walk_through_the_network_for_its_dropout(loaders, monkeypatch):
    run = TrainingRun(SimpsonsCNN(10), *loaders, nn.CrossEntropyLoss(), RECIPE)
    run.forward()
    run.model.train()
    drop, drawn = run.model.linear_stack[3], []
    monkeypatch.setattr(nn.Module, "modules", None)
    for run.step in (1, 1, 2):
        run.before_step()
        drawn.append(drop(torch.ones(100)))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
