#!/usr/bin/env bash
# Set up .venv if need be, then check everything: clean notebooks, exported modules, README, every
# notebook, the commands, and what only whole processes show: killed runs, full disks, JupyterLab.
#   ./scripts/test.sh                       all of it
#   ./scripts/test.sh --full                the same, with the long form of the last part
#   ./scripts/test.sh data/06_store lab     only these notebooks, or all of a room
# Two notebooks or tests run at a time where there are two processors or more, each on one thread.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup dev
cd "$root"
if [ "${1:-}" = --full ]; then export FULL=1; shift; fi
workers=1
if [ "$(env -u OMP_NUM_THREADS nproc)" -gt 1 ]; then workers=2; fi
export MPLBACKEND=Agg OMP_NUM_THREADS=1
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
failed=0

echo '== notebooks are clean, and the package is what they export'
cp -r nbs simpsons_cnn settings.ini setup.py README.md "$tmp"
(cd "$tmp" && nbdev_clean && nbdev_export)
if ! diff -r -q -x .ipynb_checkpoints -x _proc -x sidebar.yml nbs "$tmp/nbs"; then
    echo 'error: notebooks are not clean; run nbdev_clean' >&2
    exit 1
fi
if ! diff -r -x __pycache__ simpsons_cnn "$tmp/simpsons_cnn"; then
    echo 'error: simpsons_cnn/ is not what the notebooks export; edit nbs/ and run nbdev_export' >&2
    exit 1
fi
python scripts/readme.py --check

echo "== the code passes ruff's checks"
ruff format --check .
ruff check .
# In a notebook a star import hides undefined names; the modules have none.
ruff check --isolated --select F821,F811,F401 --exclude '*/__init__.py' simpsons_cnn

echo '== notebooks run'
flags=""
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then flags=cuda; else echo 'no CUDA device here: cells marked cuda are skipped'; fi
# A name is a notebook such as data/06_store, or a whole room such as data.
# nbs/ru holds the code of the tutorials, which is run there.
notebooks=()
for nb in nbs/*.ipynb nbs/*/*.ipynb; do
    case "$nb" in nbs/ru/*) ;; *) notebooks+=("$nb") ;; esac
done
if [ $# -gt 0 ]; then
    notebooks=()
    for name in "$@"; do
        if [ -d "nbs/$name" ]; then notebooks+=("nbs/$name"/*.ipynb)
        elif [ -f "nbs/$name.ipynb" ]; then notebooks+=("nbs/$name.ipynb")
        else echo "error: no notebook nbs/$name.ipynb and no room nbs/$name" >&2; exit 1; fi
    done
fi
mkdir "$tmp/logs"
python scripts/notebooks.py --workers "$workers" --flags "$flags" "$tmp/logs" "${notebooks[@]}" || failed=1

if [ $# -eq 0 ]; then
    echo "== whole processes, README's commands among them${FULL:+; the long form}"
    python -m pytest -q -rs -p no:cacheprovider -n "$workers" --dist worksteal --durations 15 \
        tests || failed=1
fi

[ "$failed" -eq 0 ]
