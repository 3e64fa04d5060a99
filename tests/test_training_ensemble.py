"Models that do not fit together, splits that differ, pictures that moved; commands on the result"

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import torch

from simpsons_cnn.cli.ensemble import simpsons_ensemble
from simpsons_cnn.cli.explain import simpsons_explain
from simpsons_cnn.cli.predict import simpsons_evaluate, simpsons_predict
from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.core.config import Config
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.inference.card import model_card
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.networks.model_file import load_model, save_model
from simpsons_cnn.networks.presets import create_model
from simpsons_cnn.training.ensemble import make_ensemble, model_files

CHARACTERS = list("abc")
MODEL = "model/model.safetensors"


def run(command, *argv) -> tuple:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        command([str(argument) for argument in argv])
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "Drawn pictures, and a series of two runs in `runs/001`"
    root = tmp_path_factory.mktemp("ensemble")
    demo_characters(root / "data/demo", train=6, test=1)
    small = dict(num_epochs=1, size=64, crop_size=64, batch_size=16, split="random", testdir=None)
    Config.demo(root, **small).save(root / "small.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])
        out, _ = run(simpsons_train, root / "small.yaml", "--seeds", "0,1", "--ensemble")
    (root / "said.txt").write_text(out)
    return root


@pytest.fixture(scope="module")
def made(root):
    return make_ensemble([root / "runs/001"], root / "ensemble/model.safetensors", device="cpu")


@pytest.fixture
def write(tmp_path):
    "Write a model file of a small network"

    def write(name, seed=0, classes=CHARACTERS, preprocess=None, about=None):
        model = create_model("reference", len(classes), seed=seed, channels=(4, 4, 4, 4, 4, 4))
        save_model(tmp_path / name, model, classes, preprocess or Preprocess(64), about)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "other, words",
    [
        (dict(classes=list("acb")), "they know the same characters in another order"),
        (dict(classes=list("abd")), "not both know c, d"),
        (dict(classes=list("ab")), "not both know c"),
        (dict(preprocess=Preprocess(96, crop=64)), "different ways: size 96 and 64"),
        (dict(preprocess=Preprocess(64, std=(1, 1, 1))), r"different ways: std \(1, 1, 1\) and \("),
        (dict(preprocess=Preprocess(64, resize_rule="pad")), "resize_rule pad and stretch"),
        (dict(seed=0), "are the same model; give one"),
    ],
)
def test_models_that_do_not_fit_together(write, tmp_path, other, words):
    files = [write("first"), write("other", **dict(seed=1) | other)]
    with pytest.raises(ValueError, match=words) as refused:
        make_ensemble(files, tmp_path / "out/model")
    assert "other" in str(refused.value) and "first" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_one_model_no_model_and_an_ensemble(write, tmp_path):
    files = [write("first"), write("second", 1)]
    with pytest.raises(ValueError, match="needs two or more models, got 1"):
        make_ensemble(files[:1], tmp_path / "out/model")
    with pytest.raises(FileNotFoundError, match="No model file at '.*nobody'"):
        make_ensemble([*files, tmp_path / "nobody"], tmp_path / "out/model")
    make_ensemble(files, tmp_path / "pair")
    with pytest.raises(ValueError, match="got an ensemble; give its members"):
        make_ensemble([tmp_path / "pair", write("third", 2)], tmp_path / "out/model")
    assert not (tmp_path / "out").exists()


def test_a_series_is_in_the_order_of_its_seeds(tmp_path):
    for name in ("seed_10", "seed_2", "best"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / MODEL).touch()
    names = [path.parts[-3] for path in model_files(tmp_path)]
    assert names == ["seed_2", "seed_10"]


def of(data=None, **more) -> dict:
    return dict(data=data, **more)


SPLIT = dict(digest="1", split="2", pictures=3)


