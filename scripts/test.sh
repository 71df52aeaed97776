#!/usr/bin/env bash
# Lint, types, layers and all tests; says at the end what was skipped and why.
# Tests on public data run where CRYOAAE_DATA names its folder.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh dev

.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/lint-imports
exec .venv/bin/python -m pytest "$@"
