"""The ablation grid: readable arms, and the numbers that a program maps over.

Names become indices here, and nowhere else. An axis of the grid may change
numbers, never shapes.
"""

import dataclasses
import itertools

from flax import struct
import jax
import jax.numpy as jnp

from kdjax.distill import losses
from kdjax.distill import pathways
from kdjax.errors import UserError

# What a teacher sees: a view of the batch, or the image as it is, once; what it
# said then is carried to the student's frame.
VIEWS = ("strong", "weak", "cached")

_VIEW_SUFFIXES = {"strong": "", "weak": "_WAug", "cached": "_Cached"}

# Axis of the grid: how a value is written in an arm's name, where the axis
# has more than one.
_SUFFIXES = {
  "pair": lambda pair: _pairs_name(make_pairs(pair)),
  "alpha": lambda x: f"alpha{x:g}",
  "temperature": lambda x: f"tau{x:g}",
  "learning_rate": lambda x: f"lr{x:g}",
  "weight_decay": lambda x: f"wd{x:g}",
}
AXES = ("pathway", "loss", "view", *_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is distilled: a branch of the step's `switch`.

  Attributes:
    pathway: a name in `pathways.PATHWAYS`.
    loss: a name in `losses.LOSSES`.
    pairs: `(student's tap, teacher's tap, weight)` of each level that is
      distilled; empty for pathway L.
  """

  pathway: str
  loss: str
  pairs: tuple[tuple[str, str, float], ...]

  @property
  def levels(self):
    """The pairs in a word, such as "encoder4-encoder5"; "" for pathway L."""
    return _pairs_name(self.pairs)


def make_pairs(value):
  """A value of the grid's axis `pair` as `Objective.pairs`.

  Args:
    value: `(student's tap, teacher's tap)`, or a tuple of such pairs, each
      with or without a weight as its third; 1 without.
  """
  if isinstance(value[0], str):
    value = (value,)
  return tuple(
    (student, teacher, float(*weight or (1.0,)))
    for student, teacher, *weight in value
  )


def _pairs_name(pairs):
  return "+".join(
    f"{student}-{teacher}" + (f"x{weight:g}" if weight != 1 else "")
    for student, teacher, weight in pairs
  )


@dataclasses.dataclass(frozen=True)
class Arm:
  """A row of the table.

  Attributes:
    name: such as "L_KLD_WAug".
    reference: name of the Student that differs in nothing but distillation.
    objective: what is distilled; None for a Student or a Teacher.
    view: what the teacher sees, one of `VIEWS`.
    alpha: weight of the distillation loss; 1 - alpha is the supervised one's.
    temperature: of losses that have one.
    learning_rate: of Adam.
    weight_decay: decoupled, as in AdamW; 0 is Adam.
  """

  name: str
  reference: str
  objective: Objective | None
  view: str
  alpha: float
  temperature: float
  learning_rate: float
  weight_decay: float


@struct.dataclass
class Trial:
  """An arm as numbers: scalars, or `[G]` each once stacked."""

  objective: jax.Array  # 0: none; i: the i-th of the grid's objectives.
  view: jax.Array  # Index into the views that the grid uses.
  alpha: jax.Array
  temperature: jax.Array
  learning_rate: jax.Array
  weight_decay: jax.Array


def make_arms(grid):
  """Every combination of `grid`, a mapping from axis to values, as arms.

  Students come first, one for every learning rate and weight decay. What an
  arm does not read does not multiply it: pathway L has no pair, MSE no
  temperature.

  Raises:
    UserError: an unknown axis, pathway, loss or view, or an empty axis.
  """
  _check(grid)
  shown = [axis for axis in _SUFFIXES if len(grid[axis]) > 1]
  students, distilled = {}, {}
  for values in itertools.product(*(grid[axis] for axis in AXES)):
    point = dict(zip(AXES, values, strict=True))
    unread = set()
    if point["pathway"] == "L":
      unread.add("pair")
    if not losses.LOSSES[point["loss"]].softened:
      unread.add("temperature")

    def suffix(axes, point=point, unread=frozenset(unread)):
      return "".join(
        f"_{_SUFFIXES[axis](point[axis])}"
        for axis in shown
        if axis in axes and axis not in unread
      )

    student = "Student" + suffix(("learning_rate", "weight_decay"))
    numbers = {
      "learning_rate": float(point["learning_rate"]),
      "weight_decay": float(point["weight_decay"]),
    }
    students[student] = Arm(
      student, student, None, VIEWS[0], 0.0, 1.0, **numbers
    )
    name = f"{point['pathway']}_{point['loss']}"
    name += _VIEW_SUFFIXES[point["view"]]
    name += suffix(_SUFFIXES)
    distilled[name] = Arm(
      name,
      student,
      Objective(
        point["pathway"],
        point["loss"],
        () if "pair" in unread else make_pairs(point["pair"]),
      ),
      point["view"],
      float(point["alpha"]),
      1.0 if "temperature" in unread else float(point["temperature"]),
      **numbers,
    )
  return (*students.values(), *distilled.values())


def _check(grid):
  known = {
    "pathway": tuple(pathways.PATHWAYS),
    "loss": tuple(losses.LOSSES),
    "view": VIEWS,
  }
  for axis in AXES:
    if not len(grid[axis]):
      raise UserError(f"grid.{axis} is empty: give it at least one value.")
    for value in grid[axis]:
      if axis == "loss" and value in losses.DEAD:
        raise UserError(
          f"grid.loss={value} distils nothing here: {losses.DEAD[value]}."
        )
      if axis in known and value not in known[axis]:
        raise UserError(
          f"grid.{axis} has no {value!r}: choose from {', '.join(known[axis])}."
        )
      if axis == "pair":
        _check_pairs(value)
      if axis == "alpha" and not 0 < value <= 1:
        raise UserError(
          f"grid.alpha={value} is outside (0, 1]; the Student, which distils "
          "nothing, is always in the grid."
        )
      if axis == "temperature" and value <= 0:
        raise UserError(f"grid.temperature={value} must be above 0.")


def _check_pairs(value):
  try:
    pairs = make_pairs(value)
    taps = [tap for pair in pairs for tap in pair[:2]]
    if not all(isinstance(tap, str) for tap in taps):
      raise ValueError
  except (TypeError, ValueError, IndexError) as error:
    raise UserError(
      f"grid.pair takes pairs of a student's and a teacher's tap, or tuples of "
      f"such pairs with weights, not {value!r}."
    ) from error
  for student, teacher, weight in pairs:
    if weight <= 0:
      raise UserError(
        f"grid.pair: {student}-{teacher} of weight {weight:g} distils "
        "nothing; leave it out, or give it a weight above 0."
      )
  if len({pair[:2] for pair in pairs}) < len(pairs):
    raise UserError(f"grid.pair names a pair twice in {value!r}.")


def taps(objectives, side):
  """The taps that `objectives` read, of students (side 0) or teachers (1)."""
  return tuple(
    dict.fromkeys(pair[side] for x in objectives for pair in x.pairs)
  )


def objectives(arms):
  """The distinct objectives of `arms`, in order."""
  return tuple(dict.fromkeys(arm.objective for arm in arms if arm.objective))


def views(arms):
  """The distinct views that teachers of `arms` see, in the order of `VIEWS`."""
  seen = {arm.view for arm in arms if arm.objective}
  return tuple(view for view in VIEWS if view in seen)


def stack(arms):
  """Turns `G` arms into one `Trial` with leaves `[G]`."""
  branches = (None, *objectives(arms))
  seen = views(arms) or VIEWS
  index = lambda values: jnp.array(values, jnp.int32)
  number = lambda name: jnp.array(
    [getattr(arm, name) for arm in arms], jnp.result_type(float)
  )
  return Trial(
    objective=index([branches.index(arm.objective) for arm in arms]),
    view=index([seen.index(arm.view) if arm.objective else 0 for arm in arms]),
    alpha=number("alpha"),
    temperature=number("temperature"),
    learning_rate=number("learning_rate"),
    weight_decay=number("weight_decay"),
  )
