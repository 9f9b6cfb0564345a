"""Encoders that ImageNet weights exist for: ResNet and EfficientNet-Lite.

Every encoder has five levels, named "encoder1" to "encoder5"; level i has
1 / 2**i of the image's side. Parts of a level are named within it, such as
"encoder3/block2". A level's module takes a map and returns a map.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

from flax import linen as nn

from kdjax.models import layers


class Basic(nn.Module):
  """ResNet's block of two 3x3 convolutions (He et al., arxiv 1512.03385).

  Attributes:
    width: channels that come out.
    stride: of the first convolution and of the shortcut.
    conv_norm: makes a `layers.ConvNorm`.
  """

  width: int
  stride: int
  conv_norm: Callable

  expansion = 1

  @nn.compact
  def __call__(self, x, *, train):
    y = self.conv_norm(self.width, stride=self.stride, name="conv1")
    y = nn.relu(y(x, train=train))
    y = self.conv_norm(self.width, name="conv2")(y, train=train)
    return nn.relu(y + _shortcut(self, x, self.width, train))


class Bottleneck(nn.Module):
  """ResNet's block 1x1, 3x3, 1x1; the stride is the 3x3's, as torchvision's.

  Attributes:
    width: channels in the middle; four times as many come out.
    stride: of the 3x3 convolution and of the shortcut.
    conv_norm: makes a `layers.ConvNorm`.
  """

  width: int
  stride: int
  conv_norm: Callable

  expansion = 4

  @nn.compact
  def __call__(self, x, *, train):
    out = self.width * self.expansion
    y = nn.relu(self.conv_norm(self.width, 1, name="conv1")(x, train=train))
    y = self.conv_norm(self.width, stride=self.stride, name="conv2")(
      y, train=train
    )
    y = self.conv_norm(out, 1, name="conv3")(nn.relu(y), train=train)
    return nn.relu(y + _shortcut(self, x, out, train))


def _shortcut(block, x, width, train):
  if block.stride == 1 and x.shape[-1] == width:
    return x
  project = block.conv_norm(width, 1, block.stride, name="shortcut")
  return project(x, train=train)


class Stem(nn.Module):
  """The first convolution, at stride 2: level 1.

  Attributes:
    width: channels that come out.
    kernel: side of the kernel.
    activation: after the BatchNorm.
    conv_norm: makes a `layers.ConvNorm`.
  """

  width: int
  kernel: int
  activation: Callable
  conv_norm: Callable

  @nn.compact
  def __call__(self, x, *, train):
    x = self.conv_norm(self.width, self.kernel, 2, name="conv1")(x, train=train)
    return self.activation(x)


class ResNetLevel(nn.Module):
  """Blocks of one resolution: a level from 2 to 5.

  Attributes:
    block: `Basic` or `Bottleneck`.
    count: number of blocks.
    width: of each block.
    pool: halve the resolution by max pooling (level 2), not by the first block.
    conv_norm: makes a `layers.ConvNorm`.
  """

  block: type[nn.Module]
  count: int
  width: int
  pool: bool
  conv_norm: Callable

  @nn.compact
  def __call__(self, x, *, train):
    if self.pool:
      x = layers.overlapping_max_pool(x)
    for i in range(1, self.count + 1):
      stride = 2 if i == 1 and not self.pool else 1
      block = self.block(self.width, stride, self.conv_norm, name=f"block{i}")
      x = block(x, train=train)
    return x


class MBConv(nn.Module):
  """Inverted residual: 1x1 wide, depthwise, 1x1 narrow (arxiv 1801.04381).

  As in EfficientNet-Lite: ReLU6, no squeeze-and-excitation. Stochastic depth
  is left out.

  Attributes:
    width: channels that come out.
    kernel: side of the depthwise kernel.
    stride: of the depthwise convolution.
    expand: how many times wider the middle is.
    conv_norm: makes a `layers.ConvNorm`.
  """

  width: int
  kernel: int
  stride: int
  expand: int
  conv_norm: Callable

  @nn.compact
  def __call__(self, x, *, train):
    wide = x.shape[-1] * self.expand
    y = x
    if self.expand > 1:
      y = nn.relu6(self.conv_norm(wide, 1, name="expand")(y, train=train))
    y = self.conv_norm(
      wide, self.kernel, self.stride, depthwise=True, name="depthwise"
    )(y, train=train)
    y = self.conv_norm(self.width, 1, name="project")(nn.relu6(y), train=train)
    return x + y if x.shape == y.shape else y


class MBConvLevel(nn.Module):
  """Inverted residuals of one resolution: a level from 2 to 5.

  Attributes:
    blocks: `(width, kernel, stride, expand)` of each.
    conv_norm: makes a `layers.ConvNorm`.
  """

  blocks: tuple[tuple[int, int, int, int], ...]
  conv_norm: Callable

  @nn.compact
  def __call__(self, x, *, train):
    for i, block in enumerate(self.blocks, start=1):
      x = MBConv(*block, self.conv_norm, name=f"block{i}")(x, train=train)
    return x


@dataclasses.dataclass(frozen=True)
class ResNet:
  """He et al., https://arxiv.org/abs/1512.03385, as torchvision lays it out.

  Attributes:
    block: `Basic` or `Bottleneck`.
    counts: blocks of levels 2 to 5.
    widths: channels of levels 1 to 5.
    normalisation: mean and deviation of the input's channels, in [0, 1].
  """

  block: type[nn.Module]
  counts: tuple[int, ...]
  normalisation: tuple = layers.IMAGENET

  linear_levels = ()

  @property
  def widths(self):
    return (64, *(w * self.block.expansion for w in (64, 128, 256, 512)))

  def make_levels(self, conv_norm):
    """The five levels' modules; call it where submodules may be made."""
    yield Stem(64, 7, nn.relu, conv_norm, name="encoder1")
    for i, count in enumerate(self.counts, start=2):
      yield ResNetLevel(
        self.block, count, 2 ** (i + 4), i == 2, conv_norm, name=f"encoder{i}"
      )


