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


def scores_of(run: Path) -> pd.DataFrame:
    "One row: what the run reports of its validation pictures"
    report = json.loads((run / "model/report.json").read_text(encoding="utf-8"))
    scores = report["validation"]
    row = dict(pictures=scores["pictures"], best_epoch=report["best_epoch"])
    for name in SCORES:
        row[name] = scores[name]
        row[f"{name}_low"], row[f"{name}_high"] = scores[f"{name}_interval"]
    return pd.DataFrame([row]).round(4)


def history_of(run: Path) -> pd.DataFrame:
    "A row per epoch, without the seconds, which tell of a shared machine"
    history = pd.read_csv(run / "model/history.csv")
    return history.drop(columns="seconds").round(4)


def characters_of(run: Path) -> pd.DataFrame:
    "A row per character: how many pictures were judged, and the share named rightly"
    report = json.loads((run / "model/report.json").read_text(encoding="utf-8"))
    table = pd.DataFrame(report["validation"]["table"])
    return table[["character", "pictures", "recall", "precision", "f1"]].round(4)


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
    runs = {folder.name: folder for folder in map(Path, folders)}
    for name, table_of in dict(
        scores=scores_of, epochs=history_of, characters=characters_of
    ).items():
        keep(name, {run: table_of(folder) for run, folder in runs.items()})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
