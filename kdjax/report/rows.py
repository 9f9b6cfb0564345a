"""The files that a report is made from: per_case.csv, history.csv, data.json.

A unit is a (fold, case), averaged over seeds first: means, deviations and
paired tests are over units.
"""

import io
import math

from etils import epath
import numpy as np
import pandas as pd

from kdjax import errors
from kdjax import files

_TEXT = ("model", "case", "group")
_COUNTS = ("fold", "seed", "empty_truth", "empty_prediction")
_LIMITS = {"dice": 1, "iou": 1, "hd95": math.inf, "assd": math.inf}
# Empty where the spacing of the pixels is not known, of every case perhaps.
_MILLIMETRES = ("hd95_mm", "assd_mm")
_TRIAL = ["model", "fold", "seed"]
# Of data.json.
_PARTS = ("train", "val", "test")
_SAID = ("name", "version", "fingerprint")
# Of history.csv.
_WHOLE = ("fold", "seed", "epoch")
_CURVES = ("train_loss", "val_loss", "val_dice")


def read(workdir):
  """Reads and checks per_case.csv: a frame, one row per model, trial and case.

  `dice` and `iou` are in [0, 1], NaN where `empty_truth`, as in
  `evaluate.metrics`; `hd95_mm` and `assd_mm` may not be there.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = epath.Path(workdir) / "per_case.csv"
  numbers = (*_LIMITS, *_MILLIMETRES)
  if not path.exists():
    raise errors.UserError(
      f"{path}: no such file; `kdjax train` writes it when all trials are done."
    )
  try:
    # A case may be called "007" or "NA", so words stay words.
    frame = pd.read_csv(
      io.BytesIO(path.read_bytes()),
      dtype=dict.fromkeys(_TEXT, str) | dict.fromkeys(numbers, float),
      keep_default_na=False,
      na_values=dict.fromkeys(numbers, ["", "nan", "NaN"]),
    )
    damage = _damage(frame)
  except (OSError, ValueError) as error:
    damage = str(error).strip().splitlines()[0]
  if damage:
    raise errors.UserError(
      f"{path}: damaged ({damage}); delete it and run `kdjax train` again in "
      "this workdir to evaluate anew."
    )
  return frame


def units(per_case, metric="dice"):
  """Mean over seeds of `metric`: a frame, a row per unit, a column per model.

  NaN where the model was not tested or the metric is undefined.
  """
  means = per_case.groupby(["fold", "case", "model"])[metric].mean()
  return means.unstack("model")


def groups(per_case, index):
  """The group of every unit of `index`, (fold, case) pairs, as `[U]`."""
  names = per_case.drop_duplicates("case").set_index("case")["group"]
  return names.reindex(index.get_level_values("case")).to_numpy()


def history(workdir):
  """history.csv as a frame, its stage and arm as words; empty if not there."""
  path = epath.Path(workdir) / "history.csv"
  if not path.exists():
    return pd.DataFrame(columns=["stage", "arm", "fold", "seed", "epoch"])
  try:
    frame = pd.read_csv(
      io.BytesIO(path.read_bytes()),
      dtype={"stage": str, "arm": str} | dict.fromkeys(_WHOLE, int),
      keep_default_na=False,
      na_values=dict.fromkeys(_CURVES, ["nan", "inf", "-inf"]),
    )
    frame[["stage", "arm", *_WHOLE]]
    if "live" in frame and not frame["live"].isin((0, 1)).all():
      raise ValueError("rows are cut")
    return frame.astype(dict.fromkeys(set(_CURVES) & set(frame), float))
  except (ValueError, LookupError) as error:
    raise errors.UserError(
      f"{path}: damaged ({str(error).strip().splitlines()[0]}); run "
      "`kdjax train` again in this workdir to have it written anew."
    ) from error


def diverged(curves):
  """The trials that met a loss that is not finite: a frame of `_TRIAL`."""
  if "train_loss" not in curves:
    return pd.DataFrame(columns=_TRIAL)
  lost = curves[~np.isfinite(curves["train_loss"].astype(float))]
  trials = lost.rename(columns={"arm": "model"})[_TRIAL]
  return trials.drop_duplicates().reset_index(drop=True)


def without(per_case, trials):
  """`per_case` without the rows of `trials`, a frame of `_TRIAL`."""
  lost = pd.MultiIndex.from_frame(trials[_TRIAL])
  return per_case[~pd.MultiIndex.from_frame(per_case[_TRIAL]).isin(lost)]


def holdout_ratio(workdir, config):
  """Test over training cases of repeated hold-outs; None for k folds or one.

  Validation counts as training: it chose the epoch.
  """
  path = epath.Path(workdir) / "data.json"
  if config.splits.kind != "holdout" or len(config.folds) < 2:
    return None
  if not path.exists():
    return None
  sizes = [
    len(fold["test"]) / (len(fold["train"]) + len(fold["val"]))
    for fold in read_data(path)["folds"]
  ]
  return sum(sizes) / len(sizes)


def read_data(path):
  """data.json as a dict.

  Raises:
    UserError: it is damaged.
  """
  found = files.read_json(path)
  folds = found.get("folds")
  whole = isinstance(folds, list) and len(folds) > 0
  for fold in folds if whole else ():
    parts = [isinstance(fold, dict) and fold.get(x) for x in _PARTS]
    whole &= all(isinstance(x, list) and bool(x) for x in parts)
  if not whole or not all(isinstance(found.get(x), str) for x in _SAID):
    raise errors.UserError(
      f"{path} is damaged: restore it, or choose a fresh --workdir."
    )
  return found


def read_pairs(path):
  """pairs.json as a dict, see `engine.levels.compared`.

  Raises:
    UserError: it is damaged.
  """
  found = files.read_json(path)
  counts = lambda x: (
    isinstance(x, list) and len(x) == 2 and all(isinstance(y, int) for y in x)
  )
  for what in found.values() if isinstance(found, dict) else (None,):
    if not isinstance(what, dict) or not (
      set(what) == {"positions", "channels", "signed"}
      and counts(what["positions"])
      and counts(what["channels"])
      and isinstance(what["signed"], bool)
    ):
      raise errors.UserError(
        f"{path} is damaged: run kdjax train there again to have it written "
        "anew."
      )
  return found


def _damage(frame):
  """What is wrong with a per-case frame, in a few words; empty if nothing."""
  columns = (*_TEXT, *_COUNTS, *_LIMITS)
  if missing := [name for name in columns if name not in frame]:
    return f"no column {', '.join(missing)}"
  if frame.empty:
    return "no rows"
  if not isinstance(frame.index, pd.RangeIndex):
    return "rows are longer than the header"
  bad = {name: frame[name].isna() for name in _TEXT}
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
  for name in set(_MILLIMETRES) & set(frame):
    bad[name] = frame[name].notna() & ~frame[name].between(0, math.inf)
  for name, rows in bad.items():
    if rows.any():
      return f"line {rows.idxmax() + 2}, {name}"
  twice = frame.duplicated(["model", "fold", "seed", "case"])
  return f"line {twice.idxmax() + 2} is there twice" if twice.any() else ""
