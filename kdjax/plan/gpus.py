"""GPUs that are not there: devices to compile for, and their limits.

JAX's CUDA plugin compiles without a GPU or a driver for one that is described
to it. It times no kernels then, so the choice among cuDNN's is left open.
"""

import dataclasses
import importlib.util
import re

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from kdjax.errors import UserError
from kdjax.plan import chips


@dataclasses.dataclass(frozen=True)
class Gpu:
  """A GPU: its rates, and what the compiler wants to know.

  Attributes:
    chip: `chips.Chip`.
    memory: bytes.
    name: NVIDIA's.
    capability: compute capability, (major, minor).
    cores: streaming multiprocessors.
    lanes: float32 units of each.
    threads: that a core holds.
    shared: bytes of shared memory of a core; a block has 1 KiB less.
    cache: bytes of the second level.
    clock: GHz.
  """

  chip: chips.Chip
  memory: int
  name: str
  capability: tuple
  cores: int
  lanes: int
  threads: int
  shared: int
  cache: int
  clock: float


_KIB, _MIB = 2**10, 2**20
GPUS = {
  "h100": Gpu(
    chips.Chip(
      989.4e12, 3.35e12, 494.7e12, "NVIDIA's data sheet, H100 SXM, dense"
    ),
    memory=81009 * _MIB,
    name="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    cores=132,
    lanes=128,
    threads=2048,
    shared=228 * _KIB,
    cache=50 * _MIB,
    clock=1.98,
  ),
  "a100": Gpu(
    chips.Chip(
      312e12, 2.039e12, 156e12, "NVIDIA's data sheet, A100 80GB SXM, dense"
    ),
    memory=80 * 1024 * _MIB - 870 * _MIB,
    name="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    cores=108,
    lanes=64,
    threads=2048,
    shared=164 * _KIB,
    cache=40 * _MIB,
    clock=1.41,
  ),
  "l4": Gpu(
    chips.Chip(121e12, 300e9, 60e12, "NVIDIA's data sheet, L4, dense"),
    memory=22 * 1024 * _MIB,
    name="NVIDIA L4",
    capability=(8, 9),
    cores=58,
    lanes=128,
    threads=1536,
    shared=100 * _KIB,
    cache=48 * _MIB,
    clock=2.04,
  ),
}

# The part of a GPU's memory that launch/gpu.yaml lets JAX have.
FRACTION = 0.9

_MOST = 8  # GPUs of a machine.
_NEEDS = "jax_plugins.xla_cuda13"


def make_host(name):
  """The machine called `name`, such as "h100", "h100:8" or "l4:1".

  Takes JAX off every accelerator of this machine, and off its cache of
  compilations, for good: call it first.

  Raises:
    UserError: the plugin is missing, or there is no such machine.
  """
  kind, _, number = name.partition(":")
  if not re.fullmatch(r"[1-9]\d*", number or "1") or int(number or 1) > _MOST:
    raise UserError(
      f"--topology={name}: a machine has 1 to {_MOST} GPUs, such as {kind}:8."
    )
  if not _is_here():
    raise UserError(
      "kdjax plan needs JAX's CUDA plugin to compile for GPUs: pip install "
      "'kdjax[plan-gpu]' (about 1 GB)."
    )
  jax.config.update("jax_platforms", "cpu")
  # A program for a GPU that is not there is written, but cannot be read.
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()
  gpu = GPUS[kind]
  devices = topologies.get_topology_desc(
    platform="cuda",
    target_config=_described(gpu),
    topology=f"1x1x{number or 1}",
  ).devices
  return chips.Slice(
    name=f"{kind}:{number or 1}",
    chip=gpu.chip,
    devices=tuple(devices),
    host=tuple(devices),
    memory=int(FRACTION * gpu.memory),
  )


def _is_here():
  try:
    return importlib.util.find_spec(_NEEDS) is not None
  except ModuleNotFoundError:
    return False


def _described(gpu):
  """The GPU as XLA's `GpuTargetConfigProto` wants it, as text."""
  major, minor = gpu.capability
  accelerated = "feature_extension: ACCELERATED_FEATURES" if major == 9 else ""
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * _KIB}
  shared_memory_per_core: {gpu.shared}
  threads_per_core_limit: {gpu.threads}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  memory_bandwidth: {gpu.chip.bandwidth:.0f}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  shared_memory_per_block_optin: {gpu.shared - _KIB}
  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability {major}.{minor}"
  device_address_bits: 64
  pcie_bandwidth: {32 * 2**30}
  ecc_enabled: true
  name: "{gpu.name}"
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.13.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 13 patch: 0 }}
device_description_str: "{gpu.name}"
"""
