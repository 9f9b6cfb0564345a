#!/bin/sh
# Installs kdjax and runs lint, format check and all tests.
set -eu
cd "$(dirname "$0")/.."
sh launch/install.sh test,pretrained,export,gcs
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# A file's tests share what they train, so they stay on one worker.
.venv/bin/python -m pytest --quiet --numprocesses 2 --dist loadfile \
  -m "slow or not slow" --durations 10 "$@"
