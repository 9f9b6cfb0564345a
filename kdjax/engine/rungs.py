"""The rungs of a search: which draws of which arm train how long, and go on.

Successive halving (Jamieson and Talwalkar, https://arxiv.org/abs/1502.07943),
but every rung trains anew, under a schedule that ends with it: where a rate
decays, networks that are compared in the middle are compared by how fast they
were and not by how good they become.
"""

import dataclasses
import math

from kdjax import workdirs
from kdjax.distill import spaces
from kdjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rung:
  """A rung of a search.

  Attributes:
    name: of its stage, "search1" and so on.
    epochs: that its draws are trained for.
    draws: how many of every arm and fold.
  """

  name: str
  epochs: int
  draws: int


def make(search):
  """The `Rung`s of a config's `search`, the first has all draws."""
  return tuple(
    Rung(
      f"{workdirs.RUNG}{i + 1}", epochs, -(-search.draws // search.factor**i)
    )
    for i, epochs in enumerate(search.epochs)
  )


def check(config):
  """Refuses a search that cannot be, where the grid asks for one.

  Raises:
    UserError: names the field.
  """
  if "tuned" not in config.grid.tuning:
    return
  search = config.search
  spaces.check(search, config.grid)
  if not search.epochs or list(search.epochs) != sorted(set(search.epochs)):
    raise UserError(
      f"search.epochs={tuple(search.epochs)}: give every rung's epochs, each "
      "more than the one before."
    )
  *_, last = make(search)
  if last.draws == 1 and len(search.epochs) > 1:
    raise UserError(
      f"search.epochs has {len(search.epochs)} rungs, and the last would "
      f"choose among 1 draw: ask for more than {search.draws} draws, or for "
      "fewer rungs."
    )
  drawn = {axis.name for axis in spaces.searched(search)}
  if "alpha" in drawn and ("share" in drawn or any(config.grid.share)):
    raise UserError(
      "search.space.alpha is drawn, and a share sets alpha itself: empty one, "
      "--config.search.space.alpha=."
    )
  if "soft_dice" in drawn and config.student_training.select == "loss":
    raise UserError(
      "search.space.soft_dice is a part of the validation loss, which chooses "
      "the draw: set student_training.select=dice."
    )


def tuned(study):
  """The arms whose numbers are searched for."""
  return tuple(arm for arm in study.arms if arm.tuned)


def most(study):
  """The most students that a block of the study has at once."""
  return max(len(study.arms), len(tuned(study)) * study.config.search.draws)


def start(study):
  """Every draw of every arm in every fold: `kept` of the first rung."""
  every = tuple(range(study.config.search.draws))
  return {
    fold: {arm.name: every for arm in tuned(study)} for fold in _folds(study)
  }


def make_stage(study, rung, kept):
  """The stage of a rung: a student for every draw that is kept.

  Args:
    study: `Study`.
    rung: `Rung`.
    kept: by fold and arm's name, the draws, as many in each.
  """
  points = spaces.draw(study.config.search)
  own = {
    fold: tuple(
      dataclasses.replace(
        spaces.give(arm, points[draw]), name=draw_name(arm.name, draw)
      )
      for arm in tuned(study)
      for draw in kept[fold][arm.name]
    )
    for fold in kept
  }
  training = study.config.student_training.copy_and_resolve_references()
  with training.unlocked():
    training.max_epochs = rung.epochs
  return dataclasses.replace(
    study.student_stage,
    name=rung.name,
    arms=next(iter(own.values())),
    training=training.lock(),
    own=own,
  )


def draw_name(arm, draw):
  """What a draw of an arm is called."""
  return f"{arm}#{draw + 1}"


def choose(measured, count):
  """The `count` best draws, ascending.

  Args:
    measured: from draw to what chooses, the smaller, the better; of equals the
      first, and last what is not finite.
    count: how many.
  """
  order = sorted(
    measured,
    key=lambda draw: (
      measured[draw] if math.isfinite(measured[draw]) else math.inf,
      draw,
    ),
  )
  return tuple(sorted(order[:count]))


def best_epoch(rows, select, first=1):
  """The row of a trial's history that was chosen, and by what.

  Args:
    rows: of one trial, in order.
    select: "loss" or "dice", as in `student_training`.
    first: the first epoch, from 1, that can be.

  Returns:
    `(row, criterion)`: the smaller, the better; infinite if it diverged.
  """
  criterion = lambda row: (
    -row["val_dice"] if select == "dice" else row["val_loss"]
  )
  if any(math.isnan(row["train_loss"]) for row in rows):
    return rows[-1], math.inf
  row = min((x for x in rows if x["epoch"] >= first), key=criterion)
  return row, criterion(row)


def with_numbers(study, kept):
  """The study whose tuned arms have in every fold what their search chose.

  Args:
    study: `Study`.
    kept: by fold and arm's name, one draw.
  """
  points = spaces.draw(study.config.search)

  def own(fold, arm):
    if not arm.tuned:
      return arm
    (draw,) = kept[fold][arm.name]
    return spaces.give(arm, points[draw])

  return dataclasses.replace(
    study,
    numbers={
      fold: tuple(own(fold, arm) for arm in study.arms) for fold in kept
    },
  )


def _folds(study):
  return tuple(dict.fromkeys(block.fold for block in study.blocks))
