"""comparisons.csv: each arm against its Student and against the Teacher.

Both families are corrected by Holm over all of their rows. What a row counts,
`paired` says.
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
    pairs: `(model, reference)`. Those with Teacher are one family of Holm's
      correction, those with a Student the other; the rows of one reference
      share its luck.
  """
  pairs = [pair for pair in pairs if set(pair) <= set(table.units)]
  family = lambda to: to == "Teacher"
  sizes = {x: sum(family(to) == x for _, to in pairs) for x in (True, False)}
  found = {}
  for to in dict.fromkeys(x for _, x in pairs):
    mine = [pair for pair in pairs if pair[1] == to]
    sides = [({model: 1.0}, {to: 1.0}) for model, _ in mine]
    made = table.compare(sides, shared=True, alpha=0.05 / sizes[family(to)])
    found |= dict(zip(mine, made, strict=True))
  frame = pd.DataFrame(
    [{"model": x, "reference": to, **found[x, to]} for x, to in pairs],
    columns=COLUMNS,
  )
  families = frame.groupby(family(frame["reference"]), sort=False)["p"]
  frame["holm_p"] = families.transform(statistics.holm).astype(float)
  return frame


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
