"""Convolutions that a map turns into groups and differentiates as such.

`vmap` of a convolution's gradient makes the kernel's part a convolution grouped
by features, which XLA does not recognise as cuDNN's backward-filter: it runs
forward, with a window as large as the image (jax#13800). The gradient of the
grouped convolution, of the same numbers, is recognised.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp


@functools.cache  # One custom_vmap per kind of convolution.
def under_vmap(kind):
  """The convolution of `kind`, `(lhs, rhs)` to what comes out.

  Args:
    kind: `lowerings.Kind`; its dimension numbers are resolved.
  """

  def gradient(lhs, rhs, cotangent):
    return jax.vjp(kind.convolve, lhs, rhs)[1](cotangent)

  forward = jax.custom_batching.custom_vmap(kind.convolve)
  backward = jax.custom_batching.custom_vmap(gradient)
  convolve = jax.custom_vjp(lambda lhs, rhs: forward(lhs, rhs))
  convolve.defvjp(
    lambda lhs, rhs: (forward(lhs, rhs), (lhs, rhs)),
    lambda operands, cotangent: backward(*operands, cotangent),
  )

  @forward.def_vmap
  def _forward(size, mapped, lhs, rhs):
    return _many(kind, size, *mapped)(lhs, rhs), True

  @backward.def_vmap
  def _backward(size, mapped, lhs, rhs, cotangent):
    # What is shared has a gradient for each of them all the same.
    lhs_mapped, rhs_mapped, _ = mapped
    own_lhs, own_rhs, cotangent = (
      x if m else jnp.broadcast_to(x, (size, *x.shape))
      for x, m in zip((lhs, rhs, cotangent), mapped, strict=True)
    )
    apart = _many(kind, size, True, True)
    to_lhs, to_rhs = jax.vjp(apart, own_lhs, own_rhs)[1](cotangent)
    if rhs_mapped and not lhs_mapped and kind.feature_group_count == 1:
      together = functools.partial(_many(kind, size, False, True), lhs)
      (to_rhs,) = jax.vjp(together, rhs)[1](cotangent)
    return (to_lhs, to_rhs), (True, True)

  return convolve


def _many(kind, size, lhs_mapped, rhs_mapped):
  """`size` convolutions of `kind` in one, of `[size, ...]` where mapped."""
  spec = kind.dimension_numbers
  batch, channels = spec.lhs_spec[:2]
  out_batch, out_channels = spec.out_spec[:2]
  features = spec.rhs_spec[0]
  one = under_vmap(kind)
  if not rhs_mapped:  # A larger batch.
    return lambda lhs, rhs: _split(out_batch, size, one(_join(batch, lhs), rhs))
  groups = kind.feature_group_count
  if not lhs_mapped and groups == 1:  # More features.
    return lambda lhs, rhs: _split(
      out_channels, size, one(lhs, _join(features, rhs))
    )
  more = under_vmap(
    dataclasses.replace(kind, feature_group_count=groups * size)
  )

  def convolve(lhs, rhs):
    if not lhs_mapped:
      lhs = jnp.broadcast_to(lhs, (size, *lhs.shape))
    wide = rhs.shape[1 + features]
    if groups == 1:
      lhs = _fill(lhs, 1 + channels)
      rhs = _fill(_fill(rhs, 1 + spec.rhs_spec[1]), 1 + features)
    out = more(_join(channels, lhs), _join(features, rhs))
    out = _split(out_channels, size, out)
    return jax.lax.slice_in_dim(out, 0, wide, axis=1 + out_channels)

  return convolve


# What cuDNN's grouped kernels want a group's channels to be multiples of: 28 to
# 28 take three times as long as 32 to 32.
MULTIPLE = 32


def _fill(x, axis):
  """Zeros behind `axis` up to a multiple."""
  missing = -x.shape[axis] % MULTIPLE
  return jnp.pad(x, [(0, missing * (i == axis)) for i in range(x.ndim)])


def _join(axis, x):
  """`[G, ..., N, ...]` to `[..., G N, ...]`, N being at `axis` of a row."""
  x = jnp.moveaxis(x, 0, axis)
  return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _split(axis, size, x):
  """The inverse of `_join`."""
  x = x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)
