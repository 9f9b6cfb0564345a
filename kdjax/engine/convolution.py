"""The one place that chooses how convolutions are lowered.

XLA:CPU runs the grouped convolutions that `vmap` makes 3 to 10 times slower
than the same convolutions one by one, and loops around a backward pass slower
still; depthwise convolutions are slower yet, odd numbers of channels take up to
three times as long as the next round one, and a 1x1 convolution up to ten times
as long as the matrix product that it is. TPUs run the grouped ones at full rate
and compile them faster. So the mapped axis and the depthwise kernel are written
out on CPU, and all is left to XLA elsewhere. Convolutions on CPU are those of
oneDNN where jaxlib has them, and else XLA's own with their channels filled up.
"""

import functools
import time

import jax
import jax.numpy as jnp

from kdjax.engine import depthwise
from kdjax.engine import onednn
from kdjax.errors import UserError

plain = jax.lax.conv_general_dilated


def _unroll(
  lhs,
  rhs,
  window_strides,
  padding,
  lhs_dilation=None,
  rhs_dilation=None,
  dimension_numbers=None,
  feature_group_count=1,
  precision=None,
  *,
  with_onednn,
):
  """`lax.conv_general_dilated` that `vmap` repeats instead of grouping.

  Takes what `nn.Conv(conv_general_dilated=...)` passes, with the same result
  to the last bit for every row of a mapped axis as without the axis.
  Depthwise convolutions become shifted multiplies, 1x1 convolutions matrix
  products. The rest is oneDNN's where it is asked for; else channels that make
  XLA:CPU slow are filled up with zeros, which changes sums by rounding alone.
  """
  hashable = lambda x: None if x is None else tuple(x)
  convolve = _unrolled_under_vmap(
    with_onednn,
    window_strides=tuple(window_strides),
    padding=(
      padding if isinstance(padding, str) else tuple(map(tuple, padding))
    ),
    lhs_dilation=hashable(lhs_dilation),
    rhs_dilation=hashable(rhs_dilation),
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    precision=precision,
  )
  return convolve(lhs, rhs)


unrolled = functools.partial(_unroll, with_onednn=False)
with_onednn = functools.partial(_unroll, with_onednn=True)


@functools.cache  # One custom_vmap per kind of convolution.
def _unrolled_under_vmap(with_onednn, **statics):

  def convolve(lhs, rhs):
    if _is_product(lhs, rhs, **statics):
      contract = (((3,), (0,)), ((), ()))
      return jax.lax.dot_general(
        lhs, rhs[0, 0], contract, precision=statics["precision"]
      )
    return plain(lhs, rhs, **statics)

  def forward(lhs, rhs):
    if _is_depthwise(lhs, rhs, **statics):
      return depthwise.forward(
        lhs, rhs, statics["window_strides"], statics["padding"]
      )
    if with_onednn and _is_onednns(lhs, rhs, **statics):
      margins = _margins(lhs, rhs, **statics)
      return onednn.convolve(lhs, rhs, statics["window_strides"], margins)
    if _is_thin(lhs, rhs, **statics):
      wide = convolve(_fill(lhs, 3, _IN), _fill(_fill(rhs, 2, _IN), 3, _OUT))
      return wide[..., : rhs.shape[3]]
    return convolve(lhs, rhs)

  def backward(lhs, rhs, cotangent):
    if _is_depthwise(lhs, rhs, **statics):
      return depthwise.backward(
        lhs, rhs, cotangent, statics["window_strides"], statics["padding"]
      )
    return to_lhs(lhs, rhs, cotangent), to_rhs(lhs, rhs, cotangent)

  def to_lhs(lhs, rhs, cotangent):
    if with_onednn and _is_onednns_backward(lhs, rhs, **statics):
      margins = _margins(lhs, rhs, **statics)
      return onednn.to_images(rhs, cotangent, margins)
    channels = lhs.shape[3:]
    if _is_thin(lhs, rhs, **statics):
      # The cotangent's channels go in and the image's come out.
      lhs, rhs = _fill(lhs, 3, _OUT), _fill(_fill(rhs, 2, _OUT), 3, _IN)
      cotangent = _fill(cotangent, 3, _IN)
    transposed = jax.linear_transpose(lambda x: convolve(x, rhs), lhs)
    (found,) = transposed(cotangent)
    return found[(..., *map(slice, channels))]

  def to_rhs(lhs, rhs, cotangent):
    """Added up over pieces of the batch."""
    if (
      with_onednn
      and _is_onednns_backward(lhs, rhs, **statics)
      and onednn.fits(lhs, rhs)
    ):
      margins = _margins(lhs, rhs, **statics)
      return onednn.to_kernel(lhs, rhs, cotangent, margins)
    channels = rhs.shape[2:]
    if _is_thin(lhs, rhs, **statics):
      rhs, cotangent = _fill(rhs, 3, _OUT), _fill(cotangent, 3, _OUT)
    pieces = _pieces(lhs, rhs, **statics)
    parts = [
      jax.linear_transpose(functools.partial(convolve, x), rhs)(dy)[0]
      for x, dy in zip(
        jnp.split(lhs, pieces), jnp.split(cotangent, pieces), strict=True
      )
    ]
    return functools.reduce(jnp.add, parts)[(..., *map(slice, channels))]

  forward = _repeat_over_mapped_axis(forward)
  backward = _repeat_over_mapped_axis(backward)
  differentiable = jax.custom_vjp(forward)
  differentiable.defvjp(
    lambda lhs, rhs: (forward(lhs, rhs), (lhs, rhs)),
    lambda operands, cotangent: backward(*operands, cotangent),
  )
  return differentiable


