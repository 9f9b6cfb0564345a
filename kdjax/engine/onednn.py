"""Convolutions of the oneDNN inside jaxlib, which XLA:CPU itself never calls.

They take a third to a half of the time of those that XLA:CPU chooses, at the
widths of a student. XLA's compiler leaves them out of the wheels' builds, but a
program that names one is compiled and runs it. The names and their settings are
XLA's own business and change between versions, so only versions of jaxlib that
the tests have seen are asked. A program with such a call cannot be written to
JAX's compilation cache, and XLA does not count its operations.
"""

import json
import math
import platform
import re
import sys

import jax
from jax import lax
import jax.numpy as jnp
import jaxlib

# Versions of jaxlib whose calls take what is written here.
VERSIONS = ("0.10.2", "0.11.2", "0.12.0.1")

# Operations below which a call costs more than it saves.
LEAST = 2**24

# Bytes that the kernel's cotangent may lay out anew: beyond, XLA is quicker.
_COPIES = 48 * 2**20

_CONVOLUTION, _PRODUCT = "__onednn$convolution", "__onednn$matmul"


def is_here():
  """Whether this process' jaxlib has them."""
  return (
    sys.platform == "linux"
    and platform.machine() == "x86_64"
    and jaxlib.__version__ in VERSIONS
  )


def is_worthwhile(images, kernel, strides):
  """Whether oneDNN has the arithmetic, and enough of it to pay for a call.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[h, w, C, C']`.
    strides: `(s, t)`.
  """
  pixels = math.prod(images.shape[:3]) / math.prod(strides)
  return (
    images.dtype == kernel.dtype == jnp.float32
    and 2 * pixels * kernel.size >= LEAST
  )


def convolve(images, kernel, strides, margins):
  """`lax.conv_general_dilated` of images in float32.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[h, w, C, C']`.
    strides: `(s, t)`.
    margins: zeros around the images, `((before, behind), (before, behind))`.

  Returns:
    `[B, H', W', C']`.
  """
  image = lambda: {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}
  taps = {
    "input_feature_dim": 2,
    "output_feature_dim": 3,
    "spatial_dims": [0, 1],
  }
  settings = {
    "dims": 4,
    "feature_groups": 1,
    "input": {"data": image()},
    "kernel": {"filter": taps},
    "output": {"data": image()},
    "window": {
      "pad_left": [before for before, _ in margins],
      "pad_right": [behind for _, behind in margins],
      "strides": list(strides),
      "window_dilations": [1, 1],
    },
  }
  size = [
    (n + sum(margin) - side) // stride + 1
    for n, margin, side, stride in zip(
      images.shape[1:3], margins, kernel.shape, strides, strict=False
    )
  ]
  shape = (images.shape[0], *size, kernel.shape[3])
  return _call(_CONVOLUTION, {"onednn_conv_config": settings}, shape)(
    images, kernel
  )


def to_images(kernel, cotangent, margins):
  """The images' cotangent, of a convolution without strides.

  Args:
    kernel: `[h, w, C, C']`.
    cotangent: `[B, H', W', C']`, of what `convolve` returned.
    margins: that it was given; not wider than the kernel reaches.

  Returns:
    `[B, H, W, C]`.
  """
  turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
  around = [
    (side - 1 - before, side - 1 - behind)
    for side, (before, behind) in zip(kernel.shape[:2], margins, strict=True)
  ]
  return convolve(cotangent, turned, (1, 1), around)


def fits(images, kernel):
  """Whether `to_kernel` is quicker than what XLA does.

  It is not for a few channels, nor where the copies are large.
  """
  h, w, *channels = kernel.shape
  copied = w * images.size + h * images.size // channels[0] * channels[1]
  return min(channels) >= 16 and copied * images.dtype.itemsize <= _COPIES


def to_kernel(images, kernel, cotangent, margins):
  """The kernel's cotangent, of a convolution without strides.

  One matrix product over all pixels: of the images, shifted along their width
  by each of the kernel's columns, with the cotangent, shifted along its height
  by each of the rows.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[h, w, C, C']`, lends its shape.
    cotangent: `[B, H', W', C']`.
    margins: that `convolve` was given.

  Returns:
    `[h, w, C, C']`.
  """
  h, w, c, d = kernel.shape
  (above, below), (left, right) = margins
  rows, columns = images.shape[1], cotangent.shape[2]
  x = jnp.pad(images, ((0, 0), (0, 0), (left, right), (0, 0)))
  x = [lax.slice_in_dim(x, j, j + columns, axis=2) for j in range(w)]
  spare = (h - 1 - above, h - 1 - below)
  y = jnp.pad(cotangent, ((0, 0), spare, (0, 0), (0, 0)))
  y = [lax.slice_in_dim(y, i, i + rows, axis=1) for i in reversed(range(h))]
  # Fused, the two would be written one number at a time.
  x, y = lax.optimization_barrier(
    (jnp.concatenate(x, axis=3), jnp.concatenate(y, axis=3))
  )
  settings = {"transpose_a": True, "transpose_b": False}
  product = _call(_PRODUCT, {"onednn_matmul_config": settings}, (w * c, h * d))(
    x.reshape(-1, w * c), y.reshape(-1, h * d)
  )
  return product.reshape(w, c, h, d).transpose(2, 0, 1, 3)


def _call(name, settings, shape):
  return jax.ffi.ffi_call(
    name,
    jax.ShapeDtypeStruct(shape, jnp.float32),
    custom_call_api_version=2,
    legacy_backend_config=json.dumps(settings),
  )


def operations(text):
  """Operations of all calls in a compiled program, which XLA does not count.

  Args:
    text: its HLO.
  """
  total = 0
  for line in text.splitlines():
    shapes = [
      [int(n) for n in shape.split(",")]
      for shape in re.findall(r"f32\[([\d,]+)\]", line)
    ]
    # What comes out is named first, what goes in behind it.
    if f'custom_call_target="{_CONVOLUTION}"' in line:
      out, _, kernel = shapes[:3]
      total += 2 * math.prod(out) * math.prod(kernel[:3])
    elif f'custom_call_target="{_PRODUCT}"' in line:
      out, left = shapes[:2]
      total += 2 * math.prod(out) * left[0]
  return total
