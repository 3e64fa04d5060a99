"Archives: sets of equal sizes, names of sets, old encodings"

import zipfile

import numpy as np
import pytest
from PIL import Image

from simpsons_cnn.data.archives import unpack


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(x).save(path)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_equal_sizes_are_no_copies(tmp_path, packed):
    source = tmp_path / "d"
    for k, split in enumerate(("train", "test")):
        for c in "abc":
            for i in range(6 - 2 * k):
                save(source / split / c / f"{i}.bmp", 100 * k + 10 * ord(c) + i)
    if packed:
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as z:
            for path in sorted(source.rglob("*.bmp")):
                z.write(path, path.relative_to(source))
        source = tmp_path / "d.zip"
    found = unpack(source, tmp_path / "out")
    assert (sum(found.train.values()), sum(found.test.values())) == (18, 12)


@pytest.mark.parametrize("name", ["test-data", "my_tests", "test"])
def test_single_set_is_for_training(tmp_path, name):
    for c in "ab":
        save(tmp_path / "in" / name / c / "1.jpg", ord(c))
    assert unpack(tmp_path / "in", tmp_path / "out").train == {"a": 1, "b": 1}


@pytest.mark.parametrize("encoding", ["cp866", "utf-8"])
def test_unmarked_names(tmp_path, encoding):
    names = {"AAAAA" + "A" * 5: "Гомер", "BBBBB" + "B" * 5: "Мардж"}
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as z:
        for k, folder in enumerate(names):
            placeholder = folder if encoding == "utf-8" else folder[:5]
            z.write(save(tmp_path / "x.png", k), f"train/{placeholder}/1.png")
    data = (tmp_path / "z.zip").read_bytes()
    for folder, name in names.items():
        placeholder = folder if encoding == "utf-8" else folder[:5]
        data = data.replace(placeholder.encode(), name.encode(encoding))
    (tmp_path / "z.zip").write_bytes(data)
    if encoding == "utf-8":
        assert sorted(unpack(tmp_path / "z.zip", tmp_path / "out").train) == ["Гомер", "Мардж"]
    else:
        with pytest.raises(ValueError, match="encoding is not marked as UTF-8"):
            unpack(tmp_path / "z.zip", tmp_path / "out")
