"""The study's tables as frames of numbers."""

import pandas as pd

from kdjax.evaluate import intervals
from kdjax.report import published as paper
from kdjax.report import rows

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
  "brier_mean",
  "ece_mean",
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
# Of `readers.per_case`, beside Dice; their means are columns of the table.
MEASURES = {
  "iou": "IoU",
  "precision": "precision",
  "recall": "recall",
  "hd95": "HD95, px",
  "assd": "ASSD, px",
  "hd95_mm": "HD95, mm",
  "assd_mm": "ASSD, mm",
  "brier": "Brier",
  "ece": "calibration error",
}
SHARES = ("model", "share_mean", "share_low", "share_high", "alpha")
TRIALS = ("model", "fold", "seed", "cases", "dice_mean", "epochs", "diverged")


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
  curves = results.history.rename(columns={"arm": "model"})
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


def shares(results):
  """Distillation's share of the student's gradient, a frame of `SHARES`.

  The mean over trials and epochs in which it was measured, behind the first
  tenth of them, the extremes of trials' means, and alpha in the last epochs.
  """
  frame = results.history
  if "distill_share" not in frame:
    return pd.DataFrame(columns=SHARES)
  frame = frame[frame["arm"].isin(results.distilled)]
  late = frame["epoch"] > frame["epoch"].max() / 10
  keys = ["arm", "fold", "seed"]
  trials = frame[late].groupby(keys, sort=False)["distill_share"].mean()
  last = frame.sort_values("epoch").groupby(keys, sort=False)["alpha"].last()
  found = trials.groupby("arm").agg(["mean", "min", "max"])
  found["alpha"] = last.groupby("arm").mean()
  order = [x for x in results.models if x in found.index]
  found = found.loc[order].dropna(subset="mean").reset_index()
  return found.set_axis(list(SHARES), axis=1)


def means(results, by):
  """Mean Dice by model and "fold" or "seed": a frame, models as rows."""
  table = results.per_case.groupby(["model", by])["dice"].mean().unstack(by)
  return table.reindex(list(results.models))


def _only_student(results):
  return results.students[0] if len(results.students) == 1 else None


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