# EfficientNet's stages: level, repeats, kernel, stride, expand, width (Tan and
# Le, https://arxiv.org/abs/1905.11946, table 1).
_STAGES = (
  (2, 1, 3, 1, 1, 16),
  (2, 2, 3, 2, 6, 24),
  (3, 2, 5, 2, 6, 40),
  (4, 3, 3, 2, 6, 80),
  (4, 3, 5, 1, 6, 112),
  (5, 4, 5, 2, 6, 192),
  (5, 1, 3, 1, 6, 320),
)


@dataclasses.dataclass(frozen=True)
class EfficientNetLite:
  """EfficientNet without what small devices lack: ReLU6, no squeeze-excite.

  The layout of tensorflow/tpu's `efficientnet/lite`, whose stem and first and
  last stage keep their size; its head, which only classifies, is left out.

  Attributes:
    width: multiplies channels.
    depth: multiplies repeats.
    normalisation: mean and deviation of the input's channels, in [0, 1]: 127
      and 128 of 255, as the weights were trained.
  """

  width: float
  depth: float
  normalisation: tuple = ((127 / 255,) * 3, (128 / 255,) * 3)

  # They end without an activation, so what they return is negative in places.
  linear_levels = ("encoder2", "encoder3", "encoder4", "encoder5")

  @property
  def widths(self):
    return (32, *(level[-1][0] for level in self.levels))

  @property
  def levels(self):
    """Of levels 2 to 5, the blocks: `(width, kernel, stride, expand)`."""
    levels = {2: [], 3: [], 4: [], 5: []}
    for i, (level, repeats, kernel, stride, expand, width) in enumerate(
      _STAGES
    ):
      if 0 < i < len(_STAGES) - 1:
        repeats = math.ceil(self.depth * repeats)
      width = _round_to_eight(self.width * width)
      for j in range(repeats):
        levels[level].append((width, kernel, 1 if j else stride, expand))
    return tuple(tuple(blocks) for blocks in levels.values())

  def make_levels(self, conv_norm):
    """The five levels' modules; call it where submodules may be made."""
    conv_norm = functools.partial(conv_norm, padding="SAME", epsilon=1e-3)
    yield Stem(32, 3, nn.relu6, conv_norm, name="encoder1")
    for i, blocks in enumerate(self.levels, start=2):
      yield MBConvLevel(blocks, conv_norm, name=f"encoder{i}")


def _round_to_eight(width):
  """The multiple of 8 next to `width`, not below 90 % of it."""
  rounded = max(8, int(width + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * width else rounded


# A config names an encoder by one of these.
ENCODERS = {
  "resnet18": ResNet(Basic, (2, 2, 2, 2)),
  "resnet34": ResNet(Basic, (3, 4, 6, 3)),
  "resnet50": ResNet(Bottleneck, (3, 4, 6, 3)),
  "resnet101": ResNet(Bottleneck, (3, 4, 23, 3)),
  "resnet152": ResNet(Bottleneck, (3, 8, 36, 3)),
  "efficientnet-lite0": EfficientNetLite(1.0, 1.0),
  "efficientnet-lite1": EfficientNetLite(1.0, 1.1),
  "efficientnet-lite2": EfficientNetLite(1.1, 1.2),
}