# How `nn.Conv` lays images out: `[B, H, W, C]` and `[h, w, C / groups, C']`.
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _is_depthwise(lhs, rhs, dimension_numbers, feature_group_count, **statics):
  return (
    1 < feature_group_count == rhs.shape[-1]
    and _is_image(lhs, rhs, dimension_numbers)
    and not _is_dilated(**statics)
    and rhs.shape[2] == 1
  )


def _is_product(
  lhs, rhs, dimension_numbers, feature_group_count, padding, **statics
):
  """Whether every pixel that comes out is a product of one that goes in."""
  return (
    feature_group_count == 1
    and _is_image(lhs, rhs, dimension_numbers)
    and not _is_dilated(**statics)
    and rhs.shape[:2] == statics["window_strides"] == (1, 1)
    and (isinstance(padding, str) or not any(map(any, padding)))
  )


def _is_onednns(lhs, rhs, dimension_numbers, feature_group_count, **statics):
  """Whether oneDNN is the quickest to convolve."""
  return (
    feature_group_count == 1
    and _is_image(lhs, rhs, dimension_numbers)
    and not _is_dilated(**statics)
    and rhs.shape[:2] != (1, 1)
    and onednn.is_worthwhile(lhs, rhs, statics["window_strides"])
  )


def _is_onednns_backward(lhs, rhs, **statics):
  """Whether it is in the backward pass too."""
  return (
    _is_onednns(lhs, rhs, **statics)
    and statics["window_strides"] == (1, 1)
    and all(
      max(margin) < side
      for margin, side in zip(
        _margins(lhs, rhs, **statics), rhs.shape[:2], strict=True
      )
    )
  )


def _margins(lhs, rhs, padding, window_strides, **_):
  """Zeros before and behind, of the height and of the width."""
  if not isinstance(padding, str):
    return padding
  sides = lhs.shape[1:3], rhs.shape[:2]
  return tuple(jax.lax.padtype_to_pads(*sides, window_strides, padding))


def _is_dilated(lhs_dilation, rhs_dilation, **_):
  return any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))


# What Eigen's kernels want the channels that go in and come out to be
# multiples of: 28 to 28 channels of 64 x 64 pixels take 1.4 times as long as
# 28 to 32, and their kernel's gradient 2.7 times.
_IN, _OUT = 4, 16


