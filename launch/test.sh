#!/bin/sh
# Installs kdjax and runs lint, format check and all tests.
set -eu
cd "$(dirname "$0")/.."
sh launch/install.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest --quiet -m "slow or not slow" "$@"
