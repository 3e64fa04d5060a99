"""Any input to scan, store, settings, prediction and model file ends in success or our own error.

A short form runs with the other tests. `FULL=1 pytest tests/test_bad_input.py` tries
2,000 cases, new ones every time.
What once failed is kept as an example below.
"""

import os
import sys

import pytest
from attempt import Child, Foul
from conftest import counts
from damage import BASES, CRAFTED, SPOILS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from simpsons_cnn.core.config import Config, setting_sections

if sys.platform != "linux":
    pytest.skip("limits are measured as Linux tells them", allow_module_level=True)

FULL = bool(os.environ.get("FULL"))
sys.set_int_max_str_digits(0)  # for Hypothesis to show what it drew; the child keeps Python's limit


def cases(short: int, full: int):
    return settings(
        max_examples=full if FULL else short,
        derandomize=not FULL,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def child():
    child = Child()
    yield child
    child.stop()


def run(child, target, case):
    for what, outcome in child.run(target, case):
        counts[f"bad input, {target}: {what}"][outcome] += 1
    counts["bad input, cases"][target] += 1


WATCHED = dict(
    crash="the process ended with -6",
    leave="the process ended with 0",
    busy="it took 6",
    greedy="it took 1,3",
    below="of a type that is not for users",
    unnamed="message names none of",
    warning="it warned: odd",
)


@pytest.mark.parametrize(
    "what", [*WATCHED, "stuck"] if FULL else ["crash", "greedy", "below", "unnamed", "warning"]
)
def test_what_goes_wrong_is_noticed(child, what):
    with pytest.raises(Foul, match=f"watch, {what}: .*{WATCHED.get(what, 'no answer within')}"):
        child.run("watch", what)
    run(child, "array", ("none", "uint8", ()))  # and the next case is tried as if nothing had been


# --- settings

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**400, 10**5000, -(10**30)]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "null",
            "1e-3",
            "1e999",
            "nan",
            "-inf",
            "9" * 5000,
            "٣",
            "0x10",
            "1_000",
            "a\0b",
            "\ud800",
            "x" * 100_000,
            "~",
            "cuda:99",
            "../..",
            "/dev/zero",
        ]
    ),
    st.dates(),
    st.binary(max_size=5),
)
values = st.recursive(
    scalars,
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), v, max_size=3)
    ),
    max_leaves=6,
)
setting_names = st.sampled_from(sorted(setting_sections()))
keys = (
    setting_names | st.text(max_size=8) | scalars.filter(lambda k: not isinstance(k, (list, dict)))
)
sections = st.dictionaries(
    st.sampled_from(list(Config.model_fields)) | keys,
    st.dictionaries(keys, values, max_size=4) | values,
    max_size=4,
)


def fitting(draw):
    "Settings in their own sections, with values that may or may not do"
    out = {}
    for name in draw(st.lists(setting_names, max_size=5)):
        out.setdefault(setting_sections()[name], {})[name] = draw(
            values
            | st.just(getattr(Config(), name)).map(
                lambda v: v if isinstance(v, (int, float, str, type(None))) else str(v)
            )
        )
    return out


def as_yaml(value) -> bytes:
    import yaml

    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def bomb(levels, width, merge=False) -> bytes:
    "Each level holds the one before several times over"
    lines = ["a0: &a0 {k: 1}" if merge else "a0: &a0 [1]"]
    for i in range(levels):
        lines.append(
            f"a{i + 1}: &a{i + 1} "
            + (
                f"{{<<: [{', '.join([f'*a{i}'] * width)}]}}"
                if merge
                else f"[{', '.join([f'*a{i}'] * width)}]"
            )
        )
    return "\n".join(lines).encode()


