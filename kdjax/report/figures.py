"""Plots of a report's numbers; none shows an image of a patient.

Every function takes `results.Results` and returns a matplotlib figure, or None
where the numbers have nothing to plot.
"""

import math

import numpy as np
import pandas as pd

from kdjax import workdirs
from kdjax.report import front
from kdjax.report import paired
from kdjax.report import published
from kdjax.report import ranks
from kdjax.report import regional
from kdjax.report import style
from kdjax.report import tuning
from kdjax.report import verdicts


def forest(results):
  """Differences to Student and to Teacher with their 95 % intervals."""
  frame = results.comparisons
  if frame.empty:
    return None
  references = {"Student": results.students, "Teacher": ["Teacher"]}
  sides = [
    (name, frame[frame["reference"].isin(x)]) for name, x in references.items()
  ]
  sides = [(name, part) for name, part in sides if len(part)]
  models = [x for x in results.models if x in set(frame["model"])]
  height = 0.75 + 0.2 * len(models)
  with style.canvas(style.TWO_COLUMNS, height) as drawn:
    axes = drawn.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for ax, (name, part) in zip(axes, sides, strict=True):
      margin = 100 * results.margin
      if name == "Teacher":
        ax.axvspan(-margin, margin, color="0.92", lw=0, zorder=0)
      ax.axvline(0, color="0.4", lw=0.8, zorder=1)
      ends = _ends(part)
      for row in part.to_dict("records"):
        y = models.index(row["model"])
        hue = style.colour(row["model"])
        span = 100 * row["ci_low"], 100 * row["ci_high"]
        ax.plot(np.clip(span, *ends), (y, y), color=hue, lw=0.7, alpha=0.55)
        if span[0] < ends[0]:
          ax.plot(ends[0], y, "<", ms=3, mew=0, color=hue, alpha=0.55)
        if span[1] > ends[1]:
          ax.plot(ends[1], y, ">", ms=3, mew=0, color=hue, alpha=0.55)
        span = 100 * row["networks_low"], 100 * row["networks_high"]
        ax.plot(span, (y, y), color=hue, lw=2, solid_capstyle="butt")
        ax.plot(
          100 * row["difference"],
          y,
          "o",
          ms=4.5,
          mec=hue,
          mew=1.2,
          mfc=hue if verdicts.shown(row) else "white",
          zorder=3,
        )
      ax.set_xlabel(f"Dice points above {name}")
      ax.tick_params(axis="y", length=0)
      ax.spines["left"].set_visible(False)
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    said = "filled: shown after Holm's correction;  thick: 95 % over cases"
    if results.paired.scope != paired.NETWORKS:
      said += ";  thin: of networks trained anew"
    if any(name == "Teacher" for name, _ in sides):
      said += ";  grey band: equivalence"
    drawn.supxlabel(said, fontsize=7, color="0.35")
  return drawn


def _ends(part):
  """Where intervals of few repeats are cut off, so that the others are seen."""
  low = 100 * min(0, part["networks_low"].min(), part["difference"].min())
  high = 100 * max(0, part["networks_high"].max(), part["difference"].max())
  reach = max(high - low, 1)
  return low - reach, high + reach


def distributions(results):
  """Per-case Dice of every model: all cases, quartiles and the mean."""
  scores = 100 * results.scores
  models = [x for x in results.models if x in scores]
  if not models:
    return None
  rng = np.random.default_rng(0)
  with style.canvas(style.TWO_COLUMNS, 0.6 + 0.26 * len(models)) as drawn:
    ax = drawn.subplots()
    for y, model in enumerate(models):
      values = scores[model].dropna().to_numpy()
      hue = style.colour(model)
      spread = y + rng.uniform(-0.3, 0.3, len(values))
      faint = np.clip(8 / math.sqrt(len(values) + 1), 0.3, 0.8)
      ax.plot(values, spread, ".", ms=2.5, mew=0, color=hue, alpha=faint)
      low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
      ax.plot((low, high), (y, y), color=hue, lw=3.5, solid_capstyle="butt")
      ax.plot(middle, y, "|", ms=10, mew=1.8, color=hue)
      ax.plot(values.mean(), y, "D", ms=4, mfc="white", mec=hue, mew=1)
    ax.set_yticks(range(len(models)), models)
    ax.set_ylim(len(models) - 0.4, -0.6)
    ax.set_xlim(-1, 101)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(
      "Dice of a case, %  (bar: quartiles, tick: median, diamond: mean)"
    )
  return drawn


def sizes(results):
  """Dice against parameters, with the methods that the paper quotes."""
  counts = results.efficiency["parameters"].dropna()
  table = results.scores.mean() * 100
  models = [x for x in results.models if x in counts.index and x in table]
  if not models:
    return None
  quoted = published.TABLE_5 if results.config.published else {}
  with style.canvas(style.ONE_COLUMN, 2.7) as drawn:
    ax = drawn.subplots()
    for name, row in quoted.items():
      ours = name in results.models
      ax.plot(1e6 * row.parameters, row.dice, "s", ms=4, mfc="white", mec="0.4")
      ax.annotate(
        f"{name}, published" if ours else name,
        (1e6 * row.parameters, row.dice),
        xytext=(5, 0),
        textcoords="offset points",
        fontsize=7,
        color="0.35",
        va="center",
      )
    for model in models:
      ax.plot(
        counts[model],
        table[model],
        "o",
        ms=4.5,
        mew=0,
        color=style.colour(model),
      )
    arms = [x for x in models if x in results.distilled]
    unnamed = *arms, *results.controls, *results.compressed
    named = {x: x for x in models if x not in unnamed}
    if arms:
      named[max(arms, key=lambda x: table[x])] = (
        f"{len(arms)} arms" if len(arms) > 1 else arms[0]
      )
    left = counts.max() / 2
    for model, name in named.items():
      far = counts[model] > left
      ax.annotate(
        name,
        (counts[model], table[model]),
        xytext=(-6 if far else 6, 0),
        textcoords="offset points",
        fontsize=7,
        ha="right" if far else "left",
        va="center",
      )
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(low / 1.3, high * (2.5 if quoted else 1.5))
    ax.set_xlabel("parameters")
    ax.set_ylabel("mean Dice, %")
  return drawn


