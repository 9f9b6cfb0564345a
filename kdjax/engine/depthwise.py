"""Depthwise convolution as a sum of shifted multiplies, for XLA:CPU.

XLA:CPU has no kernel of its own for one input channel a group, and is 20 to
100 times slower than these few lines, forward and backward.
"""

import jax
import jax.numpy as jnp


def forward(x, kernel, strides, padding):
  """Convolves every channel by itself.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[h, w, 1, C]`.
    strides: `(s, t)`.
    padding: "SAME", "VALID", or `((before, behind), (before, behind))`.

  Returns:
    `[B, H', W', C]`, as `jax.lax.conv_general_dilated` with C groups.
  """
  margins, size = _geometry(x, kernel, strides, padding)
  x = _pad(x, margins)
  return sum(
    _shift(x, i, j, strides, size) * _tap(kernel, i, j)
    for i, j in _offsets(kernel)
  )


def to_kernel(x, kernel, cotangent, strides, padding):
  """Cotangent of `kernel`, given that of what `forward` returns."""
  margins, size = _geometry(x, kernel, strides, padding)
  padded = _pad(x, margins)
  # One pass over both arrays for all of the kernel: separate sums are ten
  # times slower.
  products = tuple(
    _shift(padded, i, j, strides, size) * cotangent for i, j in _offsets(kernel)
  )
  zeros = (jnp.zeros((), x.dtype),) * len(products)
  add = lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True))
  sums = jax.lax.reduce(products, zeros, add, (0, 1, 2))
  return jnp.stack(sums).reshape(kernel.shape)


def to_images(x, kernel, cotangent, strides, padding):
  """Cotangent of `x`.

  The other way round: the cotangent, spread by the stride, meets the kernel
  from its end.
  """
  margins, size = _geometry(x, kernel, strides, padding)
  spread = [(0, 0, 0)]
  for n, k, s, (before, _), o in zip(
    x.shape[1:3], kernel.shape, strides, margins, size, strict=False
  ):
    first = k - 1 - before
    spread.append((first, n + k - 1 - first - ((o - 1) * s + 1), s - 1))
  spread.append((0, 0, 0))
  wide = jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), spread)
  wide = jax.lax.optimization_barrier(wide)
  h, w = kernel.shape[:2]
  return sum(
    _shift(wide, h - 1 - i, w - 1 - j, (1, 1), x.shape[1:3])
    * _tap(kernel, i, j)
    for i, j in _offsets(kernel)
  )


def _geometry(x, kernel, strides, padding):
  """`((before, behind), (before, behind))`, and the height and width out."""
  sizes, windows = x.shape[1:3], kernel.shape[:2]
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(sizes, windows, strides, padding)
  out = tuple(
    (n + sum(margin) - k) // s + 1
    for n, k, s, margin in zip(sizes, windows, strides, padding, strict=True)
  )
  return padding, out


def _pad(x, margins):
  # The barrier keeps the padding from being done again for every shift.
  return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *margins, (0, 0))))


def _offsets(kernel):
  h, w = kernel.shape[:2]
  return [(i, j) for i in range(h) for j in range(w)]


def _tap(kernel, i, j):
  return kernel[i, j].reshape(1, 1, 1, -1)


def _shift(x, i, j, strides, size):
  (s, t), (h, w) = strides, size
  return x[:, i : i + (h - 1) * s + 1 : s, j : j + (w - 1) * t + 1 : t]
