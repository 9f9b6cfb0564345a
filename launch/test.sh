#!/bin/sh
# Installs kdjax and runs lint, format check and all tests.
#
#   EXTRAS   more to install, whose tests are skipped without: plan (compiles
#            for TPUs), peer (compares with PyTorch)
#   PYTHON, VENV   see launch/install.sh
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
sh launch/install.sh "test,pretrained,export,gcs${EXTRAS:+,$EXTRAS}"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
# A file's tests share what they train, so they stay on one worker; conftest.py
# says which files come first.
"$venv/bin/python" -m pytest --quiet --numprocesses 2 --dist loadfile \
  --no-loadscope-reorder \
  -m "slow or not slow" --durations 10 "$@"
