#!/usr/bin/env bash
# Train, after setting up .venv if need be.
#   ./scripts/train.sh                                  on the ten drawn characters
#   ./scripts/train.sh configs/simpsons.yaml            with the settings of a file
#   ./scripts/train.sh [CONFIG] --num_epochs 3 …        with some settings changed
# Paths are relative to the folder it is called from. `--help` lists all settings.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup run

draw=yes
for arg in "$@"; do
    case "$arg" in
        demo.yaml|*/demo.yaml) ;;
        *.yaml|*.yml|--traindir|--traindir=*|--verify|--verify=*|-h|--help) draw=no ;;
    esac
done
if [ "$draw" = yes ] && [ ! -d data/demo/train ]; then simpsons_data data/demo --demo; fi
exec simpsons_train "$@"
