"""U-Net and U-Net++ on an encoder that ImageNet weights exist for.

The layout of segmentation_models_pytorch, whose parameters and logits these
match. Taps: "encoder1" (half the side) to "encoder5" (1/32 of it); "decoder4"
to "decoder1", each of the resolution of its encoder level, and "decoder0" of
the image's. U-Net++ has "nested{i}_{j}" besides: the j-th node of level i.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from kdjax.models import encoders
from kdjax.models import layers


class EncoderUNet(nn.Module):
  """Images `[B, H, W, 3]` to logits `[B, H, W, num_classes]` by U-Net.

  Ronneberger et al., https://arxiv.org/abs/1505.04597, with nearest
  upsampling; the encoder's levels are the skips.

  Attributes:
    encoder: a name in `encoders.ENCODERS`.
    weights: ImageNet weights of the encoder: the name of an installed package
      or a file, see `pretrained`; "" draws them at random.
    decoder_widths: channels of the decoder's stages, coarsest first.
    num_classes: channels of the logits.
    in_channels: channels of the images.
    convolution: what `nn.Conv` calls; `engine.convolution` chooses it.
    norm_axis: name of a device axis to average batch statistics over, or None.
    dtype: of the arithmetic; parameters stay at least float32.
    folded: in inference form, see `folding`.
  """

  encoder: str = "resnet18"
  weights: str = ""
  decoder_widths: tuple[int, ...] = (256, 128, 64, 32, 16)
  num_classes: int = 2
  in_channels: int = 3
  convolution: Callable = jax.lax.conv_general_dilated
  norm_axis: str | None = None
  dtype: Any = jnp.float32
  folded: bool = False

  @property
  def stride(self):
    """What the side of an image must be a multiple of."""
    return 32

  @property
  def normalisation(self):
    """Mean and deviation of three input channels, of images in [0, 1]."""
    return _encoder(self).normalisation

  @property
  def linear_levels(self):
    """Taps that end without an activation: negative in places."""
    return _encoder(self).linear_levels

  @nn.compact
  def __call__(self, images, *, train=False):
    if len(self.decoder_widths) != 5:
      raise ValueError(
        f"decoder_widths={self.decoder_widths}: there are 5 decoder stages."
      )
    conv_norm = functools.partial(
      layers.ConvNorm,
      convolution=self.convolution,
      norm_axis=self.norm_axis,
      dtype=self.dtype,
      folded=self.folded,
    )
    features = {}
    x = images
    for i, level in enumerate(_encoder(self).make_levels(conv_norm), start=1):
      x = features[i] = level(x, train=train)

    def stage(width, name, x, *skips):
      x = jnp.concatenate([layers.repeat(x), *skips], axis=-1)
      block = layers.ConvBlock((width, width), conv_norm, name=name)
      return block(x, train=train)

    logits = nn.Conv(
      self.num_classes,
      (3, 3),
      dtype=self.dtype,
      param_dtype=jnp.promote_types(self.dtype, jnp.float32),
      conv_general_dilated=self.convolution,
      name="head",
    )(self.decode(features, stage))
    return logits.astype(jnp.promote_types(self.dtype, jnp.float32))

  def decode(self, features, stage):
    """From the encoder's maps to one of the image's resolution.

    Args:
      features: dict from level, 1 to 5, to `[B, H / 2**i, W / 2**i, C]`.
      stage: from width, name, a map and skips of twice its side to a map.
    """
    x = features[5]
    for i, width in zip(range(4, -1, -1), self.decoder_widths, strict=True):
      skips = [features[i]] if i else []
      x = stage(width, f"decoder{i}", x, *skips)
    return x


class UNetPlusPlus(EncoderUNet):
  """Images `[B, H, W, 3]` to logits `[B, H, W, num_classes]` by U-Net++.

  Zhou et al., https://arxiv.org/abs/1807.10165, with nearest upsampling and
  without deep supervision: every skip passes through nodes of its own, each
  of which sees all nodes before it and the node below. Attributes are those
  of `EncoderUNet`.
  """

  def decode(self, features, stage):
    # Row i of the pyramid: the encoder's map, then its nodes from left to
    # right. The last node of a row is "decoder{i}" and has its width; the
    # others keep the encoder's.
    rows = {i: [features[i]] for i in range(1, 6)}
    for column in range(1, 5):
      for i in range(5 - column, 0, -1):
        last = column == 5 - i
        node = stage(
          self.decoder_widths[4 - i] if last else features[i].shape[-1],
          f"decoder{i}" if last else f"nested{i}_{column}",
          rows[i + 1][column - 1],
          *reversed(rows[i]),
        )
        rows[i].append(node)
    return stage(self.decoder_widths[4], "decoder0", rows[1][-1])


def _encoder(model):
  if model.encoder not in encoders.ENCODERS:
    raise ValueError(
      f"encoder={model.encoder!r} is not there: choose from "
      f"{', '.join(encoders.ENCODERS)}."
    )
  return encoders.ENCODERS[model.encoder]
