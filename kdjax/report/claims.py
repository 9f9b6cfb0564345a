"""The published claims and the study's answer, each decided by the numbers."""

import pandas as pd

from kdjax.evaluate import statistics
from kdjax.report import comparisons
from kdjax.report import published
from kdjax.report import rows
from kdjax.report import verdicts
from kdjax.report import words

COLUMNS = ("claim", "verdict", "sentence")


def lift(per_case, references, margin, ratio):
  """The mean over distilled arms against their Students, one comparison."""
  scores = rows.units(per_case)
  pairs = [
    (arm, student)
    for arm, student in references.items()
    if arm != student and {arm, student} <= set(scores)
  ]
  if not pairs:
    return None
  arms, students = zip(*pairs, strict=True)
  groups = rows.groups(per_case, scores.index)
  sides = (scores[list(x)].mean(axis=1, skipna=False) for x in (arms, students))
  return comparisons.compare(*sides, groups, margin, ratio=ratio)


def make(results):
  """The published claims, a frame of `COLUMNS`.

  Args:
    results: `results.Results`, whose claims are not yet set.
  """
  found = [
    ("Distillation lifts the student.", *_lifts(results)),
    ("The three pathways are comparable.", *_pathways(results)),
    ("KLD is better than MSE.", *_loss(results)),
    (
      "Weak augmentation of the teacher's input does not matter.",
      *_view(results),
    ),
    (
      "L_KLD_WAug is comparable to the teacher with about 100 times fewer "
      "parameters.",
      *_teacher(results),
    ),
    (
      f"After Holm's correction {words.listed(survivors())} stay better than "
      "Student.",
      *_survivors(results),
    ),
    (
      "The trend holds for students of several sizes and more data sets "
      "(asked for as future work).",
      verdicts.UNDECIDED,
      "One student size and one data set were run; `kdjax report A B C` sets "
      "several workdirs side by side.",
    ),
  ]
  return pd.DataFrame(found, columns=COLUMNS)


def survivors():
  """Arms whose published p against Student survives Holm's correction."""
  arms = {x: row for x, row in published.TABLE_4.items() if "_" in x}
  corrected = statistics.holm([row.p_student for row in arms.values()])
  kept = [x for x, p in zip(arms, corrected, strict=True) if p < 0.05]
  return sorted(kept, key=lambda x: arms[x].p_student)


def answer(results):
  """The study's answer, three sentences."""
  return [
    _answer_lift(results),
    _answer_axes(results),
    _answer_teacher(results),
  ]


def _lifts(results):
  row = results.lift
  if row is None:
    return _absent("distilled arms or their Student")
  verdict = verdicts.better(row, results.margin, "group_p")
  arms = words.many(len(results.distilled), "arm")
  text = f"On average over {arms} {_said(row)} against Student{_anew(row)}."
  return verdict, text + " Published: 4.3 to 6.8 points by arm."


def _pathways(results):
  found = _contrasts(results, "pathway")
  if not found:
    return _absent("more than one pathway")
  verdict = verdicts.comparable(found, results.margin, "holm_p")
  return verdict, _pairwise(results, found) + " Published means: L 78.3, H " + (
    "78.2, HReg 78.5."
  )


def _loss(results):
  found = [
    x
    for x in _contrasts(results, "loss")
    if {x["level"], x["against"]} == {"KLD", "MSE"}
  ]
  if not found:
    return _absent("both KLD and MSE")
  row = _turned(found[0], "KLD")
  verdict = verdicts.better(row, results.margin, "holm_p")
  return (
    verdict,
    f"KLD against MSE: {_said(row)}{_anew(row)}. Published means: KLD 79.0, "
    "MSE 77.7.",
  )


def _view(results):
  found = [
    x
    for x in _contrasts(results, "view")
    if {x["level"], x["against"]} == {"weak", "strong"}
  ]
  if not found:
    return _absent("both views")
  verdict = verdicts.comparable(found, results.margin, "holm_p")
  return verdict, _pairwise(results, found) + (
    " Published means: weak 78.5, strong 78.2."
  )


def _teacher(results):
  row = results.comparison("L_KLD_WAug", "Teacher")
  if row is None:
    return _absent("L_KLD_WAug and Teacher")
  verdict = verdicts.comparable([row], results.margin)
  text = (
    f"L_KLD_WAug against Teacher: {_said(row)}; {_equivalence(results, row)}"
  )
  counts = results.efficiency["parameters"]
  if {"Teacher", "L_KLD_WAug"} <= set(counts.index):
    ratio = counts["Teacher"] / counts["L_KLD_WAug"]
    text += f", with {ratio:.0f} times fewer parameters"
  return verdict, text + f"{_anew(row)}. Published: 80.00 against 81.50."


def _survivors(results):
  named = survivors()
  found = [results.versus_student(arm) for arm in named]
  if any(row is None for row in found):
    return _absent(words.listed(named))
  signs = [verdicts.better(row, results.margin) for row in found]
  raw = [x for x in results.arm_rows() if x["wilcoxon_p"] < 0.05]
  ahead = [x for x in raw if x["difference"] > 0]
  kept = results.winners()
  text = (
    f"Of {words.many(len(results.arm_rows()), 'arm')}, {len(ahead)} are above "
    f"Student at p < 0.05 before correction and {len(kept)} are shown to be "
    "after it" + (f": {words.some(kept)}." if kept else ".")
  )
  if all(x == verdicts.SUPPORTED for x in signs):
    return verdicts.SUPPORTED, text
  if verdicts.NOT_SUPPORTED in signs:
    return verdicts.NOT_SUPPORTED, text
  return verdicts.UNDECIDED, text


