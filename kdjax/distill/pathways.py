"""Pathways: what of two networks is compared, brought to one shape.

A pathway takes a student's and a teacher's map, `[B, h, w, C]` of any two
sizes and widths, and returns `[B, N, K]` twice: `N` positions at which `K`
numbers are compared (and which a softmax makes a distribution over `K`).
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


def align(student, teacher):
  """Resizes the finer of two maps `[B, h, w, C]` to the coarser grid."""
  h = min(student.shape[1], teacher.shape[1])
  w = min(student.shape[2], teacher.shape[2])
  # Anti-aliased: where sides divide evenly this is a weighted block average.
  resize = lambda x: (
    x
    if x.shape[1:3] == (h, w)
    else jax.image.resize(x, (x.shape[0], h, w, x.shape[3]), "bilinear")
  )
  return resize(student), resize(teacher)


def _positions(x):
  return x.reshape(x.shape[0], -1, x.shape[-1])  # [B, N, K]


def logits(student, teacher, regress):
  """L: raw predictions; every pixel compares `K` classes."""
  del regress
  student, teacher = align(student, teacher)
  return _positions(student), _positions(teacher)


def hidden(student, teacher, regress):
  """H: maps averaged over channels; one distribution over all positions.

  Nothing is learned, so widths need not match: `[B, 1, h * w]`.
  """
  del regress
  student, teacher = align(student, teacher)
  flatten = lambda x: jnp.mean(x, axis=-1).reshape(x.shape[0], 1, -1)
  return flatten(student), flatten(teacher)


def hidden_regressor(student, teacher, regress):
  """HReg: the student's map, regressed to the teacher's width.

  Every position compares channels. The regressor runs on the coarser grid.
  """
  student, teacher = align(student, teacher)
  return _positions(regress(student)), _positions(teacher)


class Regressor(nn.Module):
  """3x3 conv, 1x1 conv, ReLU: `[B, h, w, C]` to `[B, h, w, width]`.

  Trained with the student and thrown away after training. The middle keeps
  the student's width, so that a wide teacher costs one 1x1 convolution.

  Attributes:
    width: the teacher's channels.
    convolution: what `nn.Conv` calls; `engine.convolution` chooses it.
    dtype: of the arithmetic; parameters stay at least float32.
  """

  width: int
  convolution: Callable = jax.lax.conv_general_dilated
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    conv = lambda width, side, name: nn.Conv(
      width,
      (side, side),
      dtype=self.dtype,
      param_dtype=jnp.promote_types(self.dtype, jnp.float32),
      conv_general_dilated=self.convolution,
      name=name,
    )
    x = conv(x.shape[-1], 3, "conv1")(x)
    return nn.relu(conv(self.width, 1, "conv2")(x))


# A config names a pathway by one of these.
PATHWAYS = {"L": logits, "H": hidden, "HReg": hidden_regressor}
