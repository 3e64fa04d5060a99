"""Try the library on one bad input after another in a child process, within limits.

An attempt ends in success, in a refusal (one of our own errors) or foul: any other error, a wrong
result, too much time or memory, a warning, or the end of the process. A child that was killed or
is stuck is replaced by a new one.
"""

import dis
import io
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from simpsons_cnn.core.text import safe_str

# The limits of each attempt: seconds of processor time, so that a busy machine does no harm, and
# MiB above what the child held before.
SECONDS, MEGABYTES = 5, 1280
PATIENCE = 30  # seconds on the clock, after which a child is stuck

OWN = (
    ValueError,
    TypeError,
    FileNotFoundError,
    NotADirectoryError,
    FileExistsError,
    PermissionError,
    OSError,
)


class Foul(AssertionError):
    "What must never happen"


# --- the side of the tests


class Child:
    "A process that tries cases; `run` returns the (attempt, outcome) pairs of one or raises `Foul`"

    def __init__(self):
        self.process = None

    def start(self):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["simpsons_cnn.training.train"])  # a new child starts soon
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self._hear(120)

    def stop(self):
        if not self.process:
            return
        self.pipe.close()
        self.process.join(3)  # it ends by itself, unless it is stuck
        self.process.kill()
        self.process.join()
        self.process = None

    def _hear(self, seconds):
        if not self.pipe.poll(seconds):
            raise TimeoutError
        return self.pipe.recv()

    def run(self, target: str, case) -> list:
        if self.process is None:
            self.start()
        what, done, fouls = "making the case", [], []

        def foul(why):
            return Foul(f"{target}, {what}: {why}\ncase: {case!r}")

        try:
            self.pipe.send((target, case))
            while True:
                word, *rest = self._hear(PATIENCE)
                if word == "start":
                    (what,) = rest
                if word == "done":
                    done.append((what, rest[0]))
                    fouls += [foul(rest[1])] * (rest[0] == "foul")
                    what = "making the case"
                if word == "end" and fouls:
                    raise fouls[0]
                if word == "end":
                    return done
        except TimeoutError:
            self.stop()
            raise foul(f"no answer within {PATIENCE} s") from None
        except (EOFError, ConnectionError):
            self.process.join(5)
            code = self.process.exitcode
            self.stop()
            raise foul(f"the process ended with {code}") from None


# --- the side of the child


def _memory() -> tuple:  # (most resident memory since the last call, resident memory now), in MiB
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    return [int(status[k].split()[0]) / 1024 for k in ("VmHWM", "VmRSS")]


def foul_of(e: BaseException, names) -> str:
    "Why an error is not one of ours; empty if it is"
    tb = e.__traceback__
    while tb.tb_next:
        tb = tb.tb_next
    code = tb.tb_frame.f_code
    op = next(o for o in dis.get_instructions(code) if o.offset == tb.tb_lasti)
    if type(e) not in OWN and not type(e).__module__.startswith("simpsons_cnn"):
        return "it is of a type that is not for users"
    if (
        Path(code.co_filename).parent.parent.name != "simpsons_cnn"
        or op.opname != "RAISE_VARARGS"
        or not op.arg
    ):
        return f"it was raised below, in {code.co_filename}"
    if e.__cause__ or (e.__context__ and not e.__suppress_context__):
        return "it shows another error that led to it"
    if "MemoryError" in str(e):
        return "memory ran out"
    if len(str(e)) > 20_000:
        return f"its message has {len(str(e)):,} characters"
    if not any(name in str(e) or safe_str(name) in str(e) for name in names):
        return f"its message names none of {names}"
    return ""


