"""The ablation grid: its trials as readable arms.

An axis of the grid may change numbers, never shapes.
"""

import dataclasses
import itertools

from kdjax.distill import axes
from kdjax.distill import losses
from kdjax.distill import pairs
from kdjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is distilled.

  Attributes:
    pathway: a name in `pathways.PATHWAYS`.
    loss: a name in `losses.LOSSES`.
    pairs: `(student's tap, teacher's tap, weight)` of each level that is
      distilled; empty for pathway L.
  """

  pathway: str
  loss: str
  pairs: tuple[tuple[str, str, float], ...]


@dataclasses.dataclass(frozen=True)
class Arm:
  """A row of the table.

  Attributes:
    name: such as "L_KLD_WAug".
    reference: name of the Student that differs in nothing but distillation.
    objective: what is distilled; None for a Student or a Teacher.
    view: what the teacher sees, one of `axes.VIEWS`.
    source: who answers, one of `axes.SOURCES`.
    numbers: by the axes of `axes.numbers()`, what it trains with.
    weighting: whose weight distillation has, one of `axes.WEIGHTINGS`.
    tuned: whether a search chooses those numbers, in each fold anew.
  """

  name: str
  reference: str
  objective: Objective | None
  view: str
  source: str
  numbers: dict[str, float]
  weighting: str = axes.WEIGHTINGS[0]
  tuned: bool = False

  def reads(self, axis):
    """Whether it makes a difference to the arm what its value of `axis` is."""
    what = self.objective
    if axis.by_authors and self.weighting == "authors":
      return False
    return axis.read_by(what and what.pathway, what and what.loss)

  @property
  def control(self):
    """Whether it learns from no trained teacher's answer to its case."""
    return self.source != axes.SOURCES[0]

  def word(self, axis):
    """The arm's value of an `Axis`, in a word; "" where it reads none."""
    if not self.reads(axis):
      return ""
    if axis.word:
      return axis.word(self)
    return f"{self.numbers[axis.name]:g}"


def make_arms(grid):
  """Every combination of `grid`, a mapping from axis to values, as arms.

  Students come first, one for every combination of what they read, such as the
  learning rate. What an arm does not read does not multiply it: pathway L has
  no pair, MSE no temperature. A loss that is not defined under a pathway is
  left out there, see `left_out`.

  Raises:
    UserError: an unknown pathway, loss or view, or an empty axis.
  """
  _check(grid)
  shown = {x.name for x in axes.AXES if x.always_shown or len(grid[x.name]) > 1}
  missing = left_out(grid)
  students, distilled = {}, {}
  for values in itertools.product(*(grid[axis.name] for axis in axes.AXES)):
    point = dict(zip((x.name for x in axes.AXES), values, strict=True))

    def suffix(pathway, loss, point=point):
      return "".join(
        axis.suffix(point[axis.name])
        for axis in axes.AXES
        if axis.name in shown
        and axis.read_by(pathway, loss)
        and not (axis.by_authors and _by_authors(point))
      )

    student = "Student" + suffix(None, None)
    students[student] = _untaught(student, point)
    what = point["pathway"], point["loss"]
    if {_kind(*what), _kind(*what, point["weighting"])} & set(missing):
      continue
    name = suffix(*what)
    distilled[name] = Arm(
      name,
      student,
      Objective(*what, () if what[0] == "L" else pairs.make(point["pair"])),
      point["view"],
      point["source"],
      _numbers(point, *what),
      point["weighting"],
      _is_tuned(point),
    )
  return (*students.values(), *distilled.values())


def left_out(grid):
  """Why something of a grid is no arm: "H_CWD" to words.

  And "H_CWD_Authors", where its authors' weight is asked for and not known. A
  loss that is defined under none of the grid's pathways is not left out, but
  refused where networks are known.
  """
  found = {}
  for name in grid["loss"]:
    loss = losses.LOSSES[name]
    if set(loss.pathways) & set(grid["pathway"]):
      for pathway in grid["pathway"]:
        if pathway not in loss.pathways:
          found[_kind(pathway, name)] = loss.because
        elif "authors" in grid["weighting"] and pathway not in loss.weights:
          found[_kind(pathway, name, "authors")] = (
            "no weight of its authors' is known there"
          )
  return found


