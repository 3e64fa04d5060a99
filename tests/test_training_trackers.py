"Trackers: each with its own package and its local mode, read back; the others are skipped"

import json
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from simpsons_cnn.core.config import Config
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.training import trackers
from simpsons_cnn.training.history import History
from simpsons_cnn.training.trackers import Tracker, trackers_of
from simpsons_cnn.training.train import train


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return demo_characters(tmp_path_factory.mktemp("demo"), train=3, test=1)


@pytest.fixture
def config(demo, tmp_path, monkeypatch):
    "Settings of a run of two epochs, without a tracker"
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    return Config.demo(
        num_epochs=2,
        batch_size=10,
        size=64,
        crop_size=64,
        valid=0.3,
        traindir=demo / "train",
        testdir=None,
        out_directory=tmp_path / "runs/007",
    )


def trained(config, kind):
    "The run, and the folder of records"
    torch.manual_seed(0)
    run = train(config.replace(track=kind), callbacks=[])
    return run, config.out_directory.parent / "tracked"


def same(found, run, column):
    expected = [row[column] for row in run.history.rows]
    assert np.allclose(found, expected, rtol=1e-6), (found, expected)


def test_tensorboard(config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, folder = trained(config, "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard/007"))
    events.Reload()
    same([s.value for s in events.Scalars("valid_loss")], run, "valid_loss")
    assert [s.step for s in events.Scalars("accuracy")] == [1, 2]
    assert set(events.Tags()["images"]) == {"curves", "confusion"}
    (text,) = events.Tensors("settings/text_summary")
    assert b"num_epochs: 2" in text.tensor_proto.string_val[0]


def tell_run(tracker, epochs: int, losses: dict, project="simpsons_cnn"):
    "A run with so many epochs behind it, and the losses of further ones"
    tracker.start(project, "007", {}, epochs)
    for epoch, loss in losses.items():
        tracker.log(dict(valid_loss=loss), epoch)
    tracker.finish()


