"BatchPredictor: every picture gets a row, also with Ray"

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import NAMES

import simpsons_cnn as sc


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = sc.demo_characters(tmp_path_factory.mktemp("drawn") / "demo", train=1, test=1)
    return sorted((folder / "test").rglob("*.jpg"))


def test_answers_are_those_of_the_classifier(model_path, pictures):
    answers = sc.BatchPredictor(model_path, device="cpu")(
        dict(bytes=[p.read_bytes() for p in pictures])
    )
    clf = sc.Classifier.load(model_path, "cpu")
    for picture, row in zip(pictures, answers["probabilities"], strict=True):
        np.testing.assert_allclose(row, clf.predict(picture).probabilities, atol=1e-6)
    assert answers["known"].tolist() == [None] * len(pictures)  # a model without a threshold
    assert clf.predict(pictures[0]).known is None
    assert answers["probability"].dtype == np.float32


@pytest.mark.parametrize(
    "broken",
    [b"", b"no picture", None, 3.5, np.zeros((5, 5), np.uint8), np.zeros((8, 8, 3), np.float32)],
    ids=["empty", "text", "none", "number", "grey", "floats"],
)
def test_a_broken_picture_is_a_row(model_path, pictures, broken):
    column = np.empty(3, dtype=object)
    column[:] = [pictures[0].read_bytes(), broken, pictures[1].read_bytes()]
    answers = sc.BatchPredictor(model_path, device="cpu")(dict(bytes=column))
    assert [bool(e) for e in answers["error"]] == [False, True, False]
    assert [n in NAMES for n in answers["character"]] == [True, False, True]
    assert np.isnan(answers["probability"]).tolist() == [False, True, False]
    assert answers["known"].tolist() == [None] * 3


def test_known_is_what_the_classifier_says(model_path, pictures, tmp_path):
    clf = sc.Classifier.load(model_path, "cpu")
    scores = sorted(clf.predict(p).ood_score for p in pictures)
    about = dict(calibration=dict(temperature=1.0, threshold=-scores[len(scores) // 2]))
    sc.save_model(tmp_path / "m.safetensors", clf.model, NAMES, sc.Preprocess(64), about)
    clf = sc.Classifier.load(tmp_path / "m.safetensors", "cpu")
    predict = sc.BatchPredictor(tmp_path / "m.safetensors", device="cpu")
    files = [p.read_bytes() for p in pictures]
    known = predict(dict(bytes=[*files, b"no picture"]))["known"]
    assert known.dtype == bool and 0 < known.sum() < len(pictures)
    assert known.tolist() == [clf.predict(p).known for p in pictures] + [False]


@pytest.mark.parametrize("name", ["character", "known", "error"])
def test_a_column_of_theirs_is_not_overwritten(model_path, pictures, name):
    batch = {"bytes": [pictures[0].read_bytes()], name: ["Homer"]}
    with pytest.raises(ValueError, match=f"got {name}; rename them"):
        sc.BatchPredictor(model_path, device="cpu")(batch)
    assert batch[name] == ["Homer"]


def test_types_do_not_depend_on_what_could_be_read(model_path, pictures):
    predict = sc.BatchPredictor(model_path, device="cpu")
    whole, broken, empty = (
        predict(dict(bytes=b)) for b in ([pictures[0].read_bytes()], [b"no picture"], [])
    )
    kinds = [{k: (v.dtype, v.shape[1:]) for k, v in a.items()} for a in (whole, broken, empty)]
    assert kinds[0] == kinds[1] == kinds[2]


def test_it_travels_without_its_network(model_path, pictures):
    predict = sc.BatchPredictor(model_path, device="cpu")
    batch = dict(bytes=[pictures[0].read_bytes()])
    first = predict(batch)
    opened = predict._clf
    assert predict(batch)["probability"] == first["probability"] and predict._clf is opened
    sent = pickle.dumps(predict)
    assert len(sent) < 1000
    arrived = pickle.loads(sent)
    assert arrived._clf is None
    assert arrived(batch)["probability"] == first["probability"]


@pytest.mark.parametrize(
    "content, message",
    [(None, "No model file"), (b"", "0 bytes cannot hold"), (b"no model", "cannot hold a header")],
    ids=["none", "empty", "text"],
)
def test_a_wrong_path_is_refused_where_it_is_typed(tmp_path, content, message):
    if content is not None:
        (tmp_path / "m").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        sc.BatchPredictor(tmp_path / "m")


def test_a_file_that_was_cut_or_is_of_another_program_is_refused(model_path, tmp_path):
    (tmp_path / "cut").write_bytes(model_path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="bytes after its header, found"):
        sc.BatchPredictor(tmp_path / "cut")
    safetensors.torch.save_file(dict(weight=torch.ones(2)), tmp_path / "foreign")
    with pytest.raises(ValueError, match="was not written by save_model"):
        sc.BatchPredictor(tmp_path / "foreign")


def test_it_arrives_where_the_file_is_not_yet(model_path, tmp_path):
    "Unpickling reads nothing"
    (tmp_path / "m").write_bytes(model_path.read_bytes())
    sent = pickle.dumps(sc.BatchPredictor(tmp_path / "m", device="cpu"))
    (tmp_path / "m").unlink()
    assert pickle.loads(sent).model_path == str(tmp_path / "m")


def test_a_column_by_another_name(model_path, pictures):
    predict = sc.BatchPredictor(model_path, column="content", device="cpu")
    assert predict(dict(content=[pictures[0].read_bytes()]))["error"][0] == ""
    with pytest.raises(ValueError, match="must have the column 'content', got bytes"):
        predict(dict(bytes=[b""]))


def test_ray_data(model_path, pictures, tmp_path):
    ray = pytest.importorskip("ray")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        paths = [str(p) for p in pictures] + [str(tmp_path / "broken.jpg")]
        named = ray.data.read_binary_files(paths, include_paths=True).map_batches(
            sc.BatchPredictor,
            fn_constructor_args=[model_path],
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        rows = named.take_all()
    finally:
        ray.shutdown()
    assert sorted(r["path"] for r in rows) == sorted(paths)
    assert [r["path"] for r in rows if r["error"]] == [str(tmp_path / "broken.jpg")]
    clf = sc.Classifier.load(model_path, "cpu")
    for row in rows:
        if not row["error"]:
            assert row["character"] == clf.predict(row["path"]).name
