"""Pathways: what of two networks is compared, brought to one grid.

A pathway takes a student's and a teacher's map, `[B, h, w, C]` of any two
sizes and widths, and returns two maps of one size, which a loss compares: of
one width too, unless the loss is relational. A softmax makes what stands at a
position a distribution.
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


def memberships(mask, like, num_classes):
  """The part of each position of a map that belongs to each class.

  Args:
    mask: `[B, H, W]`, classes by number.
    like: `[B, h, w, C]`, lends its grid.
    num_classes: `K`.

  Returns:
    `[B, h, w, K]`, 0 to 1; sums to 1 over classes.
  """
  classes = jax.nn.one_hot(mask, num_classes, dtype=like.dtype)
  return jax.image.resize(classes, (*like.shape[:3], num_classes), "bilinear")


def logits(student, teacher, regress, relational):
  """L: raw predictions; every pixel compares classes."""
  del regress, relational
  return align(student, teacher)


def hidden(student, teacher, regress, relational):
  """H: maps as they are; nothing is learned.

  For a loss that compares number with number, whose widths must match, maps
  are averaged over channels and are one distribution over all positions:
  `[B, 1, 1, h * w]`.
  """
  del regress
  student, teacher = align(student, teacher)
  if relational:
    return student, teacher
  flatten = lambda x: jnp.mean(x, axis=-1).reshape(x.shape[0], 1, 1, -1)
  return flatten(student), flatten(teacher)


def hidden_regressor(student, teacher, regress, relational):
  """HReg: the student's map, regressed to the teacher's width.

  Every position compares channels. The regressor runs on the coarser grid.
  """
  del relational
  student, teacher = align(student, teacher)
  return regress(student), teacher


# A config names the last activation of a regressor by one of these.
ACTIVATIONS = {"relu": nn.relu, "linear": lambda x: x}


class Regressor(nn.Module):
  """3x3 conv, 1x1 conv, activation: `[B, h, w, C]` to `[B, h, w, width]`.

  Trained with the student and thrown away after training. The middle keeps
  the student's width, so that a wide teacher costs one 1x1 convolution.

  Attributes:
    width: the teacher's channels.
    activation: the last one, a name in `ACTIVATIONS`.
    convolution: what `nn.Conv` calls; `engine.convolution` chooses it.
    dtype: of the arithmetic; parameters stay at least float32.
  """

  width: int
  activation: str = "relu"
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
    return ACTIVATIONS[self.activation](conv(self.width, 1, "conv2")(x))


# A config names a pathway by one of these.
PATHWAYS = {"L": logits, "H": hidden, "HReg": hidden_regressor}
