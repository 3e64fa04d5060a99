"Classifier: every way in, every kind of bad input, hostile names"

import contextlib
import os
import shutil
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from simpsons_cnn.core import device
from simpsons_cnn.data.batches import Batches
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.images import to_rgb
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.demo.characters import demo_characters
from simpsons_cnn.inference import classifier
from simpsons_cnn.inference.classifier import (
    Classifier,
    Prediction,
    Predictions,
    _array_channels_last,
    _as_decodable,
    _forward_float64,
)
from simpsons_cnn.networks.model_file import save_model
from simpsons_cnn.networks.reference import SimpsonsCNN
from simpsons_cnn.quality.split import save_split
from simpsons_cnn.scoring.calibration import Calibration
from simpsons_cnn.scoring.report import collect_logits


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = demo_characters(tmp_path_factory.mktemp("demo") / "demo", train=3, test=1, size=96)
    return ImageFiles.scan(root / "train")


@pytest.fixture(scope="module")
def model_path(files, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, SimpsonsCNN(10), files.classes, Preprocess(96))
    return path


@pytest.fixture(scope="module")
def clf(model_path):
    return Classifier.load(model_path, device="cpu")


@pytest.fixture(scope="module")
def array(files):
    return np.array(to_rgb(Image.open(files.paths[4])))


@pytest.fixture(scope="module")
def large(files, tmp_path_factory):
    "A large photo held sideways, with a note that says so"
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files.paths[7]).resize((1200, 900)).save(path, quality=90, exif=exif)
    return path


def close(a, b, eps=1e-5):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max()) < eps


# what counts as an image

