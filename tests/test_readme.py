"What README tells a newcomer to type"

import configparser
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from contextlib import suppress

import pytest
from conftest import ROOT


def extras() -> dict:
    "extra -> its requirements, as setup.py takes them from settings.ini"
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    names = settings["DEFAULT"]["extras"].split()
    return {name: settings["DEFAULT"][f"{name}_requirements"] for name in names}


def test_extras_that_readme_names_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\.\[(\w+)\]", readme))
    assert "notebook" in named and named <= extras().keys()


def test_the_notebook_extra_brings_a_kernel():
    "JupyterLab alone opens a page and cannot run it"
    required = {re.split(r"[<>=]", r)[0] for r in extras()["notebook"].split()}
    assert {"jupyterlab", "ipykernel"} <= required


NOT_RUN = {
    "git clone https://github.com/simpsons-cnn/simpsons_cnn",  # this test runs in a clone
    "cd simpsons_cnn",
    "source .venv/bin/activate",  # the environment of the tests is the one to use
    "python -m pip install -e '.[onnx]'",
    ".venv/bin/python -m pip install -e '.[notebook]'",
    ".venv/bin/jupyter lab --notebook-dir=. nbs/tutorials/01_train_interactively.ipynb",  # below
}
TINY = {  # what makes a line of README quick
    "./scripts/train.sh": "--epochs 1 --size 64 --crop_size 64 --batch_size 32",
    "simpsons_export": "--pictures data/demo/test",
}


def lines_for_drawn_pictures() -> list:
    "The lines that README tells a newcomer to type, up to those for real pictures"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", readme.split("With the [real pictures]")[0], re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def type_line(line: str, folder) -> subprocess.CompletedProcess:
    "Run a line in a shell, in a folder that stands for a fresh clone"
    command = line.split()[0]
    line = f"{line} {TINY.get(command, '')}".replace("./scripts", shlex.quote(f"{ROOT}/scripts"))
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    env = os.environ | dict(PATH=path, VENV=sys.prefix, PYTHONPATH=str(ROOT))
    return subprocess.run(line, shell=True, cwd=folder, env=env, capture_output=True, text=True)


def answer_of(url: str) -> bytes:
    "What a server that is starting answers"
    for _ in range(300):
        with suppress(ConnectionError, urllib.error.URLError):
            return urllib.request.urlopen(url, timeout=5).read()
        time.sleep(0.1)
    raise AssertionError("the server did not answer")


def served(line: str, folder) -> dict:
    "What the page asks for first, while the server of README's last line runs"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, *line.replace("8000", str(port)).split()[1:]]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as server:
        try:
            return json.loads(answer_of(f"http://localhost:{port}/model.json"))
        finally:
            server.kill()


def test_from_training_to_a_page_in_the_browser_as_readme_says(tmp_path):
    "Train, judge, use, explain, export: README's lines in README's order, and what each says next"
    lines = lines_for_drawn_pictures()
    assert set(lines) >= NOT_RUN
    assert type_line("simpsons_data data/demo --demo --train 12 --test 2", tmp_path).returncode == 0
    *commands, serve = [line for line in lines if line not in NOT_RUN]
    for line in commands:
        done = type_line(line, tmp_path)
        if "npm pack" in done.stderr:
            pytest.skip(f"no onnxruntime-web here: {done.stderr}")
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert any(said.startswith("next") for said in done.stderr.splitlines()[-2:]), line
    names = [line.split()[0].removeprefix("simpsons_") for line in commands]
    assert names == ["./scripts/train.sh", "evaluate", "predict", "explain", "export"]
    assert (tmp_path / "why/mossy_mo_0000.png").stat().st_size > 0
    assert len(served(serve, tmp_path)["classes"]) == 10
    refused = type_line("./scripts/train.sh --out_directory runs/001", tmp_path)
    assert refused.returncode == 1 and "already holds a run" in refused.stderr


def test_jupyterlab_finds_the_pictures_of_the_page_that_readme_opens(tmp_path):
    "Without a folder, JupyterLab serves that of the page alone: `../images` stays empty"
    pytest.importorskip("jupyterlab", reason="no JupyterLab here: pip install jupyterlab")
    [line] = [line for line in lines_for_drawn_pictures() if "jupyter lab" in line]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = f"--no-browser --allow-root --ServerApp.port={port} --IdentityProvider.token=t"
    command = [sys.executable, "-m", "jupyterlab", *line.split()[2:], *options.split()]
    places = {f"JUPYTER_{name}_DIR": str(tmp_path) for name in ("CONFIG", "DATA", "RUNTIME")}
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | places, stderr=subprocess.DEVNULL
    ) as server:
        try:
            url = f"http://localhost:{port}/files/nbs/images/dashboard.jpg?token=t"
            assert answer_of(url).startswith(b"\xff\xd8")
        finally:
            server.kill()


def commands(text: str) -> list:
    "The lines of the blocks of commands, without their comments"
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
    lines = "".join(blocks).splitlines()
    return [line.split(" #")[0].rstrip() for line in lines]


def test_the_russian_readme_has_the_same_commands_and_scores():
    english, russian = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ru.md")
    )
    assert commands(english) == commands(russian)
    scores = re.compile(r"\.\d{3}")
    assert scores.findall(english) == scores.findall(russian)


def test_the_links_of_the_russian_readme_lead_somewhere():
    text = (ROOT / "README.ru.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(targets) > 5
    for target in targets:
        assert (ROOT / target).exists(), target
