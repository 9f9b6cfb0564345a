"""Slices of TPUs that are not there: devices to compile for, and their limits.

libtpu holds the compiler of every TPU and needs none of them.
"""

import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np

from kdjax.errors import UserError
from kdjax.plan import chips
from kdjax.plan import gpus


def _chip(flops, bandwidth):
  # A float32 convolution is one bfloat16 pass.
  return chips.Chip(flops, bandwidth, flops, "Google's, cloud.google.com/tpu")


@dataclasses.dataclass(frozen=True)
class Tpu:
  """A generation of TPUs.

  Attributes:
    chip: `chips.Chip`.
    dimensions: of the torus that a slice is cut from.
    options: what libtpu wants to know besides the slice.
  """

  chip: chips.Chip
  dimensions: int
  options: dict = dataclasses.field(default_factory=dict)


TPUS = {
  # The two cores of a v4 are one device, as JAX has them on a TPU VM.
  "v4": Tpu(_chip(275e12, 1200e9), 3, {"chip_config_name": "megacore"}),
  "v5e": Tpu(_chip(197e12, 819e9), 2),
  "v5p": Tpu(_chip(459e12, 2765e9), 3),
  "v6e": Tpu(_chip(918e12, 1638e9), 2),
}


def make_slice(name):
  """The slice called `name`, such as "v5e:2x4", "v5p:2x2x1" or "h100:8".

  Takes JAX off every accelerator of this machine, for good: call it first.

  Raises:
    UserError: the compiler is missing, or knows no such slice.
  """
  generation, _, shape = name.partition(":")
  if generation in gpus.GPUS:
    return gpus.make_host(name)
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      "kdjax plan needs libtpu, which compiles for TPUs: pip install "
      "'kdjax[plan]'."
    )
  if generation not in TPUS:
    raise UserError(
      f"--topology={name}: {generation!r} is unknown; choose from "
      f"{', '.join((*TPUS, *gpus.GPUS))}, such as v5e:2x4, v5p:2x2x1 or h100:8."
    )
  tpu = TPUS[generation]
  unit = "x".join(["2", "2", "1"][: tpu.dimensions])
  if not re.fullmatch("x".join([r"[1-9]\d*"] * tpu.dimensions), shape):
    raise UserError(
      f"--topology={name}: a slice of {generation} has {tpu.dimensions} "
      f"sides, such as {generation}:{unit}."
    )
  _stay_off_the_hardware()
  options = dict(tpu.options)
  if set(shape) == set("1x"):  # A chip alone, on a host of its own.
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    devices = topologies.get_topology_desc(name, "tpu", **options).devices
  except jax.errors.JaxRuntimeError as error:
    raise UserError(
      f"--topology={name}: libtpu knows no such slice; choose a multiple of "
      f"{generation}:{unit} ({str(error).splitlines()[0]})."
    ) from error
  host = [x for x in devices if x.process_index == 0]
  if len(host) < len(devices):
    sides = np.ptp([x.coords for x in host], axis=0)[: tpu.dimensions] + 1
    alone = f"{generation}:{'x'.join(map(str, sides))}"
    host = topologies.get_topology_desc(alone, "tpu", **options).devices
  return chips.Slice(
    name, tpu.chip, tuple(devices), tuple(host), _memory(host[0])
  )


def _stay_off_the_hardware():
  """Lets libtpu compile where it finds no TPU, or one that another uses."""
  jax.config.update("jax_platforms", "cpu")
  os.environ.update(
    TPU_SKIP_MDS_QUERY="1",  # Ask no metadata server of a cloud.
    TPU_ACCELERATOR_TYPE="v5litepod-4",  # Of the host, not of the slice.
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # The lock is for those who run on it.
    TPU_LOG_DIR="disabled",
  )


_OVERFLOW = re.compile(
  r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def overflow(error):
  """Bytes wanted and bytes there, by the compiler's error; None if untold."""
  if not (found := _OVERFLOW.search(str(error))):
    return None, None
  wanted, unit, there, other = found.groups()
  return int(float(wanted) * _UNITS[unit]), int(float(there) * _UNITS[other])


def _memory(device):
  """What the compiler has of HBM: asked for too much, it says so."""
  here = jax.sharding.SingleDeviceSharding(device)
  much = jax.ShapeDtypeStruct((2**42,), jnp.int8, sharding=here)
  try:
    jax.jit(lambda x: x + x[::-1]).lower(much).compile()
  except jax.errors.JaxRuntimeError as error:
    _, there = overflow(error)
    if there:
      return there
    raise
  raise AssertionError("libtpu compiled 4 TiB for one device")
