"""Per-case data with known effects, and whole workdirs made of them."""

import json
import types

import ml_collections
import numpy as np
import pandas as pd

from kdjax import workdirs
from kdjax.distill import trials
from kdjax.evaluate import predictions as stored

GRID = {
  "pathway": ("L", "H", "HReg"),
  "loss": ("MSE", "KLD"),
  "view": ("strong", "weak"),
  "source": ("trained",),
  "pair": (("encoder4", "encoder5"),),
  "alpha": (0.5,),
  "share": (0.0,),
  "weighting": ("grid",),
  "temperature": (1.0,),
  "learning_rate": (1e-3,),
  "weight_decay": (0.0,),
  "soft_dice": (0.0,),
  "sparsity": (0.0,),
  "bits": (32,),
  "tuning": ("untuned",),
}
ARMS = trials.make_arms(GRID)
DISTILLED = tuple(arm.name for arm in ARMS if arm.objective)


def per_case(
  rng,
  effects,
  *,
  cases=90,
  folds=3,
  seeds=1,
  group_size=1,
  tests=None,
  own=0.06,
  split=0.0,
  luck=0.0,
  clip=True,
):
  """A frame of per_case.csv whose true differences are those of `effects`.

  Args:
    rng: numpy generator.
    effects: model to its true mean difference from 0.7, in Dice.
    cases, folds, seeds, group_size: sizes; cases of a group share what makes
      a model good or bad at them.
    tests: test cases of a fold, drawn anew each; None tests each case once.
    own: deviation of what is a model's own on a case.
    split: deviation of what is a model's own in a fold.
    luck: deviation of what is a model's own in a fold and seed.
    clip: whether Dice stays in [0, 1], which bends the true differences.
  """
  groups = np.arange(cases) // group_size
  hard = rng.normal(0, 0.15, groups.max() + 1)[groups]
  if tests is None:
    rounds = np.array_split(rng.permutation(cases), folds)
  else:
    rounds = [rng.permutation(cases)[:tests] for _ in range(folds)]
  tables = []
  for model, effect in effects.items():
    at = rng.normal(0, own * 0.8, groups.max() + 1)[groups]
    for fold, test in enumerate(rounds):
      level = 0.7 + effect + rng.normal(0, split)
      for seed in range(seeds):
        noise = rng.normal(0, own * 0.6, len(test)) + rng.normal(0, luck)
        dice = level + hard[test] + at[test] + noise
        dice = np.clip(dice, 0, 1) if clip else dice
        tables.append(
          pd.DataFrame(
            {
              "model": model,
              "fold": fold,
              "seed": seed,
              "case": [f"case{i:03d}" for i in test],
              "group": [f"g{groups[i]:03d}" for i in test],
              "dice": dice,
              "iou": dice / (2 - dice),
              "hd95": 40 * (1 - dice),
              "assd": 12 * (1 - dice),
              "empty_truth": 0,
              "empty_prediction": 0,
              "precision": dice,
              "recall": dice,
            }
          )
        )
  return pd.concat(tables, ignore_index=True)


def effects(lift=0.05, kld=0.02, teacher=0.08):
  """True differences: every arm lifts, KLD lifts more, nothing else matters."""
  arms = {x: lift + kld * ("KLD" in x) for x in DISTILLED}
  return {"Teacher": teacher, "Student": 0.0, **arms}


def history(frame, epochs=30, rng=None):
  """A frame of history.csv for the trials of a per-case frame."""
  rng = rng or np.random.default_rng(0)
  found = []
  for model, fold, seed in (
    frame[["model", "fold", "seed"]].drop_duplicates().itertuples(index=False)
  ):
    stop = int(rng.integers(epochs // 2, epochs + 1))
    for epoch in range(1, stop + 1):
      loss = 0.9 * np.exp(-epoch / 8) + 0.2 + rng.normal(0, 0.01)
      found.append(
        dict(
          zip(
            workdirs.COLUMNS[workdirs.HISTORY],
            (
              "teacher" if model == "Teacher" else "student",
              model,
              fold,
              seed,
              epoch,
              loss,
              loss / 2,
              loss / 2,
              loss + 0.02,
              1 - loss,
              1e-3,
              0.5,
              0.3 if epoch % 2 else np.nan,
              int(epoch < stop),
            ),
            strict=True,
          )
        )
      )
  return pd.DataFrame(found)


def config(**fields):
  """As much of a config as a report reads."""
  values = {
    "data": {"name": "phantom", "image_size": 16},
    "splits": {"kind": "kfold", "num_folds": 3},
    "folds": (0, 1, 2),
    "seeds": (0,),
    "grid": GRID,
    "report": {"equivalence_margin": 2.0},
    "published": True,
    **fields,
  }
  values["data"] = {"regions": ("lesion",), **values["data"]}
  return ml_collections.ConfigDict(values).lock()


def workdir(path, frame, settings=None, name="phantom"):
  """Writes the files of a finished run into `path`, and returns its config."""
  settings = settings or config()
  path.mkdir(parents=True, exist_ok=True)
  frame.to_csv(path / "per_case.csv", index=False)
  history(frame).to_csv(path / "history.csv", index=False, na_rep="nan")
  (path / "config.json").write_text(
    json.dumps(settings.to_dict(), default=list)
  )
  cases = sorted(set(frame["case"]))
  folds = []
  for _, rows in frame.groupby("fold"):
    test = sorted(set(rows["case"]))
    rest = [x for x in cases if x not in set(test)]
    rest = rest or [f"other{x}" for x in range(10)]
    cut = len(rest) // 5
    folds.append({"train": rest[cut:], "val": rest[:cut], "test": test})
  record = {"name": name, "version": "1.0.0", "fingerprint": "0" * 64}
  (path / "data.json").write_text(json.dumps(record | {"folds": folds}))
  return settings


def predictions(path, frame, side=48):
  """Writes predictions.npz for a per-case frame: discs that miss by Dice."""
  cases = sorted(set(frame["case"]))
  rng = np.random.default_rng(0)
  line = np.arange(side)
  centres = rng.uniform(0.35, 0.65, (len(cases), 2)) * side
  radii = rng.uniform(0.12, 0.25, len(cases)) * side

  def disc(i, shift=0.0):
    y, x = centres[i] + shift
    return (line[:, None] - y) ** 2 + (line[None] - x) ** 2 < radii[i] ** 2

  masks = np.stack([disc(i) for i in range(len(cases))])
  noise = rng.integers(60, 200, masks.shape)
  data = types.SimpleNamespace(
    cases=tuple(cases),
    images=(noise * np.where(masks, 0.4, 1.0)).astype(np.uint8),
    masks=masks.astype(np.uint8),
    full_masks=tuple(np.zeros((90, 120), bool) for _ in cases),
  )
  rows = frame[["model", "fold", "seed", "case"]].to_dict("records")
  predicted = [
    disc(cases.index(row["case"]), radii[cases.index(row["case"])] * (1 - dice))
    for row, dice in zip(rows, frame["dice"], strict=True)
  ]
  stored.write(path, data, rows, predicted)
  return data, rows, predicted
