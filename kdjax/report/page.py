"""index.html: the whole report in one page that opens from disk."""

import base64
import html
import importlib.resources
import io
import json
import zlib

import numpy as np
import pandas as pd
from PIL import Image

from kdjax.evaluate import predictions as stored
from kdjax.report import environment
from kdjax.report import tables
from kdjax.report import words


def make(results, table, notes, plots, pictures):
  """The page as text.

  Args:
    results: `results.Results`.
    table: frame of `tables.summarize`.
    notes: sentences of `tables.notes`.
    plots: `(name, title, PNG)` of figures without images of cases.
    pictures: the same of figures with them; None leaves out everything that
      shows a case.
  """
  sections = [
    ("answer", "Answer", _answer(results)),
    ("table", "Table", _main_table(results, table, notes)),
    ("claims", "Published claims", _claims(results)),
    ("figures", "Figures", "".join(_figure(*x) for x in plots)),
    ("details", "Details", _details(results)),
  ]
  if pictures is not None:
    sections.append(("cases", "Cases", _cases(results, pictures)))
  sections.append(("run", "Run", _run(results)))
  sections = [x for x in sections if x[2]]
  fill = {
    "title": html.escape(_title(results)),
    "heading": html.escape(results.config.get("question") or _title(results)),
    "question": html.escape(question(results)),
    "links": " ".join(f'<a href="#{x}">{y}</a>' for x, y, _ in sections),
    "sections": "\n".join(
      f'<section id="{x}">\n<h2>{y}</h2>\n{z}\n</section>'
      for x, y, z in sections
    ),
    "style": _part("page.css"),
    "script": _part("page.js"),
  }
  first, *rest = _part("page.html").split("{{")
  parts = [first]  # Filled once over, so that no value can hold a field.
  for piece in rest:
    name, text = piece.split("}}", 1)
    parts += [fill[name], text]
  return "".join(parts)


def question(results):
  """What the grid asks, in a sentence."""
  axes = {
    "pathway": "which representation to distil",
    "loss": "under which loss",
    "view": "whether the teacher's input should be augmented",
    "pair": "between which levels",
    "alpha": "with what weight",
    "temperature": "at what temperature",
    "learning_rate": "at what learning rate",
    "weight_decay": "with what weight decay",
  }
  asked = [axes[x] for x in results.levels]
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


def _title(results):
  return f"kdjax: {data_name(results)}"


def data_name(results):
  """What the data set calls itself."""
  return results.data.get("name", results.config.data.name)


def _part(name):
  return (
    importlib.resources.files(__package__).joinpath(name).read_text("utf-8")
  )


def _answer(results):
  lines = "".join(f"<p>{html.escape(x)}</p>" for x in results.answer)
  return (
    f'<div class="answer">{lines}</div><p class="hint">Brackets hold 95 % '
    "intervals. Made from the numbers alone: a difference counts as shown when "
    "its corrected p and its intervals say so, equality when an equivalence "
    "test does, and what neither shows is left open.</p>"
  )


def _main_table(results, table, notes):
  header, body = tables.cells(results, table)
  order = table.to_dict("records")
  values = []
  for row, cells in zip(order, body, strict=True):
    student = results.versus_student(row["model"]) or {}
    teacher = results.comparison(row["model"], "Teacher") or {}
    number = {
      "model": row["model"],
      "Dice": row["dice_mean"],
      "95 % interval": row["dice_ci_low"],
      "published": row.get("published_dice_mean"),
      "difference vs Student": student.get("difference"),
      "p vs Student": student.get("group_holm_p"),
      "difference vs Teacher": teacher.get("difference"),
      "p vs Teacher": teacher.get("group_holm_p"),
      "equal p vs Teacher": teacher.get("group_equivalent_p"),
      "parameters": row["parameters"],
    }
    values.append(
      [(x, number[name]) for name, x in zip(header, cells, strict=True)]
    )
  text = _table(header, values)
  text += "<h3>Other measures, means over tested cases</h3>"
  text += _table(*tables.measures(table))
  if costs := tables.efficiency(results):
    text += "<h3>What the networks cost</h3>" + _table(*costs)
  items = "".join(f"<li>{html.escape(x)}</li>" for x in notes)
  return f'{text}<ul class="notes">{items}</ul>'


def _claims(results):
  rows = []
  for row in results.claims.to_dict("records"):
    kind = row["verdict"].replace(" ", "-")
    rows.append(
      f"<tr><td>{html.escape(row['claim'])}</td>"
      f'<td class="{kind}">{row["verdict"]}</td>'
      f"<td>{html.escape(row['sentence'])}</td></tr>"
    )
  about = (
    '<p class="hint">What the paper claims (doi 10.36922/aih.3509), held '
    f"against the numbers of this run on {html.escape(data_name(results))}; "
    "differences in Dice points with 95 % intervals. Supported: the test "
    "survives Holm's correction over the claims, and intervals and folds "
    "agree. Not supported: the numbers, at the level corrected for as many, "
    "leave out what is claimed. All the rest is not decidable here.</p>"
  )
  return (
    f'{about}<div class="scroll"><table class="words"><thead><tr><th>claim</th>'
    f"<th>verdict</th><th>numbers</th></tr></thead>"
    f"<tbody>{''.join(rows)}</tbody></table></div>"
  )


