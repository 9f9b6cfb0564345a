"""The one place that chooses how convolutions are lowered.

XLA:CPU runs the grouped convolutions that `vmap` makes 3 to 10 times slower
than the same convolutions one by one, and loops around a backward pass slower
still; depthwise convolutions are slower yet, odd numbers of channels take up to
three times as long as the next round one, and a 1x1 convolution up to ten times
as long as the matrix product that it is. So the mapped axis and the depthwise
kernel are written out on CPU; convolutions there are those of oneDNN where
jaxlib has them, and else XLA's own with their channels filled up. TPUs run the
grouped ones at full rate and compile them faster: there all is left to XLA. On
GPUs grouped convolutions of filled channels, differentiated as such, were the
quickest at the one size that was compared (results/gpu).
"""

import functools
import sys

import jax
import jax.numpy as jnp
import jaxlib

from kdjax.engine import grouped
from kdjax.engine import lowerings
from kdjax.engine import onednn
from kdjax.errors import UserError

plain = jax.lax.conv_general_dilated


def _lowering(under_vmap):
  """`under_vmap(kind)`, called as `lax.conv_general_dilated` is.

  That is what `nn.Conv(conv_general_dilated=...)` passes.
  """

  def convolve(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    precision=None,
  ):
    hashable = lambda x: None if x is None else tuple(x)
    kind = lowerings.Kind(
      window_strides=tuple(window_strides),
      padding=(
        padding if isinstance(padding, str) else tuple(map(tuple, padding))
      ),
      lhs_dilation=hashable(lhs_dilation),
      rhs_dilation=hashable(rhs_dilation),
      dimension_numbers=jax.lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, dimension_numbers
      ),
      feature_group_count=feature_group_count,
      precision=precision,
    )
    return under_vmap(kind)(lhs, rhs)

  return convolve


@functools.cache  # One custom_vmap per kind of convolution.
def _unrolled_under_vmap(kind, choices):
  """A convolution that `vmap` repeats instead of grouping.

  Every row of a mapped axis has the same result to the last bit as without the
  axis. The first of `choices` that fits computes it, which changes sums by
  rounding alone.
  """

  def take(way, lhs, rhs, *cotangent):
    chosen = next(x for x in choices if x.fits(kind, lhs, rhs, way))
    return getattr(chosen, way)(kind, lhs, rhs, *cotangent)

  def forward(lhs, rhs):
    return take("forward", lhs, rhs)

  def backward(*operands):
    return take("to_lhs", *operands), take("to_rhs", *operands)

  forward = _repeat_over_mapped_axis(forward)
  backward = _repeat_over_mapped_axis(backward)
  differentiable = jax.custom_vjp(forward)
  differentiable.defvjp(
    lambda lhs, rhs: (forward(lhs, rhs), (lhs, rhs)),
    lambda operands, cotangent: backward(*operands, cotangent),
  )
  return differentiable


def _repeat_over_mapped_axis(function):
  repeated = jax.custom_batching.custom_vmap(function)
  # Traced once for all rows, and written out for each.
  row = jax.jit(repeated, inline=True)

  @repeated.def_vmap
  def _rule(size, mapped, *operands):
    # The recursion through `repeated` serves nested maps.
    rows = [
      row(*(x[i] if m else x for x, m in zip(operands, mapped, strict=True)))
      for i in range(size)
    ]
    stacked = jax.tree.map(lambda *row: jnp.stack(row), *rows)
    return stacked, jax.tree.map(lambda _: True, stacked)

  return repeated


def _unrolled(choices):
  return _lowering(functools.partial(_unrolled_under_vmap, choices=choices))


unrolled = _unrolled(lowerings.OWN)
with_onednn = _unrolled(lowerings.WITH_ONEDNN)
one_by_one = _unrolled(lowerings.WHOLE)
into_groups = _lowering(grouped.under_vmap)

LOWERINGS = {
  "plain": plain,
  "grouped": into_groups,
  "unrolled": unrolled,
  "onednn": with_onednn,
}


# What "auto" is where there is no CPU's choice to make.
ON_ACCELERATORS = {"tpu": "plain", "gpu": "grouped"}


def choose(name="auto", platform=None):
  """The lowering called `name`.

  Args:
    name: in `LOWERINGS`, or "auto": on CPU unrolled, with oneDNN where jaxlib
      has it, plain on TPU, grouped on GPU.
    platform: as in `jax.Device.platform`; default that of this process.

  Raises:
    UserError: "onednn" where it is not.
  """
  platform = platform or jax.default_backend()
  has_onednn = platform == "cpu" and onednn.is_here()
  if name == "auto":
    if platform == "cpu" and not has_onednn:
      _say_what_is_missing()
    on_cpu = "onednn" if has_onednn else "unrolled"
    name = ON_ACCELERATORS.get(platform, on_cpu)
  if name == "onednn" and not has_onednn:
    raise UserError(
      "engine.lowering='onednn': needs a CPU, Linux on x86-64 and jaxlib "
      f"{' or '.join(onednn.VERSIONS)}; leave it at 'auto'."
    )
  if name == "unrolled" and platform not in ("cpu", "tpu"):
    return one_by_one  # What else it does is for CPUs.
  return LOWERINGS[name]


@functools.cache  # Once a process.
def _say_what_is_missing():
  print(
    f"kdjax: jaxlib {jaxlib.__version__} here has no oneDNN that is known to "
    f"work ({', '.join(onednn.VERSIONS)} on Linux and x86-64 have): training "
    "takes about 1.5 times as long, and its results are the same up to "
    "rounding.",
    file=sys.stderr,
  )
