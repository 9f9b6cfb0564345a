"""The study's tables as words: a header and rows of cells for every layout."""

import pandas as pd

from kdjax.report import paired
from kdjax.report import published
from kdjax.report import tables
from kdjax.report import verdicts
from kdjax.report import words

# Through onnxruntime on CPU: what the table says, and the column.
_DEPLOYED = {
  "ONNX on 1 core, ms": "onnx_ms_one_core",
  "on all, ms": "onnx_ms",
  "1 core, images/s": "onnx_images_per_second_one_core",
  "all, images/s": "onnx_images_per_second",
  "memory": "onnx_peak_bytes",
}

# Of trained weights, where some networks are made smaller: column and unit.
_WEIGHED = {
  "non-zero parameters": ("nonzero_parameters", ""),
  "multiply-adds without zeros": ("sparse_multiply_adds", ""),
  "stored": ("stored_bytes", "B"),
}


def main(results, table):
  """Header and rows of words, the same for every layout."""
  beside = "published_dice_mean" in table
  header = ["model", "Dice", "95 % interval"]
  header += ["published"] if beside else []
  header += ["difference vs Student", "p vs Student"]
  header += ["difference vs Teacher", "p vs Teacher", "equal p vs Teacher"]
  header += ["parameters"]
  body = []
  for row in table.to_dict("records"):
    model = row["model"]
    name = f"{model} (control)" if model in results.controls else model
    line = [name, words.spread(row["dice_mean"], row["dice_std"])]
    line.append(_interval(row["dice_ci_low"], row["dice_ci_high"]))
    if beside:
      line.append(
        words.spread(row["published_dice_mean"], row["published_dice_std"])
      )
    versus = results.versus_student(model)
    alone = results.paired.scope == paired.NETWORKS
    line += _compared(versus, alone)
    versus = results.comparison(model, "Teacher")
    line += _compared(versus, alone)
    equal = model in results.equals()
    p = versus["equivalent_p"] if versus else None
    line.append(words.p(p, equal, alone))
    body.append([*line, words.si(row["parameters"])])
  return header, body


def measures(table):
  """Header and rows of the means beside Dice, those of which any is known.

  A cell is its words and its number, as in `efficiency`.
  """
  known = [x for x in tables.MEASURES if table[f"{x}_mean"].notna().any()]
  share = ("iou", "precision", "recall")

  def cell(name, x):
    digits = 4 if name in ("brier", "ece") else 2
    return _known(f"{100 * x:.2f}" if name in share else f"{x:.{digits}f}", x)

  return ["model", *(tables.MEASURES[x] for x in known)], [
    [(row["model"],) * 2, *(cell(x, row[f"{x}_mean"]) for x in known)]
    for row in table.to_dict("records")
  ]


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
  searched = frame["search_seconds"].notna().any()
  header += ["search, device-seconds a fold"] if searched else []
  weighed = {} if frame["stored_bytes"].isna().all() else _WEIGHED
  header += list(weighed)
  deployed = {} if frame["onnx_ms"].isna().all() else _DEPLOYED
  header += list(deployed)
  rows = {
    row.Index: [
      _known(words.si(row.parameters), row.parameters),
      _known(words.si(row.multiply_adds), row.multiply_adds),
      _known(f"{row.latency_ms:.3g}", row.latency_ms),
      _known(words.si(row.file_bytes, "B"), row.file_bytes),
      _known(f"{row.device_seconds:,.0f}", row.device_seconds),
      *(
        [_known(f"{row.search_seconds:,.0f}", row.search_seconds)]
        if searched
        else []
      ),
      *(
        _known(words.si(getattr(row, x), unit), getattr(row, x))
        for x, unit in weighed.values()
      ),
      *(_known(*_deployed(x, getattr(row, x))) for x in deployed.values()),
    ]
    for row in frame.itertuples()
  }
  return header, [
    [(model,) * 2, *row]
    for model, row in rows.items()
    if (student := results.references.get(model, model)) == model
    or row != rows.get(student)
  ]


def quoted(results):
  """Table 5 of the study with ours below, or None where it is not asked for.

  A cell is its words and its number, as in `efficiency`. Other methods' Dice is
  as the study quotes it, on other cases; ours is of what Table 5 names, and of
  what it is to be seen beside.
  """
  if not results.config.published:
    return None
  counts, mean = results.efficiency["parameters"], results.scores.mean()
  named = ("Teacher", "Student", "L_KLD_WAug")
  ours = {x: (100 * mean[x], counts.get(x)) for x in named if x in mean}
  body = [
    (name, "quoted" if name not in named else "published", row.dice)
    + (1e6 * row.parameters,)
    for name, row in published.TABLE_5.items()
  ]
  body += [(name, "here", *row) for name, row in ours.items()]
  return ["method", "whose", "Dice", "parameters"], [
    [
      (name,) * 2,
      (whose,) * 2,
      _known(f"{dice:.1f}", dice),
      _known(words.si(count), count),
    ]
    for name, whose, dice, count in body
  ]


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


def _compared(row, alone):
  if row is None:
    return ["-", "-"]
  return [
    words.difference(row),
    words.p(row["holm_p"], verdicts.shown(row), alone),
  ]