snippets = st.sampled_from(
    [
        b"",
        b"---\n---\n",
        b"\xff\xfe",
        b"\xef\xbb\xbfa: 1",
        b"%YAML 9.0\n---\na: 1",
        b"&a [*a]",
        b"a: &a\n  b: *a",
        b"? [1]\n: 2",
        b"{[]: 1}",
        b"- !!python/object/apply:os.system [ls]",
        b"!!python/name:os.system",
        b"!!int x",
        b"!!float x",
        b"!!bool x",
        b"!!timestamp x",
        b"!!binary x",
        b"!!set [1]",
        b"!!omap 3",
        b"a: 2001-99-99",
        b"a: 2001-01-01 99:99:99",
        b"a: 0x_",
        b"a: 0b_",
        b"a: 190:99:99:99",
        b"a: " + b"9" * 5000,
        b"training_parameters: {num_epochs: " + b"9" * 5000 + b"}",
        b"[" * 3000,
        b"{a: " * 3000,
        b"- " * 3000,
        b"? " * 3000,
        b"a: |\n" * 50,
        b'"\\ud800"',
        b'a: "\\U00110000"',
        b'a: "\\ud83d"',
        b"=",
        b"<<: 1",
        b"<<: [1]",
        b"a: *nobody",
        b"\t",
        b"a: 1\n\tb: 2",
        bomb(9, 9),
        bomb(30, 2),
        bomb(9, 9, True),
        bomb(25, 2, True),
        b"dataset_parameters: &a {traindir: &b [&c {}, *c, *c]}",
        b"training_parameters: &x\n  seed: 1\nmodel_parameters: *x",
        b"training_parameters:\n  a0: &a0 [1, 1]\n"
        + b"".join(
            b"  a%d: &a%d [%s]\n" % (i + 1, i + 1, b", ".join([b"*a%d" % i] * 9)) for i in range(12)
        )
        + b"  seed: *a12",
        b"#" * 3_000_000,
        b"a: " + b"x" * 3_000_000,
        b"a: [" + b"1, " * 400_000 + b"]",
        b"\n" * 3_000_000,
        "seed: 1".encode("utf-16"),
        b"\0",
    ]
)

steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "cut",
                "flip",
                "flip",
                "drop",
                "double",
                "little",
                "big",
                "noise",
                "head",
                "tail",
                "crc",
            ]
        ),
        st.integers(0, 150) | st.integers(0, 10**5),
        st.integers(1, 255)
        | st.sampled_from([0, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 65500, 9000, 30000]),
    ),
    max_size=4,
)


@st.composite
def configs(draw):
    kind = draw(
        st.sampled_from(["none", "dict", "fitting", "snippet", "bytes", "text", "damaged", "place"])
    )
    if kind == "place":
        file = draw(
            st.sampled_from(
                [
                    ("fifo", None),
                    ("link", b"/dev/zero"),
                    ("link", b"nowhere"),
                    ("link", b"settings.yaml"),
                    ("folder", None),
                    ("socket", None),
                    ("sparse", None),
                    ("none", None),
                    ("locked", None),
                ]
            )
        )
    else:
        file = (
            ("none", None)
            if kind == "none"
            else (
                "bytes",
                dict(
                    dict=lambda: as_yaml(draw(sections)),
                    fitting=lambda: as_yaml(fitting(draw)),
                    snippet=lambda: draw(snippets),
                    bytes=lambda: draw(st.binary(max_size=200)),
                    text=lambda: draw(
                        st.text(alphabet="ab01:-[]{}&*!|>'\"%@`#,? \n\t<=.~", max_size=60)
                    ).encode(),
                    damaged=lambda: damaged_settings(draw(steps)),
                )[kind](),
            )
        )
    overrides = (
        draw(
            st.dictionaries(
                setting_names
                | st.text(min_size=1, max_size=8).filter(lambda k: k not in ("cls", "path")),
                values,
                max_size=3,
            )
        )
        if kind == "none" or draw(st.booleans())
        else {}
    )
    return (*file, overrides)


def damaged_settings(steps) -> bytes:
    from damage import damaged

    with open(f"{os.path.dirname(__file__)}/../configs/demo.yaml", "rb") as f:
        return damaged(f.read(), steps)


@cases(60, 600)
@given(configs())
@example(("fifo", None, {}))
@example(("link", b"/dev/zero", {}))
@example(("bytes", bomb(9, 9, True), {}))
@example(("bytes", b"[" * 3000, {}))
@example(("bytes", b"training_parameters: {seed: 2001-99-99}", {}))
@example(("bytes", b"!!timestamp x", {}))
@example(("bytes", b"training_parameters: {num_epochs: " + b"9" * 5000 + b"}", {}))
@example(("bytes", b"a: " + b"x" * 3_000_000, {}))
@example(("none", None, dict(num_epochs=10**5000)))
@example(("none", None, dict(seed="x" * 100_000)))
def test_config(child, case):
    run(child, "config", case)


# --- pictures

pictures = st.tuples(st.sampled_from(BASES), steps) | st.tuples(
    st.sampled_from([c for c in CRAFTED if not any(word in c for word in ("full", "slow"))]),
    st.just([]) | steps,
)
name_parts = st.sampled_from(
    [
        b"x",
        b"-rf",
        b"--help",
        b"a\nb",
        b"a\tb",
        b"<b>x&amp;",
        b'"quoted"',
        b"o'clock",
        b"`id`",
        b"$(id)",
        b"%s%d{}{0}",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        "é".encode(),
        "e\u0301".encode(),
        "名前".encode(),
        "😀".encode(),
        "\u202egpj".encode(),
        b"a|b",
        b"a,b;c",
        b"*",
        b"?",
        b"\\",
        b"~",
        b" ",
        b"x" * 240,
        b"C:",
        b"con",
        b"=1+1",
        b"\x1b[31m",
        b"\x7f",
        b".",
    ]
) | st.binary(min_size=1, max_size=9).map(lambda b: b.translate(None, b"/\0") or b"y")
picture_names = st.builds(
    lambda part, end: (b"y" if part[:1] == b"." else b"") + part + end,
    name_parts,
    st.sampled_from([b".jpg", b".JPG", b".png", b".gif", b".tiff", b".webp", b".bmp", b".ppm"]),
)