def _answer_lift(results):
  row = results.lift
  if row is None:
    return "No distilled arm has a Student to be compared with."
  said = {
    verdicts.SUPPORTED: "Distillation lifts the student",
    verdicts.NOT_SUPPORTED: "Distillation does not lift the student",
    verdicts.UNDECIDED: "Whether distillation lifts the student is not "
    "decided by these data",
  }[verdicts.better(row, results.margin, "group_p")]
  kept, tested = results.winners(), results.arm_rows()
  best = max(tested, key=lambda x: x["difference"])
  which = f" ({words.some(kept)})" if 0 < len(kept) < len(tested) else ""
  return (
    f"{said}: {_said(row)}{_anew(row)} on average over "
    f"{words.many(len(results.distilled), 'arm')}, and {len(kept)} of "
    f"{len(tested)} are better than Student after Holm's correction{which}, "
    f"with {best['model']} the highest at {words.difference(best)} points."
  )


def _answer_axes(results):
  if results.contrasts.empty:
    return "No axis of the grid has two levels to compare."
  parts = []
  for factor in dict.fromkeys(results.contrasts["factor"]):
    found = _contrasts(results, factor)
    sure = [x for x in found if verdicts.shown(x, "holm_p")]
    if sure:
      top = max(sure, key=lambda x: abs(x["difference"]))
      top = _turned(
        top, top["level"] if top["difference"] > 0 else top["against"]
      )
      parts.append(
        f"the {_axis(factor)} matters ({top['level']} against "
        f"{top['against']}: {words.difference(top)} points)"
      )
    elif all(verdicts.equal(x, results.margin) for x in found):
      size = max(found, key=lambda x: abs(x["difference"]))
      parts.append(
        f"the {_axis(factor)} does not matter (all levels within "
        f"{100 * results.margin:g} points, the largest difference "
        f"{words.points(abs(size['difference']))[1:]})"
      )
    else:
      limit = _limit(found)
      parts.append(f"the {_axis(factor)} is left undecided{limit}")
  text = "; ".join(parts)
  return f"Of the grid's axes: {text}."


def _limit(found):
  """How large a difference would have had to be, in brackets."""
  halves = [x["corrected_high"] - x["corrected_low"] for x in found]
  if not any(map(pd.isna, halves)):
    return f" (known to ± {50 * max(halves):.1f} points over splits)"
  worst = max(x["detectable"] for x in found)
  if pd.isna(worst):
    return ""
  return f" (a difference of {100 * worst:.1f} points would have shown)"


def _answer_teacher(results):
  if "Teacher" not in results.models:
    return "There is no Teacher to compare with."
  gap = results.comparison("Student", "Teacher")
  said = ""
  if gap is not None:
    turned = _turned({**gap, "level": "", "against": ""}, "x")
    said = f"Teacher against Student: {words.difference(turned)} points"
    if not gap["ci_high"] < 0:
      said += ", so it may have had nothing to teach"
    said += "; "
  arms = results.teacher_rows()
  if not arms:
    return f"{said}no arm was compared with it.".capitalize()
  equal = results.equals()
  above = [x["model"] for x in arms if verdicts.shown(x) > 0]
  margin = f"{100 * results.margin:g} points"
  if equal:
    text = (
      f"{len(equal)} of {len(arms)} arms are equivalent to it within {margin}, "
      f"Holm-corrected ({words.some(equal)})"
    )
  else:
    text = f"no arm is shown to be equivalent to it within {margin}"
  if above:
    text += f"; above it: {words.some(above)}"
  return (said + text)[0].upper() + (said + text)[1:] + "."


def _contrasts(results, factor):
  frame = results.contrasts
  return frame[frame["factor"] == factor].to_dict("records")


def _turned(row, level):
  """The same contrast with `level` first."""
  if row["level"] == level:
    return row
  turned = {**row, "level": row["against"], "against": row["level"]}
  for low, high in (
    ("ci_low", "ci_high"),
    ("corrected_low", "corrected_high"),
  ):
    if not pd.isna(row[low]):
      turned[low], turned[high] = -row[high], -row[low]
  turned["difference"] = -row["difference"]
  return turned


def _said(row):
  return f"{words.difference(row)} Dice points"


def _anew(row):
  """What repeated hold-outs add: where networks trained anew would lie."""
  if pd.isna(row["corrected_low"]):
    return ""
  low, high = (words.points(row[f"corrected_{x}"]) for x in ("low", "high"))
  return f" (trained anew on other splits: {low} to {high})"


def _equivalence(results, row):
  margin = f"{100 * results.margin:g} points"
  if verdicts.equal(row, results.margin):
    return f"equivalent within {margin}"
  return f"not shown to be equivalent within {margin}"


def _pairwise(results, found):
  margin = f"{100 * results.margin:g}"
  parts = [
    f"{x['level']} against {x['against']} {words.difference(x)}{_anew(x)}"
    for x in found
  ]
  equal = sum(verdicts.equal(x, results.margin) for x in found)
  return (
    f"{'; '.join(parts)} Dice points; {equal} of {len(found)} shown "
    f"equivalent within {margin}."
  )


def _axis(factor):
  return {"view": "teacher's view"}.get(factor, factor.replace("_", " "))


def _absent(what):
  return verdicts.UNDECIDED, f"This grid lacks {what}."
