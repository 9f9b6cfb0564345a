"""The study's table from per-case numbers, as CSV, Markdown and LaTeX.

Its unit is the (fold, case), averaged over seeds first: means, deviations and
paired tests are over units.
"""

import io
import math

from etils import epath
import pandas as pd

from kdjax import errors
from kdjax import files
from kdjax.evaluate import statistics
from kdjax.report import published as paper

COLUMNS = (
  "model",
  "cases",
  "dice_mean",
  "dice_std",
  "t_p_teacher",
  "wilcoxon_p_teacher",
  "t_p_student",
  "wilcoxon_p_student",
  "parameters",
)
PUBLISHED_COLUMNS = ("published_dice_mean", "published_dice_std")
_TEXT = ("model", "case", "group")
_COUNTS = ("fold", "seed", "empty_truth", "empty_prediction")
_LIMITS = {"dice": 1, "iou": 1, "hd95": math.inf, "assd": math.inf}
_REFERENCES = ("Teacher", "Student")
_TESTS = ("t-test", "Wilcoxon")
_LATEX = str.maketrans(
  {character: "\\" + character for character in "&%$#_{}"}
  | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
  | {"^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$"}
)


def write(workdir, parameters, references, published=False):
  """Writes report/table.csv, .md and .tex from per_case.csv.

  Args:
    workdir: holds per_case.csv and gets the report folder.
    parameters: model to its parameter count. A model named here that has no
      case gets a row without numbers: a lost arm is shown, not hidden.
    references: arm to the Student that it is compared with. Whoever is not
      named is compared with the only Student, or with none if there are more.
    published: whether Table 4 of the paper stands beside ours.

  Returns:
    The Markdown: the table, then a note on what the numbers are.

  Raises:
    UserError: per_case.csv is missing or damaged; nothing is written then.
  """
  per_case = read(workdir)
  table = summarize(per_case, parameters, references)
  notes = note(per_case, table)
  if published:
    for column in PUBLISHED_COLUMNS:
      field = column.removeprefix("published_")
      table[column] = [
        round(getattr(paper.TABLE_4[model], field) / 100, 4)
        if model in paper.TABLE_4
        else None
        for model in table["model"]
      ]
    notes.append(
      "Published: Behboodi, Brooks, Rivaz, doi 10.36922/aih.3509, Table 4."
    )
  text = markdown(table, notes)
  report = epath.Path(workdir) / "report"
  for name, content in (
    ("table.csv", table.to_csv(index=False)),
    ("table.md", text),
    ("table.tex", latex(table, notes)),
  ):
    files.write_text(report / name, content)
  return text


def summarize(per_case, parameters, references):
  """The table as a frame of `COLUMNS`: Teacher, Students, arms as they come."""
  scores = units(per_case)
  found = list(dict.fromkeys([*per_case["model"], *parameters]))
  students = [
    model
    for model in found
    if model in references.values() or model == "Student"
  ]
  first = [model for model in found if model == "Teacher"] + students
  order = first + [model for model in found if model not in first]
  scores = scores.reindex(columns=order)
  only = students[0] if len(students) == 1 else None
  rows = []
  for model in order:
    values = scores[model].dropna()
    student = references.get(model, only)
    row = [model, len(values), values.mean(), values.std()]
    for reference in ("Teacher", student):
      if reference == model or reference not in scores:
        row += [None, None]
      else:
        pair = scores[model].to_numpy(), scores[reference].to_numpy()
        row += [statistics.t_test(*pair), statistics.wilcoxon(*pair)]
    rows.append([*row, parameters.get(model)])
  table = pd.DataFrame(rows, columns=COLUMNS)
  real = COLUMNS[2:-1]
  return table.astype(dict.fromkeys(real, float) | {"parameters": "Int64"})


def note(per_case, table):
  """What the numbers are and what they support: a list of sentences."""
  scores = units(per_case)
  cases, folds, seeds = (
    _many(per_case[name].nunique(), name) for name in ("case", "fold", "seed")
  )
  notes = [
    f"Dice in percent, mean ± standard deviation over tested cases ({cases}, "
    f"{folds}, {seeds}; a case's seeds are averaged first)."
  ]
  if twice := int((scores.groupby("case").size() > 1).sum()):
    notes.append(
      f"Folds overlap: {_many(twice, 'case')} tested in more than one, so p "
      "and intervals are too sure of themselves."
    )
  widths = [100 * statistics.half_width(scores[model]) for model in scores]
  widths = [width for width in widths if not math.isnan(width)]
  if widths:
    notes.append(
      f"A mean is known to within ± {min(widths):.1f} to {max(widths):.1f} "
      "points (95 %, tested cases taken as independent)."
    )
  notes.append(
    "p: two-sided paired t-test and Wilcoxon signed-rank test on the cases "
    "that both models were tested on; * p < 0.05, ** p < 0.01, not corrected "
    "for the number of comparisons."
  )
  return notes + _note_empty(per_case) + _note_missing(per_case, table)


