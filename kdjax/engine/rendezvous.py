"""Where the processes of a run meet: `python -m kdjax.engine.rendezvous`.

`jax.distributed` numbers them and lets none go on before all are there. It does
so in a process of its own, which then ends: one that stays in it is killed
where another dies or does not come, and takes all hosts' devices for its own.
"""

import os
import re
import subprocess
import sys
import threading

from kdjax.errors import UserError

AUTO = "auto"
SECONDS = 300  # To wait for the last.


def meet(coordinator, count, index):
  """Waits until all `count` processes are there.

  Args:
    coordinator: "HOST:PORT" of process 0, or "auto": the environment of Cloud
      TPU, GKE, Slurm or Open MPI tells all three.
    count: number of processes; ignored where `coordinator` is "auto".
    index: this one's; ignored likewise.

  Returns:
    `(count, index)`.

  Raises:
    UserError: not all came, or the environment tells nothing.
  """
  words = [coordinator] if coordinator == AUTO else [coordinator, count, index]
  # Its stdin ends with this process, and it with that.
  child = subprocess.Popen(
    [sys.executable, "-m", "kdjax.engine.rendezvous", *map(str, words)],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  with child:
    said = child.stdout.read().splitlines()
  if child.returncode == 0:
    (numbers,) = (x for x in said if re.fullmatch(r"\d+ \d+", x))
    return tuple(map(int, numbers.split()))
  # Of a page of complaints, the line that says most.
  reasons = [x.strip() for x in said if re.search("Error|EXCEEDED|UNAVAIL", x)]
  raise UserError(
    f"--coordinator={coordinator}: the processes did not meet "
    f"({reasons[-1][:200] if reasons else 'no reason given'}): start all "
    f"within {SECONDS} s, with its address within the reach of every one."
  )


def main(coordinator, count=None, index=None):
  """Meets the others, and prints how many they are and which one this is."""
  import jax
  from jax._src import distributed

  threading.Thread(target=_end_with_parent, daemon=True).start()
  # It would hear the signals that are meant for the parent.
  jax.config.update("jax_enable_preemption_service", False)
  if coordinator == AUTO:
    jax.distributed.initialize(initialization_timeout=SECONDS)
  else:
    jax.distributed.initialize(
      coordinator,
      int(count),
      int(index),
      cluster_detection_method="deactivate",
      initialization_timeout=SECONDS,
    )
  # Asked in public, JAX would start a backend to answer.
  state = distributed.global_state
  print(state.num_processes, state.process_id, flush=True)
  jax.distributed.shutdown()  # Returns when all are here.


def _end_with_parent():
  sys.stdin.read()
  os._exit(1)


if __name__ == "__main__":
  main(*sys.argv[1:])
