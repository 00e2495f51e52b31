#!/usr/bin/env bash
# The first hour on a machine with a GPU, or several: everything that runs there in another way than on a CPU, measured.
#
#   runs/first_hour.sh [FOLDER]
#
# Leaves FOLDER/first_hour.json and, the same on a page, FOLDER/first_hour.txt, to send with a report. FOLDER
# (first_hour) needs 30 GB. Weights that are not on this machine come from the Hub: 16 GB of LLaVA, 12 GB of T5-XL.
# Download them first, because a step has 8 minutes: `tessera doctor --online` says how.
set -euo pipefail
folder=$(realpath -m "${1:-first_hour}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
make .venv/.installed-dev
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600  # seconds for a checkpoint after Ctrl-C; torchrun's own are 30
exec .venv/bin/python bench/first_hour.py "$folder"
