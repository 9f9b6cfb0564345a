"""What is said of how much say distillation has in the arms, and by whom."""

from kdjax.distill import losses
from kdjax.distill import mapped
from kdjax.report import tables


def notes(results):
  """Sentences for below the table."""
  return _shares(results) + _authors(results)


def _shares(results):
  """How unlike the say is that distillation has in the arms."""
  frame = tables.shares(results)
  if len(frame) < 2:
    return []
  low, high = (
    frame.loc[frame["share_mean"].agg(x)] for x in ("idxmin", "idxmax")
  )
  return [
    "Of the student's gradient, distillation has a share of "
    f"{low['share_mean']:.2g} ({low['model']}) to {high['share_mean']:.2g} "
    f"({high['model']}), measured behind the first tenth of the epochs."
  ]


def _authors(results):
  """Whose weights arms have that are weighted as their losses' authors do."""
  said = []
  for what in mapped.objectives(
    arm for arm in results.arms if arm.weighting == "authors"
  ):
    weight = losses.LOSSES[what.loss].weights[what.pathway]
    at = f" at temperature {weight.temperature:g}" if weight.temperature else ""
    said.append(
      f"{what.pathway}_{what.loss} {weight.value:g}{at} ({weight.source})"
    )
  return (
    [
      "As their authors weigh them beside a supervised loss of weight 1, which "
      f"was another one than here: {'; '.join(said)}."
    ]
    if said
    else []
  )
