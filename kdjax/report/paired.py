"""Two sides on the same cases: all that is known of their difference.

A side is a dict of models and weights: one arm, or the mean of several.
"""

import dataclasses

import numpy as np
import pandas as pd
from scipy import stats

from kdjax.evaluate import intervals
from kdjax.evaluate import statistics
from kdjax.evaluate import training
from kdjax.report import rows

# What a comparison speaks of, by what was repeated.
NETWORKS = "these networks alone"
ONE_FOLD = "networks trained on this one fold"
METHODS = "networks trained on other cases"

COLUMNS = (
  "cases",
  "difference",
  "ci_low",
  "ci_high",
  "p",
  "equivalent_p",
  "effect",
  "wins",
  "ties",
  "losses",
  "t_p",
  "wilcoxon_p",
  "groups",
  "group_p",
  "group_equivalent_p",
  "networks_low",
  "networks_high",
  "repeats",
  "error",
  "freedom",
  "anew_p",
  "anew_equivalent_p",
  "fold_low",
  "fold_high",
  "detectable",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Paired:
  """Every model on the same units, and in every repetition of the training.

  Attributes:
    units: Dice by (fold, case) and model, averaged over seeds: `rows.units`.
    groups: what each unit belongs to, `[U]`.
    rounds: the same frames by repetition: of each fold, or of each seed where
      there is one fold; a single one where nothing was repeated.
    scope: what a difference speaks of, `NETWORKS`, `ONE_FOLD` or `METHODS`.
    margin: of equivalence, in Dice (0.02 is two points).
    ratio: test over training cases of repeated hold-outs, else None.
  """

  units: pd.DataFrame
  groups: np.ndarray
  rounds: tuple
  scope: str
  margin: float = 0.02
  ratio: float | None = None

  def compare(self, sides, shared=False, rank=None, levels=None):
    """A family of comparisons, each a dict of `COLUMNS`.

    Args:
      sides: `(first, second)` each.
      shared: whether all have one second side, so that they share its luck.
      rank: how many of them do not follow from the others; all by default.
      levels: of `detectable`, one each; 5 % over their number by default.

    Returns:
      A row each. `difference` is first minus second in Dice, -1 to 1. Its 95 %
      interval `ci_*`, `p`, `equivalent_p` and `detectable` (80 % power) count
      all that was repeated: cases alone, or folds, or seeds and cases of one
      fold; `error` and `freedom` are those of Student's t. A p that counts
      repeats is never below `group_p`, of these networks on other cases, nor
      its interval narrower than theirs (BCa over groups), `networks_*`: folds
      may agree by luck. `*_p` are two-sided and in [0, 1]; `t_p` and
      `wilcoxon_p` are by case, as published.
    """
    levels = levels or [0.05 / max(1, len(sides))] * len(sides)
    anew = self._anew(sides, shared, rank or len(sides))
    return [self._row(*x) for x in zip(sides, *anew, levels, strict=True)]

  def interval(self, sides, row, level):
    """The interval of a row of `compare` at another `level`, in Dice."""
    first, second = sides
    difference = value(self.units, first) - value(self.units, second)
    networks = intervals.of_mean(difference, self.groups, level)
    if self.scope == NETWORKS:
      return networks
    known = row["difference"], row["error"], row["freedom"]
    return _around(networks, _interval(*known, level))

  def _row(self, sides, error, freedom, repeats, level):
    pair = [value(self.units, x) for x in sides]
    difference = np.round(pair[0] - pair[1], 12)
    known = difference.notna().to_numpy()
    difference, groups = difference[known], self.groups[known]
    pair = [x[known].to_numpy(float) for x in pair]
    networks = intervals.of_mean(difference, groups)
    means = difference.groupby(groups).mean().to_numpy()  # [groups]
    grouped = means, np.zeros_like(means)
    folds = difference.groupby(level="fold").mean()
    wins, ties, losses = statistics.tally(*pair)
    mean = difference.mean()
    row = {
      "cases": len(difference),
      "difference": mean,
      "effect": statistics.effect(*pair),
      "wins": wins,
      "ties": ties,
      "losses": losses,
      "t_p": statistics.t_test(*pair),
      "wilcoxon_p": statistics.wilcoxon(*pair),
      "groups": len(means),
      "group_p": statistics.wilcoxon(*grouped),
      "group_equivalent_p": statistics.equivalence(*grouped, self.margin),
      "networks_low": networks[0],
      "networks_high": networks[1],
      "repeats": int(repeats),
      "fold_low": folds.min(),
      "fold_high": folds.max(),
    }
    if self.scope == NETWORKS:
      error, freedom = statistics.error_of_mean(means)
      anew = {"anew_p": np.nan, "anew_equivalent_p": np.nan}
      ends, p = networks, row["group_p"]
      equivalent = row["group_equivalent_p"]
    else:
      anew = {
        "anew_p": _two_sided(mean, error, freedom),
        "anew_equivalent_p": max(
          _above(self.margin + mean, error, freedom),
          _above(self.margin - mean, error, freedom),
        ),
      }
      ends = _around(networks, _interval(mean, error, freedom))
      # Both have to say so; NaN, which knows nothing, wins.
      p = float(np.maximum(row["group_p"], anew["anew_p"]))
      equivalent = float(
        np.maximum(row["group_equivalent_p"], anew["anew_equivalent_p"])
      )
    row |= anew | {
      "ci_low": ends[0],
      "ci_high": ends[1],
      "p": p,
      "equivalent_p": equivalent,
      "error": error,
      "freedom": freedom,
      "detectable": statistics.smallest_detectable(error, freedom, level),
    }
    return {name: row[name] for name in COLUMNS}

  def _anew(self, sides, shared, rank):
    """Standard errors, degrees of freedom and repetitions, `[C]` each."""
    means = np.array(
      [
        [(value(x, a) - value(x, b)).mean() for a, b in sides]
        for x in self.rounds
      ]
    ).reshape(len(self.rounds), len(sides))
    counts = (~np.isnan(means)).sum(axis=0)
    if len(self.rounds) < 2 or not sides:
      nothing = np.full(len(sides), np.nan)
      return nothing, nothing, counts
    if shared:
      variance, freedom = training.together(means)
    else:
      scales = [sum(w**2 for w in _apart(*x).values()) for x in sides]
      variance, freedom = training.apart(means, scales, rank)
    variance = variance * (1 / np.maximum(counts, 1) + (self.ratio or 0.0))
    if self.scope == ONE_FOLD:  # All seeds met the same cases.
      found = [self._of_cases(*x) for x in sides]
      parts = np.stack([variance, np.array([x[0] for x in found])])
      freedoms = np.stack([freedom, np.array([x[1] for x in found])])
      variance, freedom = training.satterthwaite(parts, freedoms)
    return np.sqrt(variance), freedom, counts

  def _of_cases(self, first, second):
    """What cases add to the variance of a mean over seeds, and its freedom.

    Groups of cases and seeds are crossed, so what a seed does on a group is in
    the seeds' variance already.
    """
    tables = [
      (value(x, first) - value(x, second)).groupby(self.groups).mean()
      for x in self.rounds
    ]
    table = pd.concat(tables, axis=1).dropna(axis=1, how="all").dropna()
    count, seeds = table.shape
    if count < 2 or seeds < 2:
      return np.nan, np.nan
    table = table.to_numpy()  # [groups, seeds]
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    both = (left**2).sum() / ((count - 1) * (seeds - 1))
    alone = np.var(table.mean(axis=1), ddof=1) - both / seeds
    return max(0.0, alone) / count, count - 1.0


def make(per_case, margin=0.02, ratio=None):
  """The `Paired` of a frame of `readers.per_case`."""
  units = rows.units(per_case)
  folds, seeds = per_case["fold"].nunique(), per_case["seed"].nunique()
  rounds, scope = (units,), NETWORKS
  if folds > 1:
    scope = METHODS
    rounds = tuple(x for _, x in units.groupby(level="fold"))
  elif seeds > 1:
    scope = ONE_FOLD
    rounds = tuple(
      rows.units(x).reindex(index=units.index, columns=units.columns)
      for _, x in per_case.groupby("seed")
    )
  groups = rows.groups(per_case, units.index)
  return Paired(units, groups, rounds, scope, margin, ratio)


def mean(models):
  """The side that is the mean of `models`, which may be named repeatedly."""
  side = {}
  for model in models:
    side[model] = side.get(model, 0.0) + 1 / len(models)
  return side


def value(units, side):
  """Dice of a side by unit, a series; NaN where one of its models is."""
  return sum(weight * units[model] for model, weight in side.items())


def _apart(first, second):
  """The weights of a difference by model."""
  models = dict.fromkeys([*first, *second])
  return {x: first.get(x, 0.0) - second.get(x, 0.0) for x in models}


def _interval(mean, error, freedom, level=0.95):
  reach = stats.t.isf((1 - level) / 2, freedom) * error
  return float(mean - reach), float(mean + reach)


def _around(one, other):
  """The interval around both; NaN, which knows nothing, wins."""
  low, high = np.minimum(one[0], other[0]), np.maximum(one[1], other[1])
  return float(low), float(high)


def _two_sided(mean, error, freedom):
  return min(1.0, 2 * _above(abs(mean), error, freedom))


def _above(distance, error, freedom):
  """One-sided p of a mean that lies `distance` above its null."""
  if error == 0:
    return float(distance <= 0)
  return float(stats.t.sf(distance / error, freedom))
