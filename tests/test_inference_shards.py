"Shards: together they name each picture once, also when they are killed; memory stays flat"

import csv
import gc
import os
import signal
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import NAMES, counts
from forked import forks

import simpsons_cnn as sc
from simpsons_cnn.core.files import lock_folder
from simpsons_cnn.data.folders import pictures_under
from simpsons_cnn.inference import shards
from simpsons_cnn.inference.classifier import Prediction, Predictions
from simpsons_cnn.inference.shards import Shard, ShardJob
from simpsons_cnn.networks.model_file import load_model, save_model


@pytest.fixture(scope="module")
def clf(model_path):
    return sc.Classifier.load(model_path, "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Thirty pictures, one that is broken, and one with a hostile name"
    folder = sc.demo_characters(tmp_path_factory.mktemp("drawn") / "demo", train=1, test=3) / "test"
    (folder / "torn.jpg").write_bytes(b"no picture")
    os.rename(next(folder.glob("mossy_mo/*")), folder / "mossy_mo" / "=a\nb,\udce9.jpg")
    return folder


def rows_of(path) -> list:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "a/b", "3", "3/", "-1/4", "1/0", "1/4/2", "", "١/٤"]
)
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(ValueError, match="A shard must be NUMBER/COUNT"):
        Shard.parse(text)


def test_a_name_keeps_its_shard():
    "On every machine and in every version: jobs of one array may run in several"
    names = ["a.jpg", "moe/1.png", "Гомер/1.jpg", "x\udce9.jpg"]
    held = {name: [n for n in range(1, 17) if Shard(n, 16).holds(name)] for name in names}
    assert held == {"a.jpg": [11], "moe/1.png": [14], "Гомер/1.jpg": [14], "x\udce9.jpg": [15]}


# Each run is killed at these moments, one after the other, and then left alone. The first writing
# is that of the list of names, the last that of the joined file.
KILLS = [
    [("half written", 1), ("after a rename", 1)],
    [("half written", 3), ("before a rename", 2)],
    [("after a rename", 3), ("before a rename", 2), ("half written", 2)],
]


def test_killed_and_continued(model_path, folder, tmp_path):
    def run(name, shard, moment=None):
        args = [str(model_path), str(folder), str(tmp_path / name)]
        ended = forks("killed_shard:job", args, shard, moment)
        print(ended.err, end="")  # pytest shows it if the test fails
        return ended.code

    straight = [f"straight-{number}.csv" for number in (1, 2)]
    assert [run(name, f"{i}/2") for i, name in enumerate(straight, 1)] == [0, 0]
    for i, moments in enumerate(KILLS):
        done = {}  # group -> when it was written
        for moment in moments:
            assert run(f"{i}.csv", "1/2", moment) == -signal.SIGKILL
            now = {p: p.stat().st_mtime_ns for p in tmp_path.glob(f"{i}.csv.partial-*/0*.csv")}
            assert done.items() <= now.items()  # none is named again
            done = now
            assert not (tmp_path / f"{i}.csv").exists()
            counts["kills"][f"{moment[0]}, in a shard"] += 1
        assert run(f"{i}.csv", "1/2") == 0
        assert (tmp_path / f"{i}.csv").read_bytes() == (tmp_path / straight[0]).read_bytes()
    assert run("late.csv", "1/2", ("after a rename", 7)) == -signal.SIGKILL
    assert (tmp_path / "late.csv").read_bytes() == (tmp_path / straight[0]).read_bytes()
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("late.csv")}
    assert left == {*straight, "0.csv", "1.csv", "2.csv"}
    named = [row["picture"] for name in straight for row in rows_of(tmp_path / name)]
    assert len(named) == len(set(named)) == len(pictures_under(folder))


