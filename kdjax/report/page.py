"""index.html: the whole report in one page that opens from disk.

What it says stands in page.html, whose values are gathered here.
"""

import base64
import io
import json

import jinja2
import pandas as pd
from PIL import Image

from kdjax.report import browser
from kdjax.report import cells
from kdjax.report import environment
from kdjax.report import regional
from kdjax.report import tables
from kdjax.report import tuning
from kdjax.report import words


def make(results, table, notes, plots, pictures):
  """The page as text.

  Args:
    results: `results.Results`.
    table: frame of `tables.summarize`.
    notes: sentences of `footnotes.make`.
    plots: `(name, title, PNG)` of figures without images of cases.
    pictures: the same of figures with them; None leaves out everything that
      shows a case.
  """
  title = f"kdjax: {data_name(results)}"
  config = json.dumps(results.config.to_dict(), indent=2, default=list)
  return _template().render(
    results=results,
    title=title,
    heading=results.config.get("question") or title,
    question=question(results),
    data_name=data_name(results),
    tables=_tables(results, table),
    notes=notes,
    plots=[_figure(*x) for x in plots],
    frames=_frames(results),
    browser=None if pictures is None else browser.make(results),
    pictures=[_figure(*x) for x in pictures or ()],
    facts=_facts(results),
    config=words.without_folders(config),
  )


def _template():
  pages = jinja2.Environment(
    loader=jinja2.PackageLoader("kdjax.report", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
  )
  pages.tests["missing"] = _missing
  pages.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
  return pages.get_template("page.html")


def question(results):
  """What the grid asks, in a sentence."""
  asked = results.questions
  asked = words.listed(asked) if asked else "whether to distil at all"
  counts = results.efficiency["parameters"]
  student = next((x for x in results.models if x in results.distilled), None)
  sizes = ""
  if {"Teacher", student} <= set(counts.dropna().index):
    sizes = (
      f" of {words.si(counts[student])} parameters from a teacher of "
      f"{words.si(counts['Teacher'])}"
    )
  return f"A student{sizes} on {data_name(results)}: {asked}?"


def data_name(results):
  """What the data set calls itself."""
  return results.data.get("name", results.config.data.name)


def _tables(results, table):
  """Title, header and rows of each; a cell is its words and its sort key."""
  header, body = cells.main(results, table)
  values = []
  for row, line in zip(table.to_dict("records"), body, strict=True):
    student = results.versus_student(row["model"]) or {}
    teacher = results.comparison(row["model"], "Teacher") or {}
    number = {
      "model": row["model"],
      "Dice": row["dice_mean"],
      "95 % interval": row["dice_ci_low"],
      "published": row.get("published_dice_mean"),
      "difference vs Student": student.get("difference"),
      "p vs Student": student.get("holm_p"),
      "difference vs Teacher": teacher.get("difference"),
      "p vs Teacher": teacher.get("holm_p"),
      "equal p vs Teacher": teacher.get("equivalent_p"),
      "parameters": row["parameters"],
    }
    values.append(
      [(x, number[name]) for name, x in zip(header, line, strict=True)]
    )
  found = [("", header, values)]
  if by_region := regional.cells(results):
    about = "Each region, over the cases whose mask shows it"
    found.append((about, *by_region))
  about = "Other measures, means over tested cases"
  found.append((about, *cells.measures(table)))
  if costs := cells.efficiency(results):
    found.append(("What the networks cost", *costs))
  if others := cells.quoted(results):
    about = "Other methods, as the study quotes them, on other cases (Table 5)"
    found.append((about, *others))
  return found


def _frames(results):
  """Title, explanation, header and rows of each frame that has any."""
  frames = (
    (
      "Comparisons (comparisons.csv)",
      results.comparisons,
      "Dice in [0, 1]. ci, p, equivalent_p, holm_p and detectable count all "
      f"that was repeated, and speak of {results.paired.scope}; t_p and "
      "wilcoxon_p are by case, as published; group_* and networks_* are of "
      "these networks on other cases.",
    ),
    (
      "Levels of the grid's axes (contrasts.csv)",
      results.contrasts,
      "Mean over arms alike in everything else, paired by case.",
    ),
    (
      "Mixed model (factors.csv); its p-values are not corrected",
      results.terms,
      "Dice by the axes and their interactions, with a random intercept for "
      "each group of cases; it takes the networks as given, and errors within "
      "a group as independent.",
    ),
    (
      "Distillation's share of the student's gradient",
      tables.shares(results),
      "Measured on a batch every few epochs, behind the first tenth: mean over "
      "trials, the lowest and the highest trial, and alpha at the end.",
    ),
    (
      "What the search chose (search.csv)",
      tuning.chosen(results),
      "For each tuned arm and fold, on its validation cases; Dice of the last "
      "rung.",
    ),
    (
      "What a budget of draws buys",
      tuning.budgets(results),
      "Expected best validation Dice of as many draws of the first rung, mean "
      "over folds (Dodge et al., arXiv 1909.03004). Trials of one program "
      "share its device-seconds evenly: equal draws are equal seconds.",
    ),
    ("Mean Dice by fold", tables.means(results, "fold").reset_index(), ""),
    ("Mean Dice by seed", tables.means(results, "seed").reset_index(), ""),
    ("Trials (trials.csv)", tables.trials(results), ""),
  )
  line = lambda row: [(_plain(x), x) for x in row]
  return [
    (title, about, frame.columns, map(line, frame.itertuples(index=False)))
    for title, frame, about in frames
    if not frame.empty
  ]


def _facts(results):
  data = results.data
  folds = "; ".join(
    f"{i}: {len(x['train'])} train, {len(x['val'])} validation, "
    f"{len(x['test'])} test"
    for i, x in enumerate(data.get("folds", []))
  )
  return {
    "data set": f"{data_name(results)} {data.get('version', '')}",
    "fingerprint": data.get("fingerprint", "unknown"),
    "folds": folds or "unknown",
    **environment.read(results.workdir),
  }


def _figure(name, title, png):
  return {
    "name": name,
    "title": title,
    "source": f"data:image/png;base64,{base64.b64encode(png).decode()}",
    "width": Image.open(io.BytesIO(png)).width // 2,  # 150 dots an inch.
  }


def _missing(value):
  return value is None or (not isinstance(value, str) and pd.isna(value))


def _plain(value):
  if _missing(value):
    return "-"
  if isinstance(value, float):
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.4f}"
  return str(value)