class Attempts:
    "Calls that are watched and told of"

    def __init__(self, pipe):
        self.pipe = pipe

    def __call__(self, what: str, names, f, *args, **kwargs):
        self.pipe.send(("start", what))
        _, before = _memory()
        value, outcome, why = None, "success", ""
        start = time.process_time()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                value = f(*args, **kwargs)
            except BaseException as e:
                outcome = type(e).__name__
                why = foul_of(e, names)
                if why:
                    why = f"{why}\n{''.join(traceback.format_exception(e))[-3000:]}"
        seconds = time.process_time() - start
        most, _ = _memory()
        if not why and most - before > MEGABYTES:
            why = f"it took {most - before:,.0f} MiB"
        if not why and seconds > SECONDS:
            why = f"it took {seconds:.1f} s"
        if not why and warned:
            why = f"it warned: {warned[0].message} ({warned[0].filename})"
        self.pipe.send(("done", "foul" if why else outcome, why))
        return value


def _serve(pipe):
    import torch

    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        os.dup2(null, fd)  # libtiff speaks up by itself
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tools = _Tools(Path(tempfile.mkdtemp()))
    pipe.send(("ready",))
    attempt = Attempts(pipe)
    try:
        while True:
            target, case = pipe.recv()
            folder = tools.folder / "case"
            folder.mkdir()
            try:
                globals()[f"try_{target}"](attempt, tools, folder, case)
            except Exception:
                pipe.send(("done", "foul", f"the test itself failed\n{traceback.format_exc()}"))
            _remove(folder)
            pipe.send(("end",))
    except EOFError:
        pass
    finally:
        shutil.rmtree(tools.folder, ignore_errors=True)


def _remove(folder):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        shutil.rmtree(folder)
    finally:
        sys.setrecursionlimit(limit)


class _Tools:
    "What all cases share: a small network and its file"

    def __init__(self, folder):
        import torch

        from simpsons_cnn.data.preprocess import Preprocess
        from simpsons_cnn.inference.classifier import Classifier
        from simpsons_cnn.networks.model_file import save_model
        from simpsons_cnn.networks.reference import SimpsonsCNN

        self.folder = folder
        torch.manual_seed(0)
        save_model(
            folder / "good.safetensors",
            SimpsonsCNN(3, channels=(4,) * 6, hidden=(5, 4)),
            ["ann", "bob", "cyd"],
            Preprocess(64),
        )
        self.clf = Classifier.load(folder / "good.safetensors", "cpu")


def _check_prediction(p, show=True):
    assert p.probabilities.shape == (len(p.classes),) and abs(p.probabilities.sum() - 1) < 1e-4, (
        p.probabilities
    )
    if show:
        (repr(p) + p._repr_html_()).encode()
    return p


def _check_predictions(answers):
    if not isinstance(answers, list):
        return _check_prediction(answers)
    for p in answers:
        _check_prediction(p, show=False)
    return answers


def _show(answers, folder):
    (repr(answers) + answers._repr_html_()).encode()
    if isinstance(answers, list):
        answers.to_csv(folder / "answers.csv", k=2)


# --- what is tried


def try_watch(attempt, tools, folder, case):
    "What must be noticed, to see that it is"
    import warnings

    def busy():
        end = time.process_time() + SECONDS + 1
        while time.process_time() < end:
            pass

    def below():
        return tools.clf.predict([{}["missing"]])

    def unnamed():
        return tools.clf.predict([])

    attempt(
        case,
        ["name"],
        dict(
            crash=os.abort,
            leave=lambda: os._exit(0),
            busy=busy,
            greedy=lambda: bytearray(b"x") * (MEGABYTES + 50) * 2**20,
            below=below,
            unnamed=unnamed,
            warning=lambda: warnings.warn("odd", stacklevel=1),
            stuck=lambda: time.sleep(PATIENCE + 9),
        )[case],
    )


def try_config(attempt, tools, folder, case):
    from damage import put

    from simpsons_cnn.core.config import Config, setting_sections

    kind, value, overrides = case
    path = folder / "settings.yaml"
    names = [
        "settings.yaml",
        *setting_sections(),
        *Config.model_fields,
        *[repr(k)[1:-1] for k in overrides],
    ]
    if kind != "none":
        put(os.fsencode(path), kind, value)

    def load():
        return Config.load(None if kind == "none" else path, **overrides)

    config = attempt("load", names, load)
    if config is None:
        return

    def again():
        config._repr_markdown_(), repr(config), config.flat()
        config.save(folder / "saved.yaml")
        assert Config.load(folder / "saved.yaml") == config

    attempt("save and load again", names, again)


