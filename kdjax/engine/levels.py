"""What the pairs of levels of a grid compare, told from shapes alone."""

import sys

import jax

from kdjax import workdirs
from kdjax.distill import mapped
from kdjax.distill import pairs
from kdjax.distill import taps
from kdjax.distill import trials
from kdjax.engine import networks


def shapes(study):
  """Shapes `(h, w, C)` by tap, of the student and of the teacher.

  Under None are the logits.
  """
  objectives = mapped.objectives(study.arms)
  side = study.config.data.image_size
  found = []
  for i, role in enumerate(("student", "teacher")):
    model = study.make_model(role)
    features = networks.features(
      model, study.blank(role), mapped.taps(objectives, i)
    )
    maps = {tap: x.shape[1:] for tap, x in features.items()}
    found.append({None: (side, side, model.num_classes), **maps})
  return found


def compared(study):
  """What each pair of the grid compares.

  Returns:
    From a pair's name to `{"positions": (h, w), "channels": (student's,
    teacher's), "signed": whether the teacher's are negative in places}`.
  """
  student, teacher = shapes(study)
  return {
    pairs.name((pair,)): {
      "positions": tuple(
        min(student[pair[0]][i], teacher[pair[1]][i]) for i in (0, 1)
      ),
      "channels": (student[pair[0]][2], teacher[pair[1]][2]),
      "signed": is_signed(study, pair[1]),
    }
    for pair in dict.fromkeys(
      (*pair[:2], 1.0)
      for objective in mapped.objectives(study.arms)
      for pair in objective.pairs
    )
  }


def is_signed(study, tap):
  """Whether the teacher's map is negative in places, where a ReLU is not."""
  model = study.make_model("teacher")
  if tap is None or model.linear_levels is None:
    return tap is not None and _found_negative(model, study, tap)
  return tap.split("/")[0] in model.linear_levels


def _found_negative(model, study, tap):
  """The same of a network that does not say: what it returns for noise."""
  noise, first = jax.random.split(jax.random.key(0))
  images = jax.random.normal(noise, study.blank("teacher").shape)
  _, features, _ = taps.apply(
    model, model.init(first, images), images, taps=(tap,)
  )
  return bool((features[tap] < 0).any())


def write(study):
  """Writes what `compared` says, for the report, and prints it on stderr.

  And what of the grid's product is no arm.
  """
  for what, why in trials.left_out(study.config.grid).items():
    print(f"grid: {what} is left out: {why}.", file=sys.stderr)
  found = compared(study)
  workdirs.write_record(study.workdir, workdirs.PAIRS, found)
  for name, what in found.items():
    print(f"levels: {pairs.describe(name, **what)}.", file=sys.stderr)
