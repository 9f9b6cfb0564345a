"""tensorboard/ in a workdir: the rows of history.csv as scalars."""

import itertools
import pathlib
import shutil

import tensorboardX

SCALARS = (
  "train_loss",
  "distill_loss",
  "sup_loss",
  "val_loss",
  "val_dice",
  "learning_rate",
)


def write(folder, rows):
  """Writes every trial's scalars by epoch, one run of TensorBoard per trial.

  A trial's events are written anew when it has new epochs, so that they agree
  with history.csv after a resume, which repeats epochs.

  Args:
    folder: where to.
    rows: dicts with the keys of `loop.HISTORY`, each trial's in order.
  """
  trial = lambda row: (row["arm"], int(row["fold"]), int(row["seed"]))
  ordered = sorted(rows, key=trial)  # Stable: epochs stay in order.
  for (arm, fold, seed), mine in itertools.groupby(ordered, trial):
    _write_trial(
      pathlib.Path(folder) / arm / f"fold{fold}-seed{seed}", list(mine)
    )


def _write_trial(folder, rows):
  # The name says how many epochs are in it.
  suffix = f".{len(rows)}"
  old = [x for x in folder.glob("events.*") if not x.name.endswith(suffix)]
  if not any(folder.glob(f"events.*{suffix}")):
    beside = folder / ".beside"  # Whole or not at all, as all files.
    shutil.rmtree(beside, ignore_errors=True)
    with tensorboardX.SummaryWriter(
      str(beside), filename_suffix=suffix
    ) as writer:
      for row in rows:
        for name in SCALARS:
          writer.add_scalar(name, float(row[name]), int(row["epoch"]))
    for path in beside.iterdir():
      path.replace(folder / path.name)
    beside.rmdir()
  for path in old:
    path.unlink()
