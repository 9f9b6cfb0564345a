"""The study's table: numbers as a frame, words in Markdown and LaTeX."""

import numpy as np
import pandas as pd

from kdjax.evaluate import intervals
from kdjax.report import published as paper
from kdjax.report import rows
from kdjax.report import verdicts
from kdjax.report import words

STATISTICS = (
  "model",
  "cases",
  "dice_mean",
  "dice_std",
  "dice_ci_low",
  "dice_ci_high",
  "dice_median",
  "dice_q25",
  "dice_q75",
  "iou_mean",
  "precision_mean",
  "recall_mean",
  "hd95_mean",
  "assd_mean",
  "hd95_mm_mean",
  "assd_mm_mean",
  "missed",
  "false_alarms",
  "t_p_teacher",
  "wilcoxon_p_teacher",
  "t_p_student",
  "wilcoxon_p_student",
)
SIZES = ("parameters", "multiply_adds", "file_bytes")
# Without times, so that a table can be repeated byte for byte.
COLUMNS = (*STATISTICS, *SIZES)
PUBLISHED_COLUMNS = (
  "published_dice_mean",
  "published_dice_std",
  "published_p_teacher",
  "published_p_student",
)
# Of `rows.read`, beside Dice; their means are columns of the table.
MEASURES = {
  "iou": "IoU",
  "precision": "precision",
  "recall": "recall",
  "hd95": "HD95, px",
  "assd": "ASSD, px",
  "hd95_mm": "HD95, mm",
  "assd_mm": "ASSD, mm",
}
TRIALS = ("model", "fold", "seed", "cases", "dice_mean", "epochs", "diverged")
_LATEX = str.maketrans(
  {character: "\\" + character for character in "&%$#_{}"}
  | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
  | {"^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$"}
  | {words.MINUS: "$-$", "–": "--"}
)


def summarize(results):
  """The table as a frame: `COLUMNS`, then the published if asked for.

  Dice, IoU, precision and recall are in [0, 1], distances in pixels of the
  original mask, and in mm over the cases whose spacing is known. The interval
  is 95 % BCa over groups; `missed` counts lesions and `false_alarms` images
  without one, over folds and seeds.
  """
  per_case = results.per_case
  scores = results.scores.reindex(columns=list(results.models))
  groups = rows.groups(per_case, scores.index)
  others = {
    name: rows.units(per_case, name).mean()
    for name in MEASURES
    if name in per_case
  }
  lesion = per_case["empty_truth"] == 0
  silent = per_case["empty_prediction"] == 1
  missed = per_case[lesion & silent]["model"].value_counts()
  alarms = per_case[~lesion & ~silent]["model"].value_counts()
  found = []
  for model in results.models:
    values = scores[model].dropna()
    low, high = intervals.of_mean(scores[model], groups)
    q25, median, q75 = values.quantile([0.25, 0.5, 0.75])
    row = {
      "model": model,
      "cases": len(values),
      "dice_mean": values.mean(),
      "dice_std": values.std(),
      "dice_ci_low": low,
      "dice_ci_high": high,
      "dice_median": median,
      "dice_q25": q25,
      "dice_q75": q75,
      **{f"{x}_mean": mean.get(model) for x, mean in others.items()},
      "missed": int(missed.get(model, 0)),
      "false_alarms": int(alarms.get(model, 0)),
    }
    student = results.references.get(model, _only_student(results))
    for name, reference in (("teacher", "Teacher"), ("student", student)):
      compared = _either(results, model, reference)
      for test in ("t_p", "wilcoxon_p"):
        row[f"{test}_{name}"] = compared[test] if compared else None
    if model in results.efficiency.index:
      row |= results.efficiency.loc[model, list(SIZES)].to_dict()
    found.append(row)
  table = pd.DataFrame(found, columns=COLUMNS)
  whole = ("cases", "missed", "false_alarms")
  real = [x for x in COLUMNS[1:] if x not in (*whole, *SIZES)]
  table = table.astype(
    dict.fromkeys(real, float) | dict.fromkeys(SIZES, "Float64")
  ).astype(dict.fromkeys(SIZES, "Int64"))
  if results.config.published:
    table = table.assign(**_published(table["model"]))
  return table


