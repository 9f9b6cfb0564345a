"""Networks as a user may bring them: they know nothing of kdjax."""

import typing

from flax import linen as nn
from flax import nnx


class Plain(nn.Module):
  """Two convolutions without BatchNorm, at the image's resolution."""

  width: int = 4
  num_classes: int = 2
  in_channels: int = 1

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.relu(nn.Conv(self.width, (3, 3), name="first")(images))
    return nn.Conv(self.num_classes, (3, 3), name="last")(x)


class Described(Plain):
  """With an attribute that cannot be hashed."""

  notes: typing.Any = None


class Normed(nn.Module):
  """With BatchNorm, dropout of nothing, and attributes of its own."""

  widths: tuple[int, ...] = (4, 6)
  slope: float = 0.1
  num_classes: int = 2
  in_channels: int = 3
  stride = 2

  @nn.compact
  def __call__(self, images, train=False):
    x = images
    for i, width in enumerate(self.widths):
      x = nn.Conv(width, (3, 3), name=f"conv{i}")(x)
      x = nn.BatchNorm(not train, name=f"norm{i}")(x)
      x = nn.leaky_relu(x, self.slope)
    return nn.Conv(self.num_classes, (1, 1), name="head")(x)


class Stage(nnx.Module):
  """A stage of an nnx network, with BatchNorm."""

  def __init__(self, before, width, rngs):
    self.conv = nnx.Conv(before, width, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)

  def __call__(self, x, train):
    return nnx.relu(self.norm(self.conv(x), use_running_average=not train))


class Bridged(nn.Module):
  """An nnx network in linen's clothes, its stages levels."""

  width: int = 4
  num_classes: int = 2
  in_channels: int = 3

  @nn.compact
  def __call__(self, images, train=False):
    linen = lambda name, kind, *args: nnx.bridge.ToLinen(kind, args, name=name)
    x = linen("first", Stage, self.in_channels, self.width)(images, train=train)
    x = linen("second", Stage, self.width, self.width)(x, train=train)
    return linen("head", nnx.Conv, self.width, self.num_classes, (1, 1))(x)


class NoClasses(nn.Module):
  """Lacks what kdjax cannot do without."""

  in_channels: int = 1


class NoTrain(nn.Module):
  """Cannot be told whether it trains."""

  num_classes: int = 2
  in_channels: int = 1

  @nn.compact
  def __call__(self, images):
    return nn.Conv(self.num_classes, (1, 1))(images)


def function():
  """No network at all."""
