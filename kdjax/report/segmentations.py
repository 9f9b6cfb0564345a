"""The paper's Figure 2: one test image, and every model's contour on it.

These figures show the images themselves. They are written below
`figures/cases`, which never leaves a workdir unless its data set is the phantom
(see `build.publish`).
"""

import math

import pandas as pd

from kdjax import workdirs
from kdjax.errors import UserError
from kdjax.evaluate import predictions as stored
from kdjax.report import style

_DASHES = (0, (3, 1))  # Of a prediction.


def choose(results):
  """Where distillation helped most, as usual, and least: name to unit.

  By the mean over the distilled arms of the difference to Student. Returns
  `{"best", "median", "worst"}` to `(fold, case)`; empty without such arms.
  """
  scores = results.scores
  pairs = [
    (arm, results.references[arm])
    for arm in results.distilled
    if results.references[arm] in scores
  ]
  if not pairs:
    return {}
  gain = sum(scores[arm] - scores[student] for arm, student in pairs)
  order = gain.dropna().sort_values(kind="stable").index
  if not len(order):
    return {}
  return {
    "best": order[-1],
    "median": order[len(order) // 2],
    "worst": order[0],
  }


def named(results, cases):
  """The units of `cases` that a user names: case to `(fold, case)`.

  Raises:
    UserError: no model was tested on one of them.
  """
  folds = {case: fold for fold, case in reversed(results.scores.index)}
  for case in cases:
    if case not in folds:
      raise UserError(
        f"--cases: {case} is not a test case of {results.workdir}; "
        f"{workdirs.PER_CASE} lists them."
      )
  return {case: (folds[case], case) for case in cases}


def draw(results, found, unit):
  """One panel for the image and one for each model, of the first seed.

  Args:
    results: `results.Results`.
    found: `predictions.Predictions`.
    unit: `(fold, case)`.
  """
  fold, case = unit
  place = found.cases.index(case)
  image, truth = found.images[place], found.truths[place]
  height, width = map(int, found.sizes[place])
  frame = results.per_case
  mine = frame[(frame["fold"] == fold) & (frame["case"] == case)]
  seed = mine["seed"].min()
  dice = mine[mine["seed"] == seed].set_index("model")["dice"]
  models = [x for x in results.models if x in dice.index]
  hues = style.of_regions(max(1, len(results.regions)))
  across = 5
  down = math.ceil((1 + len(models)) / across)
  # Each panel has the shape of the image on disk.
  tall = style.TWO_COLUMNS / across * height / width
  titles = [style.wrapped(x, 20) for x in models]
  head = 0.08 + 0.12 * max(x.count("\n") + 1 for x in titles)
  with style.canvas(style.TWO_COLUMNS, 0.3 + (tall + head) * down) as drawn:
    panels = drawn.subplots(down, across, squeeze=False).ravel()
    for ax in panels:
      ax.set(xticks=[], yticks=[])  # Off or not, ticks cost time.
      ax.set_axis_off()
    names = zip([None, *models], ["image", *titles], strict=True)
    for letter, (ax, (model, title)) in enumerate(
      zip(panels, names, strict=False)
    ):
      # Outer edges, so that a contour's place does not depend on the size.
      extent = (0, width, height, 0)
      ax.imshow(
        image, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="equal"
      )
      if model is not None and not pd.isna(dice[model]):
        title += f"  {100 * dice[model]:.0f}"
      ax.set_title(f"{_letter(letter)}  {title}", pad=2, fontsize=7, loc="left")
      if model is not None:
        mask = found.mask(model, fold, seed, case)
        for number, (true, predicted) in enumerate(hues, start=1):
          _contour(ax, truth == number, extent, true, "-")
          if mask is not None:
            _contour(ax, mask == number, extent, predicted, _DASHES)
    _legend(drawn, panels[0], results.regions, hues)
  return drawn


def _legend(drawn, ax, regions, hues):
  """What the contours are, below the panels."""
  line = lambda hue, dashes="-": ax.plot([], [], color=hue, ls=dashes)[0]
  said = "prediction (number: its Dice, %)"
  if regions:
    named = [(line(hue), x) for x, (hue, _) in zip(regions, hues, strict=True)]
    named.append((line(style.GREY, _DASHES), f"dashed: {said}"))
  else:
    ((true, predicted),) = hues
    named = [(line(true), "ground truth"), (line(predicted, _DASHES), said)]
  drawn.legend(
    *zip(*named, strict=True), loc="outside lower center", ncols=len(named)
  )


def write(results, cases=()):
  """Writes a figure for each case; returns `(name, title, PNG)` of each.

  Args:
    results: `results.Results`.
    cases: names of test cases; where distillation helped most, as usual and
      least when empty.
  """
  found = stored.read(results.workdir)
  units = named(results, cases) if cases else choose(results)
  if found is None:
    return []
  folder = workdirs.pictures(results.workdir)
  said = {
    "best": "where distillation helped most",
    "median": "where it helped as it usually does",
    "worst": "where it helped least",
  }
  pictures = []
  for name, unit in units.items():
    title = f"Case {unit[1]}: {said[name]}" if name in said else f"Case {name}"
    safe = "".join(x if x.isalnum() or x in "-_" else "_" for x in name)
    pictures.append(
      (safe, title, style.save(draw(results, found, unit), folder, safe))
    )
  return pictures


def _contour(ax, mask, extent, colour, dashes):
  if mask.any() and not mask.all():
    left, right, bottom, top = extent
    side_y, side_x = mask.shape
    # Centres of pixels, stretched to the image on disk.
    x = [(i + 0.5) * right / side_x for i in range(side_x)]
    y = [(i + 0.5) * bottom / side_y for i in range(side_y)]
    ax.contour(
      x,
      y,
      mask.astype(float),
      levels=[0.5],
      colors=[colour],
      linewidths=1.0,
      linestyles=[dashes],
    )


def _letter(number):
  """A to Z, then a number, as the paper letters its panels."""
  return chr(ord("A") + number) if number < 26 else str(number + 1)
