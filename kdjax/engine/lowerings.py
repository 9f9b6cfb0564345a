"""Ways to lower a convolution on CPU, and which of them fit one.

A lowering has `fits(kind, lhs, rhs, way)`, and the ways `forward(kind,
lhs, rhs)`, `to_lhs(kind, lhs, rhs, cotangent)` and `to_rhs(...)` with the same.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from kdjax.engine import depthwise
from kdjax.engine import onednn

# How `nn.Conv` lays images out: `[B, H, W, C]` and `[h, w, C / groups, C']`.
LAYOUT = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True)
class Kind:
  """What `lax.conv_general_dilated` takes besides the arrays."""

  window_strides: tuple
  padding: tuple | str
  lhs_dilation: tuple | None
  rhs_dilation: tuple | None
  dimension_numbers: object
  feature_group_count: int
  precision: object

  def convolve(self, lhs, rhs):
    """As XLA does."""
    return jax.lax.conv_general_dilated(lhs, rhs, **vars(self))

  def is_image(self, lhs, rhs):
    """Whether it is laid out as `nn.Conv` does."""
    numbers = functools.partial(
      jax.lax.conv_dimension_numbers, lhs.shape, rhs.shape
    )
    return lhs.ndim == 4 and numbers(self.dimension_numbers) == numbers(LAYOUT)

  def is_dilated(self):
    """Whether zeros stand between the pixels of either array."""
    dilations = *(self.lhs_dilation or ()), *(self.rhs_dilation or ())
    return any(d != 1 for d in dilations)

  def is_dense(self, lhs, rhs):
    """Whether all channels of an image meet."""
    return self.feature_group_count == 1 and self.is_image(lhs, rhs)

  def margins(self, lhs, rhs):
    """Zeros before and behind, of the height and of the width."""
    if not isinstance(self.padding, str):
      return self.padding
    sides = lhs.shape[1:3], rhs.shape[:2]
    return tuple(
      jax.lax.padtype_to_pads(*sides, self.window_strides, self.padding)
    )


# The kernel's gradient of what does not fit the second cache takes up to three
# times as long as that of the pieces that do.
_PIECE = 2**20  # Bytes of the images.


class Plain:
  """XLA's own convolution."""

  def fits(self, kind, lhs, rhs, way):
    return True

  def forward(self, kind, lhs, rhs):
    return kind.convolve(lhs, rhs)

  def to_lhs(self, kind, lhs, rhs, cotangent):
    transposed = jax.linear_transpose(lambda x: self.forward(kind, x, rhs), lhs)
    return transposed(cotangent)[0]

  def to_rhs(self, kind, lhs, rhs, cotangent):
    """Added up over pieces of the batch."""
    pieces = self.pieces(kind, lhs, rhs)
    parts = [
      jax.linear_transpose(functools.partial(self.forward, kind, x), rhs)(dy)[0]
      for x, dy in zip(
        jnp.split(lhs, pieces), jnp.split(cotangent, pieces), strict=True
      )
    ]
    return functools.reduce(jnp.add, parts)

  def pieces(self, kind, lhs, rhs):
    """Into how many parts of the batch the kernel's gradient falls."""
    if not kind.is_image(lhs, rhs):
      return 1
    batch, size = len(lhs), lhs.size * lhs.dtype.itemsize
    parts = (
      n for n in range(1, batch) if batch % n == 0 and size / n <= _PIECE
    )
    return next(parts, batch)


class Product(Plain):
  """Every pixel that comes out is a matrix product of one that goes in."""

  def fits(self, kind, lhs, rhs, way):
    padding = kind.padding
    return (
      kind.is_dense(lhs, rhs)
      and not kind.is_dilated()
      and rhs.shape[:2] == kind.window_strides == (1, 1)
      and (isinstance(padding, str) or not any(map(any, padding)))
    )

  def forward(self, kind, lhs, rhs):
    contract = (((3,), (0,)), ((), ()))
    return jax.lax.dot_general(
      lhs, rhs[0, 0], contract, precision=kind.precision
    )

  def pieces(self, kind, lhs, rhs):
    return 1