@cases(60, 640)
@given(st.tuples(st.sampled_from([b"x.jpg", b"x.png", b"x.tiff"]) | picture_names, pictures))
@example((b"\xff\xfe.jpg", ("jpeg", [])))
@example((b"x.jpg", ("tiff_16", [("drop", 82, 2), ("tail", 0, 1)])))
def test_picture(child, case):
    run(child, "picture", case)


SLOW = (
    "full",
    "slow",
    "idat",
    "fill",
    "chunks",
)  # words in the names of those that take a second or more


@pytest.mark.parametrize(
    "name", [c for c in CRAFTED if FULL or not any(word in c for word in SLOW)]
)
def test_crafted_picture(child, name):
    run(child, "picture", (b"x.jpg", (name, [])))


# --- folders

folder_names = name_parts | st.sampled_from(
    [b"ann", b"bob", b"ann", b"bob", b".hidden", b"__MACOSX", b"train", b"x.jpg"]
)
contents = st.one_of(
    st.tuples(st.just("picture"), pictures),
    st.tuples(st.just("picture"), pictures),
    st.tuples(
        st.just("link"),
        st.sampled_from(
            [
                b".",
                b"..",
                b"../..",
                b"nowhere",
                b"x.jpg",
                b"/dev/zero",
                b"/dev/stdin",
                b"/proc/self/mem",
                b"../ann",
                b"../bob",
                b"x" * 300,
            ]
        ),
    ),
    st.tuples(
        st.sampled_from(["fifo", "folder", "locked", "locked folder", "sparse", "socket"]),
        st.none(),
    ),
    st.tuples(st.just("deep"), st.sampled_from([1, 3, 400, 1500])),
    st.tuples(st.just("web"), st.sampled_from([2, 4, 9])),
    st.tuples(st.just("bytes"), st.binary(max_size=30)),
)
entry = st.one_of(
    st.tuples(st.tuples(folder_names, picture_names), contents),
    st.tuples(st.tuples(folder_names, folder_names), contents),
    st.tuples(st.tuples(folder_names), contents),
    st.tuples(st.tuples(folder_names, folder_names, picture_names), contents),
).map(lambda e: (e[0], *e[1]))
sound = st.sampled_from(
    [
        (("ann", "a.png"), "picture", ("png", [])),
        (("bob", "b.jpg"), "picture", ("jpeg", [])),
        (("bob", "c.gif"), "picture", ("gif", [])),
    ]
).map(lambda e: (tuple(n.encode() for n in e[0]), *e[1:]))
good_tree = [
    ((b"ann", b"a.png"), "picture", ("png", [])),
    ((b"bob", b"b.jpg"), "picture", ("jpeg", [])),
]


@st.composite
def trees(draw):
    root = draw(
        st.sampled_from(
            [("folder", None)] * 12
            + [
                ("fifo", None),
                ("picture", ("png", [])),
                ("link", b"/dev/zero"),
                ("link", b"nowhere"),
                ("link", b"root"),
                ("locked folder", None),
                ("none", None),
            ]
        )
    )
    if root[0] == "none":
        root = ("link", b"nowhere")
    entries = (
        draw(st.sampled_from([[], good_tree, good_tree, good_tree]))
        + draw(st.lists(entry, max_size=draw(st.sampled_from([0, 1, 4]))))
        if root[0] == "folder"
        else []
    )
    classes = draw(
        st.sampled_from([None] * 5 + [["ann", "bob"], ["bob"], ["ann", "bob", "cyd"], []])
    )
    return (
        root,
        entries,
        classes,
        draw(st.sampled_from(["before", "while it is built"])),
        draw(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(SPOILS)), max_size=2)),
    )


@cases(60, 400)
@given(trees())
@example((("folder", None), [*good_tree, ((b"web",), "web", 9)], None, "before", []))
@example((("folder", None), [*good_tree, ((b"deep",), "deep", 1500)], None, "before", []))
@example(
    (
        ("folder", None),
        [*good_tree, ((b"ann", b"x.jpg"), "link", b"x.jpg")],
        None,
        "before",
        [(2, "loop")],
    )
)
@example((("folder", None), good_tree, None, "before", [(0, "root")]))
@example((("folder", None), good_tree, None, "while it is built", [(0, "device")]))
@example((("folder", None), good_tree, None, "before", [(1, "fifo")]))
@example(
    (("folder", None), [*good_tree, ((b"x.jpg",), "link", b"/proc/self/mem")], None, "before", [])
)
def test_tree(child, case):
    run(child, "tree", case)


