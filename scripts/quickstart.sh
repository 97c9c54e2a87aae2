#!/usr/bin/env bash
# From a fresh clone to a fitted density and an explorer: makes .venv, installs rlgen, runs the two
# moons (with any arguments given here), and explores the four rooms with and without a bonus.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
use_venv
cd "$root"
python scripts/two_moons.py "$@"
python scripts/train_explorer.py --bonus pseudo none --out runs/explorer