def markdown(table, notes):
  """The table in GitHub's Markdown, columns aligned, then the notes."""
  header, rows = _cells(table)
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

  def line(cells):
    model, *rest = cells
    padded = [model.ljust(widths[0])]
    padded += [x.rjust(n) for x, n in zip(rest, widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |"

  rule = ["-" * widths[0]] + ["-" * (n - 1) + ":" for n in widths[1:]]
  lines = [line(header), line(rule), *map(line, rows), "", *notes]
  return "\n".join(lines) + "\n"


def latex(table, notes):
  """The table as a LaTeX float over the page's width; it needs booktabs."""
  header, rows = _cells(table)
  words = lambda text: text.translate(_LATEX)
  line = lambda cells: " & ".join(map(words, cells)) + r" \\"
  before = len(header) - len(_REFERENCES) * len(_TESTS) - 1
  groups = [
    rf"\multicolumn{{{len(_TESTS)}}}{{c}}{{vs {to}}}" for to in _REFERENCES
  ]
  header = [name.split(",")[0] for name in header]  # The groups say the rest.
  lines = [
    r"% \usepackage{booktabs}",
    r"\begin{table*}",
    r"\centering",
    rf"\caption{{{words(notes[0])}}}",
    r"\label{tab:kdjax}",
    r"\footnotesize",
    r"\setlength{\tabcolsep}{4pt}",
    rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
    r"\toprule",
    " & ".join([""] * before + groups).strip() + r" & \\",
    line(header),
    r"\midrule",
    *map(line, rows),
    r"\bottomrule",
    r"\end{tabular}",
    r"\par\smallskip",
    r"\begin{minipage}{\linewidth}",
    *map(words, notes[1:]),
    r"\end{minipage}",
    r"\end{table*}",
  ]
  return "\n".join(lines) + "\n"


def _note_empty(per_case):
  """How empty masks were counted, and whose they are."""
  lesion = per_case["empty_truth"] == 0
  silent = per_case["empty_prediction"] == 1
  notes = [
    "A missed lesion scores 0; nothing was predicted for: "
    + _tally(per_case[lesion & silent])
  ]
  if not lesion.all():
    without = per_case[~lesion].groupby(["fold", "case"]).ngroups
    notes.append(
      f"{_many(without, 'tested case')} without a lesion: Dice is undefined "
      "there and left out; a lesion was predicted all the same by: "
      + _tally(per_case[~lesion & ~silent])
    )
  return notes


def _note_missing(per_case, table):
  """Which models have fewer results than the rest."""
  results = per_case.groupby(["fold", "seed", "case"]).ngroups
  counts = per_case["model"].value_counts()
  lacking = [
    f"{model} {counts.get(model, 0)}"
    for model in table["model"]
    if counts.get(model, 0) < results
  ]
  if not lacking:
    return []
  return [
    f"Incomplete, of {results} results: {', '.join(lacking)}. They are "
    "compared on the cases in common."
  ]


def _tally(rows):
  """Rows per model, in words."""
  counts = rows["model"].value_counts(sort=False)
  words = ", ".join(f"{model} {count}" for model, count in counts.items())
  return (words or "none") + "."


def _many(count, word):
  return f"{count} {word}" + ("" if count == 1 else "s")


def _cells(table):
  """Header and rows of words, the same for every layout."""
  header = ["model", "cases", "Dice"]
  published = PUBLISHED_COLUMNS[0] in table
  header += ["published"] if published else []
  header += [f"{test}, {to}" for to in _REFERENCES for test in _TESTS]
  header += ["parameters"]
  rows = []
  for row in table.to_dict("records"):
    cells = [row["model"], str(row["cases"])]
    cells.append(_spread(row["dice_mean"], row["dice_std"]))
    if published:
      cells.append(_spread(*(row[column] for column in PUBLISHED_COLUMNS)))
    cells += [_p(row[column]) for column in COLUMNS if "_p_" in column]
    count = row["parameters"]
    rows.append([*cells, "-" if pd.isna(count) else f"{count:,}"])
  return header, rows


def _spread(mean, std):
  """Mean ± std in percent; a single value has no deviation."""
  if pd.isna(mean):
    return "-"
  return f"{100 * mean:.2f}" + ("" if pd.isna(std) else f" ± {100 * std:.2f}")


def _p(p):
  """A p-value with the paper's marks."""
  if pd.isna(p):
    return "-"
  mark = "**" if p < 0.01 else "*" if p < 0.05 else ""
  if p < 0.001:
    return "<0.001" + mark
  return (f"{p:.3f}" if p >= 0.1 else f"{p:.4f}") + mark
