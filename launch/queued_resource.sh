#!/bin/bash
# A spot TPU slice by gcloud alone: asks for one, trains, asks again after a
# preemption, brings the report back. Run it in a clone of the repository.
#
#   NAME=kdjax ZONE=us-west4-a CONFIG=configs/paper.py \
#     WORKDIR=gs://BUCKET/runs/paper bash launch/queued_resource.sh
#
# TYPE (v5litepod-16) and RUNTIME are the slice's; DATA and FLAGS (bfloat16 unless
# set) are those of launch/job.sh; the report comes to OUT (results/NAME).
set -euo pipefail
cd "$(dirname "$0")/.."
: "${NAME:=kdjax}" "${ZONE:?is not set}" "${CONFIG:?is not set}"
: "${WORKDIR:?is not set}" "${TYPE:=v5litepod-16}"
: "${RUNTIME:=v2-alpha-tpuv5-lite}" "${OUT:=results/$NAME}" "${WAIT:=30}"
tpus=(gcloud compute tpus)

state() {
  "${tpus[@]}" queued-resources describe "$NAME" --zone "$ZONE" \
    --format 'value(state.state)' 2>/dev/null || echo NONE
}

remove() {
  "${tpus[@]}" queued-resources delete "$NAME" --zone "$ZONE" --force --quiet
}

acquire() {
  while :; do
    case $(state) in
      ACTIVE) return ;;
      NONE)
        "${tpus[@]}" queued-resources create "$NAME" --node-id "$NAME" \
          --zone "$ZONE" --accelerator-type "$TYPE" \
          --runtime-version "$RUNTIME" --spot
        ;;
      FAILED | SUSPENDED) remove ;;
    esac
    sleep "$WAIT"
  done
}

# A process a host, which sees its own four chips alone.
settings=(CONFIG="$CONFIG" WORKDIR="$WORKDIR" DATA="${DATA:-}"
  FLAGS="${FLAGS---config.engine.dtype=bfloat16}" COORDINATOR=auto
  "TPU_PROCESS_BOUNDS=1,1,1" "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1"
  "TPU_VISIBLE_CHIPS=0,1,2,3")
job="mkdir -p kdjax && tar xzf kdjax.tgz -C kdjax && cd kdjax &&
  sh launch/install.sh tpu,gcs && env $(printf '%q ' "${settings[@]}") \
  sh launch/job.sh"

code=$(mktemp -d)
trap 'rm -r "$code"' EXIT
git archive --format tgz --output "$code/kdjax.tgz" HEAD
while :; do
  acquire
  if "${tpus[@]}" tpu-vm scp "$code/kdjax.tgz" "$NAME:" --zone "$ZONE" \
    --worker all --quiet && "${tpus[@]}" tpu-vm ssh "$NAME" --zone "$ZONE" \
    --worker all --quiet --command "$job"; then
    break
  fi
  sleep "$WAIT"
  if [ "$(state)" = ACTIVE ]; then
    echo "$0: the job failed on a slice that lives: see above." >&2
    exit 1
  fi
done
remove
mkdir -p "$OUT"
gcloud storage cp --recursive "$WORKDIR/report/*" "$OUT"
