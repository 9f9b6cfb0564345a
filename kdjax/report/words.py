"""How numbers are written in tables, sentences and captions."""

import re

import pandas as pd

MINUS = "\N{MINUS SIGN}"
# What a control learns from, by `axes.SOURCES`.
CONTROLS = {
  "untrained": "the teacher's network untrained",
  "swapped": "what the teacher says of another case",
}
# Marks a p that speaks of these networks alone.
ALONE = "\N{DEGREE SIGN}"


def without_folders(text):
  """A text whose absolute paths lost their folders: ".../busi".

  Where a machine keeps its files is nobody else's business.
  """
  return re.sub(r"(?<![\w.:/~-])/(?:[^\s/\"',]+/)+", ".../", text)


def points(value, digits=1):
  """A signed difference in Dice points, from Dice in [-1, 1]."""
  if pd.isna(value):
    return "-"
  return signed(100 * value, digits)


def signed(value, digits=1):
  """A number with its sign."""
  rounded = round(value, digits) + 0.0  # No "-0.0".
  return f"{rounded:+.{digits}f}".replace("-", MINUS)


def difference(row, digits=1):
  """Difference and its 95 % interval: "+4.9 [+3.2, +6.7]"."""
  if pd.isna(row["difference"]):
    return "-"
  text = points(row["difference"], digits)
  if pd.isna(row["ci_low"]):
    return text
  low, high = (points(row[x], digits) for x in ("ci_low", "ci_high"))
  return f"{text} [{low}, {high}]"


def folds(row):
  """How far folds go apart: " (folds +1.0 to +3.2)"; "" for one fold."""
  if not row["fold_low"] < row["fold_high"]:
    return ""
  low, high = points(row["fold_low"]), points(row["fold_high"])
  return f" (folds {low} to {high})"


def compared(value):
  """A p-value in a sentence: "= 0.012", "< 0.001", "unknown"."""
  if pd.isna(value):
    return "unknown"
  if value < 0.001:
    return "< 0.001"
  return f"= {value:.3f}" if value >= 0.1 else f"= {value:.4f}"


def spread(mean, std):
  """Mean ± std in percent, from [0, 1]; a single value has no deviation."""
  if pd.isna(mean):
    return "-"
  return f"{100 * mean:.2f}" + ("" if pd.isna(std) else f" ± {100 * std:.2f}")


def p(value, shown=True, alone=False):
  """A p-value; what is shown has the paper's marks, * < 0.05, ** < 0.01.

  Where it speaks of these networks `alone`, the mark is `ALONE`.
  """
  if pd.isna(value):
    return "-"
  mark = "**" if value < 0.01 else "*" if value < 0.05 else ""
  mark = ALONE if mark and alone else mark
  mark = mark if shown else ""
  if value < 0.001:
    return "<0.001" + mark
  return (f"{value:.3f}" if value >= 0.1 else f"{value:.4f}") + mark


def si(value, unit=""):
  """A positive count in three digits and a prefix: "821 k", "83.6 M"."""
  if pd.isna(value):
    return "-"
  for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if value >= size:
      digits = 2 if value < 10 * size else 1 if value < 100 * size else 0
      return f"{value / size:.{digits}f} {prefix}{unit}"
  return f"{value:.3g}" + (f" {unit}" if unit else "")


def many(count, word):
  """A count and its noun: "1 case", "2 cases"."""
  return f"{count} {word}" + ("" if count == 1 else "s")


def span(counts):
  """Counts in a word: "86", "86 to 90"."""
  low, high = min(counts), max(counts)
  return str(low) if low == high else f"{low} to {high}"


def listed(names):
  """Names in a sentence: "a", "a and b", "a, b and c"."""
  *most, last = names
  return f"{', '.join(most)} and {last}" if most else last


def some(names, most=4):
  """The first names, and how many more: "a, b and 2 more"."""
  if len(names) <= most:
    return listed(names)
  return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