def curves(results):
  """Validation Dice of every trial by epoch, its stop marked."""
  history = results.history
  if history.empty or "val_dice" not in history:
    return None
  names = list(dict.fromkeys(history["arm"]))
  models = [x for x in results.models if x in names]
  across = min(5, len(models))
  down = math.ceil(len(models) / across)
  folds = sorted(set(history["fold"]))
  hues = (style.BLUE, style.RED, style.GREEN, style.PURPLE, style.ORANGE)
  titles = {x: style.wrapped(x, 20) for x in models}
  high = 1.15 + 0.12 * max(x.count("\n") + 1 for x in titles.values())
  with style.canvas(style.TWO_COLUMNS, 0.5 + high * down) as drawn:
    grid = drawn.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for ax in grid.ravel()[len(models) :]:
      ax.set_visible(False)
    for ax in grid.ravel()[len(models) - across : len(models)]:
      ax.tick_params(labelbottom=True)
    for ax, model in zip(grid.ravel(), models, strict=False):
      mine = history[history["arm"] == model]
      for (fold, _), part in mine.groupby(["fold", "seed"]):
        hue = hues[folds.index(fold) % len(hues)]
        part = part.sort_values("epoch")
        dice = 100 * part["val_dice"].astype(float)
        ax.plot(part["epoch"], dice, lw=0.8, color=hue)
        last = part.iloc[-1]
        lost = not np.isfinite(float(last["train_loss"]))
        if lost or not int(last["live"]):
          mark = "x" if lost else "o"
          ax.plot(last["epoch"], dice.iloc[-1], mark, ms=3, color=hue)
      ax.set_title(titles[model], pad=2)
      ax.grid(axis="y", lw=0.4, color="0.9")
    drawn.supxlabel("epoch  (dot: stopped, cross: diverged)", fontsize=8)
    drawn.supylabel("validation Dice, %", fontsize=8)
    if len(folds) > 1:
      lines = [
        grid[0, 0].plot([], [], color=hues[i % len(hues)])[0]
        for i in range(len(folds))
      ]
      drawn.legend(
        lines,
        [f"fold {x}" for x in folds],
        loc="outside upper right",
        ncols=len(folds),
      )
  return drawn


def levels(results):
  """Mean gain over Student by pair of levels (and pathway) and loss."""
  made = results.levels
  if "pair" not in made or results.comparisons.empty:
    return None
  gains = {x["model"]: 100 * x["difference"] for x in results.arm_rows()}
  frame = made.assign(gain=pd.Series(gains), loss=_column(results, "loss"))
  frame = frame[frame["pair"] != ""].dropna(subset="gain")
  if frame.empty:
    return None
  pathway = _column(results, "pathway").reindex(frame.index)
  key = pathway + "  " + frame["pair"].str.replace("-", " from ")
  key = key.str.replace("+", "\n+ ")
  table = frame.groupby([key, "loss"], sort=False)["gain"].mean().unstack()
  reach = max(1.0, np.nanmax(np.abs(table.to_numpy())))
  lines = [x for label in table.index for x in label.split("\n")]
  height = 1.0 + 0.2 * len(lines) + 0.12 * len(table)
  wide = 0.07 * max(map(len, lines)) + 0.5 * len(table.columns)
  width = style.ONE_COLUMN if wide < style.ONE_COLUMN else style.TWO_COLUMNS
  with style.canvas(width, height) as drawn:
    ax = drawn.subplots()
    ax.imshow(table, cmap="PuOr_r", vmin=-reach, vmax=reach, aspect="auto")
    for (i, j), value in np.ndenumerate(table.to_numpy()):
      if not np.isnan(value):
        dark = abs(value) > 0.6 * reach
        said = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
        ax.text(
          j,
          i,
          said,
          ha="center",
          va="center",
          color="white" if dark else "black",
          fontsize=8,
        )
    ax.set_xticks(range(table.shape[1]), table.columns)
    ax.set_yticks(range(table.shape[0]), table.index)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("Dice points above Student")
  return drawn


def _column(results, name):
  made = {x.name: x.objective for x in results.arms if x.objective}
  return pd.Series({arm: getattr(x, name) for arm, x in made.items()})


ALL = {
  "forest": (forest, "Differences of every arm, with 95 % intervals"),
  "distributions": (distributions, "Dice of every test case"),
  "regions": (regional.draw, "Dice of each region"),
  "ranks": (ranks.diagram, "Critical-difference diagram"),
  "sizes": (sizes, "Dice against the number of parameters"),
  "compression": (front.draw, "Dice against stored bytes"),
  "levels": (levels, "Gain over Student by level and loss"),
  "curves": (curves, "Learning curves of all trials"),
  "search": (tuning.curves, "What the best of so many draws is expected to be"),
}


def write(results):
  """Writes every plot; returns `(name, title, PNG)` of each that was made."""
  folder = workdirs.figures(results.workdir)
  found = []
  for name, (draw, title) in ALL.items():
    drawn = draw(results)
    if drawn is not None:
      found.append((name, title, style.save(drawn, folder, name)))
  return found
