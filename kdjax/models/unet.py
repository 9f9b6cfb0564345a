"""The plain U-Net, with a name on every encoder level and decoder stage.

Taps: "encoder1" (full resolution) to "encoderL" (coarsest), "decoder1"
(full resolution) to "decoder{L-1}". Level i has 1 / 2**(i-1) of the side.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from kdjax.models import layers


@jax.jit  # `deploy.graph` finds it by name.
def max_pool(x):
  """Halves the resolution: `[B, H, W, C]` to `[B, H/2, W/2, C]`.

  The same as `nn.max_pool`, whose backward pass XLA:CPU runs five times
  slower. Two equal maxima share the gradient.
  """
  b, h, w, c = x.shape
  x = x.reshape(b, h // 2, 2, w, c)
  x = jnp.maximum(x[:, :, 0], x[:, :, 1]).reshape(b, h // 2, w // 2, 2, c)
  return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


@jax.jit  # `deploy.graph` finds it by name.
def upsample(x):
  """Doubles the resolution, bilinear: `[B, H, W, C]` to `[B, 2H, 2W, C]`.

  The same as `jax.image.resize`, whose matrix products take twice as long on
  CPU. Pixels are areas (half-pixel centres) and edges are repeated.
  """
  for axis in (1, 2):
    n = x.shape[axis]
    part = lambda start, stop, x=x, axis=axis: jax.lax.slice_in_dim(
      x, start, stop, axis=axis
    )
    before = jnp.concatenate([part(0, 1), part(0, n - 1)], axis)
    after = jnp.concatenate([part(1, n), part(n - 1, n)], axis)
    pairs = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
    shape = x.shape[:axis] + (2 * n,) + x.shape[axis + 1 :]
    x = jnp.stack(pairs, axis + 1).reshape(shape)
  return x


class UNet(nn.Module):
  """Images `[B, H, W, in_channels]` to logits `[B, H, W, num_classes]`.

  An encoder level halves the resolution by max pooling; a decoder stage
  doubles it bilinearly, concatenates the encoder level of that resolution and
  halves the concatenated width in its first convolution. (Transposed
  convolutions are slow in the backward pass on CPU, jax#23783.)

  Attributes:
    widths: channels of the encoder levels, finest first; sets the depth.
    decoder_widths: channels of the decoder stages, coarsest first.
    num_classes: channels of the logits.
    in_channels: channels of the images.
    convolution: what `nn.Conv` calls; `engine.convolution` chooses it.
    norm_axis: name of a device axis to average batch statistics over, or None.
    dtype: of the arithmetic; parameters stay at least float32.
    folded: in inference form, see `folding`.
  """

  widths: tuple[int, ...] = (28, 56, 112, 112)
  decoder_widths: tuple[int, ...] = (56, 28, 28)
  num_classes: int = 2
  in_channels: int = 3
  convolution: Callable = jax.lax.conv_general_dilated
  norm_axis: str | None = None
  dtype: Any = jnp.float32
  folded: bool = False

  @property
  def stride(self):
    """What the side of an image must be a multiple of."""
    return 2 ** (len(self.widths) - 1)

  @property
  def normalisation(self):
    """Mean and deviation of three input channels, of images in [0, 1]."""
    return layers.IMAGENET

  @property
  def linear_levels(self):
    """Taps that end without an activation: none, all end in a ReLU."""
    return ()

  @nn.compact
  def __call__(self, images, *, train=False):
    if len(self.decoder_widths) != len(self.widths) - 1:
      raise ValueError(
        f"UNet needs one decoder width fewer than widths: got widths="
        f"{self.widths}, decoder_widths={self.decoder_widths}."
      )
    conv_norm = functools.partial(
      layers.ConvNorm,
      convolution=self.convolution,
      norm_axis=self.norm_axis,
      dtype=self.dtype,
      folded=self.folded,
    )
    block = lambda widths, name: layers.ConvBlock(widths, conv_norm, name=name)
    x = images
    skips = []
    for i, width in enumerate(self.widths, start=1):
      if i > 1:
        skips.append(x)
        x = max_pool(x)
      x = block((width, width), f"encoder{i}")(x, train=train)
    for i, width in zip(
      range(len(skips), 0, -1), self.decoder_widths, strict=True
    ):
      x = jnp.concatenate([skips[i - 1], upsample(x)], axis=-1)
      x = block((x.shape[-1] // 2, width), f"decoder{i}")(x, train=train)
    logits = nn.Conv(
      self.num_classes,
      (1, 1),
      dtype=self.dtype,
      param_dtype=jnp.promote_types(self.dtype, jnp.float32),
      conv_general_dilated=self.convolution,
      name="head",
    )(x)
    return logits.astype(jnp.promote_types(self.dtype, jnp.float32))
