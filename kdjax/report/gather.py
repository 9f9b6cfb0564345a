"""Reads a workdir's files into the `Results` that a report is made of."""

from etils import epath
import pandas as pd

from kdjax import readers
from kdjax import workdirs
from kdjax.data import regions
from kdjax.distill import trials
from kdjax.errors import UserError
from kdjax.report import rows
from kdjax.report.results import Results


def results(workdir, config, arms, parameters=None):
  """Reads a workdir and returns its `Results`.

  Args:
    workdir: a trained one.
    config: of the run.
    arms: `trials.make_arms(config.grid)`.
    parameters: model to parameter count, for a workdir without costs.
      A model named here that has no case gets a row without numbers: a lost arm
      is shown, not hidden.

  Raises:
    UserError: no case was tested, a file is damaged, or no case has a lesion.
  """
  workdir = epath.Path(workdir)
  history = pd.DataFrame(columns=workdirs.COLUMNS[workdirs.HISTORY])
  if workdirs.has(workdir, workdirs.HISTORY):
    history = readers.history(workdir)
  lost = rows.diverged(history)
  several = regions.several(regions.make(config.data.regions).names)
  per_case = readers.per_case(workdir, several)
  if (per_case["empty_truth"] != 0).all():
    raise UserError(
      f"{workdir / workdirs.PER_CASE}: no tested case has a lesion, so there "
      "is no Dice to compare: test on cases that have one."
    )
  per_case = rows.without(per_case, lost)
  efficiency = _efficiency(workdir, parameters or {})
  named = [arm.name for arm in arms]
  found = list(
    dict.fromkeys([*per_case["model"], *efficiency.index, *lost["model"]])
  )
  references = {arm.name: arm.reference for arm in arms}
  students = [x for x in found if x in references.values()]
  teachers = ["Teacher", *(arm.name for arm in trials.make_compressed(config))]
  first = [x for x in teachers if x in found] + students
  rest = [x for x in found if x not in first]
  rest.sort(key=lambda x: named.index(x) if x in named else len(named))
  settings = config.get("report", {})
  return Results(
    workdir=workdir,
    config=config,
    arms=tuple(arms),
    per_case=per_case,
    history=history,
    diverged=lost,
    models=tuple(first + rest),
    efficiency=efficiency,
    margin=settings.get("equivalence_margin", 2.0) / 100,
    ratio=rows.holdout_ratio(workdir, config),
    regions=several,
  )


def _efficiency(workdir, parameters):
  if workdirs.has(workdir, workdirs.EFFICIENCY):
    return readers.efficiency(workdir)
  frame = pd.DataFrame({"parameters": parameters}, dtype=float)
  return frame.reindex(columns=list(workdirs.COSTS))
