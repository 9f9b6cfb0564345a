"""Every field of a config: what it is, and what values it takes.

Models, whose attributes differ, are checked against their class where they are
made; what depends on the data or on another field, where that is known.
"""

import math
import textwrap
from typing import NamedTuple

from kdjax.errors import UserError

_SEED = 2**31 - 1  # The largest that numpy and JAX both take.
_LARGE = 10**6  # More of anything countable is a slip of the finger.


class Field(NamedTuple):
  """A field.

  Attributes:
    about: what it is.
    kind: of its value: str, bool, int, float, or object for what others check.
    low: the smallest number it may be.
    high: the largest.
    many: whether it is a tuple of such values.
  """

  about: str
  kind: type = object
  low: float = -math.inf
  high: float = math.inf
  many: bool = False


_TRAINING = {
  "batch_size": Field("cases in a step", int, 1, _LARGE),
  "max_epochs": Field("epochs at most", int, 1, _LARGE),
  "patience": Field(
    "epochs without a better validation loss before stopping", int, 1, _LARGE
  ),
}
_RATE = Field("of Adam", float, 1e-12, 1e3)
_DECAY = Field("decoupled; 0 is Adam", float, 0, 1e3)

FIELDS = {
  "data": {
    "name": Field("phantom, or folder for images on disk", str),
    "dir": Field("where the folder is", str),
    "classes": Field("labels to keep; () keeps all", str, many=True),
    "image_size": Field(
      "side that images are resized to, pixels", int, 1, 4096
    ),
    "num_cases": Field("phantoms to simulate", int, 1, 10**5),
    "seed": Field("of the phantoms", int, 0, _SEED),
    "cache_dir": Field("where prepared data sets are kept", str),
  },
  "splits": {
    "kind": Field("holdout or kfold", str),
    "num_folds": Field("splits to make", int, 1, 1000),
    "test_cases": Field("test cases of a hold-out", int),
    "val_fraction": Field(
      "part of the training cases held out for validation", float
    ),
    "seed": Field("of the splits", int, 0, 2**32 - 1),
  },
  "folds": Field("0-based splits to run", int, many=True),
  "seeds": Field(
    "random seeds to run, each with teachers of its own", int, 0, _SEED, True
  ),
  "views": {
    "crop": Field("largest part of the side cut away", float, 0, 0.99),
    "shift": Field("largest move, part of the side", float, 0, 1),
    "scale": Field("largest change of size", float, 0, 0.99),
    "rotation": Field("largest angle, degrees", float, 0, 180),
    "noise": Field(
      "largest deviation of Gaussian noise, images in [0, 1]", float, 0, 1
    ),
    "dropout": Field("probability of a pixel to be black", float, 0, 1),
  },
  "teacher": Field("a name in kdjax.models.MODELS and its attributes"),
  "student": Field("the same"),
  "teacher_training": {
    **_TRAINING,
    "learning_rate": _RATE,
    "weight_decay": _DECAY,
  },
  "student_training": _TRAINING,
  "grid": {
    "pathway": Field("L, H, HReg", str, many=True),
    "loss": Field(
      "MSE, KLD, CWD, FitNets, AT, PKD, SP, SKD, IFVD, RAD", str, many=True
    ),
    "view": Field(
      "what the teacher sees: strong, weak; cached: the image as it is, once, "
      "its answer carried to the student's frame",
      str,
      many=True,
    ),
    "pair": Field(
      "(student's tap, teacher's tap) of H and HReg; or several of them",
      many=True,
    ),
    "alpha": Field(
      "weight of distillation; 1 - alpha of cross-entropy", float, many=True
    ),
    "temperature": Field("of KLD and CWD", float, many=True),
    "learning_rate": _RATE._replace(many=True),
    "weight_decay": _DECAY._replace(many=True),
  },
  "engine": {
    "dtype": Field("of the arithmetic: float32, bfloat16 or float64", str),
    "lowering": Field(
      "of convolutions: auto, onednn, unrolled, grouped or plain", str
    ),
    "blocks_at_once": Field(
      "folds and seeds that train together on one device; 0 is as many as fit "
      "an accelerator, one on a CPU",
      int,
      0,
      _LARGE,
    ),
    "arms_at_once": Field(
      "arms of a block that one accelerator steps together, while what the "
      "teacher said waits for the others; 0 is as many as fit",
      int,
      0,
      _LARGE,
    ),
    "checkpoint_minutes": Field("between two checkpoints of a stage", float, 0),
    "checkpoint_epochs": Field(
      "the same in epochs; 0 goes by minutes alone", int, 0
    ),
  },
  "report": {
    "equivalence_margin": Field(
      "Dice points within which two models are equals", float, 0, 100
    ),
  },
  "published": Field("set the paper's numbers beside ours", bool),
  "question": Field("the first paragraph of the file's docstring", str),
}


def check(value, field, name):
  """Holds a value against its `Field`.

  Args:
    value: from a config.
    field: what it should be.
    name: of the field, with where it comes from.

  Raises:
    UserError: it is of another kind, not finite, or out of range.
  """
  if field.many and not isinstance(value, (tuple, list)):
    raise UserError(f"{name}={_short(value)}: it takes a tuple.")
  for one in value if field.many else (value,):
    if not _fits(one, field.kind):
      raise UserError(
        f"{name}: it takes {field.kind.__name__}, not {_short(one)}."
      )
    if field.kind is str and not one.isprintable():
      raise UserError(f"{name}={_short(one)}: it has unprintable characters.")
    if field.kind in (int, float) and not (
      math.isfinite(one) and field.low <= one <= field.high
    ):
      raise UserError(f"{name}={_short(one)}: {_range(field)}.")


def described(known=FIELDS, prefix=""):
  """Every field, what it takes and what it is, as lines of text."""
  lines = []
  for name, field in known.items():
    if isinstance(field, dict):
      lines += described(field, f"{prefix}{name}.")
      continue
    takes = "" if field.kind is object else field.kind.__name__
    takes = f"tuple of {takes or 'values'}" if field.many else takes
    if math.isfinite(field.low):
      takes += f", {_range(field)}"
    lines.append(f"{prefix}{name}" + (f"  ({takes})" if takes else ""))
    lines += textwrap.wrap(
      field.about, initial_indent="    ", subsequent_indent="    "
    )
  return lines


def _fits(value, kind):
  if kind in (int, float) and isinstance(value, bool):
    return False
  return isinstance(value, (int, float) if kind is float else kind)


def _range(field):
  if not math.isfinite(field.low):
    return "it takes a finite number"
  if not math.isfinite(field.high):
    return f"at least {field.low:g}, and finite"
  return f"at least {field.low:g}, at most {field.high:,}"


def _short(value):
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:77]}..."
