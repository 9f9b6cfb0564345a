"""Readers of a workdir's files, one each.

What a reader refuses, it refuses in a line that names the file and the way out.
"""

import io
import math

import pandas as pd

from kdjax import files
from kdjax import workdirs

_TRIAL = ("fold", "seed")
_WORDS = ("model", "case", "group")
_COUNTS = (*_TRIAL, "empty_truth", "empty_prediction")
_LIMITS = {"dice": 1, "iou": 1, "hd95": math.inf, "assd": math.inf}
# Empty where the spacing of the pixels is not known, or kdjax was an older one.
_OPTIONAL = {"hd95_mm": math.inf, "assd_mm": math.inf, "brier": 1, "ece": 1}


def per_case(workdir, regions=()):
  """per_case.csv as a frame, one row per model, trial and case.

  `dice` and `iou` are in [0, 1], NaN where `empty_truth`, as in
  `evaluate.metrics`; `_OPTIONAL` may not be there.

  Args:
    workdir: a folder or gs://...
    regions: several of which it has `workdirs.REGIONAL` measures, too.

  Raises:
    UserError: the file is missing or damaged.
  """
  numbers = (*_LIMITS, *_OPTIONAL)
  more = [workdirs.of_region(m, x) for m in workdirs.REGIONAL for x in regions]
  path = workdirs.there(workdir, workdirs.PER_CASE)
  try:
    # A case may be called "007" or "NA", so words stay words.
    frame = _frame(
      path,
      dict.fromkeys((*numbers, *more), ["", "nan", "NaN"]),
      dtype=dict.fromkeys(_WORDS, str)
      | dict.fromkeys((*numbers, *more), float),
    )
    damage = _damage(frame, more)
  except (OSError, ValueError) as error:
    damage = error
  if damage:
    raise workdirs.damaged(path, damage)
  return frame


def _damage(frame, more):
  """What is wrong with a per-case frame, in a few words; empty if nothing."""
  columns = (*_WORDS, *_COUNTS, *_LIMITS, *more)
  if missing := [name for name in columns if name not in frame]:
    return f"no column {', '.join(missing)}"
  if frame.empty:
    return "no rows"
  if not isinstance(frame.index, pd.RangeIndex):
    return "rows are longer than the header"
  bad = {name: frame[name].isna() for name in _WORDS}
  for name in _COUNTS:
    count = pd.to_numeric(frame[name], errors="coerce")
    bad[name] = count.isna() | (count % 1 != 0)
  for name in ("empty_truth", "empty_prediction"):
    bad[name] |= ~frame[name].isin((0, 1))
  # A number that is lost must not pass for one that is undefined.
  lesion = frame["empty_truth"] == 0
  for name, limit in _LIMITS.items():
    bad[name] = lesion & ~frame[name].between(0, limit)
  for name in ("dice", "iou"):
    bad[name] |= ~lesion & frame[name].notna()
  limits = _OPTIONAL | dict.fromkeys(more, 1)
  for name in set(limits) & set(frame):
    fits = frame[name].between(0, limits[name])
    bad[name] = frame[name].notna() & ~fits
  for name, lines in bad.items():
    if lines.any():
      return f"line {lines.idxmax() + 2}, {name}"
  twice = frame.duplicated(["model", "fold", "seed", "case"])
  return f"line {twice.idxmax() + 2} is there twice" if twice.any() else ""


def history(workdir, search=False):
  """history.csv as a frame: words, whole numbers, and numbers that may be inf.

  Args:
    workdir: a folder or gs://...
    search: whether the draws of a search are in it, too.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = workdirs.there(workdir, workdirs.HISTORY)
  try:
    frame = _frame(
      path,
      # Rows of an older kdjax may lack some.
      dict.fromkeys(workdirs.SCALARS, ["nan"])
      | dict.fromkeys(workdirs.WEIGHED, ["nan", ""]),
      dtype={"stage": str, "arm": str}
      | dict.fromkeys((*_TRIAL, "epoch"), int)
      | dict.fromkeys(workdirs.SCALARS, float),
    )
    frame[["stage", "arm", *_TRIAL, "epoch"]]
    if "live" in frame and not frame["live"].isin((0, 1)).all():
      raise ValueError("rows are cut")
  except (ValueError, LookupError) as error:
    raise workdirs.damaged(path, error) from error
  if not search:
    frame = frame[~frame["stage"].str.startswith(workdirs.RUNG)]
  return frame.reset_index(drop=True)


def search(workdir):
  """search.csv as a frame, `numbers` a dict from axis to number.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = workdirs.there(workdir, workdirs.SEARCH)
  try:
    frame = _frame(
      path,
      dict.fromkeys(("val_loss", "val_dice"), ["nan"]),
      dtype={"arm": str, "numbers": str, "val_loss": float, "val_dice": float},
    )[list(workdirs.COLUMNS[workdirs.SEARCH])]
    words = ("arm", "numbers", "val_loss", "val_dice")
    frame = frame.astype({x: int for x in frame if x not in words})
    frame["numbers"] = [
      {name: float(x) for name, x in (y.split("=") for y in said.split())}
      for said in frame["numbers"]
    ]
  except (ValueError, LookupError) as error:
    raise workdirs.damaged(path, error) from error
  return frame


def efficiency(workdir):
  """efficiency.csv as a frame of `COSTS` by model, NaN where not measured.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = workdirs.there(workdir, workdirs.EFFICIENCY)
  try:
    frame = _frame(path, dict.fromkeys(workdirs.COSTS, [""]), index_col="model")
    return frame.reindex(columns=list(workdirs.COSTS)).astype(float)
  except (ValueError, LookupError, TypeError) as error:
    raise workdirs.damaged(path, error) from error


def data(workdir):
  """data.json as a dict: the data set, and the cases of each fold.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = workdirs.there(workdir, workdirs.DATA)
  found = files.read_json(path)
  folds = found.get("folds")
  whole = isinstance(folds, list) and len(folds) > 0
  for fold in folds if whole else ():
    parts = [
      isinstance(fold, dict) and fold.get(x) for x in ("train", "val", "test")
    ]
    whole &= all(isinstance(x, list) and bool(x) for x in parts)
  said = ("name", "version", "fingerprint")
  if not whole or not all(isinstance(found.get(x), str) for x in said):
    raise workdirs.damaged(path)
  return found


def pairs(workdir):
  """pairs.json as a dict, see `engine.levels.compared`.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = workdirs.there(workdir, workdirs.PAIRS)
  counts = lambda x: (
    isinstance(x, list) and len(x) == 2 and all(isinstance(y, int) for y in x)
  )
  found = files.read_json(path)
  for what in found.values():
    if (
      not isinstance(what, dict)
      or set(what) != {"positions", "channels", "signed"}
      or not counts(what["positions"])
      or not counts(what["channels"])
      or not isinstance(what["signed"], bool)
    ):
      raise workdirs.damaged(path)
  return found


def teachers(workdir):
  """teachers.json as a dict: "from", and "digests" by block.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = workdirs.there(workdir, workdirs.TEACHERS)
  found = files.read_json(path)
  digests = found.get("digests")
  if not isinstance(found.get("from"), str) or not isinstance(digests, dict):
    raise workdirs.damaged(path)
  if not all(isinstance(x, str) for x in digests.values()):
    raise workdirs.damaged(path)
  return found


def _frame(path, blanks, **options):
  """A table as pandas reads it, where nothing is NaN but `blanks` by column."""
  return pd.read_csv(
    io.BytesIO(path.read_bytes()),
    keep_default_na=False,
    na_values=blanks,
    **options,
  )