def trials(results):
  """Every trial's mean Dice over its test cases, a frame of `TRIALS`.

  `epochs` is how many it trained; a diverged trial has no Dice.
  """
  keys = ["model", "fold", "seed"]
  dice = results.per_case.groupby(keys, sort=False)["dice"]
  found = dice.agg(cases="count", dice_mean="mean").reset_index()
  found["diverged"] = 0
  found = pd.concat([found, results.diverged.assign(cases=0, diverged=1)])
  curves = results.curves.rename(columns={"arm": "model"})
  epochs = curves.groupby(keys)["epoch"].max().rename("epochs").reset_index()
  epochs = epochs.astype({"fold": int, "seed": int})
  found = found.astype({"fold": int, "seed": int})
  found = found.merge(epochs, on=keys, how="left")
  found["epochs"] = found["epochs"].astype("Float64").astype("Int64")
  order = {model: i for i, model in enumerate(results.models)}
  found = found.sort_values(
    keys, key=lambda x: x.map(order) if x.name == "model" else x
  )
  return found[list(TRIALS)].reset_index(drop=True)


def means(results, by):
  """Mean Dice by model and "fold" or "seed": a frame, models as rows."""
  table = results.per_case.groupby(["model", by])["dice"].mean().unstack(by)
  return table.reindex(list(results.models))


def _only_student(results):
  students = [x for x in results.models if x in results.references.values()]
  students = students or [x for x in results.models if x == "Student"]
  return students[0] if len(students) == 1 else None


def _either(results, model, reference):
  """The comparison of two models whichever way round, or None."""
  return results.comparison(model, reference) or results.comparison(
    reference, model
  )


def _published(models):
  found = {x: paper.TABLE_4.get(x) for x in models}
  column = lambda name, scale: [
    None
    if row is None or getattr(row, name) is None
    else round(getattr(row, name) / scale, 4)
    for row in found.values()
  ]
  return {
    "published_dice_mean": column("dice_mean", 100),
    "published_dice_std": column("dice_std", 100),
    "published_p_teacher": column("p_teacher", 1),
    "published_p_student": column("p_student", 1),
  }


def markdown(results, table, notes):
  """Table, answer, claims and notes in GitHub's Markdown, columns aligned."""
  header, body = cells(results, table)
  lines = grid(header, body)
  for head, values in filter(None, (measures(table), efficiency(results))):
    lines += ["", *grid(head, [[text for text, _ in row] for row in values])]
  lines += ["", *results.answer]
  if results.config.published:
    lines += ["", "The published claims, on these numbers:", ""]
    lines += [
      f"{number}. {row['claim']} **{row['verdict'].capitalize()}.** "
      f"{row['sentence']}"
      for number, row in enumerate(results.claims.to_dict("records"), start=1)
    ]
  return "\n".join([*lines, "", *(f"- {x}" for x in notes)]) + "\n"


