"Drawn characters: what is refused, the same bits for the same seed, folders that are in the way"

import hashlib
import os
import re

import numpy as np
import pytest
from conftest import older

from simpsons_cnn.demo.characters import character_names, demo_characters, draw_character
from simpsons_cnn.demo.drawing import strokes


def draw(seed, name="mossy_mo", **kwargs):
    return draw_character(name, np.random.default_rng(seed), **kwargs)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("captain_help", 128, "Unknown character 'captain_help'; did you mean 'captain_kelp'?"),
        ("", 128, "Unknown character ''; there are captain_kelp, disco_dumpling"),
        ("mossy_mo", 8, "size must be at least 32 pixels, got 8"),
    ],
)
def test_refused(name, size, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw(0, name, size=size)


def test_seeds_and_sizes():
    assert draw(0).tobytes() == draw(0).tobytes()
    assert len({draw(seed).tobytes() for seed in range(50)}) == 50
    for size in (32, 97, 128, 256):
        assert {max(draw(seed, size=size).size) for seed in range(10)} == {size}
    aspects = [w / h for w, h in (draw(seed).size for seed in range(50))]
    assert 0.74 < min(aspects) < 0.9 and 1.1 < max(aspects) < 1.35


@pytest.mark.skipif(older("pillow", "11.3"), reason="Pillow 11.0 and before draws other bits")
def test_bits_of_the_drawings():
    "Recorded results of other pages depend on these pictures"
    digest = hashlib.sha256()
    for name in character_names:
        for seed in range(6):
            digest.update(draw([seed, 96], name, size=96).tobytes())
    assert digest.hexdigest()[:16] == "cc839c04349ba46d"


def test_strokes():
    with pytest.raises(ValueError, match="Unknown kind of stroke 'blub'; did you mean 'blob'?"):
        strokes("soft skin 0,0 1,1; blub body 0,0 1,1")
    assert strokes("") == []


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (dict(train=0), "train must be a whole number from 1 to 100,000, got 0"),
        (dict(train=1.5), "train must be a whole number from 1 to 100,000, got 1.5"),
        (dict(test=0), "test must be a whole number from 1 to 100,000, got 0"),
        (dict(test="3"), "test must be a whole number from 1 to 100,000, got '3'"),
        (dict(size=9), "size must be a whole number from 32 to 4,096, got 9"),
        (dict(seed=-1), "seed must be a whole number of 0 or more, got -1"),
        (dict(seed=None), "seed must be a whole number of 0 or more, got None"),
    ],
)
def test_refused_data_sets(tmp_path, numbers, message):
    with pytest.raises(ValueError, match=message):
        demo_characters(tmp_path / "demo", **numbers)
    assert not os.listdir(tmp_path)


def files(folder) -> dict:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_files(tmp_path):
    one, again = (demo_characters(tmp_path / n, train=2, test=1) for n in ("one", "again"))
    assert files(one) == files(again) and len(files(one)) == 31
    assert sorted(os.listdir(tmp_path)) == ["again", "one"]
    with pytest.raises(FileExistsError, match="already holds something else; choose another"):
        demo_characters(one, train=3, test=1)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="already holds something else"):
        demo_characters(tmp_path / "file", train=2, test=1)


def test_interrupted(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("simpsons_cnn.demo.characters.draw_character", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo_characters(tmp_path / "demo", train=2, test=1)
    assert not os.listdir(tmp_path)


def test_numbers_of_numpy(tmp_path):
    one = np.int64(1)
    assert demo_characters(tmp_path / "demo", train=one, test=one, size=np.int64(32)).is_dir()
