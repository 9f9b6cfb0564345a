"""What encoders and decoders are built of: convolution + BatchNorm, pooling."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

# Mean and deviation of each of three channels, of images in [0, 1].
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ConvNorm(nn.Module):
  """Convolution + BatchNorm: `[B, H, W, C]` to `[B, H/s, W/s, width]`.

  Attributes:
    width: channels that come out.
    kernel: side of the kernel.
    stride: `s`.
    depthwise: every channel is convolved by itself; width must stay.
    padding: "torch" puts (kernel - 1) / 2 on all sides; "SAME" is
      TensorFlow's, which at stride 2 puts less before than behind.
    epsilon: of the BatchNorm.
    convolution: what `nn.Conv` calls; `engine.convolution` chooses it.
    norm_axis: name of a device axis to average batch statistics over, or None.
    dtype: of the arithmetic; parameters stay at least float32.
    folded: the BatchNorm's running statistics are in the convolution's kernel
      and bias, see `folding`; there is nothing to train.
  """

  width: int
  kernel: int = 3
  stride: int = 1
  depthwise: bool = False
  padding: str = "torch"
  epsilon: float = 1e-5
  convolution: Callable = jax.lax.conv_general_dilated
  norm_axis: str | None = None
  dtype: Any = jnp.float32
  folded: bool = False

  @nn.compact
  def __call__(self, x, *, train):
    param_dtype = jnp.promote_types(self.dtype, jnp.float32)
    margin = (self.kernel - 1) // 2
    x = nn.Conv(
      self.width,
      (self.kernel, self.kernel),
      (self.stride, self.stride),
      padding=margin if self.padding == "torch" else self.padding,
      feature_group_count=self.width if self.depthwise else 1,
      use_bias=self.folded,
      # Keeps the deviation of a ReLU network's maps, however deep it is.
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
      param_dtype=param_dtype,
      conv_general_dilated=self.convolution,
      name="conv",
    )(x)
    if self.folded:
      return x
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      epsilon=self.epsilon,
      axis_name=None if self.is_initializing() else self.norm_axis,
      dtype=self.dtype,
      param_dtype=param_dtype,
      name="norm",
    )(x)


class ConvBlock(nn.Module):
  """Two 3x3 conv + BatchNorm + ReLU: `[B, H, W, C]` to `[B, H, W, widths[1]]`.

  Attributes:
    widths: channels after the first and after the second convolution.
    conv_norm: makes a `ConvNorm`.
  """

  widths: tuple[int, int]
  conv_norm: Callable

  @nn.compact
  def __call__(self, x, *, train):
    for i, width in enumerate(self.widths, start=1):
      x = nn.relu(self.conv_norm(width, name=f"conv{i}")(x, train=train))
    return x


def max_pool(x):
  """3x3 at stride 2, one pixel around: `[B, H, W, C]` to `[B, H/2, W/2, C]`.

  The same as `nn.max_pool`, whose backward pass XLA:CPU runs several times
  slower. Two equal maxima share the gradient.
  """
  for axis in (1, 2):
    n = x.shape[axis]
    even, odd = (
      jax.lax.slice_in_dim(x, start, n, stride=2, axis=axis) for start in (0, 1)
    )
    # The odd pixel before the first even one is outside; nothing is larger
    # than the even pixel itself, so it stands in.
    before = jnp.concatenate(
      [
        jax.lax.slice_in_dim(even, 0, 1, axis=axis),
        jax.lax.slice_in_dim(odd, 0, n // 2 - 1, axis=axis),
      ],
      axis,
    )
    x = jnp.maximum(jnp.maximum(before, even), odd)
  return x


def repeat(x):
  """Doubles the resolution, nearest: `[B, H, W, C]` to `[B, 2H, 2W, C]`."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)
