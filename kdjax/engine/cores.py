"""A device for each block: how a CPU is divided before JAX looks at it.

Blocks go over the devices of a CPU as over those of a TPU. XLA shares one pool
of threads among them, so what one device keeps busy gains little: measured on
two cores with jemalloc, an epoch of two blocks of `quickstart` takes 1.2 times
as long on one device where teachers train, 1.0 times where students do. A third
block, which one of two devices would wait for, costs more than that.
"""

import os
import sys

import jax

_FLAG = "xla_force_host_platform_device_count"


def divide(config, alone=True):
  """Makes a CPU as many devices as `engine.cpu_devices` asks for.

  Leaves accelerators alone, and a CPU that XLA_FLAGS divides. Where JAX is at
  work already, as in a notebook, its devices stay as they are.

  Args:
    config: `ConfigDict` of a study.
    alone: whether no other process has a share of its blocks.
  """
  if _FLAG in os.environ.get("XLA_FLAGS", ""):
    return
  wanted = config.engine.cpu_devices or choose(config, cores() if alone else 1)
  try:
    jax.config.update("jax_num_cpu_devices", wanted)
  except RuntimeError:
    if config.engine.cpu_devices:
      print(
        f"engine.cpu_devices={wanted}: JAX is at work already, with "
        f"{jax.device_count('cpu')}, which stay.",
        file=sys.stderr,
      )


def cores():
  """Cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def choose(config, at_most):
  """The most devices that share a study's blocks evenly, none of them idle.

  Args:
    config: `ConfigDict` of a study.
    at_most: cores.
  """
  blocks = len(config.folds) * len(config.seeds)
  return max(
    devices
    for devices in range(1, at_most + 1)
    if devices == 1 or (devices <= blocks and blocks % devices == 0)
  )
