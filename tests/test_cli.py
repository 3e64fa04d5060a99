"The commands as processes of their own: what they print, what they end with, and every mistake"

import configparser
import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import forks
from PIL import Image

from simpsons_cnn.cli.explain import simpsons_explain
from simpsons_cnn.cli.export import simpsons_export
from simpsons_cnn.cli.predict import simpsons_predict
from simpsons_cnn.cli.train import simpsons_train
from simpsons_cnn.core.config import Config, setting_sections
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.demo.characters import demo_characters, draw_character
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.networks.model_file import save_model
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.quality.split import save_split
from simpsons_cnn.training.find_rate import RateSearch
from simpsons_cnn.training.prepare import open_store_of, scan_folders

ROOT = Path(__file__).parent.parent


def entry_points() -> dict:
    "name -> (module, function), as settings.ini declares them"
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    found = {}
    for line in settings["DEFAULT"]["console_scripts"].split():
        name, target = line.split("=")
        found[name] = target.split(":")
    return found


COMMANDS = entry_points()


ENVIRONMENT = dict(COLUMNS="150", MPLBACKEND="Agg")


def run(folder, line) -> tuple:
    "Run a command line; exit code, output and errors"
    name, *args = shlex.split(line)
    return forks(":".join(COMMANDS[name]), argv=args, folder=folder, env=ENVIRONMENT)


def run_from_scratch(folder, line, **env) -> tuple:
    "The same in a new process, which imports everything itself"
    name, *args = shlex.split(line)
    module, function = COMMANDS[name]
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    r = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        env=os.environ | ENVIRONMENT | env,
        capture_output=True,
        timeout=300,
    )
    return r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")


MODEL = "run/model.safetensors"
INSIDE = "--traindir demo/train --batch_size 8 --runs_directory demo/train/new"
LONG = "ж" * 112 + ".csv"
LINK, CSV_MODEL = "linked.safetensors", "model.csv"
FACE = "demo/test/mossy_mo/mossy_mo_0000.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Drawn images, a model and its split, a finished export, and things that are wrong"
    folder = tmp_path_factory.mktemp("cli")
    demo_characters(folder / "demo", train=3, test=1)
    files = ImageFiles.scan(folder / "demo/train")
    torch.manual_seed(0)
    (folder / "run").mkdir()
    save_model(folder / MODEL, SimpsonsCNN(10), files.classes, Preprocess(64))
    save_split(folder / "run/split.csv", files, range(30), [0, 1, 2])
    (folder / "figures").mkdir()
    for name in ("run/model.onnx", "predictions.csv", "figures/mossy_mo_0000.png"):
        (folder / name).write_text("")
    (folder / "torn.jpg").write_bytes(b"no picture")
    (folder / LINK).symlink_to(MODEL)
    for name in ("fold_1", "refit"):
        (folder / "series" / name / "model").mkdir(parents=True)
        shutil.copy(folder / MODEL, folder / "series" / name / "model")
        (folder / "series" / name / "model/config.yaml").write_text("")
    (folder / CSV_MODEL).write_bytes((folder / MODEL).read_bytes())
    (folder / "empty").mkdir()
    for name in ("mossy_mo_0000.png", "report.json", "leaks.csv"):
        (folder / "dirs" / name).mkdir(parents=True)
    (folder / "dirs2/confusion.png").mkdir(parents=True)
    (folder / "stopped").mkdir()
    (folder / "stopped/config.yaml").write_text("")
    with zipfile.ZipFile(folder / "archive.zip", "w") as z:
        for path in files.paths:
            z.write(path, f"simpsons_dataset/{path.relative_to(files.root)}")
    with zipfile.ZipFile(folder / "evil.zip", "w") as z:
        z.writestr("simpsons_dataset/../../../escaped.jpg", "x")
    return folder