def _kind(pathway, loss, weighting=axes.WEIGHTINGS[0]):
  """What arms' names begin with that have these in common."""
  return f"{pathway}_{loss}{axes.WEIGHTING_SUFFIXES[weighting]}"


TEACHER = "Teacher"


def make_teacher(training):
  """A Teacher as the arm of a grid, which distils nothing.

  Args:
    training: a config's `teacher_training`, with `axes.of_training()` in it.
  """
  return _untaught(TEACHER, training)


def make_compressed(config):
  """Teachers that train on while they are made smaller, each in one way.

  Args:
    config: for its `teacher_training`, and for its `teacher_compression`:
      values of the axes that compress, and what else is other than there; an
      older kdjax had none.

  Raises:
    UserError: a value that its axis does not take.
  """
  arms, compression = {}, config.get("teacher_compression", {})
  for axis in axes.compressing():
    for value in compression.get(axis.name, ()):
      if objection := axis.objection(value):
        raise UserError(f"teacher_compression.{axis.name}{objection}.")
      if value != axis.unread:
        point = {**config.teacher_training, **compression}
        point |= {x.name: x.unread for x in axes.compressing()}
        point[axis.name] = value
        arm = _untaught(TEACHER + axis.suffix(value), point)
        arms[arm.name] = dataclasses.replace(arm, reference=TEACHER)
  return tuple(arms.values())


def smaller(arm):
  """The axes, by name, that make an arm smaller than it would be."""
  return tuple(
    axis.name
    for axis in axes.compressing()
    if arm.numbers[axis.name] != axis.unread
  )


def _unread():
  """The numbers of an arm that reads none."""
  return {axis.name: axis.unread for axis in axes.numbers()}


def controls(arms):
  """Each control to the arm that differs in its source alone, or to None."""
  return counterparts(arms, lambda arm: arm.control, ("source",))


def counterparts(arms, changed, ways):
  """Each arm that is `changed` to the one that is not, and else its equal.

  Args:
    arms: `Arm`s.
    changed: of an arm, whether it is.
    ways: names of axes in which the two may differ.

  Returns:
    Names to names; to None where there is no such arm.
  """

  def alike(arm):
    own = {
      "objective": arm.objective,
      "view": arm.view,
      "source": arm.source,
      "weighting": arm.weighting,
      "tuning": arm.tuned,
      **arm.numbers,
    }
    return tuple(value for name, value in own.items() if name not in ways)

  plain = {alike(arm): arm.name for arm in arms if not changed(arm)}
  return {arm.name: plain.get(alike(arm)) for arm in arms if changed(arm)}


def _untaught(name, point):
  """An arm that distils nothing, and so is its own reference."""
  return Arm(
    name,
    name,
    None,
    axes.VIEWS[0],
    axes.SOURCES[0],
    # A record of an older kdjax may lack some.
    _numbers(_unread() | dict(point), None, None),
    tuned=_is_tuned(point),
  )


def _is_tuned(point):
  """Whether a search chooses the numbers; never a Teacher's."""
  return point.get("tuning") == "tuned"


def _by_authors(point):
  """Whether the loss's authors weigh distillation."""
  return point.get("weighting") == "authors"


def _numbers(point, pathway, loss):
  """An arm's numbers, those of its axes at `point` that it reads."""
  if pathway and _by_authors(point):
    weight = losses.LOSSES[loss].weights[pathway]
    point = point | {
      "alpha": weight.alpha,
      "share": 0.0,
      "temperature": weight.temperature,
    }
  return {
    axis.name: float(
      point[axis.name] if axis.read_by(pathway, loss) else axis.unread
    )
    for axis in axes.numbers()
  }


def _check(grid):
  if any(grid["share"]) and len(grid["alpha"]) > 1:
    raise UserError(
      f"grid.alpha has {len(grid['alpha'])} values, and grid.share sets alpha "
      "itself: give alpha one value, or share 0."
    )
  for axis in axes.AXES:
    if not len(grid[axis.name]):
      raise UserError(f"grid.{axis.name} is empty: give it at least one value.")
    for value in grid[axis.name]:
      if reason := axis.objection(value):
        raise UserError(f"grid.{axis.name}{reason}.")
