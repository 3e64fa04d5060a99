"Run notebooks, each in a process of its own: `python scripts/notebooks.py LOGS NOTEBOOK…`"

import argparse
import gc
import importlib
import os
import sys
import time
from pathlib import Path

from commands import forked_commands, run_and_end, take_cpu
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.test import test_nb

# Most notebooks import these, which takes longer than what most of them do then. So they are
# imported once, and the process of a notebook is a fork of this one. Nothing is computed before:
# a fork made after a convolution hangs at its own. No module of the library is among them; what a
# notebook forgets to import is missing there.
SHARED = [
    "torch",
    "torch._dynamo",  # optimizers import it
    "pandas",
    "sklearn.metrics",
    "sklearn.model_selection",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "ipywidgets",
    "PIL.Image",
    "pydantic.main",
    "pydantic.fields",
    "nbdev.showdoc",
    "fastcore.test",
]


def import_shared():
    "Prepare this process for its forks"
    for name in SHARED:
        importlib.import_module(name)
    NbdevLookup()  # the table in which `show_doc` looks names up is kept
    gc.freeze()  # a fork's garbage collector visits, and so copies, none of it


def run_notebook(notebook: Path, log: Path, flags: list) -> bool:
    "Run a notebook as `nbdev_test` does, with all output in `log`; whether it passed"
    with open(log, "wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    take_cpu()
    config = get_config()
    return test_nb(notebook, config.tst_flags.split(), flags, basepath=config.config_path)[0]


def start(notebook: Path, log: Path, flags: list) -> int:
    "The id of a new process that runs a notebook, and exits with 0 if it passed"
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        run_and_end(lambda: not run_notebook(notebook.absolute(), log, flags))
    return pid


def wait_for_one(running: dict) -> bool:
    "Wait until a notebook ends, and report it; whether it passed"
    pid, status, used = os.wait4(-1, 0)
    notebook, log, started = running.pop(pid)
    code = os.waitstatus_to_exitcode(status)
    elapsed, computed = time.monotonic() - started, used.ru_utime + used.ru_stime
    outcome = "FAILED " if code else "ok     "
    print(f"{outcome} {notebook} ({elapsed:.0f} s, {computed:.1f} s of CPU)", flush=True)
    if code:
        print(log.read_text(errors="replace"), f"exit code {code}", sep="\n", flush=True)
    return code == 0


def run_all(notebooks: list, logs: Path, flags: list, workers: int) -> list:
    "Run notebooks, so many at a time; whether each passed, in the order in which they ended"
    running, passed = {}, []
    for notebook in notebooks:
        if len(running) == workers:
            passed.append(wait_for_one(running))
        log = logs / f"{'_'.join(notebook.parts)}.log"
        running[start(notebook, log, flags)] = notebook, log, time.monotonic()
    while running:
        passed.append(wait_for_one(running))
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1, help="notebooks at a time")
    parser.add_argument("--flags", default="", help="run cells marked so, which are skipped")
    parser.add_argument("logs", type=Path, help="a folder for their output")
    parser.add_argument("notebooks", type=Path, nargs="+")
    args = parser.parse_args()
    import_shared()
    args.logs.mkdir(parents=True, exist_ok=True)
    with forked_commands():
        passed = run_all(args.notebooks, args.logs, args.flags.split(), args.workers)
    gc.unfreeze()
    print(f"notebooks: {sum(passed)} passed, {passed.count(False)} failed")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