def test_the_rows_are_those_of_predict(model_path, clf, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_GROUP", 5)
    rows = []
    for number in (1, 2, 3):
        ShardJob(model_path, folder, tmp_path / f"{number}.csv", Shard(number, 3), k=99).run(clf)
        rows += rows_of(tmp_path / f"{number}.csv")
    answers = clf.predict(folder)
    answers.to_csv(tmp_path / "whole.csv", k=99)
    whole = {row["picture"]: row for row in rows_of(tmp_path / "whole.csv")}
    assert [row["picture"] for row in rows if row["error"]] == [str(folder / "torn.jpg")]
    assert {row["picture"] for row in rows if not row["error"]} == set(whole)
    for row in rows:
        if not row.pop("error"):
            expected = whole[row["picture"]]
            assert list(row) == list(expected) and row["character"] == expected["character"]
            assert abs(float(row["probability2"]) - float(expected["probability2"])) < 1e-5


def test_a_shard_without_pictures_is_a_table_without_rows(model_path, clf, tmp_path):
    (tmp_path / "few").mkdir()
    sc.demo_characters(tmp_path / "demo", train=1, test=1)
    os.rename(next((tmp_path / "demo").rglob("*.jpg")), tmp_path / "few" / "a.jpg")  # in 11/16
    job = ShardJob(model_path, tmp_path / "few", tmp_path / "part.csv", Shard(1, 16), k=1)
    assert job.run(clf) == 0
    assert job.target.read_text() == "picture,character,probability,error\n"
    (tmp_path / "few" / "a.jpg").unlink()
    job.target.unlink()
    for _ in range(2):  # the second call does not believe an empty list of the first
        with pytest.raises(FileNotFoundError, match="No pictures under"):
            job.run(clf)


def stop(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture
def stopped(model_path, clf, folder, tmp_path, monkeypatch):
    "A job that has listed its pictures and named none"
    job = ShardJob(model_path, folder, tmp_path / "part.csv", k=1)
    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(shards, "predict_in", stop)
        job.run(clf)
    assert (job.partial / "names").exists()
    return job


def test_another_job_never_continues_it(model_path, folder, stopped, tmp_path, monkeypatch):
    other_model = tmp_path / "model.safetensors"
    model, header = load_model(model_path)
    save_model(other_model, model, header["classes"], header["preprocess"], dict(licence="none"))
    others = [
        ShardJob(other_model, folder, stopped.target, k=1),
        ShardJob(model_path, folder.parent, stopped.target, k=1),
        ShardJob(model_path, folder, stopped.target, Shard(1, 2), k=1),
        ShardJob(model_path, folder, stopped.target, k=2),
        ShardJob(model_path, folder, stopped.target, k=1, tta="flip"),
    ]
    assert len({job.partial for job in [*others, stopped]}) == 6
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read whole"))
    assert ShardJob(model_path, folder, stopped.target, k=1).partial == stopped.partial


def test_one_process_at_a_time(clf, stopped):
    with lock_folder(stopped.partial), pytest.raises(FileExistsError, match="Another run"):
        stopped.run(clf)
    stopped.run(clf)
    assert len(rows_of(stopped.target)) == 31 and not stopped.partial.exists()


def test_pictures_that_come_or_go_later(clf, folder, stopped):
    (folder / "later.jpg").write_bytes(b"no picture")
    torn = (folder / "torn.jpg").rename(folder.parent / "torn.jpg")
    try:
        assert stopped.run(clf) == 1
    finally:
        (folder / "later.jpg").unlink()
        torn.rename(folder / "torn.jpg")
    rows = rows_of(stopped.target)
    assert len(rows) == 31
    assert [row["picture"] for row in rows if row["error"]] == [str(folder / "torn.jpg")]


def test_a_drive_that_goes_away_stops_the_job(clf, folder, stopped):
    folder.rename(folder.with_name("away"))
    try:
        with pytest.raises(FileNotFoundError, match="None of 31 pictures is there any more"):
            stopped.run(clf)
    finally:
        folder.with_name("away").rename(folder)
    assert stopped.run(clf) == 1
    assert len(rows_of(stopped.target)) == 31


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_memory_does_not_grow_with_the_folder(model_path, clf, tmp_path, monkeypatch, suffix):
    "`walk_pictures` and the network are stand-ins, which take no time"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    answer = np.array([0.5, 0.3, 0.2], dtype=np.float32)
    monkeypatch.setattr(shards, "_GROUP", 100)

    def predict(pool, bar, clf, sources, **_):
        return Predictions(Prediction(answer, NAMES, source) for source in sources)

    monkeypatch.setattr(shards, "predict_in", predict)
    monkeypatch.setattr(shards, "_check_drive", lambda *_: None)
    gc.collect()
    gc.freeze()  # after many other tests the collector looks at new objects late
    peaks = []
    for n in (200, 300, 3000):  # the first imports what is imported late
        names = (Path("folder") / f"{i:06}.jpg" for i in range(n))
        monkeypatch.setattr(shards, "walk_pictures", lambda _, names=names: names)
        job = ShardJob(model_path, Path("folder"), tmp_path / f"{n}{suffix}", k=1)
        tracemalloc.start()
        job.run(clf)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    gc.unfreeze()
    assert peaks[2] < 2 * peaks[1]  # ten times as much if it held all rows


def test_parquet(model_path, clf, folder, tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(shards, "_GROUP", 5)
    ShardJob(model_path, folder, tmp_path / "a=1.parquet").run(clf)
    ShardJob(model_path, folder, tmp_path / "a.csv").run(clf)
    table = pq.ParquetFile(tmp_path / "a=1.parquet").read()
    assert {str(column.type) for column in table.columns} == {"string", "float"}
    rows = {row["picture"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == 31
    for expected in rows_of(tmp_path / "a.csv"):
        row = rows[expected["picture"].removeprefix("'")]
        assert (row["character2"], row["error"]) == (expected["character2"], expected["error"])
        if not row["error"]:
            assert row["probability"] == np.float32(expected["probability"])


@pytest.mark.parametrize("number, count", [(0, 3), (4, 3), (True, 3), (1.5, 3), ("1", 3), (1, 0)])
def test_a_shard_made_in_a_program_is_checked(number, count):
    "Number 0 would hold no picture at all"
    with pytest.raises(ValueError, match="(number|count) must be a whole number"):
        Shard(number, count)


def test_a_job_takes_paths_as_text(model_path, folder, tmp_path):
    text = [str(path) for path in (model_path, folder, tmp_path / "part.csv")]
    assert ShardJob(*text).partial == ShardJob(*map(Path, text)).partial
    for wrong in (dict(k=0), dict(k="3"), dict(tta="maybe")):
        with pytest.raises(ValueError, match=f"{[*wrong][0]} must be"):
            ShardJob(*text, **wrong)