def grid(header, body):
  """A table of words in GitHub's Markdown: its lines, columns aligned."""
  widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]

  def line(row):
    first, *rest = row
    padded = [first.ljust(widths[0])]
    padded += [x.rjust(n) for x, n in zip(rest, widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |"

  rule = ["-" * widths[0]] + ["-" * (n - 1) + ":" for n in widths[1:]]
  return [line(header), line(rule), *map(line, body)]


def latex(results, table, notes):
  """The table as a LaTeX float over both columns; it needs booktabs."""
  header, body = cells(results, table)
  # "model" and Dice stand alone; two groups share a head each.
  student = [i for i, x in enumerate(header) if x.endswith("Student")]
  teacher = [i for i, x in enumerate(header) if x.endswith("Teacher")]
  escape = lambda text: text.translate(_LATEX)
  line = lambda row: " & ".join(map(escape, row)) + r" \\"
  groups, rules = [""] * student[0], []
  for name, members in (("Student", student), ("Teacher", teacher)):
    groups.append(rf"\multicolumn{{{len(members)}}}{{c}}{{against {name}}}")
    rules.append(rf"\cmidrule(lr){{{members[0] + 1}-{members[-1] + 1}}}")
  groups += [""] * (len(header) - teacher[-1] - 1)
  short = [x.split(" vs ")[0] for x in header]
  lines = [
    r"% \usepackage{booktabs}",
    r"\begin{table*}",
    r"\centering",
    rf"\caption{{{escape(notes[0])}}}",
    r"\label{tab:kdjax}",
    r"\scriptsize",
    r"\setlength{\tabcolsep}{2pt}",
    rf"\begin{{tabular}}{{@{{}}l{'r' * (len(header) - 1)}@{{}}}}",
    r"\toprule",
    " & ".join(groups) + r" \\",
    "".join(rules),
    line(short),
    r"\midrule",
    *map(line, body),
    r"\bottomrule",
    r"\end{tabular}",
    r"\par\smallskip",
    r"\begin{minipage}{\linewidth}",
    r"\raggedright",
    *map(escape, notes[1:]),
    r"\end{minipage}",
    r"\end{table*}",
  ]
  return "\n".join(lines) + "\n"


def cells(results, table):
  """Header and rows of words, the same for every layout."""
  published = "published_dice_mean" in table
  header = ["model", "Dice", "95 % interval"]
  header += ["published"] if published else []
  header += ["difference vs Student", "p vs Student"]
  header += ["difference vs Teacher", "p vs Teacher", "equal p vs Teacher"]
  header += ["parameters"]
  body = []
  for row in table.to_dict("records"):
    model = row["model"]
    line = [model, words.spread(row["dice_mean"], row["dice_std"])]
    line.append(_interval(row["dice_ci_low"], row["dice_ci_high"]))
    if published:
      line.append(
        words.spread(row["published_dice_mean"], row["published_dice_std"])
      )
    versus = results.versus_student(model)
    line += _compared(versus)
    versus = results.comparison(model, "Teacher")
    line += _compared(versus)
    equal = model in results.equals()
    line.append(words.p(versus["group_equivalent_p"], equal) if versus else "-")
    body.append([*line, words.si(row["parameters"])])
  return header, body


def measures(table):
  """Header and rows of the means beside Dice, those of which any is known.

  A cell is its words and its number, as in `efficiency`.
  """
  known = [x for x in MEASURES if table[f"{x}_mean"].notna().any()]
  share = ("iou", "precision", "recall")

  def cell(name, x):
    return _known(f"{100 * x:.2f}" if name in share else f"{x:.2f}", x)

  return ["model", *(MEASURES[x] for x in known)], [
    [(row["model"],) * 2, *(cell(x, row[f"{x}_mean"]) for x in known)]
    for row in table.to_dict("records")
  ]


# Through onnxruntime on CPU: what the table says, and the column.
_DEPLOYED = {
  "ONNX on 1 core, ms": "onnx_ms_one_core",
  "on all, ms": "onnx_ms",
  "1 core, images/s": "onnx_images_per_second_one_core",
  "all, images/s": "onnx_images_per_second",
  "memory": "onnx_peak_bytes",
}


def efficiency(results):
  """Header and rows on what networks cost, or None if nothing is known.

  A cell is its words and its number. An arm that cost what its Student cost is
  left out.
  """
  frame = results.efficiency.reindex(list(results.models))
  if frame.drop(columns="parameters").isna().all(axis=None):
    return None
  header = ["network", "parameters", "multiply-adds", "latency, ms", "file"]
  header += ["training, device-seconds"]
  deployed = {} if frame["onnx_ms"].isna().all() else _DEPLOYED
  header += list(deployed)
  rows = {
    row.Index: [
      _known(words.si(row.parameters), row.parameters),
      _known(words.si(row.multiply_adds), row.multiply_adds),
      _known(f"{row.latency_ms:.3g}", row.latency_ms),
      _known(words.si(row.file_bytes, "B"), row.file_bytes),
      _known(f"{row.device_seconds:,.0f}", row.device_seconds),
      *(_known(*_deployed(x, getattr(row, x))) for x in deployed.values()),
    ]
    for row in frame.itertuples()
  }
  return header, [
    [(model,) * 2, *row]
    for model, row in rows.items()
    if model not in results.distilled
    or row != rows.get(results.references[model])
  ]


def _known(text, number):
  return ("-", None) if pd.isna(number) else (text, number)


def _deployed(name, value):
  """The words and the number of a cell of `_DEPLOYED`."""
  size = name.endswith("_bytes")
  text = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
  return words.si(value, "B") if size else text, value


def _interval(low, high):
  if pd.isna(low):
    return "-"
  return f"{100 * low:.1f}–{100 * high:.1f}"


def _compared(row):
  if row is None:
    return ["-", "-"]
  return [
    words.difference(row),
    words.p(row["group_holm_p"], verdicts.shown(row)),
  ]


def notes(results):
  """What the numbers are and what they support: a list of sentences."""
  per_case = results.per_case
  cases, folds, seeds = (
    words.many(per_case[name].nunique(), name)
    for name in ("case", "fold", "seed")
  )
  found = [
    f"Dice in percent, mean ± standard deviation over tested cases ({cases}, "
    f"{folds}, {seeds}; a case's seeds are averaged first); differences in "
    "Dice points; intervals are 95 %, BCa bootstrap over groups of cases; p by "
    "Wilcoxon's signed-rank test on groups, Holm-corrected over the arms "
    "of one reference; equal p: of two one-sided t-tests with a margin of "
    f"{100 * results.margin:g} points, not corrected. * p < 0.05, ** p < 0.01, "
    "where all else agrees: the interval, the sign in every fold"
    + (", the interval over hold-outs" if results.ratio is not None else "")
    + "; for equal p Holm's correction and every fold within the margin."
  ]
  known = results.scores.dropna(how="all").index
  count = rows.groups(per_case, known)
  alone = len(set(count)) == len(count)
  if not alone:
    found.append(
      f"{len(count)} tested cases, counted once a fold, fall into "
      f"{words.many(len(set(count)), 'group')} (same patient, near-duplicate, "
      "or one case in several folds), each of which counts once in tests."
    )
  twice = int((results.scores.groupby("case").size() > 1).sum())
  if twice:
    found.append(
      f"Folds overlap: {words.many(twice, 'case')} tested in more than one."
    )
  if results.ratio is not None:
    found.append(
      "The folds are repeated hold-outs: a difference is taken as shown only "
      "if the interval over folds with Nadeau and Bengio's corrected variance "
      "leaves out 0 too (comparisons.csv, corrected_low and corrected_high)."
    )
  elif per_case["fold"].nunique() == 1:
    found.append(
      "One split was run: nothing is known of networks trained on another."
    )
  if len(set(count)) < verdicts.FEWEST:
    found.append(
      f"Fewer than {verdicts.FEWEST} independent cases: no verdict is given."
    )
  found += _note_deployed(results)
  found += _note_power(results)
  found += _note_empty(per_case)
  found += _note_missing(results)
  found += _note_silent(per_case)
  if len(results.terms) and not results.terms["converged"].all():
    why = results.terms["note"].iloc[0] or "no reason given"
    found.append(f"The mixed model of factors.csv did not converge: {why}")
  return found


def _note_deployed(results):
  """What the columns on onnxruntime are, or how to get them."""
  frame = results.efficiency
  if frame["latency_ms"].isna().all():
    return []
  if frame["onnx_ms"].isna().all():
    return [
      "What the networks cost through onnxruntime was not measured: pip "
      "install 'kdjax[export]', delete efficiency.csv and run kdjax train "
      "again, which trains nothing anew."
    ]
  return [
    "ONNX: float32 through onnxruntime on CPU, one image at a time, then in "
    "batches of 8; memory is what opening the network and running it on one "
    "image adds to a process, on 1 core."
  ]


def _note_power(results):
  frame = results.comparisons
  limits = frame["detectable"].astype(float).to_numpy()
  limits = 100 * limits[~np.isnan(limits)]
  if not len(limits):
    return []
  return [
    "The smallest difference that this design would show (80 % power, at "
    "the level of Holm's first step) is "
    f"{limits.min():.1f} to {limits.max():.1f} points, depending on the pair"
    + _over_splits(frame)
  ]


def _over_splits(frame):
  """What repeated hold-outs add to the smallest difference."""
  widths = (frame["corrected_high"] - frame["corrected_low"]).astype(float)
  if widths.isna().all():
    return "."
  low, high = 50 * widths.min(), 50 * widths.max()
  return (
    f", for these very networks; for networks trained on other splits a "
    f"difference is known to ± {low:.1f} to {high:.1f} points only."
  )


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
      f"{words.many(without, 'tested case')} without a lesion: Dice is "
      "undefined there and left out; a lesion was predicted all the same by: "
      + _tally(per_case[~lesion & ~silent])
    )
  return notes


def _note_silent(per_case):
  """Which trials never predicted anything: training failed, not the idea."""
  lesion = per_case[per_case["empty_truth"] == 0]
  silent = lesion.groupby(["model", "fold", "seed"], sort=False)[
    "empty_prediction"
  ].min()
  trials = [
    f"{model} (fold {fold}, seed {seed})"
    for (model, fold, seed), empty in silent.items()
    if empty
  ]
  if not trials:
    return []
  return [
    f"{words.many(len(trials), 'trial')} of {len(silent)} predicted nothing on "
    f"every test case, so their training collapsed: {', '.join(trials)}."
  ]


def _note_missing(results):
  """Which models have fewer results than the rest, and which diverged."""
  per_case, found = results.per_case, []
  total = per_case.groupby(["fold", "seed", "case"]).ngroups
  counts = per_case["model"].value_counts()
  lacking = [
    f"{model} {counts.get(model, 0)}"
    for model in results.models
    if counts.get(model, 0) < total
  ]
  if lacking:
    found.append(
      f"Incomplete, of {total} results: {', '.join(lacking)}. They are "
      "compared on the cases in common."
    )
  if len(results.diverged):
    trials = ", ".join(
      f"{row.model} (fold {row.fold}, seed {row.seed})"
      for row in results.diverged.itertuples()
    )
    found.append(f"Left out, since their loss became infinite: {trials}.")
  return found


def _tally(found):
  """Rows per model, in words."""
  counts = found["model"].value_counts(sort=False)
  text = ", ".join(f"{model} {count}" for model, count in counts.items())
  return (text or "none") + "."
