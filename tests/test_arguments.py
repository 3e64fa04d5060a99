"A path in place of what is read from it is refused at once, with what to call"

import pytest

import simpsons_cnn as sc
from simpsons_cnn.data.shards import open_store
from simpsons_cnn.training.suspects import cross_validate

CONFIG, FILES, STORE = "Config.load", "ImageFiles.scan", "PixelStore.build"
BATCHES, CLASSIFIER = "Batches", "Classifier.load"
CALLS = {
    "train": (lambda path: sc.train(path), CONFIG),
    "train_seeds": (lambda path: sc.train_seeds(path), CONFIG),
    "train_folds": (lambda path: sc.train_folds(path, 3), CONFIG),
    "launch": (lambda path: sc.launch(path, 1), CONFIG),
    "PixelStore.build": (lambda path: sc.PixelStore.build(path), FILES),
    "open_store": (lambda path: open_store(path, 64), FILES),
    "audit": (lambda path: sc.audit(path), FILES),
    "find_suspects": (lambda path: sc.find_suspects(path), FILES),
    "Batches": (lambda path: sc.Batches(path), STORE),
    "near_duplicates": (lambda path: sc.near_duplicates(path), STORE),
    "cross_validate": (lambda path: cross_validate(path), STORE),
    "calibrate": (lambda path: sc.calibrate(sc.SimpsonsCNN(2), path), BATCHES),
    "evaluate": (lambda path: sc.evaluate(sc.SimpsonsCNN(2), path), BATCHES),
    "model_card": (lambda path: sc.model_card(path), CLASSIFIER),
    "export_onnx": (lambda path: sc.export_onnx(path, "m.onnx"), CLASSIFIER),
    "export_torch": (lambda path: sc.export_torch(path, "m.pt2"), CLASSIFIER),
    "export_web": (lambda path: sc.export_web(path, "page"), CLASSIFIER),
    "ClassifyPictures": (lambda path: sc.ClassifyPictures(path), CLASSIFIER),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_path_is_refused_with_what_to_call(name, tmp_path):
    call, words = CALLS[name]
    for value in (str(tmp_path), tmp_path, None):
        with pytest.raises(TypeError, match=f"must be .*such as {words}"):
            call(value)
