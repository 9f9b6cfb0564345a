"""Which axis of the grid matters: contrasts of its levels, and a mixed model.

Contrasts need no model and decide; the mixed model of the whole grid, with the
case as random effect, stands beside them.
"""

import itertools
import warnings

import numpy as np
import pandas as pd
import statsmodels.formula.api as formulas

from kdjax.distill import axes
from kdjax.evaluate import statistics
from kdjax.report import comparisons
from kdjax.report import rows

CONTRASTS = (
  "factor",
  "level",
  "against",
  "arms",
  *comparisons.KEPT,
)
TERMS = ("term", "df", "chi2", "p", "converged", "note")


def of_arms(arms):
  """What each arm is made of: a frame, a row per arm, a column per varied axis.

  Values are words. An axis that an arm does not read, such as the pair of
  pathway L or the temperature of MSE, is "" there. Arms without an objective
  are left out, and controls.
  """
  table = {
    arm.name: {axis.name: arm.word(axis) for axis in axes.AXES}
    for arm in arms
    if arm.objective and not arm.control
  }
  frame = pd.DataFrame.from_dict(
    table, orient="index", columns=[axis.name for axis in axes.AXES]
  )
  varied = [x for x in frame if frame[x][frame[x] != ""].nunique() > 1]
  return frame[varied]


def contrasts(table, levels):
  """Every pair of levels of every factor, a frame of `CONTRASTS`.

  A unit's value of a level is its mean Dice over the arms with that level;
  only arms that have a counterpart at the other level, alike in every other
  factor that both read, take part. Holm's correction is over all rows.

  Args:
    table: `paired.Paired`.
    levels: frame of `of_arms`.
  """
  levels = levels[levels.index.isin(table.units.columns)]
  named = [
    (factor, first, second)
    for factor in levels
    for second, first in itertools.combinations(
      [x for x in dict.fromkeys(levels[factor]) if x], 2
    )
    if _matched(levels, factor, first, second)
  ]
  # Of the pairs of k levels, k - 1 say all.
  rank = sum(
    len({x for name, *pair in named if name == factor for x in pair}) - 1
    for factor in {x[0] for x in named}
  )
  pairs = [sides(levels, *x) for x in named]
  found = [
    {
      "factor": factor,
      "level": first,
      "against": second,
      "arms": sum(map(len, pair)),
    }
    | row
    for (factor, first, second), pair, row in zip(
      named, pairs, table.compare(pairs, rank=rank), strict=True
    )
  ]
  frame = pd.DataFrame(found, columns=CONTRASTS)
  frame["holm_p"] = statistics.holm(frame["p"])
  return frame


def sides(levels, factor, first, second):
  """Two levels of a factor as sides of `paired`; None where nothing matches.

  Args:
    levels: frame of `of_arms`, of arms that have results.
    factor: a column of `levels`.
    first: a value of it.
    second: another one.
  """
  matched = _matched(levels, factor, first, second)
  if not matched:
    return None
  found = {}, {}
  for cell in matched:
    for side, arms in zip(found, cell, strict=True):
      side |= {x: 1 / (len(arms) * len(matched)) for x in arms}
  return found


def _matched(levels, factor, first, second):
  """Arms of two levels, side by side: a list of (arms, arms)."""
  either = levels[levels[factor].isin((first, second))]
  others = [x for x in levels if x != factor and (either[x] != "").all()]
  cells = {}  # The other factors' values to the arms on either side.
  for arm, row in either.iterrows():
    sides = cells.setdefault(tuple(row[others]), ([], []))
    sides[row[factor] == second].append(arm)
  return [sides for sides in cells.values() if all(sides)]


def mixed_model(per_case, levels):
  """Dice by the factors and their interactions, a frame of `TERMS`.

  Fixed effects are the factors (sum coding, so that a main effect is that over
  all levels of the others) with all interactions where every combination was
  run, else without them; and the fold. Each group of cases has a random
  intercept. By restricted maximum likelihood; Wald's chi-squared for each term
  (statsmodels MixedLM). It takes the networks as given. A fit that fails or
  does not converge says so in its rows.
  """
  scores = rows.units(per_case)
  crossed = [x for x in levels if (levels[x] != "").all()]
  arms = [x for x in levels.index if x in scores]
  levels = levels.loc[arms, crossed]
  levels = levels[[x for x in crossed if levels[x].nunique() > 1]]
  if levels.columns.empty:
    return pd.DataFrame(columns=TERMS)
  full = len(levels.drop_duplicates()) == np.prod(levels.nunique())
  long = (
    scores[arms]
    .dropna()
    .rename_axis(columns="arm")
    .stack()
    .rename("dice")
    .reset_index()
    .join(levels, on="arm")
    .assign(group=lambda x: rows.groups(per_case, x.set_index("case").index))
  )
  words = {x: f"C({x}, Sum)" for x in levels}
  terms = (" * " if full else " + ").join(words.values())
  if long["fold"].nunique() > 1:
    terms += " + C(fold, Sum)"
  failure, noise = "", []
  table = None
  try:
    with warnings.catch_warnings(record=True) as noise:
      warnings.simplefilter("always")
      fit = formulas.mixedlm(
        f"dice ~ {terms}", long, groups=long["group"]
      ).fit()
      table = fit.wald_test_terms(scalar=True).table
    converged = bool(fit.converged)
  except (np.linalg.LinAlgError, ValueError) as error:
    converged, failure = False, f"{type(error).__name__}: {error}"
  said = dict.fromkeys(str(x.message).splitlines()[0] for x in noise)
  note = "; ".join([*([failure] if failure else []), *said])
  if table is None:
    row = [" x ".join(levels), None, None, None, False, note]
    return pd.DataFrame([row], columns=TERMS)
  found = []
  for term, row in table.iterrows():
    if term != "Intercept" and "fold" not in term:
      name = term
      for factor, word in words.items():
        name = name.replace(word, factor)
      found.append(
        [
          name.replace(":", " x "),
          int(row["df_constraint"]),
          float(row["statistic"]),
          float(row["pvalue"]),
          converged,
          note,
        ]
      )
  return pd.DataFrame(found, columns=TERMS)
