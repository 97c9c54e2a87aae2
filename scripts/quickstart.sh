#!/usr/bin/env bash
# From a fresh clone to a fitted density: makes .venv, installs rlgen, runs the two moons.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
use_venv
cd "$root"
python scripts/two_moons.py "$@"
