"""What is said of each region by itself, where masks show several."""

import pandas as pd

from kdjax import workdirs
from kdjax.evaluate import intervals
from kdjax.report import rows
from kdjax.report import style

COLUMNS = (
  "model",
  "region",
  "cases",
  "dice_mean",
  "dice_ci_low",
  "dice_ci_high",
  "missed",
  "false_alarms",
)


def make(results):
  """Every model's Dice of every region, a frame of `COLUMNS`.

  Over the cases whose mask shows it, seeds averaged first, with a 95 % BCa
  interval over groups; `missed` counts those in which none of it was predicted,
  `false_alarms` the others in which some was, over folds and seeds.
  """
  per_case, found = results.per_case, []
  for region in results.regions:
    dice, silent = (workdirs.of_region(x, region) for x in workdirs.REGIONAL)
    units = rows.units(per_case, dice).reindex(columns=list(results.models))
    groups = rows.groups(per_case, units.index)
    there, quiet = per_case[dice].notna(), per_case[silent] == 1
    missed = per_case[there & quiet]["model"].value_counts()
    alarms = per_case[~there & ~quiet]["model"].value_counts()
    for model in results.models:
      values = units[model].dropna()
      low, high = intervals.of_mean(units[model], groups)
      found.append(
        (model, region, len(values), values.mean(), low, high)
        + (int(missed.get(model, 0)), int(alarms.get(model, 0)))
      )
  return pd.DataFrame(found, columns=COLUMNS)


def cells(results):
  """Header and rows with a few columns for each region, or None of one alone.

  A cell is its words and its number, as in `cells.efficiency`.
  """
  if not results.regions:
    return None
  frame = results.by_region
  header, body = ["model"], {model: [(model,) * 2] for model in results.models}
  for region, part in frame.groupby("region", sort=False):
    header += [f"Dice of {region}", "interval", "missed", "false alarms"]
    for row in part.itertuples():
      known = not pd.isna(row.dice_mean)
      body[row.model] += [
        (f"{100 * row.dice_mean:.2f}", row.dice_mean) if known else ("-", None),
        (f"{100 * row.dice_ci_low:.1f}–{100 * row.dice_ci_high:.1f}",)
        + (row.dice_ci_low,)
        if not pd.isna(row.dice_ci_low)
        else ("-", None),
        (str(row.missed), row.missed),
        (str(row.false_alarms), row.false_alarms),
      ]
  return header, list(body.values())


def draw(results):
  """Dice of every model by region, with its interval; None of one alone."""
  if not results.regions:
    return None
  frame = results.by_region.dropna(subset="dice_mean")
  models = [x for x in results.models if x in set(frame["model"])]
  if not models:
    return None
  hues = style.of_regions(len(results.regions))
  step = 0.6 / len(results.regions)
  height = 0.7 + (0.12 + 0.14 * len(results.regions)) * len(models)
  with style.canvas(style.TWO_COLUMNS, height) as drawn:
    ax = drawn.subplots()
    for i, (region, (hue, _)) in enumerate(
      zip(results.regions, hues, strict=True)
    ):
      part = frame[frame["region"] == region].set_index("model")
      for model, row in part.iterrows():
        y = models.index(model) - 0.3 + (i + 0.5) * step
        ends = 100 * row["dice_ci_low"], 100 * row["dice_ci_high"]
        ax.plot(ends, (y, y), color=hue, lw=2)
        ax.plot(100 * row["dice_mean"], y, "o", ms=4, color=hue)
      ax.plot([], [], "o-", ms=4, lw=2, color=hue, label=region)
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Dice, %, over the cases that show the region")
    drawn.legend(loc="outside upper center", ncols=len(results.regions))
  return drawn
