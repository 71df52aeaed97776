#!/usr/bin/env bash
# Make or reuse .venv with cryoaae and the extras named in $1 ("dev,gui", or "" for none).
# Sourced by demo.sh and test.sh; installs again only when the requirements changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra="$1"
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if ! { [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    for python in ${CRYOAAE_PYTHON:-python3 python3.13 python3.12 python3.11}; do
        new_enough "$python" && break
        python=""
    done
    if [ -z "$python" ]; then
        echo "cryoaae needs Python 3.11 or newer; install it, or set CRYOAAE_PYTHON to one" >&2
        exit 2
    fi
    "$python" -m venv --clear .venv || {
        echo "cannot make .venv; on Debian and Ubuntu install the package python3-venv" >&2
        exit 2
    }
fi

wanted="$(cat pyproject.toml constraints.txt | sha256sum)"
stamp=".venv/.installed-${extra:-core}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || [ ! -x .venv/bin/cryoaae ]; then
    pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt)
    # torch first: its version decides between the CPU build and gigabytes of CUDA.
    echo "installing into .venv: 1/2 torch (the largest part, a few minutes the first time) ..."
    "${pip[@]}" torch
    echo "installing into .venv: 2/2 everything else ..."
    "${pip[@]}" -e ".${extra:+[$extra]}"
    rm -f .venv/.installed-*
    # What an extra needs holds all that is needed without it.
    echo "$wanted" | tee "$stamp" > .venv/.installed-core
fi