MISTAKES = {
    "simpsons_train --num_epochs 0": "num_epochs must be 1 or more, got '0'",
    "simpsons_train nowhere.yaml": "No configuration file at 'nowhere.yaml'",
    "simpsons_train --traindir elsewhere": "No folder 'elsewhere'",
    "simpsons_train --seeds 1,1": "seeds must be two or more different numbers, got [1, 1]",
    "simpsons_train --split grouped": "got 'grouped', which is no file",
    "simpsons_train --folds 5 --split a.csv": "split must be 'group' or 'random' with folds",
    "simpsons_train --verify nowhere": "No 'config.yaml' in 'nowhere'",
    f"simpsons_predict {MODEL} nobody.jpg": "No picture at 'nobody.jpg'",
    f"simpsons_predict {MODEL} torn.jpg": "torn.jpg cannot be read: a picture must be one of ",
    f"simpsons_predict torn.jpg {FACE}": "'torn.jpg' is not a safetensors file",
    f"simpsons_predict {MODEL} demo/test": "'predictions.csv' exists",
    f"simpsons_predict {MODEL} {FACE} --csv no/x.csv": "No folder 'no'",
    f"simpsons_predict {MODEL} {FACE} --csv demo --overwrite": "'demo' is a folder or a device",
    f"simpsons_export {MODEL} --onnx demo --overwrite": "'demo' is a folder or a device",
    f"simpsons_export {MODEL} --onnx x --card ./x": "'x' is to be written twice",
    f"simpsons_export {MODEL} --onnx x --web x": "'x' is to be written twice",
    f"simpsons_export {MODEL} --web empty --card empty/m.md": "which gets files of its own",
    f"simpsons_export {MODEL} --onnx {MODEL} --overwrite": f"'{MODEL}' is read by this command",
    f"simpsons_predict {MODEL} {FACE} --csv {FACE} --overwrite": f"'{FACE}' is read by this",
    f"simpsons_predict {LINK} demo/test --csv {MODEL} --overwrite": f"'{MODEL}' is read by this",
    f"simpsons_predict {CSV_MODEL} demo/test --out {CSV_MODEL} --overwrite": "is read by this",
    f"simpsons_evaluate {MODEL} demo/test --out stopped --overwrite": "'stopped' holds a run",
    f"simpsons_evaluate none {FACE} --out new": "No model file at 'none'",
    "simpsons_audit 'demo/\x1b[2K'": r"No folder 'demo/\x1b[2K'",
    f"simpsons_predict {MODEL} {FACE} --k 0": "k must be 1 or more, got 0",
    "simpsons_predict none demo/test --shard 5/4 --out p.csv": "such as 3/16; got '5/4'",
    "simpsons_predict none demo/test --shard 1/4": "--shard needs --out",
    "simpsons_predict none demo/test --out p.txt": "must end with .csv or .parquet, got 'p.txt'",
    f"simpsons_predict none {FACE} --out p.csv": "--out needs one folder of pictures",
    "simpsons_predict none demo/test --out p.csv --csv p.csv": "both name a file of predictions",
    "simpsons_predict none demo/test --out predictions.csv": "'predictions.csv' exists",
    f"simpsons_predict {MODEL} {FACE} --csv x.parquet": "'x.parquet' would hold CSV; end its name",
    f"simpsons_export {MODEL} --onnx x.pt2": "'x.pt2' would hold ONNX; end its name with .onnx",
    f"simpsons_export {MODEL} --card x.PDF": "'x.PDF' would hold Markdown; end its name with .md",
    "simpsons_runs none --out x.jpg": "'x.jpg' would hold PNG; end its name with .png",
    "simpsons_ensemble none --out x.onnx": "'x.onnx' would hold safetensors; end its name with",
    f"simpsons_predict empty {FACE}": "No model in 'empty'",
    f"simpsons_predict series {FACE}": "No model in 'series'; did you mean 'series/refit'?",
    f"simpsons_predict {MODEL} {FACE} ./{FACE}": f"'./{FACE}' is given twice; give it once",
    f"simpsons_explain {MODEL} demo/test demo/test/ --out new": "'demo/test' is given twice",
    f"simpsons_export {MODEL} --hub h --web h/x": "'h/x' lies in 'h', which gets files of its own",
    f"simpsons_export {MODEL} --web new --examples empty": "No pictures under 'empty'",
    "simpsons_runs series/refit": "'series/refit' is one run; name the folder that holds it",
    "simpsons_data x --demo --test 100001": "test must be a whole number from 1 to 100,000",
    "simpsons_data demo/train --shard 1/2 --store_directory torn.jpg": "name another folder that",
    "simpsons_audit demo/train --store_directory torn.jpg": "name another folder that can be",
    "simpsons_bench --files 1000001": "files must be from 1 to 1,000,000, got 1000001",
    "simpsons_bench --batch_size 1": "batch_size must be from 2 to 1,000,000, got 1",
    "simpsons_train --gamma 1e9": "gamma must be 100 or less, got '1e9'",
    "simpsons_ensemble none none --out torn.jpg/e": "Cannot make 'torn.jpg', 'torn.jpg' is a file",
    f"simpsons_explain none {FACE} --out torn.jpg/x": "'torn.jpg/x', 'torn.jpg' is a file; name",
    "simpsons_evaluate none demo/test --out torn.jpg": "'torn.jpg', 'torn.jpg' is a file; name",
    "simpsons_evaluate none demo/test --store_directory torn.jpg/x": "'torn.jpg' is a file; name",
    f"simpsons_explain none {FACE} --out dirs --overwrite": "0000.png' is a folder or a device",
    f"simpsons_evaluate {MODEL} nowhere --out dirs --overwrite": "report.json' is a folder or",
    f"simpsons_evaluate {MODEL} nowhere --out dirs2": "confusion.png' is a folder or a device",
    "simpsons_audit nowhere --out dirs": "leaks.csv' is a folder or a device",
    "simpsons_data demo --demo": "already holds something else",
    "simpsons_data demo --from archive.zip": "already holds something else",
    "simpsons_data demo --fetch": "already holds something else",
    "simpsons_data new --from evil.zip": "leads out of the target folder",
    "simpsons_data new --from nowhere.zip": "No archive or folder at 'nowhere.zip'",
    "simpsons_data new --from archive.zip --max_gib 1e-5": "allow more with max_gib",
    "simpsons_data demo/train --shard 5/4": "such as 3/16; got '5/4'",
    f"simpsons_evaluate {MODEL} demo": "hold folders where pictures were expected",
    f"simpsons_export {MODEL}": "model.onnx' exists; name another file",
    f"simpsons_export {MODEL} --torch no/x.pt2": "No folder 'no'",
    f"simpsons_export {MODEL} --web demo": "'demo' already holds something else",
    f"simpsons_export {MODEL} --web new --onnxruntime-web torn.jpg": "got 10 bytes",
    f"simpsons_export {MODEL} --onnx x --pictures nowhere": "No folder 'nowhere' of pictures",
    f"simpsons_export {MODEL} --onnx x --pictures {FACE}": f"No folder '{FACE}' of pictures",
    f"simpsons_export {MODEL} --onnx x --web w --examples nowhere": "No folder 'nowhere' of",
    f"simpsons_export {FACE}": "is not a safetensors file",
    f"simpsons_explain {MODEL} {FACE} --out figures": "figures/mossy_mo_0000.png' exists",
    f"simpsons_explain {MODEL} {FACE} --out no --character moe": "Unknown character 'moe'",
    f"simpsons_explain {MODEL} nobody.jpg --out no": "No picture at 'nobody.jpg'",
    f"simpsons_export {MODEL} --onnx {LONG}": "is 228 bytes long; at most 227 can be written",
    f"simpsons_export {MODEL} --web {LONG}": "is 228 bytes long; at most 227 can be written",
    f"simpsons_predict {MODEL} {FACE} --network n=torchvision.models:resnet18": "own in",
    "simpsons_train --traindir demo/train --batch_size 8 --valid .99": "0 of 30 with valid 0.99",
    f"simpsons_predict none {FACE} --csv {LONG}": "is 228 bytes long; at most 227 can be written",
    f"simpsons_predict {MODEL} demo --out {LONG}": "is 228 bytes long; at most 227 can be written",
    f"simpsons_ensemble none --out no/{LONG}": "is 228 bytes long; at most 227 can be written",
    f"simpsons_runs none --out {LONG}{LONG}": "is 456 bytes long; at most 227 can be written",
    f"simpsons_data {LONG} --demo": "is 228 bytes long; at most 227 can be written",
    f"simpsons_data {LONG} --from archive.zip": "is 228 bytes long; at most 227 can be written",
    f"simpsons_evaluate {MODEL} demo/test --out demo/test/new": "which is searched for pictures",
    "simpsons_audit demo/train --out demo/train/audit": "which is searched for pictures",
    "simpsons_audit demo/train --test demo/test --out demo/test": "which is searched for pictures",
    f"simpsons_explain {MODEL} demo/test --out demo/test/x": "which is searched for pictures",
    f"simpsons_export {MODEL} --web demo/train/x --examples demo/train": "which is searched",
    f"simpsons_evaluate {MODEL} demo/test --store_directory demo/test/x": "which is searched",
    "simpsons_audit demo/train --store_directory demo/train/x": "which is searched for pictures",
    "simpsons_audit demo/train --test demo/test --store_directory demo/test/x": "which is searched",
    "simpsons_data demo/train --shard 1/2 --store_directory demo/train/x": "which is searched",
    f"simpsons_train {INSIDE}": "'demo/train/new' lies in 'demo/train', which is searched",
    f"simpsons_train {INSIDE} --find_lr": "'demo/train/new' lies in 'demo/train', which is",
    f"simpsons_train {INSIDE} --seeds 0,1": "'demo/train/new' lies in 'demo/train', which is",
    f"simpsons_train {INSIDE} --folds 3": "'demo/train/new' lies in 'demo/train', which is",
    "simpsons_audit demo/train --fixes audit/leaks.csv": "'audit/leaks.csv' is read by this",
    "simpsons_audit elsewhere": "No folder 'elsewhere'",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_a_line_and_exit_1(folder, line):
    code, _, err = run(folder, line)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ") and MISTAKES[line] in err
    assert "Traceback" not in err
    assert not any((folder / name).exists() for name in ("new", "escaped.jpg", "x"))


THREE_FOLDERS = " ".join(f"--out_{kind}_directory x" for kind in ("model", "graphics", "inference"))
WRONG_OPTIONS = {
    "simpsons_train --num_epoch_s 2": "did you mean --num_epochs?",
    "simpsons_train demo/train": "'demo/train' is a folder; one of pictures is named by --traindir",
    "simpsons_train --num_epoch 2": "did you mean --num_epochs?",
    "simpsons_train --num_epoch=2": "unknown option --num_epoch; did you mean --num_epochs?",
    "simpsons_train --num-epochs 2": "unknown option --num-epochs; did you mean --num_epochs?",
    "simpsons_train --traindir ''": "an argument is empty; is a variable not set?",
    "simpsons_train --out=": "an argument is empty, --out=; is a variable not set?",
    "simpsons_evaluate m.safetensors demo --out ''": "an argument is empty",
    "simpsons_data '' --demo": "an argument is empty",
    "simpsons_train --num 2": "unknown option --num",  # not taken for the option that begins so
    "simpsons_train a.yaml b.yaml": "unexpected argument 'b.yaml'; see simpsons_train --help",
    "simpsons_train --verify stopped --resume": "give it no CONFIG, --resume",
    "simpsons_train --find_lr --resume": "--find_lr is for before a run; give it no --resume",
    "simpsons_train --seeds 0,1 --nproc 2": "--seeds works in one process; give it no --nproc",
    "simpsons_train --folds 5 --nproc 2": "--folds works in one process; give it no --nproc",
    "simpsons_train --folds 5 --seeds 0,1": "--seeds and --folds do not go together",
    "simpsons_train --folds 5 --verify stopped": "--verify and --folds do not go together",
    "simpsons_train --folds 1": "--folds must be 2 or more, got 1",
    "simpsons_train --verify stopped --lr 1": "of the settings only traindir, store_directory,",
    "simpsons_train --verify stopped --testdir demo/test": "may differ; leave out --testdir",
    "simpsons_train --find_lr --lr 1": "--find_lr tries the learning rates itself; leave out",
    "simpsons_train --folds 5 --valid .3 --refit": "; leave out --valid, --refit",
    "simpsons_train --folds 5 --monitor last": "; leave out --monitor",
    "simpsons_train --seeds 0,1 --split_seed 3 --seed 4": "; leave out --seed",
    "simpsons_train --split a.csv --split_seed 3": "'a.csv' says what is held out; leave out",
    "simpsons_train --split a.csv --valid .3": "; leave out --valid",
    "simpsons_train --out x --runs_directory y": "names the folder of the run; leave out",
    "simpsons_predict m.safetensors a.jpg --csv -": "an argument is '-', which is no file here",
    "simpsons_evaluate m.safetensors - --out=-": "an argument is '-', which is no file here",
    "simpsons_predict m.safetensors a.jpg --tta unsure --flip": "--flip: not allowed with",
    "simpsons_evaluate m.safetensors demo --flip --tta unsure": "--tta: not allowed with",
    "simpsons_ensemble a b --out e --no_calibrate --traindir demo": "leave out --traindir",
    "simpsons_ensemble a b --out e --no_calibrate --device cpu": "leave out --device",
    f"simpsons_predict {MODEL} {FACE} --overwrite": "without --csv or a folder; leave out --over",
    f"simpsons_evaluate {MODEL} demo/test --overwrite": "without --out; leave out --overwrite",
    "simpsons_runs series --overwrite": "without --out; leave out --overwrite",
    f"simpsons_export {MODEL} --web w --overwrite": "a folder of their own, --push to none; leave",
    f"simpsons_export {MODEL} --push a/b --overwrite": "leave out --overwrite",
    "simpsons_train --overwrite": "each run gets a new folder; leave out --overwrite",
    "simpsons_train --find_lr --schedule constant": "leave out --schedule",
    "simpsons_train --find_lr --refit --testdir demo/test": "; leave out --refit, --testdir",
    "simpsons_train --find_lr --overwrite --out x": "keeps no network; leave out --overwrite",
    f"simpsons_train --out x {THREE_FOLDERS}": "of the run; leave out --out_directory",
    "simpsons_predict m.safetensors a.jpg --qqqq": "see simpsons_predict --help",
    "simpsons_predict m.safetensors a.jpg --k two": "invalid int value: 'two'",
    "simpsons_predict": "required: model, pictures",
    "simpsons_export m --card --pictures demo": "--pictures is for comparing --onnx, --torch or",
    "simpsons_export m --hub h --pictures demo": "--pictures is for comparing --onnx, --torch or",
    "simpsons_export m --examples demo": "--examples needs --web FOLDER",
    "simpsons_export m --onnxruntime-web a.tgz": "--onnxruntime-web needs --web FOLDER",
    "simpsons_data x": "one of the arguments --demo --from --fetch --shard is required",
    "simpsons_data x --demo --fetch": "not allowed with argument --demo",
    "simpsons_data x --from archive.zip --seed 1": "--seed goes with --demo",
    "simpsons_data x --demo --max_gib 3": "--max_gib goes with --from",
    "simpsons_data x --demo --size 64": "--size goes with --shard",
}


@pytest.mark.parametrize("line", WRONG_OPTIONS)
def test_wrong_options_are_a_line_and_exit_2(folder, line):
    code, out, err = run(folder, line)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and WRONG_OPTIONS[line] in err
    assert not (folder / "x").exists()


def test_two_mistakes_at_once(folder):
    _, _, err = run(folder, "simpsons_train --num_epochs 0 --flip 2")
    assert err.splitlines() == [
        "error: num_epochs must be 1 or more, got '0'",
        "flip must be 1 or less, got '2'",
    ]


# help


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "simpsons_bench"])
def test_help_loads_nothing_heavy(folder, name):
    module, function = COMMANDS[name]
    code = (
        f"import sys; from {module} import {function}\n"
        f"try: {function}(['--help'])\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = ('torch', 'numpy', 'pandas', 'matplotlib', 'PIL')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert r.stderr.strip() == "[]"
    assert r.stdout.startswith(f"usage: {name}")


def test_help_lists_every_setting(folder):
    code, out, _ = run(folder, "simpsons_train --help")
    assert code == 0 and all(f"--{key}" in out for key in setting_sections())


def test_help_shows_choices_and_both_ways_of_a_switch(folder):
    _, out, _ = run(folder, "simpsons_train --help")
    assert "--monitor {macro_f1,macro_f1_common,accuracy,valid_loss,last}" in out
    assert "--no-skip_unreadable" in out
    assert re.search("--learning_rate( VALUE)?, --lr VALUE", out)  # Python 3.13 says it once


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_value_is(folder, name):
    "A file, a folder or a number, not the option again; and defaults as in a settings file"
    _, out, _ = run(folder, f"{name} --help")
    given = re.findall(r"--(\w+) \[?([A-Z_]+)\b", out)
    same = {option for option, value in given if option.upper() == value}
    assert same <= {"device"}
    assert not re.search(r"default (None|True|False)|see `|\bthe same$", out, re.M)


def stored_helps() -> list:
    "(page, command, help) of each `--help` whose text is kept in a page"
    found = []
    for path in sorted((ROOT / "nbs").glob("*/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in (output for cell in cells for output in cell.get("outputs", [])):
            text = "".join(output.get("data", output).get("text/plain", output.get("text", "")))
            if shown := re.fullmatch(r"\$ (simpsons_\w+) --help\n(.*)", text, re.S):
                found.append((path.name, *shown.groups()))
    return found


@pytest.mark.parametrize("page, name, text", [pytest.param(*h, id=h[0]) for h in stored_helps()])
def test_help_kept_in_a_page_is_that_of_the_program(folder, page, name, text):
    "Apart from line breaks, which follow the width of the terminal; else record the page anew"
    _, out, _ = run(folder, f"{name} --help")
    assert "".join(text.split()) == "".join(out.split())


@pytest.mark.parametrize("page", ["cli/01_common.ipynb", "index.ipynb"])
def test_tables_of_commands_are_complete(page):
    text = (ROOT / "nbs" / page).read_text(encoding="utf-8")
    listed = re.findall(r"^ *\"\| (`simpsons_.*?) \|", text, re.M)
    assert {re.match(r"\w+", name)[0] for row in listed for name in row.split("`")[1::2]} == set(
        COMMANDS
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_version(name):
    module, function = COMMANDS[name]
    if name == "simpsons_bench":
        pytest.skip("loads PyTorch for its help")
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as ended:
        getattr(importlib.import_module(module), function)(["--version"])
    assert not ended.value.code and out.getvalue().startswith("simpsons_cnn ")


def test_python_m_knows_each_command():
    from simpsons_cnn.__main__ import COMMANDS as known

    found = {f"simpsons_{name}": f"simpsons_cnn.{module}" for name, (module, _) in known.items()}
    assert found == {name: module for name, (module, _) in COMMANDS.items()}


def test_python_m(capsys):
    from simpsons_cnn.__main__ import main

    main([])
    assert "usage: python -m simpsons_cnn COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="unknown command 'trian'"):
        main(["trian"])
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert capsys.readouterr().out.startswith("usage: simpsons_train")


# predict and evaluate


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_names_that_a_terminal_cannot_print(tmp_path, encoding):
    "They must not cost the predictions"
    names = ["マージ", "Гомер", "plain"]
    save_model(tmp_path / "m.safetensors", SimpsonsCNN(3), names, Preprocess(96))
    for i in range(3):
        Image.new("RGB", (64, 64), (80 * i, 9, 9)).save(tmp_path / f"ü{i}.png")
    line = "simpsons_predict m.safetensors . --csv found.csv"
    code, out, err = run_from_scratch(tmp_path, line, PYTHONIOENCODING=encoding)
    assert code == 0, err
    assert len((tmp_path / "found.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert len(out.splitlines()) == 3


def through_pipe(folder, line: str, end: str, unbuffered: str = "") -> tuple:
    "Run a command line with its output sent elsewhere; exit code of the command, and errors"
    name, *args = shlex.split(line)
    module, function = COMMANDS[name]
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    command = shlex.join([sys.executable, "-c", code, *args])
    script = f"{command} {end}; exit ${{PIPESTATUS[0]}}"
    env = os.environ | dict(PYTHONUNBUFFERED=unbuffered)
    command = ["bash", "-c", script]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stderr


UNBUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"])


@UNBUFFERED
def test_a_reader_that_leaves(folder, unbuffered):
    "As `| head` does: no line of errors, and the exit code of a broken pipe"
    code, err = through_pipe(folder, f"simpsons_predict {MODEL} {FACE}", "| true", unbuffered)
    assert code == 141 and "error" not in err and "Traceback" not in err


@UNBUFFERED
def test_a_closed_or_full_output(folder, unbuffered):
    line = f"simpsons_predict {MODEL} {FACE}"
    code, err = through_pipe(folder, line, ">&-", unbuffered)
    assert code == 0 and err.startswith("next: ")
    code, err = through_pipe(folder, line, "> /dev/full", unbuffered)
    last = err.splitlines()[-1]
    assert code == 1 and last.startswith("error: [Errno 28] No space left on device")
    assert ("<stdout>" in last) != bool(unbuffered)  # where each line is written at once
    assert "Traceback" not in err and "Exception ignored" not in err


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_streams_that_were_closed_before_the_start(folder, closed):
    code, err = through_pipe(folder, f"simpsons_evaluate {MODEL} demo/test", closed)
    assert (code, err) == (0, "")


def test_a_current_folder_that_was_removed(folder):
    (folder / "gone").mkdir()
    script = f"cd gone; rmdir ../gone; {sys.executable} -m simpsons_cnn runs 2>&1 | tail -n 1"
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True)
    assert done.stdout == b"error: The current folder has been removed; go to another\n"


def test_answers_are_printed_where_they_cannot_be_saved(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("simpsons_cnn.core.files.os.replace", full)
    with pytest.raises(SystemExit, match="No space left on device"):
        simpsons_predict([MODEL, FACE, "--csv", "full.csv"])
    assert capsys.readouterr().out.startswith(FACE)


def test_a_full_disk_ends_an_explanation_in_one_line(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("simpsons_cnn.core.files.os.replace", full)
    with pytest.raises(SystemExit) as ended:
        simpsons_explain([MODEL, "demo/test", "--out", "full"])
    line = r"error: Cannot write 'full/\w+.png' \(No space left on device\): .* are free"
    assert re.fullmatch(line, ended.value.code)


@pytest.mark.parametrize(
    "line",
    [
        f"simpsons_predict {MODEL} {FACE} --csv p.csv",
        f"simpsons_export {MODEL} --card c.md",
        "simpsons_audit demo/train --out f",
    ],
)
def test_a_folder_that_cannot_be_written_to(folder, monkeypatch, line):
    "Said before the model is opened"
    module, function = COMMANDS[line.split()[0]]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Classifier, "load", lambda *_: pytest.fail("opened"))
    with pytest.raises(SystemExit, match="Cannot write to the folder '.'"):
        getattr(importlib.import_module(module), function)(line.split()[1:])


@pytest.mark.parametrize("run_folder", ["run", "series/refit"])
def test_the_folder_of_a_run_stands_for_its_model(folder, run_folder):
    code, out, err = run(folder, f"simpsons_predict {run_folder} {FACE}")
    assert (code, out) == (0, run(folder, f"simpsons_predict {MODEL} {FACE}")[1])
    assert f"simpsons_evaluate {run_folder}/m" in err
    assert run(folder, f"simpsons_explain {run_folder} {FACE} --out shown --overwrite")[0] == 0
    assert run(folder, f"simpsons_export {run_folder} --card {run_folder}.md")[0] == 0
    code, out, err = run(folder, f"simpsons_evaluate {run_folder} demo/test")
    assert code == 0 and "accuracy" in out


def test_what_a_page_needs_is_found_before_the_pictures_to_compare_on(folder, monkeypatch):
    monkeypatch.setattr("simpsons_cnn.inference.export._draw_pictures", lambda n: 1 / 0)
    for needs in ("--examples empty", "--onnxruntime-web torn.jpg"):
        argv = shlex.split(f"{folder / MODEL} --web {folder / 'new'} {needs}")
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit, match="No pictures under|got 10 bytes"):
            simpsons_export(argv)


def test_a_rate_is_not_looked_for_where_its_figure_cannot_be_saved(folder, monkeypatch):
    monkeypatch.setattr("simpsons_cnn.training.find_rate.search_rate", lambda *_, **__: 1 / 0)
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match="Cannot make 'torn.jpg/x', 'torn.jpg' is a file"):
        simpsons_train(["--find_lr", "--out", "torn.jpg/x"])
    (folder / "taken/learning_rate.png").mkdir(parents=True)
    with pytest.raises(SystemExit, match="is a folder or a device"):
        simpsons_train(["--find_lr", "--out", "taken"])


def test_an_upload_that_fails_is_one_line(folder, monkeypatch):
    def fails(*_):
        raise RuntimeError("[Errno -2] Name or service not known\nand more")

    monkeypatch.setattr("simpsons_cnn.inference.card.push_to_hub", fails)
    with pytest.raises(SystemExit, match="^error: Cannot upload to 'x/y' .* service not known.$"):
        simpsons_export([str(folder / MODEL), "--push", "x/y"])


def test_predict_k_and_flip(folder):
    code, out, err = run(folder, f"simpsons_predict {MODEL} demo/test --k 99 --csv a.csv")
    assert (code, out.count("%")) == (0, 10 * 10)  # more than there are: all of them
    assert run(folder, f"simpsons_predict {MODEL} demo/test --k 99 --csv b.csv --flip")[1] != out


def test_the_rest_is_predicted(folder):
    code, out, err = run(folder, f"simpsons_predict {MODEL} torn.jpg {FACE} nobody.jpg")
    assert code == 1 and out.startswith(FACE) and len(out.splitlines()) == 1
    assert err.count("error: ") == 2 and "torn.jpg" in err and "nobody.jpg" in err


def test_the_rest_is_explained(folder):
    line = f"simpsons_explain {MODEL} torn.jpg {FACE} nobody.jpg --out mixed"
    code, out, err = run(folder, line)
    assert code == 1 and err.count("error: ") == 2 and "torn.jpg cannot be read" in err
    assert [p.name for p in (folder / "mixed").iterdir()] == ["mossy_mo_0000.png"]
    assert out.startswith(f"{FACE}: ") and out.rstrip().endswith("mixed/mossy_mo_0000.png")
    assert Image.open(folder / "mixed/mossy_mo_0000.png").size == (720, 360)


def test_evaluate_equals_predict(folder, tmp_path):
    "Large JPEGs, and a model with a mean of its own; contract: one image, one answer"
    own = Preprocess(64, mean=(0.2, 0.5, 0.7), std=(0.1, 0.3, 0.2))
    files = ImageFiles.scan(folder / "demo/train")
    rng = np.random.default_rng(0)
    for path in files.paths:
        target = tmp_path / "large" / path.relative_to(files.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        image = np.asarray(Image.open(path).resize((432, 432))).astype(int)
        noisy = (image + rng.integers(-80, 80, image.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(target, quality=95)
    torch.manual_seed(1)
    model = SimpsonsCNN(10)
    with torch.no_grad():
        model.linear_stack[4].weight *= 30
    save_model(tmp_path / "m.safetensors", model, files.classes, own)
    clf = Classifier.load(tmp_path / "m.safetensors", "cpu")
    found = clf.predict(tmp_path / "large")
    share = sum(p.name == Path(p.source).parent.name for p in found) / len(found)
    code, out, err = run(tmp_path, "simpsons_evaluate m.safetensors large --device cpu")
    assert code == 0, err
    assert f"accuracy {share:.4f}" in out
    from simpsons_cnn.cli.predict import _evaluate_folder, _evaluate_parser

    args = _evaluate_parser().parse_args(["m.safetensors", str(tmp_path / "large")])
    report = _evaluate_folder(clf, args)
    assert report.accuracy == pytest.approx(share)
    losses = [-np.log(p.probabilities[i]) for p, i in zip(found, files.labels, strict=True)]
    assert report.loss == pytest.approx(np.mean(losses), rel=1e-4)


def test_evaluate_says_what_was_trained_on(folder):
    line = f"simpsons_evaluate {MODEL} demo/train"
    known = "trained on 27 of these 30 pictures, validated on 3"
    assert known in run(folder, line)[1]
    assert "trained on" not in run(folder, f"simpsons_evaluate {MODEL} demo/test")[1]
    split = folder / "run/split.csv"
    before = split.read_text()
    split.write_text("file,split\na.jpg,train\n")
    code, out, err = run(folder, line)
    split.write_text(before)
    assert code == 0 and "on 30 pictures" in out
    assert "is not known: " in err and "is not a split file" in err


@pytest.fixture
def settings_of_run(folder):
    "Settings of a run whose training folder is `demo/train`, beside its model"
    settings = folder / "run/config.yaml"
    Config.load(traindir=folder / "demo/train", size=64, batch_size=8).save(settings)
    yield settings
    settings.unlink(missing_ok=True)


def test_evaluate_finds_training_pictures_that_were_saved_again(folder, settings_of_run, tmp_path):
    "Other bytes, the same picture; a model that is judged on them seems better than it is"
    for path in sorted((folder / "demo/train/mossy_mo").iterdir()):
        target = tmp_path / "again/mossy_mo" / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((90, 90)).save(target)
    shutil.copy(path, target.parent / "one more.jpg")  # trained on, and counted as such
    code, out, err = run(tmp_path, f"simpsons_evaluate {folder / MODEL} again")
    assert code == 0 and "trained on 1 of these 4 pictures" in out, err
    assert "3 are copies of pictures of its training folder: the scores flatter" in out
    assert "copies" not in "".join(run(folder, f"simpsons_evaluate {MODEL} demo/test")[1:])


def test_evaluate_leaves_the_decoded_training_pictures_as_they_are(
    folder, settings_of_run, tmp_path
):
    "A run with fixes keeps fewer pictures than its folder holds"
    dropped = next((folder / "demo/train/mossy_mo").iterdir())
    (tmp_path / "fixes.csv").write_text(f"file,action,character\nmossy_mo/{dropped.name},drop,\n")
    own = dict(fixes=tmp_path / "fixes.csv", store_directory=tmp_path / "kept")
    config = Config.load(settings_of_run, **own)
    config.save(settings_of_run)
    open_store_of(config, scan_folders(config.replace(testdir=None))[0])
    kept = {path.name for path in (tmp_path / "kept").glob("*.npy")}
    code, _, err = run(folder, f"simpsons_evaluate {MODEL} demo/test")
    assert code == 0 and "not looked for" not in err, err
    assert {path.name for path in (tmp_path / "kept").glob("*.npy")} == kept


def test_evaluate_says_that_it_cannot_look_for_copies(folder, settings_of_run):
    "The training folder has gone, or has another place"
    settings_of_run.write_text(settings_of_run.read_text().replace("demo/train", "gone/train"))
    code, out, err = run(folder, f"simpsons_evaluate {MODEL} demo/test")
    assert code == 0 and "on 10 pictures" in out
    assert "note: copies of training pictures were not looked for: No folder" in err
    settings_of_run.unlink()  # as beside an ensemble
    err = run(folder, f"simpsons_evaluate {MODEL} demo/test")[2]
    assert "were not looked for: No configuration file at 'run/config.yaml'" in err


def test_evaluate_on_some_of_the_characters(folder, tmp_path):
    "No rows for characters that have no picture and were no answer"
    shutil.copytree(folder / "demo/test/mossy_mo", tmp_path / "some/mossy_mo")
    code, out, _ = run(tmp_path, f"simpsons_evaluate {folder / MODEL} some")
    rows = out.partition("\non ")[0].splitlines()[1:]
    assert code == 0 and 1 <= len(rows) <= 2
    assert any(row.split()[:2] == ["mossy_mo", "1"] for row in rows)


def test_evaluate_draws_whole_groups_of_near_duplicates(folder, tmp_path):
    "Each face four times is no more evidence than once, and the report says so"
    shutil.copytree(folder / "demo/test", tmp_path / "test")
    for path in sorted(tmp_path.glob("test/*/*.jpg")):
        for number in range(3):
            shutil.copy(path, path.with_name(f"{number} {path.name}"))
    widths = {}
    for name in (folder / "demo/test", tmp_path / "test"):
        code, out, _ = run(
            tmp_path, f"simpsons_evaluate {folder / MODEL} {name} --out {name.name}-r"
        )
        report = json.loads((tmp_path / f"{name.name}-r/report.json").read_text())
        widths[name] = np.diff(report["accuracy_interval"])
        shutil.rmtree(tmp_path / f"{name.name}-r")
        assert code == 0 and report["groups"] == 10
    assert "on 40 pictures in 10 groups of near-duplicates" in out
    np.testing.assert_allclose(*widths.values(), rtol=0.05)


def test_evaluate_refuses_to_replace(folder):
    line = f"simpsons_evaluate {MODEL} demo/test --out judged"
    assert run(folder, line)[0] == 0
    code, _, err = run(folder, line)
    assert code == 1 and "already holds a report" in err
    flipped = run(folder, f"{line} --overwrite --flip")
    assert flipped[0] == 0


NEXT = {
    f"simpsons_predict {MODEL} {FACE}": f"simpsons_evaluate {MODEL} FOLDER",
    f"simpsons_evaluate {MODEL} demo/test": f"simpsons_export {MODEL} ",
    "simpsons_data more --demo --train 1 --test 1": "simpsons_audit more/train --test more/test",
    "simpsons_audit demo/train --test demo/test": "simpsons_train --traindir demo/train --testdir",
    f"simpsons_explain {MODEL} {FACE} --out why": f"simpsons_export {MODEL} ",
    f"simpsons_export {MODEL} --card next.md": f"simpsons_export {MODEL} --push USER/NAME ",
}


@pytest.mark.parametrize("line", NEXT)
def test_a_command_says_what_to_do_next(folder, settings_of_run, line):
    code, out, err = run_from_scratch(folder, line)
    assert code == 0 and "next: " not in out
    assert err.splitlines()[-1].startswith(f"next: {NEXT[line]}")
    assert max(len(line) for line in err.splitlines()) <= 80


def test_evaluate_says_how_to_ask_why_an_answer_is_wrong(folder, settings_of_run):
    code, _, err = run(folder, f"simpsons_evaluate {MODEL} demo/test")
    why, command = err.splitlines()[:2]
    assert (code, why) == (0, "next, which shows why an answer is wrong:")
    assert command == f"simpsons_explain {MODEL} PICTURE --out FOLDER"


def test_audit_does_not_propose_to_train_on_pictures_that_cannot_be_read(folder, tmp_path):
    for i, c in enumerate("ab"):
        (tmp_path / "few" / c).mkdir(parents=True)
        draw_character("mossy_mo", np.random.default_rng(i), 64).save(tmp_path / f"few/{c}/1.png")
    (tmp_path / "few/a/2.jpg").write_bytes(b"")
    code, out, err = run(folder, f"simpsons_audit {tmp_path / 'few'} --out {tmp_path / 'found'}")
    see = f"unreadable pictures: 1, see {tmp_path / 'found/unreadable.csv'}\n"
    assert code == 0 and "1 unreadable" in out and err == see


def test_audit_says_where_pictures_under_two_characters_are_listed(folder, tmp_path):
    "They spoil training and scores; training does not refuse them, so the command says it"
    shutil.copytree(folder / "demo/train", tmp_path / "train")
    shutil.copy(tmp_path / "train/mossy_mo/mossy_mo_0000.jpg", tmp_path / "train/zuzu_bobble/x.jpg")
    code, out, err = run(tmp_path, "simpsons_audit train")
    see = "pairs under two characters: 1, see audit/conflicts.csv; --fixes can correct them"
    assert code == 0 and err.splitlines() == [see, "next: simpsons_train --traindir train"]


def test_audit_finds_leaks(folder):
    code, _, err = run(folder, "simpsons_audit demo/train --test demo/train --out found")
    assert code == 3 and "leaking test pictures: 30" in err


def test_a_run_with_a_leaky_test_folder(tmp_path):
    "Train, evaluate, unpack, describe: the same scores everywhere, and the leak is reported"
    demo_characters(tmp_path / "demo", train=12, test=2)
    train, test = tmp_path / "demo/train", tmp_path / "demo/test"
    original = train / "mossy_mo/mossy_mo_0003.jpg"
    (test / "mossy_mo/known.jpg").write_bytes(original.read_bytes())
    outputs = " ".join(f"--out_{kind}_directory out" for kind in ("model", "graphics", "inference"))
    settings = "--num_epochs 1 --size 64 --crop_size 64 --batch_size 32"
    line = f"simpsons_train {settings} --traindir demo/train --testdir demo/test {outputs}"
    code, out, err = run(tmp_path, line)
    assert code == 0 and "warning: 1 of 21 pictures under 'demo/test' are copies" in err
    assert "UserWarning" not in err and max(len(line) for line in out.splitlines()) <= 80
    assert err.splitlines()[-2] == "next: simpsons_evaluate out/model.safetensors FOLDER scores it"
    code, _, err = run(tmp_path, line)
    assert code == 1 and "already holds a run" in err
    accuracy = json.loads((tmp_path / "out/report.json").read_text())["test"]["accuracy"]
    judge = "simpsons_evaluate out/model.safetensors"
    code, out, _ = run(tmp_path, f"{judge} demo/test --out judged")
    assert json.loads((tmp_path / "judged/report.json").read_text())["accuracy"] == accuracy
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as z:
        for path in sorted(train.rglob("*.jpg")):
            z.write(path, f"simpsons_dataset/{path.relative_to(train)}")
        for i, path in enumerate(sorted(test.rglob("*.jpg"))):
            z.write(path, f"testset/testset/{path.parent.name}_{i}.jpg")
    assert run(tmp_path, "simpsons_data real --from archive.zip")[0] == 0
    unpacked = run(tmp_path, f"{judge} real/test")[1]
    assert [s for s in unpacked.splitlines() if "macro F1" in s] == [
        s for s in out.splitlines() if "macro F1" in s
    ]
    assert run(tmp_path, "simpsons_export out/model.safetensors --card card.md")[0] == 0
    assert f"{accuracy:.3f}" in (tmp_path / "card.md").read_text()


def test_explain_writes_no_figure_over_a_picture(folder):
    mine = folder / "mine"
    mine.mkdir()
    pictures = [mine / "a.jpg", mine / "a.png"]
    for picture in pictures:
        shutil.copy(folder / FACE, picture)
    before = [picture.read_bytes() for picture in pictures]
    code, _, err = run(
        folder, f"simpsons_explain {MODEL} mine/a.jpg mine/a.png --out mine --overwrite"
    )
    assert (code, "is a picture to explain; name another --out" in err) == (1, True)
    assert [picture.read_bytes() for picture in pictures] == before


def test_explain_names_figures_safely(folder):
    "A command for the terminal, and a name as long as the system allows"
    odd = folder / "odd"
    odd.mkdir()
    shutil.copy(folder / FACE, odd / "\x1b[2J.jpg")
    shutil.copy(folder / FACE, odd / f"{'é' * 123}.jpg")
    code, out, err = run(folder, f"simpsons_explain {MODEL} odd --out odd_figures")
    assert (code, err.count("error")) == (0, 0) and "\x1b" not in out + err
    assert len(list((folder / "odd_figures").glob("*.png"))) == 2


def test_names_of_characters_are_no_commands_for_a_terminal(folder):
    for name in ("\x1b[2J", "plain"):
        shutil.copytree(folder / "demo/test/mossy_mo", folder / "named" / name)
    model = folder / "run/named.safetensors"
    save_model(model, SimpsonsCNN(2), ["\x1b[2J", "plain"], Preprocess(64))
    code, out, err = run(folder, f"simpsons_evaluate {model} named")
    assert code == 0 and r"\x1b[2J" in out and "\x1b" not in out + err


def test_explain_says_that_it_cannot_write_before_it_looks_at_pictures(folder):
    line = f"simpsons_explain {MODEL} {FACE} --out run/model.safetensors/figures"
    code, out, err = run(folder, line)
    assert (code, out, err.count("error")) == (1, "", 1) and "name another --out" in err


@pytest.fixture
def scanned(monkeypatch):
    "The folders whose images have been listed, in order"
    scan, scanned = ImageFiles.scan, []

    def noted(folder, *args, **kwargs):
        scanned.append(Path(folder))
        return scan(folder, *args, **kwargs)

    monkeypatch.setattr(ImageFiles, "scan", staticmethod(noted))
    return scanned


SMALL = ["--size", "64", "--crop_size", "64", "--num_epochs", "1", "--out", "run"]


@pytest.mark.parametrize("recipe", [[], ["recipe.yaml"]])
def test_training_lists_its_folder_once(tmp_path, monkeypatch, scanned, recipe):
    root = demo_characters(tmp_path / "demo", train=4, test=1, size=64) / "train"
    (tmp_path / "recipe.yaml").write_text("training_parameters: {batch_size: 16}\n")
    monkeypatch.chdir(tmp_path)
    simpsons_train([*recipe, "--traindir", str(root), *SMALL])
    assert scanned.count(root) == 1
    assert (tmp_path / "run/model/model.safetensors").exists()


def test_a_series_lists_its_folder_once(tmp_path, monkeypatch, scanned):
    root = demo_characters(tmp_path / "demo", train=4, test=1, size=64) / "train"
    monkeypatch.setattr("simpsons_cnn.training.outputs._save_figures", lambda run, data: [])
    monkeypatch.chdir(tmp_path)
    simpsons_train(["--traindir", str(root), *SMALL, "--seeds", "0,1"])
    assert scanned.count(root) == 1
    assert (tmp_path / "run/seed_1/model/model.safetensors").exists()


def test_a_search_for_a_rate_lists_its_folder_once(tmp_path, monkeypatch, scanned):
    root = demo_characters(tmp_path / "demo", train=4, test=1, size=64) / "train"
    found = RateSearch(np.array([0.1]), np.ones(1), np.ones(1), None)
    searched = "simpsons_cnn.training.find_rate.find_learning_rate"
    monkeypatch.setattr(searched, lambda *args, **kwargs: found)
    monkeypatch.chdir(tmp_path)
    simpsons_train(["--traindir", str(root), *SMALL, "--find_lr"])
    assert scanned.count(root) == 1
    assert (tmp_path / "run/learning_rate.png").exists()