class Whole(Plain):
  """XLA's own, the kernel's gradient in one piece."""

  def pieces(self, kind, lhs, rhs):
    return 1


# What Eigen's kernels want the channels that go in and come out to be
# multiples of: 28 to 28 channels of 64 x 64 pixels take 1.4 times as long as
# 28 to 32, and their kernel's gradient 2.7 times.
_IN, _OUT = 4, 16


class Filled(Plain):
  """XLA's own of channels filled up with zeros to a number that suits it."""

  def fits(self, kind, lhs, rhs, way):
    return (
      kind.is_dense(lhs, rhs)
      and rhs.shape[:2] != (1, 1)
      and any(channels % _OUT for channels in rhs.shape[2:])
    )

  def forward(self, kind, lhs, rhs):
    wide = _fill(_fill(rhs, 2, _IN), 3, _OUT)
    return kind.convolve(_fill(lhs, 3, _IN), wide)[..., : rhs.shape[3]]

  def to_lhs(self, kind, lhs, rhs, cotangent):
    # The cotangent's channels go in and the image's come out.
    wide = _fill(_fill(rhs, 2, _OUT), 3, _IN)
    found = Plain().to_lhs(
      kind, _fill(lhs, 3, _OUT), wide, _fill(cotangent, 3, _IN)
    )
    return found[..., : lhs.shape[3]]

  def to_rhs(self, kind, lhs, rhs, cotangent):
    found = Plain().to_rhs(
      kind, lhs, _fill(rhs, 3, _OUT), _fill(cotangent, 3, _OUT)
    )
    return found[..., : rhs.shape[3]]


def _fill(x, axis, multiple):
  """Zeros behind `axis` up to a multiple; a single channel stays alone."""
  missing = -x.shape[axis] % multiple if x.shape[axis] > 1 else 0
  return jnp.pad(x, [(0, missing * (i == axis)) for i in range(x.ndim)])


class OneDNN:
  """That of the library inside jaxlib, where it is the quickest."""

  def fits(self, kind, lhs, rhs, way):
    if not (
      kind.is_dense(lhs, rhs)
      and not kind.is_dilated()
      and rhs.shape[:2] != (1, 1)
      and onednn.is_worthwhile(lhs, rhs, kind.window_strides)
    ):
      return False
    if way == "forward":
      return True
    margins = zip(kind.margins(lhs, rhs), rhs.shape[:2], strict=True)
    return (
      kind.window_strides == (1, 1)
      and all(max(margin) < side for margin, side in margins)
      and (way == "to_lhs" or onednn.fits(lhs, rhs))
    )

  def forward(self, kind, lhs, rhs):
    return onednn.convolve(
      lhs, rhs, kind.window_strides, kind.margins(lhs, rhs)
    )

  def to_lhs(self, kind, lhs, rhs, cotangent):
    return onednn.to_images(rhs, cotangent, kind.margins(lhs, rhs))

  def to_rhs(self, kind, lhs, rhs, cotangent):
    return onednn.to_kernel(lhs, rhs, cotangent, kind.margins(lhs, rhs))


class Depthwise:
  """Shifted multiplies, where every channel is convolved by itself."""

  def fits(self, kind, lhs, rhs, way):
    return (
      1 < kind.feature_group_count == rhs.shape[-1]
      and kind.is_image(lhs, rhs)
      and not kind.is_dilated()
      and rhs.shape[2] == 1
    )

  def forward(self, kind, lhs, rhs):
    return depthwise.forward(lhs, rhs, kind.window_strides, kind.padding)

  def to_lhs(self, kind, *operands):
    return depthwise.to_images(*operands, kind.window_strides, kind.padding)

  def to_rhs(self, kind, *operands):
    return depthwise.to_kernel(*operands, kind.window_strides, kind.padding)


# The first that fits is taken.
OWN = (Depthwise(), Product(), Filled(), Plain())
WITH_ONEDNN = (Depthwise(), OneDNN(), Product(), Filled(), Plain())
WHOLE = (Whole(),)