@pytest.mark.parametrize(
    "abouts, why, data",
    [
        ((of(), of()), "its members do not say which pictures", {}),
        ((of(SPLIT), of(SPLIT)), "none of its members lies in the folder of its run", SPLIT),
        ((of(SPLIT), of(SPLIT, refit=dict(epochs=2))), r"as well \(refit\)", SPLIT),
        ((of(SPLIT), of(SPLIT | dict(split="4"))), "on different splits", dict(splits=2)),
        ((of(SPLIT), of()), "on different splits", dict(splits=2)),
    ],
)
def test_what_is_known_of_the_pictures(write, tmp_path, abouts, why, data):
    files = [write(str(seed), seed, about=about) for seed, about in enumerate(abouts)]
    made = make_ensemble(files, tmp_path / "out/model")
    assert made.report is None and made.table is None
    with pytest.raises(ValueError, match=why):
        made.plot()
    about = load_model(made.path)[1]["about"]
    assert about["data"] == data and "calibration" not in about
    assert bool(about.get("refit")) == bool(abouts[1].get("refit"))


def test_licences_of_all_members_are_kept(write, tmp_path):
    licences = ("CC-BY-NC-SA-4.0", None, "CC-BY-NC-SA-4.0", "MIT")
    files = [write(str(i), i, about=dict(licence=text)) for i, text in enumerate(licences)]
    make_ensemble(files, tmp_path / "all")
    assert load_model(tmp_path / "all")[1]["about"]["licence"] == "CC-BY-NC-SA-4.0, MIT"


def test_the_card_tells_of_members_whose_logits_are_adjusted(write, tmp_path):
    abouts = [dict(logit_adjustment=dict(tau=tau)) for tau in (0.35, 0.0)]
    files = [write(str(i), i, about=about) for i, about in enumerate(abouts)]
    make_ensemble(files, tmp_path / "all")
    text = model_card(Classifier.load(tmp_path / "all"))
    assert "its networks are adjusted for rare characters, with a strength of 0.35." in text
    make_ensemble([files[1], write("third", 3)], tmp_path / "plain")
    assert "adjusted" not in model_card(Classifier.load(tmp_path / "plain"))


def test_members_keep_their_temperatures(write, tmp_path):
    about = [dict(calibration=dict(temperature=t)) for t in (0.5, 2.0)]
    files = [write(str(i), i, about=about[i]) for i in range(2)]
    model = make_ensemble(files, tmp_path / "all").model
    xb = torch.randn(2, 3, 64, 64)
    alone = [load_model(f)[0] for f in files]
    with torch.no_grad():
        p = [(m(xb) / t).softmax(1) for m, t in zip(alone, (0.5, 2.0), strict=True)]
        assert torch.allclose(model(xb).softmax(1), (p[0] + p[1]) / 2, atol=1e-6)


def test_scores_calibration_and_split_are_those_of_the_members_pictures(root, made):
    runs = [load_model(root / f"runs/001/seed_{seed}/{MODEL}")[1]["about"] for seed in (0, 1)]
    about = load_model(made.path)[1]["about"]
    assert about["data"] == runs[0]["data"] == runs[1]["data"]
    assert about["validation"]["pictures"] == runs[0]["validation"]["pictures"] == len(made.report)
    assert about["calibration"]["pictures"] == len(made.report)
    assert made.table["accuracy"].tolist()[:2] == [run["validation"]["accuracy"] for run in runs]
    assert [member["seed"] for member in about["members"]] == [0, 1]


def test_pictures_that_changed_or_moved(root, tmp_path):
    "Another set of pictures is refused, a moved one is found by `traindir`"
    shutil.copytree(root / "data/demo/train", tmp_path / "moved")
    how = dict(device="cpu", traindir=tmp_path / "moved")
    make_ensemble([root / "runs/001"], tmp_path / "found/model", **how)
    next((tmp_path / "moved").rglob("*.jpg")).unlink()
    with pytest.raises(ValueError, match="are not those that the members were trained with"):
        make_ensemble([root / "runs/001"], tmp_path / "out/model", **how)
    assert not (tmp_path / "out").exists()
    made = make_ensemble([root / "runs/001"], tmp_path / "out/model", calibrate=False)
    assert "nobody asked for it" in repr(made)


def test_a_split_that_is_there_is_not_replaced(root, tmp_path):
    (tmp_path / "split.csv").write_text("mine")
    make_ensemble([root / "runs/001"], tmp_path / "model", calibrate=False)
    assert (tmp_path / "split.csv").read_text() == "mine"


