"""The axes of the grid, each declared once.

What an arm is called, what contrasts compare, what the page asks, how a config
is checked and what a program maps over is derived from here.
"""

from kdjax import fields
from kdjax.distill import losses
from kdjax.distill import pairs
from kdjax.distill import pathways
from kdjax.distill.axis import Axis
from kdjax.models import quantised

# What a teacher sees: a view of the batch, or the image as it is, once; what it
# said then is carried to the student's frame.
VIEWS = ("strong", "weak", "cached")

_VIEW_SUFFIXES = {"strong": "", "weak": "_WAug", "cached": "_Cached"}

# Who answers: the teacher, or as a control the same network as its training
# found it, or the teacher about another case of the batch.
SOURCES = ("trained", "untrained", "swapped")

_SOURCE_SUFFIXES = {
  "trained": "",
  "untrained": "_Untrained",
  "swapped": "_Swapped",
}

# What weighs distillation: the grid's alpha or share, or the loss's authors.
WEIGHTINGS = ("grid", "authors")

WEIGHTING_SUFFIXES = {"grid": "", "authors": "_Authors"}

# Where an arm's numbers come from: the grid, or a search of its own.
TUNINGS = ("untuned", "tuned")

TUNED = "_Tuned"  # At the end of a tuned arm's name.


def _by_distilled(pathway, loss):
  """Read by every arm that distils something."""
  del loss
  return pathway is not None


def _at_a_level(pathway, loss):
  del loss
  return pathway not in (None, "L")


def _by_softened(pathway, loss):
  return pathway is not None and losses.LOSSES[loss].softened


def _one_of(known):
  return lambda value: (
    None
    if value in known
    else f" has no {value!r}: choose from {', '.join(known)}"
  )


def _alpha_objection(value):
  if 0 < value <= 1:
    return None
  return (
    f"={value} is outside (0, 1]; the Student, which distils nothing, is "
    "always in the grid"
  )


