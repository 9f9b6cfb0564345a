"""The one place that chooses how convolutions are lowered.

XLA:CPU runs the grouped convolutions that `vmap` makes 3 to 10 times slower
than the same convolutions one by one, and loops around a backward pass slower
still. TPUs run the grouped ones at full rate and compile them faster. So the
mapped axis is written out on CPU and left to XLA elsewhere.
"""

import functools

import jax
import jax.numpy as jnp

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
  forward = _repeat_over_mapped_axis(convolve)
  backward = _repeat_over_mapped_axis(
    lambda lhs, rhs, cotangent: jax.vjp(convolve, lhs, rhs)[1](cotangent)
  )
  differentiable = jax.custom_vjp(forward)
  differentiable.defvjp(
    lambda lhs, rhs: (forward(lhs, rhs), (lhs, rhs)),
    lambda operands, cotangent: backward(*operands, cotangent),
  )
  return differentiable


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