def test_an_ensemble_that_is_written_again_has_its_own_split(root, tmp_path):
    made = make_ensemble([root / "runs/001"], tmp_path / "model", calibrate=False)
    split = (tmp_path / "split.csv").read_text()
    (tmp_path / "split.csv").write_text(split.replace("valid", "train"))  # of other members
    make_ensemble([root / "runs/001"], made.path, calibrate=False)
    assert (tmp_path / "split.csv").read_text() == split


@pytest.mark.parametrize("name", ["0.safetensors", "linked"])
def test_a_member_is_not_replaced(root, tmp_path, name):
    members = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, member in enumerate(members):
        shutil.copyfile(root / f"runs/001/seed_{seed}/model/model.safetensors", member)
    (tmp_path / "linked").symlink_to(members[0])
    before = members[0].read_bytes()
    with pytest.raises(ValueError, match=f"{name}' is one of the models to join"):
        make_ensemble(members, tmp_path / name)
    assert members[0].read_bytes() == before


# Commands


def test_the_command_writes_the_same_model(root, made, tmp_path):
    target = tmp_path / "new/model.safetensors"
    runs = [root / f"runs/001/seed_{seed}" for seed in (0, 1)]
    out, err = run(simpsons_ensemble, *runs, "--out", target, "--device", "cpu")
    assert repr(made) in out and f"model: {target}" in out and "simpsons_evaluate" in err
    assert target.read_bytes() == made.path.read_bytes()
    with pytest.raises(SystemExit, match="pass --overwrite"):
        run(simpsons_ensemble, *runs, "--out", target)


def test_a_network_that_no_member_uses_is_refused(root, tmp_path):
    args = ["--out", tmp_path / "new/e", "--network", "unused=torchvision.models:resnet18"]
    with pytest.raises(SystemExit, match="no network of your own in '.*001'; leave out --network"):
        run(simpsons_ensemble, root / "runs/001", *args)
    assert not (tmp_path / "new").exists()


def test_training_with_several_seeds_can_end_in_an_ensemble(root, made):
    written = root / "runs/001/ensemble/model.safetensors"
    assert written.read_bytes() == made.path.read_bytes()
    said = (root / "said.txt").read_text()
    assert repr(made) in said and f"ensemble: {written}" in said
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as err:
        simpsons_train(["--ensemble"])
    assert "--ensemble joins the networks of several seeds; give it --seeds" in err.getvalue()


def test_evaluate_predict_and_explain_take_it(root, made, tmp_path):
    folder = root / "data/demo"
    out, err = run(simpsons_evaluate, made.path, folder / "test", "--device", "cpu")
    assert "on 10 pictures" in out and "is not known" not in err
    out, _ = run(simpsons_evaluate, made.path, folder / "train", "--device", "cpu")
    sides = load_model(made.path)[1]["about"]["validation"]["pictures"]
    assert f"trained on {60 - sides} of these 60 pictures, validated on {sides}" in out
    face = next((folder / "test").rglob("*.jpg"))
    out, _ = run(simpsons_predict, made.path, face, "--device", "cpu")
    assert out.startswith(str(face))
    run(simpsons_explain, made.path, face, "--out", tmp_path / "why", "--device", "cpu")
    assert len(list((tmp_path / "why").iterdir())) == 1


def test_members_of_several_splits_leave_it_open_what_was_trained_on(root, write, tmp_path):
    about = [of(SPLIT | dict(split=name)) for name in "ab"]
    files = [write(name, i, about=about[i]) for i, name in enumerate(("first", "second"))]
    make_ensemble(files, tmp_path / "out/model")
    split = root / "runs/001/seed_0/model/split.csv"
    with pytest.raises(ValueError, match="members of this ensemble were trained on different spli"):
        Classifier.load(tmp_path / "out/model", "cpu").count_trained_on([Path(__file__)], split)


def test_the_folder_of_a_series_may_be_given_alone(root, made, tmp_path):
    for number, source in enumerate((root / "runs/001", str(root / "runs/001"))):
        found = make_ensemble(source, tmp_path / str(number), calibrate=False)
        assert found.names == made.names
