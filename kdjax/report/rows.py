"""What is made of a workdir's rows: units, groups, and trials left out.

A unit is a (fold, case), averaged over seeds first: means, deviations and
paired tests are over units.
"""

import numpy as np
import pandas as pd

from kdjax import readers
from kdjax import workdirs

_TRIAL = ["model", "fold", "seed"]


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


def diverged(curves):
  """The trials that met a loss that is not finite: a frame of `_TRIAL`."""
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
  if config.splits.kind != "holdout" or len(config.folds) < 2:
    return None
  if not workdirs.has(workdir, workdirs.DATA):
    return None
  record = readers.data(workdir)
  # Of other data all cases are tested in every fold, which share training cases
  # as much as they did at home.
  tested = record.get("trained_on", {}).get("tested")
  tested = tested or [len(fold["test"]) for fold in record["folds"]]
  sizes = [
    count / (len(fold["train"]) + len(fold["val"]))
    for count, fold in zip(tested, record["folds"], strict=True)
  ]
  return sum(sizes) / len(sizes)
