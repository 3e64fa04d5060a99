"Preprocessing: agreement with Pillow, one answer for each way in, settings that are refused"

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from simpsons_cnn.core.config import Config
from simpsons_cnn.data.preprocess import Preprocess

BILINEAR = Image.Resampling.BILINEAR


@pytest.fixture
def scene():
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(x).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(64, 48), (20, 31), (200, 90), (33, 7)])
@pytest.mark.parametrize("rule", ["stretch", "pad"])
def test_resizes_as_pillow(scene, size, rule):
    image = scene.resize(size)
    if rule == "stretch":
        expected = image.resize((32, 32), BILINEAR)
    else:
        expected = ImageOps.pad(image, (32, 32), BILINEAR, color=(128,) * 3)
    difference = Preprocess(32, rule).decode(image).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1.5


def test_file_and_memory_agree(scene):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.effect_noise((900, 700), 60)  # large enough for a JPEG's reduced sizes
    for image, kwargs in ((scene, {"exif": exif}), (photo, {})):
        f = io.BytesIO()
        image.save(f, "jpeg", **kwargs)
        prep = Preprocess(32)
        assert torch.equal(prep(f), prep(Image.open(f)))


def test_an_image_that_is_open_stays_whole(scene):
    "A draft would shrink it for everybody who has it"
    f = io.BytesIO()
    scene.resize((1000, 800)).save(f, "jpeg")
    image, prep = Image.open(f), Preprocess(64)
    assert torch.equal(prep(image, draft=True), prep(image))
    assert image.size == (1000, 800)


def test_large_image_in_strips():
    large = Image.effect_noise((2999, 1500), 60).convert("RGB")
    assert torch.equal(Preprocess(32)(large), Preprocess(32)(np.array(large)))


def test_memory_format_is_kept():
    x = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).to(memory_format=torch.channels_last)
    normal = Preprocess(8).normalise(x)
    assert normal.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(size=96, crop=100), "crop must be a whole number from 1 to 96, got 100"),
        (dict(size=10**6), "size must be a whole number from 1 to 4,096, got 1000000"),
        (dict(size=9.5), "size must be a whole number"),
        (dict(std=(0.5, 0.5, 0)), r"std must be three numbers from 0.001 to 1, got \(0.5, 0.5, 0"),
        (dict(mean=(0.5, 2, 0)), "mean must be three numbers from 0 to 1"),
        (dict(resize_rule="crop"), "resize_rule must be 'stretch' or 'pad', got 'crop'"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**settings)


@pytest.mark.parametrize("size", [64, 70, 96, 192, 511, 512])
def test_the_settings_know_the_same_default_crop(size):
    crop = Preprocess(size).crop
    assert Config.load(size=size, first_crop=crop).first_crop == crop
    if crop < 512:
        with pytest.raises(ValueError, match=f"first_crop must be at most {crop},"):
            Config.load(size=size, first_crop=crop + 1)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_an_array_holds_rgb_bytes(array):
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(height, width, 3\), got"):
        Preprocess(16)(array)


def test_any_layout_of_an_array(scene):
    "OpenCV's BGR turned round and a mirrored array step backwards; Pillow's cannot be written to"
    x = np.array(scene)
    for view, expected in (
        (x[..., ::-1], x[..., ::-1].copy()),
        (x[:, ::-1], x[:, ::-1].copy()),
        (x[::2, ::3], x[::2, ::3].copy()),
        (np.asarray(scene), x),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(Preprocess(16)(view), Preprocess(16)(expected))


@pytest.mark.parametrize("source", [None, 7, [], torch.zeros(3, 8, 8), b"a.png"])
def test_what_is_no_picture(source):
    with pytest.raises(TypeError, match="a picture must be a path, an open file or a PIL image"):
        Preprocess(16)(source)
