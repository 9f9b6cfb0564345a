"""Several workdirs side by side: data sets, student sizes, seeds."""

import pandas as pd

from kdjax import files
from kdjax.errors import UserError
from kdjax.evaluate import intervals
from kdjax.evaluate import statistics
from kdjax.report import cells
from kdjax.report import comparisons
from kdjax.report import paired
from kdjax.report import rows
from kdjax.report import style
from kdjax.report import verdicts
from kdjax.report import words

COLUMNS = (
  "workdir",
  "data",
  "folds",
  "seeds",
  "model",
  "parameters",
  "cases",
  "dice_mean",
  "dice_ci_low",
  "dice_ci_high",
  "brier_mean",
  "ece_mean",
  "difference",
  "ci_low",
  "ci_high",
  "holm_p",
)
CALIBRATION = {
  "brier_mean": "Brier score",
  "ece_mean": "Expected calibration error",
}
CHANGES = ("model", "workdir", "against", *comparisons.KEPT)


def collect(found):
  """Every model of every workdir, a frame of `COLUMNS`.

  Dice in [0, 1]; the difference is that to the model's Student.

  Args:
    found: name of a workdir to its `results.Results`.
  """
  table = []
  for name, results in found.items():
    groups = rows.groups(results.per_case, results.scores.index)
    calibration = results.table.set_index("model")[["brier_mean", "ece_mean"]]
    for model in results.models:
      if model not in results.scores:
        continue
      values = results.scores[model]
      low, high = intervals.of_mean(values, groups)
      versus = results.versus_student(model) or {}
      counts = results.efficiency["parameters"]
      table.append(
        {
          "workdir": name,
          "data": _data(results),
          "folds": results.per_case["fold"].nunique(),
          "seeds": results.per_case["seed"].nunique(),
          "model": model,
          "parameters": counts.get(model),
          "cases": int(values.count()),
          "dice_mean": values.mean(),
          "dice_ci_low": low,
          "dice_ci_high": high,
          **calibration.loc[model],
          **{x: versus.get(x) for x in COLUMNS[-4:]},
        }
      )
  frame = pd.DataFrame(table, columns=COLUMNS)
  names = ("workdir", "data", "folds", "seeds", "model", "cases")
  return frame.astype({x: float for x in COLUMNS if x not in names})


def changes(found):
  """The same model in two workdirs with the same test cases, paired by case.

  A frame of `CHANGES`; Holm's correction is over the models of one pair of
  workdirs. Workdirs on other data or folds are left out: they cannot be paired.
  """
  names, table = list(found), []
  for i, first in enumerate(names):
    for second in names[i + 1 :]:
      a, b = found[first], found[second]
      if not _paired(a, b):
        continue
      models = [x for x in a.models if x in a.scores and x in b.scores]
      side = lambda name, model: {_named(name, model): 1.0}
      sides = [(side(first, x), side(second, x)) for x in models]
      family = _joined(first, a, second, b).compare(sides)
      corrected = statistics.holm([x["p"] for x in family])
      table += [
        {"model": model, "workdir": first, "against": second, **row}
        | {"holm_p": p}
        for model, row, p in zip(models, family, corrected, strict=True)
      ]
  return pd.DataFrame(table, columns=CHANGES)


def _joined(first, a, second, b):
  """The `paired.Paired` of both, whose models are `_named`."""
  frames = []
  for name, results in ((first, a), (second, b)):
    frame = results.per_case
    # In order: a workdir's seeds are its own, and only their number counts.
    order = {x: i for i, x in enumerate(sorted(frame["seed"].unique()))}
    frames.append(
      frame.assign(
        model=[_named(name, x) for x in frame["model"]],
        seed=frame["seed"].map(order),
      )
    )
  return paired.make(pd.concat(frames), a.margin, a.ratio)


def _named(workdir, model):
  return f"{workdir}: {model}"


def markdown(found, table, changed):
  """What is printed: a row per workdir, a row per arm, then what changed."""
  lines = _summary(found)
  lines += ["", "Mean Dice of every model, in percent:", ""]
  lines += _wide(found, table, "model", [_percent(x) for x in table.dice_mean])
  for name, measure in CALIBRATION.items():
    if (known := table.dropna(subset=name)).empty:
      continue
    lines += ["", f"{measure} of every model, from 0, the best, to 1:", ""]
    lines += _wide(found, known, "model", known[name].map("{:.4f}".format))
  gains = table.copy()
  gains["said"] = [words.difference(x) for x in table.to_dict("records")]
  gains = gains[gains["difference"].notna()]
  if not gains.empty:
    lines += ["", "Dice points above Student [95 % interval]:", ""]
    lines += _wide(found, gains, "arm", gains["said"])
  if not changed.empty:
    lines += ["", "The same model on the same test cases, paired:", ""]
    lines += cells.grid(
      ["model", "workdir", "against", "difference", "Holm p"],
      [
        [
          row["model"],
          row["workdir"],
          row["against"],
          words.difference(row),
          words.p(row["holm_p"], verdicts.shown(row)),
        ]
        for row in changed.to_dict("records")
      ],
    )
  else:
    lines += [
      "",
      "No two workdirs share data set and folds, so none are paired by case.",
    ]
  return "\n".join(lines) + "\n"


