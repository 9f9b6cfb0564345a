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


def make(table, pairs, controls=(), compressed=()):
  """All comparisons in Dice, a frame of `COLUMNS`, a row per pair.

  Args:
    table: `paired.Paired`.
    pairs: `(model, reference)`. Families of Holm's correction are the arms
      against their Students, the Students against Teacher (is there something
      to teach?), the arms against it, smaller Teachers against it, the controls
      against Students, and the arms against their controls. All rows of one
      reference share its luck.
    controls: models that are controls.
    compressed: models that are Teachers made smaller.
  """
  pairs = [pair for pair in pairs if set(pair) <= set(table.units)]
  students = {to for _, to in pairs} - {"Teacher", *controls}
  kind = lambda x: (
    *(x == "Teacher", x in students, x in controls),
    x in compressed,
  )
  family = lambda pair: (kind(pair[0]), kind(pair[1]))
  families = [family(x) for x in pairs]
  # An arm and its control share nothing that another such pair does.
  luck = lambda pair: None if pair[1] in controls else pair[1]
  found = {}
  for shared in dict.fromkeys(map(luck, pairs)):
    mine = [pair for pair in pairs if luck(pair) == shared]
    sides = [({model: 1.0}, {to: 1.0}) for model, to in mine]
    levels = [0.05 / families.count(family(x)) for x in mine]
    made = table.compare(sides, shared=shared is not None, levels=levels)
    found |= dict(zip(mine, made, strict=True))
  frame = pd.DataFrame(
    [{"model": x, "reference": to, **found[x, to]} for x, to in pairs],
    columns=COLUMNS,
  )
  for name in set(families):
    mine = [x == name for x in families]
    frame.loc[mine, "holm_p"] = statistics.holm(frame.loc[mine, "p"])
  return frame.astype({"holm_p": float})


def pairs(models, references, controls=None, compressed=()):
  """Who is compared with whom: `(model, reference)` pairs in order.

  Args:
    models: names, `Teacher` and Students among them.
    references: arm to the Student that differs in nothing but distillation, a
      Student to itself. Whoever is not named is compared with the only Student,
      if there is one.
    controls: control to the arm it stands beside, or to None.
    compressed: models that are Teachers made smaller.
  """
  controls = controls or {}
  students = [x for x in models if x in references.values()]
  only = students[0] if len(students) == 1 else None
  teachers = ("Teacher", *compressed)
  arms = [x for x in models if x not in (*teachers, *students)]
  found = [(x, references.get(x, only)) for x in arms]
  found += [(controls.get(x), x) for x in arms]
  found = [pair for pair in found if all(pair)]
  real = [x for x in arms if x not in controls]
  return found + [
    (x, "Teacher")
    for x in [*compressed, *students, *real]
    if "Teacher" in models
  ]
