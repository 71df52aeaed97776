#!/usr/bin/env bash
# Lint, types, layers and all tests; says at the end what was skipped and why.
# Tests on public data run where CRYOAAE_DATA names its folder; those of the napari plugin's windows
# on a display, or on one in memory where xvfb-run is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh dev,gui

.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/lint-imports
screen=()
if [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v xvfb-run >/dev/null; then
    screen=(xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" env LIBGL_ALWAYS_SOFTWARE=1)
fi
# Two processes of one thread each: most tests wait for imports and small loops, few for matrices.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec ${screen[@]+"${screen[@]}"} .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
