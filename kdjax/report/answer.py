"""The study's answer: a few sentences, made from the numbers."""

import pandas as pd

from kdjax.distill import axes
from kdjax.evaluate import statistics
from kdjax.report import compression
from kdjax.report import paired
from kdjax.report import verdicts
from kdjax.report import words


def make(results):
  """Whether distillation helps, which axis matters, and how far is Teacher.

  And what tuning brings, where it was searched; whether it is the teacher's
  knowledge that helps, where controls were run; what is best at equal bytes,
  where Teachers were made smaller.

  Args:
    results: `results.Results`.
  """
  found = [_lift(results)]
  found += [_tuning(results)] if results.tuned else []
  found += [_axes(results), _teacher(results)]
  found += [_controls(results)] if results.control_rows() else []
  return found + [x for x in [compression.answer(results)] if x]


def _lift(results):
  row = results.lift
  if row is None:
    return "No distilled arm has a Student to be compared with."
  # Corrected as the claim is, so that the two cannot disagree.
  row = {**row, "holm_p": results.claims["holm_p"].iloc[0]}
  margin = f"{100 * results.margin:g} points"
  sign = verdicts.shown(row)
  student = (
    "a student that was tuned as much" if results.tuned else "the student"
  )
  if sign:
    said = f"Distillation {'lifts' if sign > 0 else 'lowers'} {student}"
  elif verdicts.equal(row, results.margin):
    said = f"Distillation changes {student} by less than {margin}"
  else:
    said = f"Whether distillation lifts {student} is not decided by these data"
  tested = [x for x in results.arm_rows() if x["model"] in results.taught]
  kept = [x["model"] for x in tested if verdicts.shown(x) > 0]
  best = max(tested, key=lambda x: x["difference"])
  which = f" ({words.some(kept)})" if 0 < len(kept) < len(tested) else ""
  if results.paired.scope != paired.METHODS:
    said = f"Of {results.paired.scope}, {said[0].lower()}{said[1:]}"
  text = (
    f"{said}: {words.difference(row)} Dice points on average over "
    f"{words.many(len(results.taught), 'arm')}{words.folds(row)}, and "
    f"{len(kept)} of {len(tested)} are shown to be better than Student after "
    f"Holm's correction{which}, with {best['model']} the highest at "
    f"{words.difference(best)} points"
  )
  lost = [x["model"] for x in tested if verdicts.shown(x) < 0]
  return text + (f"; worse: {words.some(lost)}." if lost else ".")


def _tuning(results):
  """What tuning does for Student and arms, and what arms are worth without."""
  tuned = results.taught
  pairs = {x: x.removesuffix(axes.TUNED) for x in (*tuned, *tuned.values())}
  pairs = {x: y for x, y in pairs.items() if y in results.scores and x != y}
  arms = [x for x in pairs if x in tuned]
  students = [x for x in pairs if x not in tuned]
  untuned = [pairs[x] for x in arms]
  mean = paired.mean
  sides = {}
  if students:
    own = mean([pairs[x] for x in students])
    sides["the Student"] = mean(students), own
  if arms:
    sides["the arms"] = mean(arms), mean(untuned)
    own = mean([results.references[x] for x in untuned])
    sides["untuned arms above their Student"] = mean(untuned), own
  if not sides:
    return "No arm was run untuned, so what tuning brings is not known."
  found = results.paired.compare(list(sides.values()))
  corrected = statistics.holm([x["p"] for x in found])
  text = "; ".join(
    f"{name} {words.difference(row)}"
    + ("" if verdicts.shown({**row, "holm_p": p}) else " (not shown)")
    for (name, row, p) in zip(sides, found, corrected, strict=True)
  )
  return f"What tuning brings{_scope(results, ', for')}, in points: {text}."


def _axes(results):
  frame = results.contrasts
  if frame.empty:
    return "No axis of the grid has two levels to compare."
  factors = list(dict.fromkeys(frame["factor"]))
  found = {x: frame[frame["factor"] == x].to_dict("records") for x in factors}
  # All levels have to be equal, and the axes are a family of their own.
  alike = statistics.holm(
    [frame[frame["factor"] == x]["equivalent_p"].max() for x in factors]
  )
  text = "; ".join(
    _axis(x, found[x], p, results.margin)
    for x, p in zip(factors, alike, strict=True)
  )
  return f"Of the grid's axes{_scope(results, ', for')}: {text}."


