"""What accelerators that are not there can do, and many of them together."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """What its maker publishes of a chip.

  Attributes:
    flops: bfloat16 operations per second at most, of dense arrays.
    bandwidth: of its memory, bytes per second at most.
    float32: operations per second of float32 convolutions at JAX's default
      precision: TF32 on GPUs, and on TPUs one bfloat16 pass, so `flops`.
    source: where that stands.
  """

  flops: float
  bandwidth: float
  float32: float
  source: str

  def rate(self, dtype):
    """Operations per second at most, of numbers of `dtype`, by name."""
    return self.flops if dtype == "bfloat16" else self.float32


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips to compile for.

  Attributes:
    name: such as "v5e:2x4" or "h100:8".
    chip: `Chip`.
    devices: one a chip.
    host: the devices of one machine, which is a slice of its own to the process
      of `kdjax train` there.
    memory: bytes that a device may use.
  """

  name: str
  chip: Chip
  devices: tuple
  host: tuple
  memory: int

  @property
  def hosts(self):
    """How many machines it is spread over."""
    return len({x.process_index for x in self.devices})

  @property
  def platform(self):
    """As in `jax.Device.platform`."""
    return "tpu" if self.host[0].platform == "tpu" else "gpu"
