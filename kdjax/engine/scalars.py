"""For TensorBoard: the rows of the history as scalars."""

import functools
import itertools
import math
import sys
import tempfile

from etils import epath

from kdjax import files
from kdjax import workdirs


def write(folder, rows):
  """Writes every trial's scalars by epoch, one run of TensorBoard per trial.

  A trial's events are written anew when it has new epochs, so that they agree
  with the history after a resume, which repeats epochs.

  Args:
    folder: where to.
    rows: dicts with the columns of history, each trial's in order.
  """
  trial = lambda row: (row["arm"], int(row["fold"]), int(row["seed"]))
  ordered = sorted(rows, key=trial)  # Stable: epochs stay in order.
  for (arm, fold, seed), mine in itertools.groupby(ordered, trial):
    _write_trial(
      epath.Path(folder) / arm / f"fold{fold}-seed{seed}", list(mine)
    )


def _write_trial(folder, rows):
  # The name says how many epochs are in it.
  suffix = f".{len(rows)}"
  old = list(folder.glob("events.*")) if folder.exists() else []
  if any(path.name.endswith(suffix) for path in old):
    return
  writer = _summary_writer()
  # Elsewhere first: the writer knows no buckets.
  with tempfile.TemporaryDirectory() as place:
    with writer(place, filename_suffix=suffix) as writing:
      for row in rows:
        known = {x: float(row.get(x, math.nan)) for x in workdirs.SCALARS}
        for name, value in known.items():
          if math.isfinite(value):
            writing.add_scalar(name, value, int(row["epoch"]))
    (path,) = epath.Path(place).iterdir()
    files.write_bytes(folder / path.name, path.read_bytes())
  for path in old:
    path.unlink()


@functools.cache
def _summary_writer():
  """tensorboardX's, which would take seconds to import an installed PyTorch."""
  unknown = "torch" not in sys.modules
  if unknown:
    sys.modules["torch"] = None  # As if there were none.
  try:
    from tensorboardX import SummaryWriter
  finally:
    if unknown:
      del sys.modules["torch"]
  return SummaryWriter