def _axis(factor, found, alike, margin):
  """What is known of one axis; `alike` is the p that all levels are equal."""
  name = {"view": "teacher's view", "bits": "number of bits"}.get(
    factor, factor.replace("_", " ")
  )
  sure = [x for x in found if verdicts.shown(x)]
  equal = alike < 0.05 and all(verdicts.equal(x, margin) for x in found)
  if sure:
    top = max(sure, key=lambda x: abs(x["difference"]))
    if top["difference"] < 0:
      top = turned(top)
    little = f", though by less than {100 * margin:g} points" if equal else ""
    return (
      f"the {name} matters{little} ({top['level']} against {top['against']}: "
      f"{words.difference(top)} points)"
    )
  if equal:
    size = max(abs(x["difference"]) for x in found)
    return (
      f"the {name} does not matter (all levels within {100 * margin:g} points, "
      f"the largest difference {words.points(size)[1:]})"
    )
  return f"the {name} is left undecided{_limit(found)}"


def _limit(found):
  """How large a difference would have had to be, in brackets."""
  worst = max(x["detectable"] for x in found)
  if pd.isna(worst):
    return ""
  if worst > 1:
    return " (no difference would have shown)"
  return f" (a difference of {100 * worst:.1f} points would have shown)"


def _teacher(results):
  if "Teacher" not in results.models:
    return "There is no Teacher to compare with."
  # Those made smaller have sentences of their own.
  whole = [x for x in results.students if not results.ways(x)]
  gaps = [_gap(results, student) for student in whole]
  text = "; ".join([*filter(None, gaps), _arms(results)])
  scope = _scope(results, "for")
  text = f"{scope}: {text}" if scope else text
  return text[0].upper() + text[1:] + "."


def _controls(results):
  """What trained answers are worth above each kind of control's."""
  by_arm = {x["reference"]: x for x in results.control_rows()}
  kinds = {}
  for arm in results.arms:
    if arm.name in by_arm:
      kinds.setdefault(arm.source, []).append(by_arm[arm.name])
  side = lambda rows, of: paired.mean([x[of] for x in rows])
  sides = [(side(x, "model"), side(x, "reference")) for x in kinds.values()]
  means = results.paired.compare(sides)
  corrected = statistics.holm([x["p"] for x in means])
  text = "; ".join(
    _control(source, rows, {**mean, "holm_p": p}, results.margin)
    for (source, rows), mean, p in zip(
      kinds.items(), means, corrected, strict=True
    )
  )
  return f"Controls{_scope(results, ', for')}: {text}."


def _control(source, rows, mean, margin):
  """What the trained teacher is worth above one kind of control."""
  sign = verdicts.shown(mean)
  if sign > 0:
    said = "what the teacher learned helps"
  elif sign < 0:
    said = "what the teacher learned does harm"
  elif verdicts.equal(mean, margin):
    said = f"the control teaches as much, within {100 * margin:g} points"
  else:
    said = "whether what the teacher learned helps is not decided"
  better = [x["model"] for x in rows if verdicts.shown(x) > 0]
  which = f" ({words.some(better)})" if 0 < len(better) < len(rows) else ""
  return (
    f"against {words.CONTROLS[source]}, {said}: "
    f"{words.difference(mean)} points on average "
    f"over {words.many(len(rows), 'arm')}, of which {len(better)} are shown to "
    f"be better than their control{which}"
  )


def _scope(results, word):
  """Whom the numbers speak of, where it is not the methods; else ""."""
  scope = results.paired.scope
  return "" if scope == paired.METHODS else f"{word} {scope}"


def _gap(results, student):
  """How far Teacher is above a Student, "" where they are not compared."""
  row = results.comparison(student, "Teacher")
  if row is None:
    return ""
  text = f"Teacher against {student}: {words.difference(turned(row))} points"
  nothing = ", so it may have had nothing to teach"
  return text + (nothing if verdicts.shown(row) >= 0 else "")


def _arms(results):
  """How the arms stand to Teacher."""
  found = results.teacher_rows()
  if not found:
    return "no arm was compared with it"
  equal = results.equals()
  margin = f"{100 * results.margin:g} points"
  text = f"no arm is shown to be equivalent to it within {margin}"
  if equal:
    text = (
      f"{len(equal)} of {len(found)} arms are equivalent to it within "
      f"{margin}, Holm-corrected ({words.some(equal)})"
    )
  for word, sign in (("above", 1), ("below", -1)):
    names = [x["model"] for x in found if verdicts.shown(x) == sign]
    text += f", {len(names)} {word} it ({words.some(names)})" if names else ""
  return text


def turned(row):
  """The same comparison with its second side first."""
  swapped = dict(row)
  if "level" in row:
    swapped["level"], swapped["against"] = row["against"], row["level"]
  for name in ("ci", "fold", "networks"):
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    swapped[f"{name}_low"], swapped[f"{name}_high"] = -high, -low
  return swapped | {"difference": -row["difference"]}
