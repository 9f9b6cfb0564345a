"""A device per core: into what a CPU is divided before JAX looks at it.

Blocks, then arms, go over the devices of a CPU as over those of a TPU. XLA
shares one pool of threads among them; a thin network's convolutions, which
keep one thread busy each, run side by side instead of waiting for each other.
"""

import os
import sys

import jax

from kdjax.distill import trials

_FLAG = "xla_force_host_platform_device_count"


def divide(config):
  """Makes a CPU as many devices as `engine.cpu_devices` asks for.

  Leaves accelerators alone, and a CPU that XLA_FLAGS divides. Where JAX is at
  work already, as in a notebook, its devices stay as they are.

  Args:
    config: `ConfigDict` of a study.
  """
  if _FLAG in os.environ.get("XLA_FLAGS", ""):
    return
  wanted = config.engine.cpu_devices or choose(config, cores())
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
  """The most devices of which each has a student, and teachers can use all.

  Fewer teachers than devices split their batches over them, which have to
  divide.

  Args:
    config: `ConfigDict` of a study.
    at_most: cores.
  """
  blocks = len(config.folds) * len(config.seeds)
  students = blocks * len(trials.make_arms(config.grid))
  batch_size = config.teacher_training.batch_size
  return max(
    devices
    for devices in range(1, at_most + 1)
    if devices <= blocks
    or (devices <= students and batch_size % devices == 0)
    or devices == 1
  )