def _is_thin(lhs, rhs, dimension_numbers, feature_group_count, **_):
  """Whether filling up helps, which it does not for matrix products."""
  return (
    feature_group_count == 1
    and _is_image(lhs, rhs, dimension_numbers)
    and rhs.shape[:2] != (1, 1)
    and any(channels % _OUT for channels in rhs.shape[2:])
  )


# The kernel's gradient of what does not fit the second cache takes up to three
# times as long as that of the pieces that do.
_PIECE = 2**20  # Bytes of the images.


def _pieces(lhs, rhs, dimension_numbers, **statics):
  """Into how many parts of the batch the kernel's gradient falls."""
  whole = _is_product(lhs, rhs, dimension_numbers=dimension_numbers, **statics)
  if whole or not _is_image(lhs, rhs, dimension_numbers):
    return 1
  batch, size = len(lhs), lhs.size * lhs.dtype.itemsize
  parts = (n for n in range(1, batch) if batch % n == 0 and size / n <= _PIECE)
  return next(parts, batch)


def _is_image(lhs, rhs, dimension_numbers):
  return lhs.ndim == 4 and (
    jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    == jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
  )


def _fill(x, axis, multiple):
  """Zeros behind `axis` up to a multiple; a single channel stays alone."""
  missing = -x.shape[axis] % multiple if x.shape[axis] > 1 else 0
  return jnp.pad(x, [(0, missing * (i == axis)) for i in range(x.ndim)])


def _repeat_over_mapped_axis(function):
  repeated = jax.custom_batching.custom_vmap(function)

  @repeated.def_vmap
  def _rule(size, mapped, *operands):
    # The recursion through `repeated` serves nested maps.
    rows = [
      repeated(
        *(x[i] if m else x for x, m in zip(operands, mapped, strict=True))
      )
      for i in range(size)
    ]
    stacked = jax.tree.map(lambda *row: jnp.stack(row), *rows)
    return stacked, jax.tree.map(lambda _: True, stacked)

  return repeated


LOWERINGS = {"plain": plain, "unrolled": unrolled, "onednn": with_onednn}


def choose(name="auto", platform=None):
  """The lowering called `name`.

  Args:
    name: in `LOWERINGS`, or "auto": on CPU unrolled, with oneDNN where jaxlib
      has it; plain on TPU; and on GPU, whose libraries differ in what they do
      with groups, the quickest here.
    platform: as in `jax.Device.platform`; default that of this process.

  Raises:
    UserError: "onednn" where it is not.
  """
  platform = platform or jax.default_backend()
  has_onednn = platform == "cpu" and onednn.is_here()
  if name == "auto":
    on_cpu = "onednn" if has_onednn else "unrolled"
    name = {"cpu": on_cpu, "tpu": "plain"}.get(platform) or _quickest()
  if name == "onednn" and not has_onednn:
    raise UserError(
      "engine.lowering='onednn': needs a CPU, Linux on x86-64 and jaxlib "
      f"{' or '.join(onednn.VERSIONS)}; leave it at 'auto'."
    )
  return LOWERINGS[name]


@functools.cache  # One choice a process, whatever asks.
def _quickest():
  return min(("plain", "unrolled"), key=_seconds)


def _seconds(name):
  """Of a convolution of eight trials, forward and backward; the best of three.

  It has the width of a student's finest level.
  """
  convolve = functools.partial(
    LOWERINGS[name],
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=jax.lax.conv_dimension_numbers(
      (1, 1, 1, 1), (1, 1, 1, 1), _LAYOUT
    ),
  )
  energy = lambda x, k: jnp.sum(jnp.square(convolve(x, k)))
  step = jax.jit(jax.vmap(jax.grad(energy, argnums=(0, 1))))
  operands = jnp.ones((8, 16, 64, 64, 32)), jnp.ones((8, 3, 3, 32, 32))
  jax.block_until_ready(step(*operands))
  seconds = []
  for _ in range(3):
    begun = time.perf_counter()
    jax.block_until_ready(step(*operands))
    seconds.append(time.perf_counter() - begun)
  return min(seconds)
