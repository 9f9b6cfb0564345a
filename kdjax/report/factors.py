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
  *comparisons.GROUPED,
)
TERMS = ("term", "df", "chi2", "p", "converged", "note")


def of_arms(arms):
  """What each arm is made of: a frame, a row per arm, a column per varied axis.

  Values are words. An axis that an arm does not read, such as the pair of
  pathway L or the temperature of MSE, is "" there. Arms without an objective
  are left out.
  """
  table = {
    arm.name: {axis.name: arm.word(axis) for axis in axes.AXES}
    for arm in arms
    if arm.objective
  }
  frame = pd.DataFrame.from_dict(
    table, orient="index", columns=[axis.name for axis in axes.AXES]
  )
  varied = [x for x in frame if frame[x][frame[x] != ""].nunique() > 1]
  return frame[varied]


def contrasts(per_case, levels, margin=0.02, ratio=None):
  """Every pair of levels of every factor, a frame of `CONTRASTS`.

  A unit's value of a level is its mean Dice over the arms with that level;
  only arms that have a counterpart at the other level, alike in every other
  factor that both read, take part. Holm's correction is over all rows, and
  `detectable` is at 5 % over their number.

  Args:
    per_case: frame of `workdirs.per_case`.
    levels: frame of `of_arms`.
    margin: of equivalence, in Dice.
    ratio: as for `comparisons.make`.
  """
  scores = rows.units(per_case)
  groups = rows.groups(per_case, scores.index)
  levels = levels[levels.index.isin(scores.columns)]
  named = [
    (factor, first, second)
    for factor in levels
    for second, first in itertools.combinations(
      [x for x in dict.fromkeys(levels[factor]) if x], 2
    )
    if _matched(levels, factor, first, second)
  ]
  found = []
  for factor, first, second in named:
    matched = _matched(levels, factor, first, second)
    pair = sides(scores, levels, factor, first, second)
    found.append(
      {
        "factor": factor,
        "level": first,
        "against": second,
        "arms": sum(len(a) + len(b) for a, b in matched),
      }
      | comparisons.compare(*pair, groups, margin, 0.05 / len(named), ratio)
    )
  frame = pd.DataFrame(found, columns=CONTRASTS)
  frame["holm_p"] = statistics.holm(frame["group_p"])
  return frame


def sides(scores, levels, factor, first, second):
  """Dice by unit of two levels of a factor, or None where nothing matches.

  Args:
    scores: frame of `rows.units`.
    levels: frame of `of_arms`, of arms in `scores` alone.
    factor: a column of `levels`.
    first: a value of it.
    second: another one.
  """
  matched = _matched(levels, factor, first, second)
  if not matched:
    return None
  return tuple(
    sum(scores[list(cell[i])].mean(axis=1, skipna=False) for cell in matched)
    / len(matched)
    for i in (0, 1)
  )


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
  run, else without them; and the fold. Each case has a random intercept. By
  restricted maximum likelihood; Wald's chi-squared for each term (statsmodels
  MixedLM). A fit that fails or does not converge says so in its rows.
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
      fit = formulas.mixedlm(f"dice ~ {terms}", long, groups=long["case"]).fit()
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
