# Sourced by the other scripts. `use_venv [extra]` makes .venv in the repository root, or finds it
# made already, installs rlgen there with the extra ("", "test" or "dev"), and puts it on the PATH.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

# The networks here are small: one thread is faster than several that wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

find_python() {
    local candidate without_venv=""
    local candidates=${PYTHON:-python3.11 python3.12 python3.13 python3 python}
    for candidate in $candidates; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            >/dev/null 2>&1; then
            if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
                echo "$candidate"
                return
            fi
            without_venv=$candidate
        fi
    done
    if [ -n "$without_venv" ]; then
        echo "$without_venv lacks its venv module (Debian, Ubuntu: apt install python3-venv)." >&2
    else
        echo "rlgen needs Python 3.11, 3.12 or 3.13, and found none: $candidates" >&2
    fi
    echo "Install it, or name another: PYTHON=/path/to/python3.12 bash $0" >&2
    return 1
}

# What an installation depends on: these files, and where the repository lies.
fingerprint() {
    "$venv/bin/python" - "$root" <<'PYTHON'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
parts = [(root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
parts += [str(root).encode(), sys.version.encode()]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PYTHON
}

is_installed() {
    local wanted extra
    wanted=$(fingerprint 2>/dev/null) || return 1
    for extra in "$@"; do
        [ "$(cat "$venv/.rlgen-${extra:-base}" 2>/dev/null)" = "$wanted" ] && return
    done
    return 1
}

use_venv() {
    local extra=${1:-} python
    case $extra in # each extra holds the ones before it
        dev) set -- dev ;;
        test) set -- test dev ;;
        *) set -- "" test dev ;;
    esac
    if ! is_installed "$@"; then
        if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
            python=$(find_python) || return 1
            echo "Making $venv with $("$python" --version)"
            "$python" -m venv --clear "$venv" || return 1
        fi
        rm -f "$venv"/.rlgen-*
        echo "Installing rlgen${extra:+ and what its '$extra' extra needs}"
        "$venv/bin/python" -m pip install --disable-pip-version-check \
            --constraint "$root/constraints.txt" --editable "$root${extra:+[$extra]}" || return 1
        fingerprint >"$venv/.rlgen-${extra:-base}"
    fi
    export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv
}
