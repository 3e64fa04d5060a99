#!/usr/bin/env bash
# Make the live demo of the site: a page that names the ten drawn characters in the browser.
#   ./scripts/demo_page.sh FOLDER      # new or empty; a minute on two cores
# `python -m http.server --directory FOLDER` then shows it.
set -euo pipefail
if [ $# -ne 1 ]; then
    echo 'error: name the folder to write the page to' >&2
    exit 2
fi
folder="$(realpath -m "$1")"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup dev
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
simpsons_data data/demo --demo
simpsons_train --out run
simpsons_export run/model/model.safetensors --web "$folder" --pictures data/demo/test --examples data/demo/test
