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
from scipy import special

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
    others: folders of more teachers: what all say is averaged, their
      probabilities and not their logits, and maps are left out.
    num_classes: channels of the logits.
    in_channels: unread, as are those below: what other networks have.
  """

  folder: str = ""
  others: tuple[str, ...] = ()
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
  def folders(self):
    """Of all teachers."""
    return (self.folder, *self.others)

  @property
  def maps(self):
    """What is said beside logits, by name; teachers share no levels."""
    return {} if self.others else answerfile.describe(self.folder)

  @property
  def linear_levels(self):
    """Maps that are negative in places."""
    return tuple(name for name, x in self.maps.items() if (x < 0).any())

  @nn.compact
  def __call__(self, cases, train=False):
    """Looks up what was said; `train` changes nothing."""
    del train
    for name, x in self.maps.items():
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
  size = (len(cases), side, side, model.num_classes)

  def read(folder):
    folder = answerfile.folder_of(folder, fold)
    found = answerfile.read(folder, cases, model.num_classes)
    logits = found[answerfile.LOGITS]
    if logits.shape != size:
      logits = jax.image.resize(logits, size, "bilinear", antialias=False)
    return {**found, answerfile.LOGITS: np.asarray(logits)}

  if not model.others:
    return read(model.folder)
  every = [read(folder)[answerfile.LOGITS] for folder in model.folders]
  return {answerfile.LOGITS: mean(every)}


def mean(logits):
  """Logits of the mean of several teachers' probabilities.

  Args:
    logits: of each teacher, `[..., K]`.
  """
  logs = special.log_softmax(np.stack(logits), axis=-1)
  # Finite where a probability is too small for a number.
  return special.logsumexp(logs, axis=0) - np.log(len(logits), dtype=logs.dtype)