@pytest.mark.parametrize(
    "epochs, losses, shown",
    [
        (0, {1: 7.0}, {1: 7.0}),  # with `overwrite`: another run in the same folder
        (2, {3: 7.0}, {1: 3.0, 2: 2.0, 3: 7.0}),  # killed after the third epoch, and resumed
    ],
)
def test_two_runs_are_not_one_curve_in_tensorboard(tmp_path, epochs, losses, shown):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell_run(trackers._TensorBoard(tmp_path), 0, {1: 3.0, 2: 2.0, 3: 1.0})
    tell_run(trackers._TensorBoard(tmp_path), epochs, losses)
    events = EventAccumulator(str(tmp_path / "tensorboard/007"))
    events.Reload()
    assert {s.step: s.value for s in events.Scalars("valid_loss")} == shown
    assert len(events.Scalars("valid_loss")) == len(shown)


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory):
    "Where Trackio keeps its records; it looks once for the name, when it is imported"
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("trackio")
        patch.setenv("TRACKIO_DIR", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        pytest.importorskip("trackio")
        yield folder


def test_two_runs_are_not_one_curve_in_trackio(trackio_folder, tmp_path):
    import trackio

    for epochs, losses in ((0, {1: 3.0, 2: 2.0}), (0, {1: 7.0}), (1, {2: 6.0})):
        tell_run(trackers._Trackio(tmp_path), epochs, losses, project="two runs")
    assert len(list(trackio.Api().runs("two runs"))) == 2


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_tracker_learns_how_many_epochs_a_run_has_made(epochs):
    told = []
    tracker = Tracker(SimpleNamespace(start=lambda *args: told.extend(args)), settings={})
    rows = [dict(epoch=i + 1) for i in range(epochs)]
    tracker.on_start(SimpleNamespace(history=History(rows=rows)))
    assert told == ["simpsons_cnn", "run", {}, epochs]


def test_trackio(config, trackio_folder):
    import trackio

    run, _ = trained(config, "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = list(trackio.Api().runs("simpsons_cnn"))
    assert found.name == "007" and found.config["num_epochs"] == 2
    values = SQLiteStorage.get_metric_values("simpsons_cnn", "007", "valid_loss")
    same([value["value"] for value in values], run, "valid_loss")
    assert len(list(trackio_folder.rglob("*.png"))) == 2


def wandb_records(data: bytes):
    "The parts of a .wandb file: LevelDB's log format behind a header of 7 bytes"
    at, whole = 7, b""
    while at + 7 <= len(data):
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""
        if kind == 0 or 32768 - at % 32768 < 7:  # blocks are filled with zeros
            at += 32768 - at % 32768


def test_wandb(config):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    run, folder = trained(config, "wandb")
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    rows, settings = [], {}
    for data in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        rows.append({".".join(i.nested_key): i.value_json for i in record.history.item})
        rows[-1] |= {i.key: i.value_json for i in record.history.item if i.key}
        settings |= {i.key: i.value_json for i in record.run.config.update}
    same([float(row["valid_loss"]) for row in rows if "valid_loss" in row], run, "valid_loss")
    assert json.loads(settings["num_epochs"]) == 2
    assert len(list(path.parent.rglob("files/media/images/*.png"))) == 2


def test_mlflow(config):
    mlflow = pytest.importorskip("mlflow")
    run, folder = trained(config, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("simpsons_cnn").experiment_id
    (found,) = client.search_runs([experiment])
    assert (found.info.run_name, found.info.status) == ("007", "FINISHED")
    assert found.data.params["num_epochs"] == "2"
    history = client.get_metric_history(found.info.run_id, "valid_loss")
    same([m.value for m in history], run, "valid_loss")
    assert [m.step for m in history] == [1, 2]
    files = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert files == {"curves.png", "confusion.png"}


def test_a_missing_package_is_known_before_the_work(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'simpsons_cnn\[mlflow\]'"):
        trained(config, "mlflow")
    assert not (config.out_directory / "model/split.csv").exists()


class Broken:
    "Fails in one of its methods"

    def __init__(self, method, told):
        self.method, self.told = method, told

    def __getattr__(self, name):
        def call(*args):
            self.told.append(name)
            if name == self.method:
                raise RuntimeError("no answer")

        return call


@pytest.mark.parametrize("method", ["start", "figure", "finish"])
def test_a_tracker_that_fails_is_told_nothing_more(method):
    told = []
    tracker = Tracker(Broken(method, told), settings={})
    row = dict(epoch=1, train_loss=1.0, valid_loss=1.0, accuracy=0.5, learning_rate=0.1)
    run = SimpleNamespace(history=History(rows=[row]), report=None)
    with pytest.warns(UserWarning, match="failed; the run goes on without it") as caught:
        for event in (tracker.on_start, tracker.on_epoch, tracker.on_end, tracker.on_end):
            event(run)
    assert len(caught) == 1 and told.count(method) == 1 and told[-1] == method


def test_a_tracker_hears_nothing_of_a_run_that_did_not_start():
    told = []
    tracker = Tracker(Broken("", told), settings={})
    run = SimpleNamespace(history=History(), report=None)
    tracker.on_end(run)  # the `on_start` of a callback before it has failed
    assert told == []
    for event in (tracker.on_start, tracker.on_end, tracker.on_end):
        event(run)
    assert told == ["start", "finish"]


def test_a_tracker_that_fails_loses_no_run(config, monkeypatch):
    monkeypatch.setitem(trackers._TRACKERS, "wandb", lambda folder: Broken("log", []))
    with pytest.warns(UserWarning, match="Broken failed; the run goes on without it"):
        run, _ = trained(config, "wandb")
    assert len(run.history) == 2 and run.model_path.exists()


def test_the_run_is_the_same_with_a_tracker(config, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers._TRACKERS, "wandb", lambda folder: Broken("", []))
    tracked, _ = trained(config, "wandb")
    other = config.replace(out_directory=tmp_path / "runs/008")
    plain = train(other, callbacks=[])
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, tracked.model.state_dict()[name])


def test_none_is_the_default():
    assert trackers_of(Config()) == []


def test_two_runs_that_start_at_the_same_moment_share_mlflows_experiment(tmp_path):
    class Client:
        "The other run has made the experiment after this one looked for it"

        looked = 0

        def get_experiment_by_name(self, project):
            self.looked += 1
            made = self.made or self.looked > 1
            return SimpleNamespace(experiment_id="7") if made else None

        def create_experiment(self, project, artifact_location):
            self.made = True
            raise RuntimeError(f"Experiment(name={project}) already exists.")

        made = False

    tracker = object.__new__(trackers._MLflow)
    tracker.folder, tracker.client = tmp_path, Client()
    assert tracker._experiment("simpsons_cnn") == "7"


def test_an_experiment_that_cannot_be_made_is_an_error(tmp_path):
    def fails(*args, **kwargs):
        raise RuntimeError("no server")

    tracker = object.__new__(trackers._MLflow)
    tracker.folder = tmp_path
    tracker.client = SimpleNamespace(
        get_experiment_by_name=lambda name: None, create_experiment=fails
    )
    with pytest.raises(RuntimeError, match="no server"):
        tracker._experiment("simpsons_cnn")
