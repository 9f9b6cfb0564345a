#!/bin/sh
# Installs kdjax and runs the main job on the embedded phantom; run it again to
# go on after a stop. Arguments go to `kdjax train`.
set -eu
cd "$(dirname "$0")/.."
sh launch/install.sh
exec .venv/bin/kdjax train --config configs/quickstart.py \
  --workdir runs/quickstart "$@"
