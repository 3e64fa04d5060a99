"Text: control characters, odd bytes, lengths"

import os

import numpy as np
import pandas as pd
import pytest
import torch

from simpsons_cnn.core.text import (
    escape_html,
    first_few,
    require,
    safe_cell,
    safe_line,
    safe_str,
    short_repr,
    unknown_name_message,
    whole_numbers,
)

DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b[2K", r"\x1b[2K"),
        ("\x9b31m", r"\x9b31m"),  # the escape code in one character
        ("over\rwritten", r"over\rwritten"),
        ("a\x08b\x7f\x00", r"a\x08b\x7f\x00"),
        ("moe\u202egpj.exe", r"moe\u202egpj.exe"),
        (os.fsdecode(b"Jos\xe9"), r"Jos\udce9"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("José マルコ 👩\u200d🚀", "José マルコ 👩\u200d🚀"),  # joined emoji stay joined
        (r"C:\new", r"C:\new"),
        (3, "3"),
    ],
)
def test_safe_str(name, shown):
    assert safe_str(name) == shown
    assert safe_str(shown) == shown


def test_nothing_that_a_terminal_obeys_is_left():
    every = "".join(map(chr, range(0x3000))) + DIRECTIONS
    left = {c for c in safe_str(every) if (ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0)}
    assert left == {"\n", "\t"}
    assert not set(DIRECTIONS) & set(safe_str(every))
    safe_str(every).encode()


@pytest.mark.parametrize("show", [escape_html, safe_cell, lambda name: first_few([name])])
def test_every_way_to_show_a_name_is_safe(show):
    shown = show("moe\x1b[2K\u202e\r.jpg")
    assert shown == r"moe\x1b[2K\u202e\r.jpg"


def test_known_names_are_safe():
    message = unknown_name_message("character", "xyz", ["moe\x1b[2K", "carl"])
    assert message == r"Unknown character 'xyz'; there are carl, moe\x1b[2K"


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", r"\r=1"),  # a bare \r would end the row
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_safe_cell(name, cell):
    assert safe_cell(name) == cell


def test_lengths():
    assert short_repr("x" * 198) == repr("x" * 198)
    assert short_repr("x" * 199) == "'" + "x" * 99 + "… (201 characters)"
    assert first_few(["x" * 301]) == "x" * 300 + "…"
    deep = []
    for _ in range(10**5):
        deep = [deep]
    assert short_repr(deep) == "a value of type list too long to be written"
    while deep:  # such a list is taken apart by hand, or freeing it overflows the stack
        deep = deep[0]


def test_neighbours_of_what_is_escaped_stay():
    "The first and last of each range are escaped, the letters beside them are not"
    escaped = "\x00\x1f\x7f\x9f\u202a\u202e\u2066\u2069"
    kept = "\x20\x7e\xa0\u2029\u202f\u2065\u206a"
    assert safe_str(kept) == kept
    assert all(safe_str(letter) != letter for letter in escaped)


def test_a_few_is_exactly_as_many():
    assert first_few("abc") == "a, b, c" and first_few("abcd") == "a, b, c and 1 more"
    assert first_few(["x" * 300]) == "x" * 300
    assert first_few(["x" * 301]) == "x" * 300 + "…"


def test_a_line_stays_one_line():
    assert safe_line("a.jpg\nb.jpg: moe 99 %\tx\x1b[2K") == r"a.jpg\nb.jpg: moe 99 %\tx\x1b[2K"


def test_a_package_that_lacks_something_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"):
        require("broken_package", "onnx")


NUMBERS = np.array([2, 0, 1, 2])


@pytest.mark.parametrize(
    "values",
    [
        NUMBERS.tolist(),
        range(4),
        NUMBERS.astype(">i4"),
        NUMBERS.astype(np.float32),
        np.repeat(NUMBERS, 2)[::2],
        torch.tensor(NUMBERS),
        torch.tensor(NUMBERS, dtype=torch.bfloat16, requires_grad=True),
        pd.Series(NUMBERS, index=[3, 2, 1, 0]),
        [],
    ],
)
def test_whole_numbers_of_any_kind(values):
    found = whole_numbers("labels", values, 0, 3)
    assert found.dtype == np.int64 and found.tolist() == [int(v) for v in values]


@pytest.mark.parametrize(
    "values, got",
    [
        ([True, False], "bool of shape"),
        (["0", "1"], "U1 of shape"),
        ([0, None], "object of shape"),
        (3, r"int64 of shape \(\)"),
        (NUMBERS[:, None], r"int64 of shape \(4, 1\)"),
        (torch.rand(2, 3), r"float64 of shape \(2, 3\)"),
        ([0, 1.5], "1.5"),
        ([0, -1], "-1"),
        ([0, 4], "4"),
        ([0, float("nan")], "nan"),
        ([0, float("inf")], "inf"),
        ((n for n in range(3)), "object of shape"),
    ],
)
def test_what_are_no_whole_numbers(values, got):
    rule = "labels must be whole numbers from 0 to 3"
    with pytest.raises(ValueError, match=f"^{rule}(, shape ..,.)?, got .*{got}"):
        whole_numbers("labels", values, 0, 3)
