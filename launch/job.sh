#!/bin/sh
# What every launcher runs on every machine: fetches the data, trains, and has
# the first process publish the report. Run again, it goes on.
#
#   CONFIG       config file, or FILE:SIZE
#   WORKDIR      a folder or gs://...
#   DATA         folder of images or gs://...; empty: what the config says
#   REPORT       where the report goes as well, a folder or gs://...; empty: nowhere
#   FLAGS        more flags of kdjax train, split at spaces
#   PROCESSES, PROCESS, COORDINATOR   of many machines, see kdjax train --help
#   XLA_PYTHON_CLIENT_MEM_FRACTION   of GPUs: the part of memory JAX may have
#   BIN          where kdjax is installed, .venv/bin unless set
set -euf
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}

set -- --config "${CONFIG:?is not set}" --workdir "${WORKDIR:?is not set}"
if [ -n "${DATA:-}" ]; then
  "$bin/python" launch/fetch.py "$DATA" data
  set -- "$@" --config.data.name=folder --config.data.dir=data
fi
[ "${PROCESSES:-1}" = 1 ] || set -- "$@" --processes "$PROCESSES" \
  --process "$PROCESS"
[ -z "${COORDINATOR:-}" ] || set -- "$@" --coordinator "$COORDINATOR"

# A notice of preemption goes on to kdjax, which saves and leaves.
# shellcheck disable=SC2086
"$bin/kdjax" train "$@" ${FLAGS:-} &
train=$!
trap 'kill -TERM "$train"' TERM INT
status=0
wait "$train" || status=$?
if kill -0 "$train" 2>/dev/null; then
  status=0
  wait "$train" || status=$?
fi
[ "$status" = 0 ] || exit "$status"

if [ -n "${REPORT:-}" ] && [ "${PROCESS:-0}" = 0 ]; then
  "$bin/kdjax" report "$WORKDIR" --out "$REPORT"
fi
