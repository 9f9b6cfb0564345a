"""What a program maps over, of the arms that it trains.

Names become indices here, and nowhere else.
"""

import itertools

from flax import struct
import jax
import jax.numpy as jnp

from kdjax.distill import axes


@struct.dataclass
class Trial:
  """What a program maps over: scalars, or `[G]` each once stacked.

  The objective is no number, see `engine.lanes`.

  Attributes:
    answer: index into the `answers` that the grid uses.
    numbers: by the axes of `axes.numbers()`.
  """

  answer: jax.Array
  numbers: dict[str, jax.Array]


def taps(objectives, side):
  """The taps that `objectives` read, of students (side 0) or teachers (1)."""
  return tuple(
    dict.fromkeys(pair[side] for x in objectives for pair in x.pairs)
  )


def learnt(objective):
  """The pairs between which a regressor is trained for an objective or None."""
  if not objective or objective.pathway != "HReg":
    return ()
  return tuple(pair[:2] for pair in objective.pairs)


def regressor_name(pair):
  """Key of the regressor of `pair` among the states."""
  return "-".join(tap.replace("/", ".") for tap in pair)


def objectives(arms):
  """The distinct objectives of `arms`, in order."""
  return tuple(dict.fromkeys(arm.objective for arm in arms if arm.objective))


def views(arms):
  """The distinct views that teachers of `arms` see, in `axes.VIEWS`' order."""
  seen = {arm.view for arm in arms if arm.objective}
  return tuple(view for view in axes.VIEWS if view in seen)


def answers(arms):
  """The distinct `(view, source)` that `arms` learn from, in axes' order."""
  used = {(arm.view, arm.source) for arm in arms if arm.objective}
  every = itertools.product(axes.VIEWS, axes.SOURCES)
  return tuple(answer for answer in every if answer in used)


def stack(arms):
  """Turns `G` arms into one `Trial` with leaves `[G]`."""
  place = {answer: i for i, answer in enumerate(answers(arms))}
  return Trial(
    answer=jnp.array(
      [place.get((arm.view, arm.source), 0) for arm in arms], jnp.int32
    ),
    numbers={
      axis.name: jnp.array(
        [arm.numbers[axis.name] for arm in arms], jnp.result_type(float)
      )
      for axis in axes.numbers()
    },
  )
