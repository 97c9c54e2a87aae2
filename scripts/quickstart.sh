#!/usr/bin/env bash
# From a fresh clone to a fitted density, an explorer and a distribution over policies: makes .venv,
# installs rlgen, runs the two moons (with any arguments given here), explores the four rooms with
# and without a bonus, and learns many ways over an open world.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
use_venv
cd "$root"
python scripts/two_moons.py "$@"
python scripts/train_explorer.py --bonus pseudo none --out runs/explorer
python scripts/train_vfunc.py --steps 150000 --out runs/vfunc
