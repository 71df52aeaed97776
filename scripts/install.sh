#!/usr/bin/env bash
# Make or reuse .venv with cryoaae and the extras named in $1 (for instance "dev").
# Sourced by demo.sh and test.sh; installs again only when the requirements changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="${1:-}"
python="${CRYOAAE_PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "cryoaae needs Python 3.11 or newer; set CRYOAAE_PYTHON to one" >&2
    exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
stamp=".venv/.installed-${extras:-core}"
wanted="$(cat pyproject.toml constraints.txt | sha256sum)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || [ ! -x .venv/bin/cryoaae ]; then
    echo "installing into .venv (a few minutes the first time) ..."
    # torch first: its version decides between the CPU build and gigabytes of CUDA.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extras:+[$extras]}"
    echo "$wanted" > "$stamp"
fi
