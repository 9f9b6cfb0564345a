#!/bin/sh
# Makes a virtual environment and installs kdjax with the pinned versions.
# Usage: sh launch/install.sh [EXTRA,...]
#
#   PYTHON   the interpreter (default: python3.11, else python3)
#   VENV     the environment (default: .venv)
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

if [ ! -x "$venv/bin/python" ]; then
  for python in ${PYTHON:-python3.11 python3} none; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      break
    fi
  done
  if [ "$python" = none ]; then
    echo "launch/install.sh: no Python >= 3.11 found; install one, or name" \
      "it: PYTHON=..." >&2
    exit 1
  fi
  "$python" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable ".${1:+[$1]}"
