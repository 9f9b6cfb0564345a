"""The one place that chooses how convolutions are lowered.

XLA:CPU runs the grouped convolutions that `vmap` makes 3 to 10 times slower
than the same convolutions one by one, and loops around a backward pass slower
still; depthwise convolutions are slower yet. TPUs run the grouped ones at full
rate and compile them faster. So the mapped axis and the depthwise kernel are
written out on CPU and left to XLA elsewhere.
"""

import functools

import jax
import jax.numpy as jnp

from kdjax.engine import depthwise

plain = jax.lax.conv_general_dilated


def unrolled(
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
  """`lax.conv_general_dilated` that `vmap` repeats instead of grouping.

  Takes what `nn.Conv(conv_general_dilated=...)` passes, with the same result
  to the last bit for every row of a mapped axis as without the axis.
  Depthwise convolutions become shifted multiplies.
  """
  hashable = lambda x: None if x is None else tuple(x)
  convolve = _unrolled_under_vmap(
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


@functools.cache  # One custom_vmap per kind of convolution.
def _unrolled_under_vmap(**statics):
  convolve = functools.partial(plain, **statics)

  def forward(lhs, rhs):
    if _is_depthwise(lhs, rhs, **statics):
      return depthwise.forward(
        lhs, rhs, statics["window_strides"], statics["padding"]
      )
    return convolve(lhs, rhs)

  def backward(lhs, rhs, cotangent):
    if _is_depthwise(lhs, rhs, **statics):
      return depthwise.backward(
        lhs, rhs, cotangent, statics["window_strides"], statics["padding"]
      )
    return jax.vjp(convolve, lhs, rhs)[1](cotangent)

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
  dilated = [
    d
    for name in ("lhs_dilation", "rhs_dilation")
    for d in statics[name] or ()
    if d != 1
  ]
  return (
    1 < feature_group_count == rhs.shape[-1]
    and lhs.ndim == 4
    and not dilated
    and jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    == jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT)
    and rhs.shape[2] == 1
  )


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


LOWERINGS = {"plain": plain, "unrolled": unrolled}


def choose(name="auto", platform=None):
  """The lowering called `name`; "auto" unrolls on CPU and nowhere else."""
  if name == "auto":
    platform = platform or jax.default_backend()
    name = "unrolled" if platform == "cpu" else "plain"
  return LOWERINGS[name]