BAD_ARRAYS = {
    "fractions": (lambda x: x / 255, "must hold bytes \\(uint8\\) from 0 to 255, got float64"),
    "grey": (lambda x: x[..., 0], "got \\(40, 50\\)"),
    "ambiguous": (lambda x: x[:3, :5], "got \\(3, 5, 3\\)"),
    "a batch": (lambda x: x[None], "or \\(3, height, width\\), got"),
    "empty": (lambda x: x[:0], "or \\(3, height, width\\), got"),
    "four channels": (lambda x: np.dstack([x, x[..., :1]]), "or \\(3, height, width\\), got"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_bad_arrays(clf, kind):
    change, message = BAD_ARRAYS[kind]
    x = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        _array_channels_last(change(x))
    with pytest.raises(ValueError, match=message):
        clf.predict(change(x))


def test_other_objects(clf):
    with pytest.raises(TypeError, match="got int"):
        _as_decodable(7)
    with pytest.raises(TypeError, match="got int"):
        clf.predict(7)


def test_every_way_in(clf, files, large):
    for path in (files.paths[4], large):
        image = to_rgb(Image.open(path))
        pixels = np.array(image)
        with open(path, "rb") as file, Image.open(path) as undecoded:
            sources = [
                str(path),
                path.read_bytes(),
                bytearray(path.read_bytes()),
                file,
                undecoded,
                image,
                pixels,
                torch.from_numpy(pixels).permute(2, 0, 1),
            ]
            for source in sources:
                found = clf.predict(source)
                assert close(found.probabilities, clf.predict(path).probabilities)
        assert found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    turned = clf.predict(np.asarray(Image.open(large)))  # an array has lost the note
    assert not close(turned.probabilities, clf.predict(large).probabilities)


def test_sources_are_not_changed(clf, array):
    image, pixels = Image.fromarray(array), array.copy()
    clf.predict(image)._repr_html_()
    clf.predict(pixels)._repr_html_()
    clf.explain(image)._repr_html_()
    assert image.size == array.shape[1::-1] and np.array_equal(np.asarray(image), array)
    assert np.array_equal(pixels, array)


# one image, one answer


def test_alone_in_company_and_evaluated(clf, files):
    in_folder, listed = clf.predict(files.root), clf.predict(files.paths, batch_size=7)
    logits, _ = collect_logits(clf.model, Batches(PixelStore.build(files), device="cpu"))
    mirrored, _ = collect_logits(
        clf.model, Batches(PixelStore.build(files), device="cpu"), tta=True
    )
    tta = clf.predict(files.paths, tta=True)
    assert [p.source for p in in_folder] == [str(path) for path in files.paths]
    for i, p in enumerate(in_folder):
        assert close(p.probabilities, listed[i].probabilities)
        assert close(p.probabilities, clf.predict(p.source).probabilities)
        assert close(p.probabilities, logits.softmax(1)[i])
        assert close(tta[i].probabilities, mirrored.softmax(1)[i])


def test_tta_is_the_mean(clf, array):
    mirrored = np.ascontiguousarray(array[:, ::-1])
    a, b = [clf.predict(x, tta=True).probabilities for x in (array, mirrored)]
    assert close(a, b, 1e-4)
    each = [clf.logits(clf.preprocess(Image.fromarray(x))[None]) for x in (array, mirrored)]
    assert close(a, torch.cat(each).mean(0).softmax(0), 1e-3)


def test_calibration_is_used_and_saved(clf, array, files, tmp_path):
    found = Calibration(2.0, threshold=-0.5, measure="logit")
    warm = Classifier(clf.model, clf.classes, clf.preprocess, dict(calibration=found.to_dict()))
    z = warm.logits(warm.preprocess(Image.fromarray(array))[None])
    assert close(warm.predict(array).probabilities, (z / 2).softmax(1)[0], 1e-6)
    assert warm.predict(array).known == (z.max().item() >= 0.5)
    warm.save(tmp_path / "warm.safetensors")
    again = Classifier.load(tmp_path / "warm.safetensors", "cpu")
    again.save(tmp_path / "again.safetensors")
    assert again.calibration == warm.calibration
    first, second = [(tmp_path / f"{n}.safetensors").read_bytes() for n in ("warm", "again")]
    assert first == second
    warm.predict(files.paths[:2]).to_csv(tmp_path / "two.csv")
    columns = list(pd.read_csv(tmp_path / "two.csv").columns)
    assert columns == ["picture", "character", "probability", "known"]


def test_float64_leaves_the_model_and_the_process_alone(clf, files):
    "What a CUDA device computes; it must not touch the switches of cuDNN"

    def switches():
        cudnn = torch.backends.cudnn
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    before, weights = switches(), {k: v.clone() for k, v in clf.model.state_dict().items()}
    xb = clf.preprocess.normalise(clf.preprocess.center_crop(clf.preprocess(files.paths[0])[None]))
    with torch.inference_mode():
        exact = _forward_float64(clf.model, xb)
        assert close(exact, clf.model(xb), 1e-4) and exact.dtype == torch.float32
    assert switches() == before
    after = clf.model.state_dict()
    assert all(torch.equal(after[k], v) and after[k].dtype == v.dtype for k, v in weights.items())


def test_weights_are_converted_once_and_again_when_they_have_changed(monkeypatch):
    torch.manual_seed(0)
    model, xb = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval(), torch.rand(4, 3)
    converted, double = [], torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda t: converted.append(t) or double(t))

    def forward(conversions):
        converted.clear()
        with torch.inference_mode():
            assert close(_forward_float64(model, xb), model(xb), 1e-5)
        assert len(converted) == conversions + 1  # and the pictures

    forward(6)
    forward(0)
    with torch.no_grad():
        model[0].weight.add_(1)
    forward(6)
    forward(0)
    model[0].bias = nn.Parameter(torch.ones(2))
    forward(6)
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
    forward(6)
    assert _forward_float64(model, xb).requires_grad is False


class KeepsAKernelElsewhere(nn.Conv2d):
    "A buffer that is not in the state dict"

    def __init__(self):
        super().__init__(3, 4, 1)
        self.register_buffer("kernel", torch.ones(4, 4, 3, 3), persistent=False)

    def forward(self, x):
        return nn.functional.conv2d(super().forward(x), self.kernel).mean((2, 3))


class UsesAWeightTwice(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
        self[1].weight = self[0].weight


class AsksForFloat32(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 1)

    def forward(self, x):
        return super().forward(x.float())


@pytest.mark.parametrize("network", [KeepsAKernelElsewhere, UsesAWeightTwice, AsksForFloat32])
def test_networks_of_other_kinds_answer_in_float64(network):
    "As they would on a GPU of NVIDIA"
    torch.manual_seed(0)
    model, xb = network().eval(), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(_forward_float64(model, xb), model(xb))


def test_too_little_memory_for_float64_is_said():
    "It is no reason to answer in float32, whose numbers are others"

    class Hungry(nn.Module):
        def forward(self, xb):
            raise torch.OutOfMemoryError("no room") if xb.dtype == torch.float64 else ValueError

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        _forward_float64(Hungry(), torch.rand(1, 3, 8, 8))


def test_threads_do_not_swap_weights_under_each_other(clf, files, monkeypatch):
    "What a CUDA device computes, in several threads that share the model"
    monkeypatch.setattr(classifier, "_forward", _forward_float64)
    monkeypatch.setattr(classifier, "num_workers", lambda: 4)
    monkeypatch.setattr(device, "num_workers", lambda: 4)
    alone = clf.predict(files.paths[0])
    many = clf.predict(files.paths[:1] * 120, batch_size=2)
    assert all(close(p.probabilities, alone.probabilities, 1e-6) for p in many)
    assert next(clf.model.parameters()).dtype == torch.float32


def test_an_explanation_waits_while_another_thread_has_swapped_the_weights(clf, files, monkeypatch):
    monkeypatch.setattr(classifier, "_forward", _forward_float64)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(clf.predict, files.paths[0]) for _ in range(40)]
        maps = list(pool.map(clf.explain, files.paths[:1] * 20))
    assert len({answer.result().name for answer in answers}) == 1
    assert all(close(m.cam, maps[0].cam, 1e-4) for m in maps)


# predictions as text, page, table


def prediction(source="b.jpg", classes=("ann", "bob", "cyd"), **kwargs):
    return Prediction(np.array([0.07, 0.9, 0.03]), list(classes), source, **kwargs)


@pytest.mark.parametrize("ood_score, known", [(-2.9, False), (-3.0, True)])
def test_known(ood_score, known):
    assert prediction(ood_score=ood_score, threshold=-3.0).known is known
    assert prediction(ood_score=ood_score).known is None


def test_names_with_commas():
    p = prediction("a, b.jpg", ["x, y", "z, w", "v"])
    assert repr(p) == "a, b.jpg: z, w 90.0% (x, y 7.0%, v 3.0%)"


def test_names_that_are_no_text():
    latin = prediction(os.fsdecode(b"Jos\xe9.jpg"))
    assert repr(latin).startswith(r"Jos\udce9.jpg:")
    assert prediction("a.jpg\nb.jpg", ["a\nnn", "bob", "cyd"]).line().count("\n") == 0
    assert Predictions([latin]).to_frame().picture[0] == r"Jos\udce9.jpg"


@pytest.mark.parametrize("first", "=+-@\t\r")
def test_csv_holds_no_formula(tmp_path, first):
    p = prediction(f"{first}1+1.jpg", ["ann", f"{first}bob", "cyd"])
    Predictions([p]).to_csv(tmp_path / "x.csv", k=2)
    row = pd.read_csv(tmp_path / "x.csv", quotechar='"').iloc[0]
    assert row.picture[0] in "'\\" and row.character[0] in "'\\"
    assert (row.character1, row.probability) == ("ann", 0.9)


def test_table_without_rows():
    columns = list(Predictions().to_frame(2).columns)
    assert columns == ["picture", "character", "probability", "character1", "probability1"]


def test_page_shows_names_as_text():
    p = prediction("<i>.jpg", ["<b>x", "<img src=x onerror=alert(1)>", "y"])
    p = Prediction(p.probabilities, p.classes, pixels=np.zeros((3, 8, 8), np.uint8))
    page = Predictions([p], {"<x>": "OSError"})._repr_html_()
    assert not any(tag in page for tag in ("<b>x", "<img src=x", "<x>"))
    assert page.count("<img ") == 1


# bad input


@pytest.fixture
def torn(files, tmp_path):
    path = tmp_path / "torn.jpg"
    path.write_bytes(files.paths[4].read_bytes()[:700])
    return path


def test_unreadable_alone(clf, torn, array, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    cases = [
        (torn, ValueError, "torn.jpg cannot be read"),
        (tmp_path / "nobody.jpg", FileNotFoundError, "No picture at"),
        (tmp_path / "pipe.jpg", ValueError, "is a pipe or a device; expected a picture"),
        ("x" * 10_000, ValueError, "… cannot be read"),  # not a path that any system knows
        (b"no picture", ValueError, "The picture cannot be read"),
        ([array, b"no picture"], ValueError, "The picture cannot be read"),
        ([], FileNotFoundError, "The list of pictures is empty"),
    ]
    for source, error, message in cases:
        with pytest.raises(error, match=message):
            clf.predict(source)
    with pytest.raises(ValueError, match="torn.jpg cannot be read"):
        clf.explain(torn)


def test_unreadable_in_a_folder(clf, files, torn):
    for i in (0, 9):
        shutil.copy(files.paths[i], torn.with_name(f"{i}.jpg"))
    found = clf.predict(torn.parent)
    assert len(found) == 2 and list(found.unreadable) == [str(torn)]
    only_torn = torn.parent / "only"
    only_torn.mkdir()
    shutil.move(torn, only_torn)
    assert len(clf.predict(only_torn)) == 0


def test_other_mistakes(clf, files, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="No pictures under"):
        clf.predict(tmp_path / "bare")
    for wrong in (0, -1, 2.5, "32", True, None):
        words = f"batch_size must be a whole number of 1 or more, got {wrong!r}"
        with pytest.raises(ValueError, match=words):
            clf.predict(files.paths, batch_size=wrong)
    for size in ((0, 0), (0, 5)):
        with pytest.raises(ValueError, match="picture must have a pixel or more, got 0×"):
            clf.predict(Image.new("RGB", size))
    with pytest.raises(FileNotFoundError, match="No model file at"):
        Classifier.load(tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match="The calibration of the model cannot be used"):
        Classifier(clf.model, clf.classes, clf.preprocess, dict(calibration={"heat": 1}))
    damaged = tmp_path / "warm.safetensors"
    save_model(damaged, clf.model, clf.classes, clf.preprocess, dict(calibration={"heat": 1}))
    with pytest.raises(ValueError, match="warm.safetensors' cannot be used: The calibration of"):
        Classifier.load(damaged)
    with pytest.raises(ValueError, match="must hold bytes"):
        clf.predict(torch.rand(3, 64, 64, requires_grad=True))
    with pytest.raises(ValueError, match="did you mean 'mossy_mo'"):
        clf.explain(files.paths[0], "mossy_moe")


@contextlib.contextmanager
def pixel_limit(limit):
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = limit
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@pytest.mark.parametrize("width, height", [(90, 60), (100, 100)])
def test_too_many_pixels(clf, tmp_path, width, height):
    "Refused before it is decoded, without a warning from Pillow"
    Image.new("RGB", (width, height)).save(tmp_path / "bomb.png")
    with pixel_limit(4000), warnings.catch_warnings():
        warnings.simplefilter("error")
        message = f"at most 4,000 pixels, got {width}×{height}; shrink it first"
        with pytest.raises(ValueError, match=message):
            clf.predict(tmp_path / "bomb.png")


def test_bomb(clf, tmp_path):
    "30,000×30,000 pixels: megabytes in a file, 2.7 gigabytes in memory"
    Image.new("RGB", (100, 100)).save(tmp_path / "bomb.png")
    png = (tmp_path / "bomb.png").read_bytes()
    head = png[12:16] + (30_000).to_bytes(4, "big") * 2 + png[24:29]
    bomb = png[:12] + head + zlib.crc32(head).to_bytes(4, "big") + png[33:]
    with pytest.raises(ValueError, match="at most 89,478,485 pixels, got 30,000×30,000"):
        clf.predict(bomb)


# trained on


def test_count_trained_on(clf, files, large, tmp_path):
    split = tmp_path / "split.csv"
    save_split(split, files, range(30), [0, 1, 2])
    copies = [shutil.copy(files.paths[i], tmp_path / f"copy {i}.jpg") for i in (0, 9)]
    assert clf.count_trained_on(files.paths, split) == dict(train=27, valid=3)
    assert clf.count_trained_on([*copies, large], split) == dict(train=1, valid=1)
    other = Classifier(clf.model, clf.classes, clf.preprocess, dict(data=dict(digest="0" * 64)))
    with pytest.raises(ValueError, match="lists other pictures than the model was trained on"):
        other.count_trained_on(copies, split)
    with pytest.raises(ValueError, match="is not a split file"):
        clf.count_trained_on(copies, large)


def test_a_name_to_explain_is_compared_in_nfc():
    clf = Classifier(
        SimpsonsCNN(2, channels=(8,) * 6), ["M\u00fcller", "otto"], Preprocess(size=64)
    )
    image = Image.new("RGB", (64, 64), "red")
    assert clf.explain(image, "Mu\u0308ller").character == "M\u00fcller"


def test_a_copy_on_both_sides_was_trained_on(clf, files, tmp_path):
    "A random split leaves copies of a validation image among the training images"
    split = tmp_path / "split.csv"
    table = save_split(split, files, range(30), [0, 1, 29])
    table.loc[[1, 2], "sha256"] = table.sha256[1]  # side valid, then train
    table.loc[[28, 29], "sha256"] = table.sha256[29]  # the other way round
    table.to_csv(split, index=False)
    paths = [files.paths[i] for i in (0, 1, 29)]
    assert clf.count_trained_on(paths, split) == dict(train=2, valid=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda xb: xb.float() / 255,
        lambda xb: xb.numpy(),
        lambda xb: xb[0],
        lambda xb: xb[..., :64, :64],
        lambda xb: xb.permute(0, 2, 3, 1),
        lambda xb: xb > 99,
    ],
)
def test_logits_are_those_of_prepared_images(clf, files, change):
    "Images from 0 to 1 would all be nearly black"
    xb = clf.prepare(files.paths[0])
    for work in (clf.logits, clf.probabilities):
        with pytest.raises(ValueError, match="xb must be a uint8 tensor of shape"):
            work(change(xb))


@pytest.mark.parametrize(
    "classes, error, words",
    [
        (["a", "b"], ValueError, "classes must be 3 names, as many as logits, got 2"),
        ([*"abcd"], ValueError, "classes must be 3 names, as many as logits, got 4"),
        ([*"aba"], ValueError, "classes must differ, got a more than once"),
        ("abc", TypeError, "classes must be a list of names"),
        ([1, 2, 3], TypeError, "a name must be text, got 1"),
    ],
)
def test_names_that_do_not_fit_the_network(classes, error, words):
    with pytest.raises(error, match=words):
        Classifier(SimpsonsCNN(3), classes, Preprocess(96))


def test_names_in_either_unicode_form(files):
    clf = Classifier(SimpsonsCNN(2), ["Mu\u0308ller", "otto"], Preprocess(96))
    for name in ("M\u00fcller", "Mu\u0308ller"):
        assert clf.explain(files.paths[0], name).character == "M\u00fcller"
    with pytest.raises(TypeError, match="a name must be text, got 7"):
        clf.explain(files.paths[0], 7)


@pytest.mark.parametrize("k", [-1, 0, 1.5, "3", True])
def test_how_many_candidates(clf, files, k, tmp_path):
    "-1 would be all but the last"
    found = clf.predict([files.paths[0]])
    for work in (found[0].top, found[0].line, found.to_frame):
        with pytest.raises(ValueError, match="k must be a whole number of 1 or more, got"):
            work(k)