AXES = (
  Axis(
    "pathway",
    fields.Field(", ".join(pathways.PATHWAYS), str),
    "which representation to distil",
    _by_distilled,
    objection=_one_of(tuple(pathways.PATHWAYS)),
    suffix=str,
    always_shown=True,
    word=lambda arm: arm.objective.pathway,
  ),
  Axis(
    "loss",
    fields.Field(", ".join(losses.LOSSES), str),
    "under which loss",
    _by_distilled,
    objection=_one_of(tuple(losses.LOSSES)),
    suffix="_{}".format,
    always_shown=True,
    word=lambda arm: arm.objective.loss,
  ),
  Axis(
    "view",
    fields.Field(
      "what the teacher sees: strong, weak; cached: the image as it is, once, "
      "its answer carried to the student's frame",
      str,
    ),
    "whether the teacher's input should be augmented",
    _by_distilled,
    objection=_one_of(VIEWS),
    suffix=_VIEW_SUFFIXES.__getitem__,
    always_shown=True,
    word=lambda arm: arm.view,
  ),
  Axis(
    "source",
    fields.Field(
      "who answers: trained; and as controls untrained, the teacher's network "
      "as its training found it, and swapped, the teacher about another case",
      str,
    ),
    "whether it is the teacher's knowledge that helps",
    _by_distilled,
    objection=_one_of(SOURCES),
    suffix=_SOURCE_SUFFIXES.__getitem__,
    always_shown=True,
    word=lambda arm: arm.source,
  ),
  Axis(
    "pair",
    fields.Field(
      "(student's tap, teacher's tap) of H and HReg; or several of them"
    ),
    "between which levels",
    _at_a_level,
    objection=pairs.objection,
    suffix=lambda value: f"_{pairs.name(pairs.make(value))}",
    word=lambda arm: pairs.name(arm.objective.pairs),
  ),
  Axis(
    "alpha",
    fields.Field(
      "weight of distillation; 1 - alpha of the supervised loss", float
    ),
    "with what weight",
    _by_distilled,
    objection=_alpha_objection,
    suffix="_alpha{:g}".format,
    unread=0.0,
    by_authors=True,
  ),
  Axis(
    "share",
    fields.Field(
      "part of the student's gradient that distillation is to have, which "
      "alpha then follows; 0 leaves alpha as it is",
      float,
    ),
    "with what share of the gradient",
    _by_distilled,
    objection=lambda x: None if 0 <= x < 1 else f"={x} is outside [0, 1)",
    suffix=lambda x: f"_share{x:g}" if x else "",
    unread=0.0,
    by_authors=True,
  ),
  Axis(
    "temperature",
    fields.Field(
      "of "
      + " and ".join(x for x, loss in losses.LOSSES.items() if loss.softened),
      float,
    ),
    "at what temperature",
    _by_softened,
    objection=lambda x: None if x > 0 else f"={x} must be above 0",
    suffix="_tau{:g}".format,
    unread=1.0,
    by_authors=True,
  ),
  Axis(
    "weighting",
    fields.Field(
      "what weighs distillation: grid, its alpha or share; authors, what the "
      "loss's authors published, at their temperature",
      str,
    ),
    "with whose weight",
    _by_distilled,
    objection=_one_of(WEIGHTINGS),
    suffix=WEIGHTING_SUFFIXES.__getitem__,
    always_shown=True,
    word=lambda arm: arm.weighting,
  ),
  Axis(
    "learning_rate",
    fields.Field("of Adam, at the schedule's peak", float, 1e-12, 1e3),
    "at what learning rate",
    suffix="_lr{:g}".format,
    unread=0.0,
  ),
  Axis(
    "weight_decay",
    fields.Field("decoupled; 0 is Adam", float, 0, 1e3),
    "with what weight decay",
    suffix="_wd{:g}".format,
    unread=0.0,
  ),
  Axis(
    "soft_dice",
    fields.Field(
      "weight of soft Dice, added to cross-entropy in the supervised loss",
      float,
      0,
      1e3,
    ),
    "with how much of soft Dice in the supervised loss",
    suffix="_dice{:g}".format,
    unread=0.0,
  ),
  Axis(
    "sparsity",
    fields.Field(
      "part of the kernels' weights that gradual pruning makes zero", float
    ),
    "with how many of its weights",
    objection=lambda x: None if 0 <= x < 1 else f"={x} is outside [0, 1)",
    suffix=lambda x: f"_sparse{x:g}" if x else "",
    unread=0.0,
    compresses=True,
  ),
  Axis(
    "bits",
    fields.Field(
      "that weights and the inputs of layers are rounded to in training; "
      f"{quantised.NONE} rounds nothing",
      int,
    ),
    "in how many bits",
    objection=lambda x: (
      None
      if 2 <= x <= 16 or x == quantised.NONE
      else f"={x} is neither from 2 to 16 nor {quantised.NONE}"
    ),
    suffix=lambda x: f"_{x:g}bit" if x < quantised.NONE else "",
    unread=quantised.NONE,
    compresses=True,
  ),
  Axis(
    "tuning",
    fields.Field(
      "where an arm's numbers come from: untuned, the grid; tuned, the search, "
      "which gives the Student and every arm as many draws",
      str,
    ),
    "what tuning brings",
    objection=_one_of(TUNINGS),
    suffix={"untuned": "", "tuned": TUNED}.__getitem__,
    always_shown=True,
    word=lambda arm: TUNINGS[arm.tuned],
  ),
)


def numbers():
  """The axes that a program maps over."""
  return tuple(axis for axis in AXES if axis.unread is not None)


def drawn():
  """The axes that a search may draw."""
  return tuple(axis for axis in numbers() if not axis.compresses)


def compressing():
  """The axes that make a network smaller."""
  return tuple(axis for axis in numbers() if axis.compresses)


def of_training():
  """The numbers that a Teacher is trained with."""
  return tuple(axis for axis in drawn() if axis.read_by(None, None))