def _details(results):
  parts = []
  for title, frame, about in (
    (
      "Comparisons (comparisons.csv)",
      results.comparisons,
      "Dice in [0, 1]. Columns from groups on count each group of cases once; "
      "holm_p is by case, group_holm_p by group.",
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
      "each case; it takes errors within a case as independent.",
    ),
    ("Mean Dice by fold", tables.means(results, "fold").reset_index(), ""),
    ("Mean Dice by seed", tables.means(results, "seed").reset_index(), ""),
    ("Trials (trials.csv)", tables.trials(results), ""),
  ):
    if frame.empty:
      continue
    hint = f'<p class="hint">{html.escape(about)}</p>' if about else ""
    rows = [
      [(_plain(x), None if _missing(x) else x) for x in row]
      for row in frame.itertuples(index=False)
    ]
    parts.append(
      f"<details><summary>{html.escape(title)}</summary>{hint}"
      f"{_table([str(x) for x in frame.columns], rows)}</details>"
    )
  return "".join(parts)


def _cases(results, pictures):
  found = stored.read(results.workdir)
  if found is None:
    return ""
  frame = results.per_case
  scores = results.scores
  seed = int(frame["seed"].min())
  dice = frame[frame["seed"] == seed].set_index(["model", "fold", "case"])[
    "dice"
  ]
  gains = scores[results.distilled].mean(axis=1)
  place = {case: i for i, case in enumerate(found.cases)}
  first_truth = len(found.masks)
  units, lines = [], []
  for fold, case in scores.index:
    if case not in place:
      continue
    rows = []
    for model in results.models:
      row = found.rows.get((model, fold, seed, case))
      value = dice.get((model, fold, case), float("nan"))
      if row is not None:
        rows.append(
          [model, row, "" if pd.isna(value) else f"{100 * value:.0f}"]
        )
    units.append(
      {
        "name": case,
        "case": place[case],
        "truth": first_truth + place[case],
        "rows": rows,
      }
    )
    unit = fold, case
    values = [
      scores[x].get(unit) if x in scores else None
      for x in ("Teacher", "Student")
    ]
    values.append(gains.get(unit))
    values.append(
      None
      if _missing(values[1]) or _missing(values[2])
      else values[2] - values[1]
    )
    cells = [(case, case), (str(fold), fold)]
    cells += [("-" if _missing(x) else f"{100 * x:.0f}", x) for x in values]
    lines.append(cells)
  truths = np.stack([np.packbits(x) for x in found.truths])
  data = {
    "side": found.images.shape[1],
    "masks": base64.b64encode(
      zlib.compress(np.concatenate([found.masks, truths]).tobytes(), 9)
    ).decode(),
    "images": [_jpeg(x) for x in found.images],
    "sizes": found.sizes.tolist(),
    "units": units,
  }
  listing = _table(
    ["case", "fold", "Teacher", "Student", "arms", "gain"],
    lines,
    row=lambda i: f' data-unit="{i}" tabindex="-1" aria-selected="false"',
    role="grid",
  )
  # "</" would end the script that holds the data.
  content = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
  return (
    '<p class="hint">Dice in percent; arms: mean over the distilled arms; '
    "gain: arms minus Student. Choose a case to see it, by mouse or arrow "
    "keys; "
    '<b class="truth">ground truth</b>, <b class="prediction">prediction</b>'
    f" (dashed), seed {seed}.</p>"
    '<div id="browser"><div><input id="find" type="search" '
    'placeholder="find a case" aria-label="find a case">'
    f'<div id="list">{listing}</div></div><div id="panels"></div></div>'
    f'<script type="application/json" id="cases-data">{content}</script>'
    + "".join(_figure(*x) for x in pictures)
  )


def _run(results):
  data = results.data
  folds = data.get("folds", [])
  facts = {
    "data set": f"{data_name(results)} {data.get('version', '')}",
    "fingerprint": data.get("fingerprint", "unknown"),
    "folds": "; ".join(
      f"{i}: {len(x['train'])} train, {len(x['val'])} validation, "
      f"{len(x['test'])} test"
      for i, x in enumerate(folds)
    )
    or "unknown",
  }
  facts |= environment.read(results.workdir)
  rows = "".join(
    f"<dt>{html.escape(x)}</dt><dd>{html.escape(str(y))}</dd>"
    for x, y in facts.items()
  )
  config = json.dumps(results.config.to_dict(), indent=2, default=list)
  config = words.without_folders(config)
  return (
    f"<dl>{rows}</dl><details><summary>Config</summary>"
    f"<pre>{html.escape(config)}</pre></details>"
  )


def _figure(name, title, png):
  source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
  width = Image.open(io.BytesIO(png)).width // 2  # 150 dots an inch.
  title = html.escape(title)
  return (
    f'<figure id="figure-{name}"><img src="{source}" width="{width}" '
    f'alt="{title}"><figcaption>{title}.</figcaption></figure>'
  )


def _jpeg(image):
  content = io.BytesIO()
  Image.fromarray(image).save(content, "JPEG", quality=85)
  return (
    "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
  )


def _table(header, rows, row=lambda i: "", role="table"):
  """A sortable table; a cell is its words and the value that it sorts by."""
  head = "".join(
    f'<th><button type="button">{html.escape(x)}</button></th>' for x in header
  )
  body = []
  for i, cells in enumerate(rows):
    line = "".join(
      f'<td data-value="{"" if _missing(value) else html.escape(str(value))}">'
      f"{html.escape(str(text))}</td>"
      for text, value in cells
    )
    body.append(f"<tr{row(i)}>{line}</tr>")
  return (
    f'<div class="scroll"><table class="sortable" role="{role}"><thead><tr>'
    f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
  )


def _missing(value):
  return value is None or (not isinstance(value, str) and pd.isna(value))


def _plain(value):
  if _missing(value):
    return "-"
  if isinstance(value, float):
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.4f}"
  return str(value)
