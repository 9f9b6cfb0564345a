#!/bin/sh
# Installs kdjax and runs the main job on the embedded phantom; run it again to
# go on after a stop. Arguments go to `kdjax train`.
set -eu
cd "$(dirname "$0")/.."
echo "Installing kdjax into .venv (about 3 minutes the first time), then" \
  "training the study on simulated images into runs/quickstart (within" \
  "ten minutes on two cores; stop and start it again at will)." >&2
sh launch/install.sh
exec .venv/bin/kdjax train --config configs/quickstart.py \
  --workdir runs/quickstart "$@"
