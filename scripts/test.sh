#!/usr/bin/env bash
# The fast tests: bash scripts/test.sh [pytest arguments]. With -m 'not gpu', also the slow ones.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"
use_venv test
cd "$root"
python -m pytest -m "not slow and not gpu" "$@"
