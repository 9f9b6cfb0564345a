"""The history of a stage: a row for every epoch of a trial."""

import math

from kdjax import workdirs
from kdjax.engine import scalars
from kdjax.errors import UserError

# Of stages in the history; behind them a search's and the students.
_ORDER = {"teacher": 0, "compressed": 1}


class History:
  """Writes what the checkpoints of a stage hold, beside other stages' rows.

  Args:
    study: `studies.Study`.
    stage: one of its stages.
  """

  def __init__(self, study, stage):
    self._study = study
    self._others = _of_others(study.workdir, stage) if study.first else []
    self._scalars = scalars.Scalars(study.workdir / workdirs.TENSORBOARD)

  def write(self, progress):
    """Writes all of it anew, whole or not at all.

    Args:
      progress: from every block to its `checkpoint.Progress`.
    """
    rows = [row for x in progress.values() for row in x.history]
    if self._study.first:
      # No run repeats its times, so they stay in the checkpoints.
      workdirs.write_table(
        self._study.workdir,
        workdirs.HISTORY,
        sorted(
          [*self._others, *rows],
          key=lambda x: _ORDER.get(x["stage"], len(_ORDER)),
        ),
      )
    self._scalars.write(rows)


def _of_others(workdir, stage):
  """The rows of other stages; none where the file is missing or damaged."""
  try:
    rows = workdirs.rows(workdir, workdirs.HISTORY)
  except UserError:  # Written anew from what the checkpoints hold.
    return []
  return [x for x in rows if x.get("stage") != stage.name]


def rows(programs, block, step, measured, live_before, seconds):
  """One row for every trial of a block that trained in an epoch.

  The learning rate is that of the epoch's last step.

  Args:
    programs: `stages.Programs`.
    block: `studies.Block`.
    step: number of steps behind the epoch.
    measured: dict of `[G]`, of `waves.Epoch`.
    live_before: `[G]`, whether an arm trained in the epoch.
    seconds: of a device, for each of them.
  """
  stage, rate = programs.stage, float(programs.schedule(step - 1))
  found = []
  for g, arm in enumerate(stage.arms_of(block)):
    if live_before[g]:
      numbers = {
        name: float(measured[name][g])
        for name in workdirs.SCALARS
        if name != "learning_rate"
      }
      if measured["diverged"][g]:
        # How a reader knows it from a stop.
        numbers["train_loss"] = math.nan
      found.append(
        {
          "stage": stage.name,
          "arm": arm.name,
          "fold": block.fold,
          "seed": block.seed,
          "epoch": step // programs.steps_per_epoch,
          **numbers,
          "learning_rate": arm.numbers["learning_rate"] * rate,
          "live": int(measured["live"][g]),
          "device_seconds": seconds,
        }
      )
  return found
