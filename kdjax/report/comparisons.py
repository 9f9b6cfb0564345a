"""comparisons.csv: each arm against its Student and against the Teacher.

What a row counts, `paired` says.
"""

import pandas as pd

from kdjax.evaluate import statistics
from kdjax.report import paired

COLUMNS = ("model", "reference", *paired.COLUMNS, "holm_p")
# What other tables keep of a comparison.
KEPT = tuple(
  x
  for x in (*paired.COLUMNS, "holm_p")
  if x not in ("t_p", "wilcoxon_p", "effect", "wins", "ties", "losses")
)


def make(table, pairs):
  """All comparisons in Dice, a frame of `COLUMNS`, a row per pair.

  Args:
    table: `paired.Paired`.
    pairs: `(model, reference)`. Families of Holm's correction are the arms
      against their Students, the Students against Teacher (is there something
      to teach?) and the arms against it. All rows of one reference share its
      luck.
  """
  pairs = [pair for pair in pairs if set(pair) <= set(table.units)]
  students = {to for _, to in pairs if to != "Teacher"}
  family = lambda pair: (pair[1] == "Teacher", pair[0] in students)
  families = [family(x) for x in pairs]
  found = {}
  for to in dict.fromkeys(x for _, x in pairs):
    mine = [pair for pair in pairs if pair[1] == to]
    sides = [({model: 1.0}, {to: 1.0}) for model, _ in mine]
    levels = [0.05 / families.count(family(x)) for x in mine]
    made = table.compare(sides, shared=True, levels=levels)
    found |= dict(zip(mine, made, strict=True))
  frame = pd.DataFrame(
    [{"model": x, "reference": to, **found[x, to]} for x, to in pairs],
    columns=COLUMNS,
  )
  for name in set(families):
    mine = [x == name for x in families]
    frame.loc[mine, "holm_p"] = statistics.holm(frame.loc[mine, "p"])
  return frame.astype({"holm_p": float})


def pairs(models, references):
  """Who is compared with whom: `(model, reference)` pairs in order.

  Args:
    models: names, `Teacher` and Students among them.
    references: arm to the Student that differs in nothing but distillation, a
      Student to itself. Whoever is not named is compared with the only Student,
      if there is one.
  """
  students = [x for x in models if x in references.values()]
  only = students[0] if len(students) == 1 else None
  arms = [x for x in models if x != "Teacher" and x not in students]
  found = [(x, references.get(x, only)) for x in arms]
  found = [pair for pair in found if pair[1]]
  return found + [
    (x, "Teacher") for x in students + arms if "Teacher" in models
  ]
