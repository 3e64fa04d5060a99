"""Keep the scores of runs for the page *Which network?*: numbers only, no pictures or weights.

python scripts/record_runs.py RUN [RUN ...]      # folders such as runs/simpsons-fast-0

A folder is named by its recipe and its seed. What was kept of a run of this name is replaced.
"""

import json
import sys
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent.parent / "nbs/tutorials/results"
SCORES = ("accuracy", "macro_f1", "macro_f1_common")


def scores_of(report: dict) -> pd.DataFrame:
    "One row: what a run reports of its validation pictures"
    scores = report["validation"]
    row = dict(pictures=scores["pictures"], best_epoch=report["best_epoch"])
    for name in SCORES:
        row[name] = scores[name]
        row[f"{name}_low"], row[f"{name}_high"] = scores[f"{name}_interval"]
    return pd.DataFrame([row]).round(4)


def characters_of(report: dict) -> pd.DataFrame:
    "A row per character: how many pictures were judged, and how well they were named"
    table = pd.DataFrame(report["validation"]["table"])
    return table[["character", "pictures", "recall", "precision", "f1"]].round(4)


def tables_of(run: Path) -> dict:
    "What is kept of a run; without its seconds, which tell of a shared machine"
    report = json.loads((run / "model/report.json").read_text(encoding="utf-8"))
    history = pd.read_csv(run / "model/history.csv").drop(columns="seconds").round(4)
    return dict(scores=scores_of(report), epochs=history, characters=characters_of(report))


def keep(name: str, tables: dict):
    "Replace the rows of these runs in a file; the others stay"
    path = RESULTS / f"{name}.csv"
    new = [table.assign(run=run)[["run", *table]] for run, table in tables.items()]
    old = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["run"])
    rows = pd.concat([old[~old.run.isin(list(tables))], *new])
    rows = rows.convert_dtypes()
    rows.sort_values("run", kind="stable").to_csv(path, index=False)


def main(folders: list):
    RESULTS.mkdir(exist_ok=True)
    runs = {folder.name: tables_of(folder) for folder in map(Path, folders)}
    for name in ("scores", "epochs", "characters"):
        keep(name, {run: tables[name] for run, tables in runs.items()})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