def try_picture(attempt, tools, folder, case):
    import damage

    from simpsons_cnn.data.folders import ImageFiles
    from simpsons_cnn.data.store import PixelStore

    name, of = case
    data = damage.picture(of)
    root = folder / "root"
    for place in ("ann/good.png", "bob/good.png"):
        damage.put(os.fsencode(root / place), "bytes", damage.base("png"))
    path = root / "ann" / os.fsdecode(name)
    damage.put(os.fsencode(path), "bytes", data)
    clf = tools.clf
    alone = attempt(
        "predict a path", [path.name], lambda: _check_prediction(clf.predict(path), show=False)
    )
    attempt("predict bytes", ["picture"], lambda: _check_prediction(clf.predict(data)))
    attempt(
        "predict an open file",
        ["picture"],
        lambda: _check_prediction(clf.predict(io.BytesIO(data))),
    )

    def predict_folder():
        answers = _check_predictions(clf.predict(root))
        assert len(answers) == (2 if alone is None else 3) and set(answers.unreadable) == (
            {str(path)} if alone is None else set()
        ), (len(answers), answers.unreadable)
        return answers

    answers = attempt("predict a folder", [path.name], predict_folder)
    attempt("show", [path.name], _show, answers, folder)
    files = attempt("scan", ["name"], ImageFiles.scan, root)
    if files is None:
        return

    def build(skip):
        store = PixelStore.build(files, size=64, skip_unreadable=skip)
        assert (
            len(store) + len(store.unreadable) == 3
            and store.pixels.shape[1:] == (3, 64, 64)
            and len(store.labels) == len(store) == len(store.files)
        )
        assert (
            set(store.unreadable) <= {f"ann/{path.name}"}
            and (store.pixels[-1].numpy() == clf.preprocess(root / "bob/good.png").numpy()).all()
        )
        return store

    attempt("build", [path.name], build, False)
    attempt("build, skipping", [path.name], build, True)


def try_tree(attempt, tools, folder, case):  # noqa: C901  one branch per kind of fault
    import damage

    import simpsons_cnn.data.store as pixels
    from simpsons_cnn.data.fixes import apply_fixes, record_fix
    from simpsons_cnn.data.folders import ImageFiles
    from simpsons_cnn.quality.split import load_split, save_split

    root, entries, classes, when, spoils = case
    top = folder / "root"
    names = ["root"]
    damage.put(os.fsencode(top), *root)
    for place, kind, value in entries:
        damage.put(os.path.join(os.fsencode(top), *place), kind, value)

    def scan():
        files = ImageFiles.scan(top, classes)
        repr(files), files.table, files._repr_markdown_(), files.missing
        assert len(files) == len(files.labels) == len(files.names) and files.counts.sum() == len(
            files
        )
        return files

    files = attempt("scan", names, scan)
    answers = attempt("predict", names, lambda: _check_predictions(tools.clf.predict(top)))
    if answers is not None:
        attempt("show", names, _show, answers, folder)
    if not files:
        return

    def spoil():
        for i, how in spoils:
            damage.spoil(files.paths[i % len(files)], how)

    def build(when=None, skip=True, within=None):
        decode = pixels._decode_all

        def decode_spoilt(*args):
            spoil()
            pixels._decode_all = decode
            return decode(*args)

        if when == "while it is built":
            pixels._decode_all = decode_spoilt
        try:
            store = pixels.PixelStore.build(files, size=64, skip_unreadable=skip, folder=within)
        finally:
            pixels._decode_all = decode
        assert len(store) + len(store.unreadable) == len(files) and len(store.pixels) == len(store)
        return store

    if when == "before":
        spoil()
    store = attempt("build", [*names, *files.names], build, when, True, folder / "kept")
    again = attempt("build again", [*names, *files.names], build, None, False, folder / "kept")
    if again and store and when != "while it is built":
        assert (again.pixels.numpy() == store.pixels.numpy()).all()

    def fixes():
        record_fix(folder / "fixes.csv", files.names[0], "drop")
        record_fix(folder / "fixes.csv", files.names[-1], "move", files.classes[0])
        apply_fixes(files, folder / "fixes.csv")

    attempt("fixes", ["fix"], fixes)

    def split():
        save_split(folder / "split.csv", files, range(len(files)), [0])
        assert list(load_split(folder / "split.csv", files)[1]) == [0]

    attempt("split", ["split.csv", *names], split)