# --- arrays and other things that are no path, model files, tables


@cases(40, 100)
@given(
    st.tuples(
        st.sampled_from(
            [
                "array",
                "array",
                "tensor",
                "list",
                "nested",
                "scalar",
                "memory",
                "bytes",
                "object",
                "none",
                "closed",
                "text",
                "unread",
                "name",
                "odd",
            ]
        ),
        st.sampled_from(
            [
                "uint8",
                "uint8",
                "uint8",
                "int32",
                "float32",
                "float64",
                "bool",
                "complex64",
                "U3",
                "M8[s]",
                "O",
            ]
        ),
        st.lists(st.integers(0, 5) | st.just(3), max_size=5).map(tuple),
    )
)
@example(("name", "float64", (4, 4, 4)))
@example(("odd", "uint8", (3,)))
def test_array(child, case):
    run(child, "array", case)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**12, -1, 0, 10**400, "x", "", 2.5])
    | st.floats(),
    lambda v: (
        st.lists(v, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "name", "size", "temperature", "threshold"]), v, max_size=3
        )
    ),
    max_leaves=5,
)
places = st.sampled_from(
    [
        ("classes",),
        ("classes", 0),
        ("architecture",),
        ("architecture", "name"),
        ("architecture", "num_classes"),
        ("architecture", "channels"),
        ("architecture", "channels", 2),
        ("architecture", "hidden"),
        ("architecture", "dropout_rate"),
        ("architecture", "more"),
        ("preprocess",),
        ("preprocess", "size"),
        ("preprocess", "crop"),
        ("preprocess", "mean"),
        ("preprocess", "std"),
        ("preprocess", "std", 0),
        ("preprocess", "resize_rule"),
        ("about",),
        ("about", "calibration"),
        ("about", "data"),
        ("format_version",),
    ]
)
calibrations = st.fixed_dictionaries(
    {}, optional={k: json_values for k in ("temperature", "threshold", "measure", "method", "more")}
)
edits = st.lists(
    st.tuples(places, json_values) | st.tuples(st.just(("about", "calibration")), calibrations),
    min_size=1,
    max_size=1,
)


@cases(40, 150)
@given(st.tuples(st.just([]), steps.filter(len)) | st.tuples(edits, st.just([])))
@example(([(("about", "calibration"), {"threshold": []})], []))
@example(([(("about", "calibration"), {"measure": None})], []))
@example(([(("about",), [{"name": 0, "threshold": 0}])], []))
@example(([(("preprocess", "std", 0), [])], []))
@example(([(("preprocess", "mean"), [])], []))
@example(([(("preprocess", "size"), 10**12)], []))
@example(([(("preprocess", "crop"), 1)], []))
@example(([(("architecture", "hidden"), [])], []))
def test_model(child, case):
    run(child, "model", case)


good_tables = st.sampled_from(
    [
        b"file,action,character\nann/0.png,move,bob\nann/1.png,drop,\nbob/1.png,keep,\n",
        b"file,split,group\n"
        + b"".join(
            b"%s/%d.png,%s,%d\n" % (c, i, [b"train", b"valid"][i % 2], i)
            for c in (b"ann", b"bob")
            for i in range(3)
        ),
    ]
)
texts = st.text(alphabet='file,action\nsplit"\r;x', max_size=60).map(str.encode) | st.binary(
    max_size=50
)


@cases(30, 150)
@given(
    st.tuples(st.just("bytes"), good_tables, steps)
    | st.tuples(st.just("bytes"), texts, st.just([]))
    | st.tuples(
        st.just("bytes"),
        st.sampled_from(
            [
                b'file,action,character\n"' + b"x" * 200_000,
                b"file,split\n" + b"x," * 50_000,
                b"file,split\n\0",
            ]
        ),
        st.just([]),
    )
    | st.tuples(st.sampled_from(["fifo", "folder", "socket"]), st.none(), st.just([]))
    | st.tuples(
        st.just("link"), st.sampled_from([b"/dev/zero", b"nowhere", b"table.csv"]), st.just([])
    )
)
@example(("link", b"/dev/zero", []))
@example(("link", b"table.csv", []))
@example(("bytes", b'"\nc\r', []))
@example(("bytes", b"file,split\n" + b"x," * 50_000, []))
def test_table(child, case):
    run(child, "table", case)
