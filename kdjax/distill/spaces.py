"""What a search draws numbers from, and the draws: the same for every arm.

Draw `i` of one arm and draw `i` of another have the same numbers wherever both
read them, so that arms are compared on like terms.
"""

import dataclasses
import math

import numpy as np
from scipy.stats import qmc

from kdjax.distill import axes
from kdjax.errors import UserError

_BETWEEN = " to "


def parse(text):
  """What a field of `search.space` means.

  Args:
    text: "1e-4 to 1e-2", between which numbers are drawn uniformly in their
      logarithm, or "0, 1, 2", a set.

  Returns:
    From `[D]` in [0, 1) to `[D]` numbers, and the numbers that bound them.

  Raises:
    ValueError: it means nothing.
  """
  ends = [float(x) for x in text.split(_BETWEEN)] if _BETWEEN in text else None
  if ends:
    if len(ends) != 2 or not 0 < ends[0] < ends[1] < math.inf:
      raise ValueError("a range goes from above 0 to something larger")
    low, high = np.log(ends)
    return lambda x: np.exp(low + x * (high - low)), tuple(ends)
  values = tuple(float(x) for x in text.split(","))
  if len(set(values)) < len(values) or not all(map(math.isfinite, values)):
    raise ValueError("a set has each number once")
  every = np.array(values)
  return lambda x: every[(x * len(every)).astype(int)], values


def searched(search):
  """The axes that a config's `search` draws, in the grid's order."""
  return tuple(axis for axis in axes.drawn() if search.space[axis.name])


def ranges(search):
  """The axes that are drawn from a range, each to its ends."""
  return {
    axis.name: parse(search.space[axis.name])[1]
    for axis in searched(search)
    if _BETWEEN in search.space[axis.name]
  }


def check(search, grid):
  """Refuses a space that cannot be drawn from.

  Args:
    search: a config's.
    grid: a config's; an axis that is searched has one value there.

  Raises:
    UserError: names the field.
  """
  if not searched(search):
    raise UserError(
      "grid.tuning=tuned: search.space is empty; give a number to draw, such "
      "as --config.search.space.learning_rate='1e-4 to 1e-2'."
    )
  for axis in searched(search):
    where = f"search.space.{axis.name}={search.space[axis.name]!r}"
    try:
      _, known = parse(search.space[axis.name])
    except ValueError as error:
      raise UserError(
        f"{where}: {error}; give a range, '1e-4 to 1e-2', or a set, '0, 1, 2'."
      ) from error
    for value in known:
      if not axis.field.low <= value <= axis.field.high:
        raise UserError(
          f"{where}: {value:g} is out of grid.{axis.name}'s range."
        )
      if reason := axis.objection(value):
        raise UserError(f"{where}: grid.{axis.name}{reason}.")
    if len(grid[axis.name]) > 1:
      raise UserError(
        f"grid.{axis.name} has {len(grid[axis.name])} values, of which a "
        f"search that draws it would leave one: give it one, or empty "
        f"search.space.{axis.name}."
      )


def draw(search):
  """The draws of a search, a list of dicts from axis to number.

  A scrambled Sobol sequence (Owen, https://doi.org/10.1006/jcom.1998.0487), so
  that few draws fill the space evenly.
  """
  known = searched(search)
  sequence = qmc.Sobol(len(known), rng=np.random.default_rng(search.seed))
  # Whole powers of two are what its points are even over.
  points = sequence.random_base2(math.ceil(math.log2(search.draws)))
  columns = {
    axis.name: parse(search.space[axis.name])[0](points[: search.draws, i])
    for i, axis in enumerate(known)
  }
  return [
    {name: float(x[i]) for name, x in columns.items()}
    for i in range(search.draws)
  ]


def give(arm, point):
  """An `Arm` with the numbers of a draw, those that it reads."""
  own = {
    axis.name: point[axis.name]
    for axis in axes.numbers()
    if axis.name in point and arm.reads(axis)
  }
  return dataclasses.replace(arm, numbers={**arm.numbers, **own})
