#!/usr/bin/env bash
# Build the site into _docs: nbdev prepares the pages, scripts/docs.py mends them, Quarto renders.
# Needs Quarto (https://quarto.org) on the PATH. (nbdev_docs would overwrite README.md.)
set -euo pipefail
if ! command -v quarto >/dev/null; then
    echo 'error: quarto is not on the PATH; get it from https://quarto.org/docs/get-started' >&2
    exit 1
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup dev
cd "$root"
python scripts/docs.py
rm -rf _proc _docs
nbdev_proc_nbs
python scripts/docs.py --mend
(cd _proc && quarto render --no-cache)
mv _proc/_docs .
scripts/demo_page.sh _docs/demo