def _wide(found, table, head, said):
  """Lines of a table with a row per model and a column per workdir."""
  wide = table.assign(said=said).pivot(
    index="model", columns="workdir", values="said"
  )
  wide = wide.reindex(index=dict.fromkeys(table["model"]), columns=list(found))
  wide = wide.astype(object).fillna("-")
  body = zip(wide.index, wide.to_numpy(), strict=True)
  return cells.grid([head, *wide.columns], [[x, *row] for x, row in body])


def trend(found, table):
  """Dice against parameters: Student and mean arm of every workdir."""
  table = table.dropna(subset="parameters")
  if table.empty:
    return None
  marks = "osD^v<>P"
  with style.canvas(style.ONE_COLUMN, 2.9) as drawn:
    ax = drawn.subplots()
    kinds = {"Teacher": style.BLACK, "Student": style.GREY, "arms": style.BLUE}
    places = {kind: [] for kind in kinds}
    for number, (name, results) in enumerate(found.items()):
      mine = table[table["workdir"] == name]
      for kind, hue in kinds.items():
        chosen = results.distilled if kind == "arms" else [kind]
        part = mine[mine["model"].isin(chosen)]
        if part.empty:
          continue
        x, y = part["parameters"].mean(), 100 * part["dice_mean"].mean()
        places[kind].append((_data(results), x, y))
        ax.plot(
          x, y, marks[number % len(marks)], ms=5, mew=0, color=hue, label=name
        )
    for kind, points in places.items():
      for data in dict.fromkeys(x[0] for x in points):
        line = sorted(x[1:] for x in points if x[0] == data)
        if len({x for x, _ in line}) > 1:
          ax.plot(*zip(*line, strict=True), lw=0.8, color=kinds[kind], zorder=1)
    named = [
      ax.plot([], [], marks[i % len(marks)], ms=5, mew=0, color="0.4")[0]
      for i in range(len(found))
    ]
    hues = [ax.plot([], [], lw=3, color=x)[0] for x in kinds.values()]
    drawn.legend(
      [*named, *hues], [*found, *kinds], loc="outside lower center", ncols=2
    )
    ax.set_xscale("log")
    ax.set_xlabel("parameters")
    ax.set_ylabel("mean Dice, %")
  return drawn


def write(found, out=None):
  """Compares workdirs; returns Markdown and, with `out`, writes files there.

  Args:
    found: name of a workdir to its `results.Results`.
    out: folder for across.md, across.csv, changes.csv and the plot.

  Raises:
    UserError: fewer than two workdirs.
  """
  if len(found) < 2:
    raise UserError("report: name two workdirs or more to compare.")
  table, changed = collect(found), changes(found)
  text = markdown(found, table, changed)
  if out is not None:
    files.write_text(out / "across.md", text)
    files.write_text(out / "across.csv", table.to_csv(index=False))
    files.write_text(out / "changes.csv", changed.to_csv(index=False))
    drawn = trend(found, table)
    if drawn is not None:
      style.save(drawn, out / "figures", "trend")
  return text


def _summary(found):
  body = []
  for name, results in found.items():
    counts, mean = results.efficiency["parameters"], results.scores.mean()
    lift = results.lift
    body.append(
      [
        name,
        _data(results),
        str(results.per_case["case"].nunique()),
        str(results.per_case["fold"].nunique()),
        str(results.per_case["seed"].nunique()),
        words.si(_first(counts, results.distilled)),
        words.si(counts.get("Teacher")),
        _percent(mean.reindex(results.students).mean()),
        _percent(mean.get("Teacher")),
        words.difference(lift) if lift else "-",
        f"{len(results.winners())} of {len(results.arm_rows())}",
      ]
    )
  header = ["workdir", "data", "cases", "folds", "seeds", "student", "teacher"]
  header += ["Student, %", "Teacher, %", "arms above Student", "shown"]
  return cells.grid(header, body)


def _first(counts, names):
  return next((counts[x] for x in names if x in counts), float("nan"))


def _percent(value):
  return "-" if value is None or pd.isna(value) else f"{100 * value:.2f}"


def _data(results):
  return results.data.get("name", results.config.data.name)


def _paired(first, second):
  """Whether both were tested on the same cases of the same data and folds."""
  keys = ("fingerprint", "folds")
  if not first.data or any(
    first.data.get(x) != second.data.get(x) for x in keys
  ):
    return False
  return len(first.scores.index.intersection(second.scores.index)) > 0
