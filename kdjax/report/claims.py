"""The published claims, each decided by the numbers.

A claim rests on differences between pairs. It is supported when the test of all
its pairs survives Holm's correction over the claims that the run can test; it
is refused when intervals, at the level corrected for as many, leave out what it
claims; see `verdicts` for what else both ask for. All the rest is not decidable
here, and so is everything where one fold was run.
"""

import numpy as np
import pandas as pd

from kdjax.evaluate import statistics
from kdjax.report import claim
from kdjax.report import compression
from kdjax.report import factors
from kdjax.report import paired
from kdjax.report import published
from kdjax.report import verdicts
from kdjax.report import words

COLUMNS = ("claim", "verdict", "p", "holm_p", "sentence")
# Of Teacher's parameters over the student's; half of what the paper had.
SMALLER = 50


def make(results):
  """The published claims, a frame of `COLUMNS`; p are empty where untested."""
  found = [x(results) for x in (_lifts, _pathways, _loss, _view, _teacher)]
  found.append(_survivors(results))
  found += compression.claims(results)
  corrected = statistics.holm([x.p for x in found])
  tested = max(1, int(np.sum(~np.isnan(corrected))))
  table = [
    (x.text, *claim.decide(results, x, p, tested))
    for x, p in zip(found, corrected, strict=True)
  ]
  table.append(
    (
      "The trend holds for students of several sizes and more data sets "
      "(asked for as future work).",
      verdicts.UNDECIDED,
      None,
      None,
      "One student size and one data set were run; `kdjax report A B C` sets "
      "several workdirs side by side.",
    )
  )
  frame = pd.DataFrame(table, columns=COLUMNS)
  return frame.astype({"p": float, "holm_p": float})


def lift(table, taught):
  """The mean over distilled arms against their Students, one comparison."""
  sides = _lift_sides(table.units, taught)
  return table.compare([sides])[0] if sides else None


def survivors():
  """Arms whose published p against Student survives Holm's correction."""
  arms = published.arms()
  corrected = statistics.holm([row.p_student for row in arms.values()])
  kept = [x for x, p in zip(arms, corrected, strict=True) if p < claim.ALPHA]
  return sorted(kept, key=lambda x: arms[x].p_student)


def _lift_sides(scores, taught):
  pairs = [x for x in taught.items() if set(x) <= set(scores)]
  if not pairs:
    return None
  arms, students = zip(*pairs, strict=True)
  return paired.mean(arms), paired.mean(students)


def _lifts(results):
  gains = [published.gain(x) for x in published.arms()]
  row, pairs = results.lift, ()
  if row is not None:
    name = f"The mean of {words.many(len(results.taught), 'arm')}"
    sides = _lift_sides(results.scores, results.taught)
    pairs = (claim.Pair(f"{name} against Student", sides, row, np.mean(gains)),)
  return claim.Claim(
    "Distillation lifts the student.",
    pairs,
    row["p"] if pairs else float("nan"),
    alike=False,
    published=f"{words.points(np.mean(gains))} on average, "
    f"{words.points(min(gains))} to {words.points(max(gains))} by arm",
    lacks="distilled arms or their Student",
  )


def _pathways(results):
  means = {x: published.mean(x) for x in ("L", "H", "HReg")}
  pairs = [
    _contrast(results, "pathway", first, second)
    for first, second in (("H", "L"), ("HReg", "L"), ("HReg", "H"))
  ]
  return _alike(
    "The three pathways are comparable.",
    pairs,
    ", ".join(f"{x} {mean:.1f}" for x, mean in means.items()),
    "the three pathways, or arms alike in all else",
  )


def _loss(results):
  means = published.mean("KLD"), published.mean("MSE")
  claimed = (means[0] - means[1]) / 100
  pair = _contrast(results, "loss", "KLD", "MSE", claimed)
  return claim.Claim(
    "KLD is better than MSE.",
    (pair,) if pair else (),
    pair.row["p"] if pair else float("nan"),
    alike=False,
    published=f"{words.points(claimed)}, KLD "
    f"{means[0]:.1f} and MSE {means[1]:.1f}",
    lacks="both KLD and MSE, or arms alike in all else",
  )


def _view(results):
  weak = published.mean("WAug")
  arms = published.arms().values()
  strong = 2 * sum(row.dice_mean for row in arms) / len(arms) - weak
  return _alike(
    "Weak augmentation of the teacher's input does not matter.",
    [_contrast(results, "view", "weak", "strong")],
    f"weak {weak:.1f}, strong {strong:.1f}",
    "both views of the teacher's input",
  )


def _teacher(results):
  pair = claim.of_models(results, "L_KLD_WAug", "Teacher")
  counts = results.efficiency["parameters"]
  remark, lacks = "", "L_KLD_WAug and Teacher"
  if pair and {"Teacher", "L_KLD_WAug"} <= set(counts.dropna().index):
    ratio = counts["Teacher"] / counts["L_KLD_WAug"]
    remark = f"It has {ratio:.0f} times fewer parameters"
    if ratio < SMALLER:
      lacks = f"a student about 100 times smaller ({ratio:.0f} times)"
      pair = None
  return _alike(
    "L_KLD_WAug is comparable to the teacher with about 100 times fewer "
    "parameters.",
    [pair],
    "80.00 and 81.50",
    lacks,
    remark,
  )


def _survivors(results):
  named = survivors()
  pairs = [
    claim.of_models(results, x, results.references.get(x), published.gain(x))
    for x in named
  ]
  raw = [x for x in results.arm_rows() if x["wilcoxon_p"] < claim.ALPHA]
  ahead = sum(x["difference"] > 0 for x in raw)
  kept = results.winners()
  whole = all(pairs)
  return claim.Claim(
    f"After Holm's correction {words.listed(named)} stay better than Student.",
    tuple(pairs) if whole else (),
    max(x.row["p"] for x in pairs) if whole else float("nan"),
    alike=False,
    published="of eleven arms at p < 0.05 these three survive",
    lacks=words.listed(named),
    remark=f"Of {words.many(len(results.arm_rows()), 'arm')} here, {ahead} are "
    f"above Student at p < 0.05 before correction and {len(kept)} are shown "
    "to be after it" + (f" ({words.some(kept)})" if kept else ""),
  )


def _alike(text, pairs, numbers, lacks, remark=""):
  """A claim of equality; untested where one of its pairs is None."""
  whole = all(pairs)
  p = [x.row["equivalent_p"] for x in pairs] if whole else [float("nan")]
  return claim.Claim(
    text,
    tuple(pairs) if whole else (),
    float(np.max(p)),  # All have to be equal; NaN if one cannot be tested.
    alike=True,
    published=numbers,
    lacks=lacks,
    remark=remark,
  )


def _contrast(results, factor, first, second, claimed=0.0):
  """The `Pair` of two levels of an axis, or None."""
  levels = results.levels
  levels = levels[levels.index.isin(results.scores.columns)]
  sides = None
  if factor in levels:
    sides = factors.sides(levels, factor, first, second)
  if sides is None:
    return None
  (row,) = results.paired.compare([sides])
  return claim.Pair(f"{first} against {second}", sides, row, claimed)
