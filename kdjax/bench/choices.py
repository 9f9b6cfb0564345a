"""Which arms of a study a bench's programs train."""

import dataclasses

from kdjax.distill import axes
from kdjax.distill import mapped
from kdjax.errors import UserError


def distilling(study):
  """The arms that distil, no controls, sorted by what their teacher sees.

  A program of the first few arms then asks the teacher for as few views as
  they need.
  """
  arms = [arm for arm in study.arms if arm.objective and not arm.control]
  if not arms:
    raise UserError("bench needs a grid with arms that distil something.")
  return sorted(arms, key=lambda arm: axes.VIEWS.index(arm.view))


def once_asked(arms):
  """The arms under the cached view; arms that differed in the view are one."""
  cached = [dataclasses.replace(arm, view="cached") for arm in arms]
  return list({arm.objective: arm for arm in cached}.values())


def fewer(count):
  """Some counts from one to below `count`, each a fourth of the next."""
  powers = (4**i for i in range(1, count.bit_length() + 1))
  return sorted({-(-count // power) for power in powers} - {count})


def alike(arms, count):
  """The arms of `count` objectives, spread over all that the arms have."""
  every = mapped.objectives(arms)
  chosen = {every[i * len(every) // count] for i in range(count)}
  return [arm for arm in arms if arm.objective in chosen]


def enough(arms, size):
  """`size` arms: the first, or all of them again at other learning rates."""
  found = []
  for i in range(size):
    again, place = divmod(i, len(arms))
    arm = arms[place]
    rate = arm.numbers["learning_rate"] / 2**again
    found.append(
      dataclasses.replace(
        arm,
        name=f"{arm.name}#{again}",
        numbers={**arm.numbers, "learning_rate": rate},
      )
    )
  return found
