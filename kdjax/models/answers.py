"""A teacher that is not here: what it said of every case, looked up.

It takes numbers of cases where a network takes images, and its variables,
collection "batch_stats" since nothing of them is trained, are the answers.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.models import answerfile
from kdjax.models import layers


class Said(nn.Module):
  """Cases `[B]` to what was said of them, `[B, h, w, C]`.

  Attributes:
    shape: `(h, w, C)`.
  """

  shape: tuple[int, int, int]

  @nn.compact
  def __call__(self, cases):
    """Looks the cases up."""
    blank = lambda: jnp.zeros((1, *self.shape), jnp.float32)
    return self.variable("batch_stats", "table", blank).value[cases]


class Answers(nn.Module):
  """Cases `[B]` to logits `[B, S, S, num_classes]`; maps by name are taps.

  Attributes:
    folder: of the answers, see `answerfile`; `{fold}` in it where folds have
      teachers of their own.
    num_classes: channels of the logits.
    in_channels: unread, as are those below: what other networks have.
  """

  folder: str = ""
  num_classes: int = 2
  in_channels: int = 1
  convolution: Callable = jax.lax.conv_general_dilated
  norm_axis: str | None = None
  dtype: Any = jnp.float32
  folded: bool = False

  stride = 1
  normalisation = layers.IMAGENET
  lacks = ("folded",)  # See `own`.

  @property
  def linear_levels(self):
    """Maps that are negative in places."""
    maps = answerfile.describe(self.folder)
    return tuple(name for name, x in maps.items() if (x < 0).any())

  @nn.compact
  def __call__(self, cases, train=False):
    """Looks up what was said; `train` changes nothing."""
    del train
    for name, x in answerfile.describe(self.folder).items():
      Said(x.shape, name=name)(cases)
    # As large as it is in the variables; without, nobody asks.
    return Said((1, 1, self.num_classes), name=answerfile.LOGITS)(cases)


def tables(model, cases, fold, side):
  """What a model of `Answers` knows of `cases` in a fold.

  Args:
    model: `Answers`.
    cases: names of `M` cases.
    fold: number of it.
    side: `S`, to which logits are resized.

  Returns:
    From a name to `[M, h, w, C]`, the tables of its `Said`.
  """
  folder = answerfile.folder_of(model.folder, fold)
  found = answerfile.read(folder, cases, model.num_classes)
  logits = found[answerfile.LOGITS]
  size = (len(logits), side, side, model.num_classes)
  if logits.shape != size:
    logits = jax.image.resize(logits, size, "bilinear", antialias=False)
  return {**found, answerfile.LOGITS: np.asarray(logits)}
