"""The page's browser of cases: what page.js draws and the list to choose from.

Images of cases leave the workdir with the page, so `build` decides whether it
has one.
"""

import base64
import io
import zlib

import numpy as np
import pandas as pd
from PIL import Image

from kdjax.evaluate import predictions as stored
from kdjax.report import style

_ON_SCREEN = [("#00c290", "#ff6a13")]  # As page.css has them.
HEADER = ("case", "fold", "Teacher", "Student", "arms", "gain")


def make(results):
  """What page.html says of cases, or None if no predictions were stored.

  Returns:
    A dict of `seed`, the one that is shown; `header` and `rows` of the list,
    a row for each tested case; and `data` for page.js, whose `units` are those
    rows.
  """
  found = stored.read(results.workdir)
  if found is None:
    return None
  seed = int(results.per_case["seed"].min())
  place = {case: i for i, case in enumerate(found.cases)}
  tested = [x for x in results.scores.index if x[1] in place]
  hues = style.of_regions(max(1, len(results.regions)))
  truths = np.stack(
    [[np.packbits(x == i + 1) for i in range(len(hues))] for x in found.truths]
  )
  masks = np.concatenate([found.masks, truths]).tobytes()
  return {
    "seed": seed,
    "regions": list(zip(results.regions, (x for x, _ in hues), strict=False)),
    "header": HEADER,
    "rows": _rows(results, tested),
    "data": {
      "side": found.images.shape[1],
      # Of each region's truth and prediction; a mask has a plane for each.
      "colours": _ON_SCREEN if len(hues) == 1 else hues,
      "masks": base64.b64encode(zlib.compress(masks, 9)).decode(),
      "images": [_jpeg(x) for x in found.images],
      "sizes": found.sizes.tolist(),
      "units": _units(results, found, seed, place, tested),
    },
  }


def _units(results, found, seed, place, tested):
  """Of each tested case its image, its true mask and every model's mask."""
  frame = results.per_case[results.per_case["seed"] == seed]
  dice = frame.set_index(["model", "fold", "case"])["dice"]
  units = []
  for fold, case in tested:
    shown = []
    for model in results.models:
      row = found.rows.get((model, fold, seed, case))
      value = dice.get((model, fold, case), float("nan"))
      if row is not None:
        said = "" if pd.isna(value) else f"{100 * value:.0f}"
        shown.append([model, row, said])
    truth = len(found.masks) + place[case]
    unit = {"name": case, "case": place[case], "truth": truth, "rows": shown}
    units.append(unit)
  return units


def _rows(results, tested):
  """The list's rows: cells of words and the value that each sorts by."""
  frame = results.scores.reindex(columns=["Teacher"])
  frame["Student"] = results.scores.reindex(columns=results.students).mean(
    axis=1
  )
  frame["arms"] = results.scores[results.distilled].mean(axis=1)
  frame["gain"] = frame["arms"] - frame["Student"]
  number = lambda x: ("-" if pd.isna(x) else f"{100 * x:.0f}", x)
  return [
    [(case, case), (fold, fold), *map(number, values)]
    for (fold, case), values in zip(
      tested, frame.loc[tested].to_numpy(float), strict=True
    )
  ]


def _jpeg(image):
  content = io.BytesIO()
  Image.fromarray(image).save(content, "JPEG", quality=85)
  return (
    "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
  )