def try_array(attempt, tools, folder, case):
    import numpy as np
    import torch

    kind, dtype, shape = case

    def make():
        x = np.zeros(shape, np.dtype(dtype))
        return dict(
            array=lambda: x,
            tensor=lambda: (
                torch.from_numpy(x)
                if dtype in ("uint8", "int32", "float32", "float64", "bool", "complex64")
                else x
            ),
            list=lambda: list(x) if x.ndim else [x],
            nested=lambda: x.tolist(),
            scalar=lambda: x.ravel()[:1].tolist() and x.ravel()[0],
            memory=lambda: memoryview(x.tobytes()),
            bytes=lambda: x.tobytes(),
            object=object,
            none=lambda: None,
            closed=lambda: (f := io.BytesIO(x.tobytes()), f.close())[0],
            text=lambda: io.StringIO("text"),
            unread=lambda: open(os.devnull, "wb"),
            name=lambda: "x" * len(x.tobytes()),
            odd=lambda: "\0\ud800",
        )[kind]()

    source = make()

    def predict():
        p = tools.clf.predict(source)
        for q in p if isinstance(p, list) else [p]:
            _check_prediction(q)

    attempt("predict", ["picture", "Picture", "array", "cannot be read"], predict)


def try_model(attempt, tools, folder, case):
    import json

    import damage
    import numpy as np
    from safetensors import safe_open

    from simpsons_cnn.core.tensors import write_tensors
    from simpsons_cnn.inference.classifier import Classifier

    edits, steps = case
    path = folder / "m.safetensors"
    with safe_open(tools.folder / "good.safetensors", "pt") as f:
        header = json.loads(f.metadata()["simpsons_cnn"])
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  the file is no dict
    for (*above, last), value in edits:  # a header that says something else, rightly signed
        place = header
        for key in above:
            place = place[key]
        place[last] = value
    write_tensors(path, tensors, {k: v for k, v in header.items() if k != "sha256"})
    path.write_bytes(damage.damaged(path.read_bytes(), steps))
    clf = attempt("load", ["m.safetensors", "calibration"], Classifier.load, path, "cpu")
    if clf is None:
        return

    def use():
        repr(clf)
        _check_prediction(clf.predict(np.zeros((70, 80, 3), np.uint8)))
        clf.save(folder / "again.safetensors")

    attempt("use", ["model", "picture"], use)


def try_table(attempt, tools, folder, case):
    import damage

    from simpsons_cnn.data.fixes import apply_fixes
    from simpsons_cnn.data.folders import ImageFiles
    from simpsons_cnn.quality.split import load_split

    kind, data, steps = case
    root = folder / "root"
    path = folder / "table.csv"
    for c in "ann", "bob":
        for i in range(3):
            damage.put(os.fsencode(root / c / f"{i}.png"), "bytes", damage.base("png"))
    files = ImageFiles.scan(root)
    damage.put(
        os.fsencode(path),
        *(("bytes", damage.damaged(data, steps)) if kind == "bytes" else (kind, data)),
    )
    attempt("fixes", ["table.csv", "fix"], apply_fixes, files, path)
    attempt("split", ["table.csv"], load_split, path, files)
