"The Hugging Face hub: its client against a stand-in of the hub's API on this machine"

import base64
import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import yaml
from forked import forks

from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.inference.classifier import Classifier
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.scoring.report import Report

pytest.importorskip("huggingface_hub")
NAMES = ["ann", "bob", "cyd"]
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    "As much of the hub's API as creating, committing and downloading need"

    files = {}  # (repository, name) -> bytes
    asked = []

    def log_message(self, *args):
        pass

    def answer(self, content: bytes, status: int = 200, **headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        base = f"http://{self.headers['Host']}"
        path = self.path.split("?")[0]
        self.asked.append(f"POST {path}")
        if path == "/api/repos/create":
            found = dict(url=f"{base}/me/faces")
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            regular = dict(uploadMode="regular", shouldIgnore=False)
            found = dict(files=[dict(path=name) | regular for name in names])
        elif "/commit/" in path:
            for line in body.splitlines():
                value = json.loads(line)["value"]
                if "content" in value:
                    self.files["me/faces", value["path"]] = base64.b64decode(value["content"])
            found = dict(commitUrl=f"{base}/me/faces/commit/{COMMIT}", commitOid=COMMIT)
        else:
            found = {}
        self.answer(json.dumps(found).encode(), **{"Content-Type": "application/json"})

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked.append(f"{self.command} {path}")
        repository, _, name = path.strip("/").partition("/resolve/main/")
        content = self.files.get((repository, name))
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            self.answer(b"", 404, **headers)
        else:
            etag = f'"{len(content)}-{repository.replace("/", "-")}-{name}"'
            self.answer(content, ETag=etag, **{"X-Repo-Commit": COMMIT})

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path):
    "Runs code with the client pointed at a stand-in"
    Hub.files, Hub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = dict(
        HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
        HF_HOME=str(tmp_path / "cache"),
        HF_TOKEN="hf_nothing",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_OFFLINE="0",
    )
    yield lambda code: forks("forked:execute", code, env=env)
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    report = Report(np.array([[8, 1, 1], [2, 5, 3], [1, 1, 8]]), NAMES)
    about = dict(licence="CC-BY-NC-SA-4.0", test=report.to_dict(), data=dict(digest="0" * 64))
    clf = Classifier(SimpsonsCNN(3, channels=(4,) * 6), NAMES, Preprocess(64), about)
    clf.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


OPEN = """
import simpsons_cnn as sc
print(sc.Classifier.from_pretrained("me/faces", "cpu").classes)"""


def test_a_model_goes_to_the_hub_and_comes_back(hub, model):
    pushed = hub(f"""
import simpsons_cnn as sc
print(sc.push_to_hub(sc.Classifier.load({str(model)!r}, "cpu"), "me/faces"))""")
    assert pushed.code == 0, pushed.err
    assert "/me/faces/" in pushed.out  # a commit, or with an older client a tree
    names = {name for _, name in Hub.files}
    assert names >= {"model.safetensors", "README.md", "config.json"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    assert Hub.files["me/faces", "model.safetensors"] == model.read_bytes()
    config = json.loads(Hub.files["me/faces", "config.json"])
    assert list(config["id2label"].values()) == NAMES
    front = yaml.safe_load(Hub.files["me/faces", "README.md"].decode().split("---")[1])
    (result,) = front["model-index"][0]["results"]
    assert (result["metrics"][0]["value"], result["dataset"]["split"]) == (0.7, "test")
    assert front["license"] == "cc-by-nc-sa-4.0"

    Hub.asked.clear()
    opened = hub(OPEN)
    assert opened.out.strip() == str(NAMES), opened.err
    fetched = {line.split("/")[-1] for line in Hub.asked}
    assert fetched == {"config.json", "model.safetensors"}  # the first is what the hub counts


def test_the_client_understands_the_card(model):
    from huggingface_hub import ModelCard

    from simpsons_cnn.inference.card import model_card

    card = ModelCard(model_card(Classifier.load(model, "cpu")))
    assert [round(r.metric_value, 1) for r in card.data.eval_results] == [0.7, 0.7]
    assert "cartoon-characters" in card.data.tags and card.data.library_name == "simpsons_cnn"


class Bomb:
    def __reduce__(self):
        return (print, ("exploded",))


def test_a_pickle_is_never_opened(hub, model):
    "Under any name, and also if it lies beside our file"
    bomb = pickle.dumps(Bomb())
    Hub.files = {("me/faces", name): bomb for name in ("pytorch_model.bin", "model.safetensors")}
    refused = hub(OPEN)
    assert refused.code == 1 and "is not a safetensors file" in refused.err
    assert "exploded" not in refused.out
    Hub.files["me/faces", "model.safetensors"] = model.read_bytes()
    Hub.asked.clear()
    hub(OPEN)
    assert not [line for line in Hub.asked if "pytorch_model.bin" in line]


def test_no_such_model(hub):
    missing = hub(OPEN)
    assert missing.code == 1 and "EntryNotFound" in missing.err
