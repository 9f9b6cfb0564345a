"""Writes what every model said of every case: numbers and masks."""

import sys

from kdjax import workdirs
from kdjax.data import images
from kdjax.data import regions
from kdjax.engine import loop
from kdjax.evaluate import metrics
from kdjax.evaluate import predictions


def write(study, trained):
  """Predicts the test cases of every block and writes both files.

  Args:
    study: `Study`.
    trained: by stage the best states by block, as `course.train` returns them;
      a stage that is not there is not tested.
  """
  print("test: every fold's test cases by every model.", file=sys.stderr)
  rows, predicted = [], []
  for stage in study.stages:
    best = trained.get(stage.name)
    for block, of_block in loop.predict(study, stage, best) if best else ():
      for arm, of_arm in zip(stage.arms, of_block, strict=True):
        rows += _rows(study, block, arm.name, of_arm)
        predicted += map(images.decide, of_arm)
  predictions.write(study.workdir, study.dataset, rows, predicted)
  # Last, since it says that all is done.
  several = regions.several(study.dataset.regions)
  workdirs.write_table(study.workdir, workdirs.PER_CASE, rows, several)


def _rows(study, block, model, margins):
  dataset = study.dataset
  for case, margin in zip(study.folds[block.fold].test, margins, strict=True):
    yield {
      "model": model,
      "fold": block.fold,
      "seed": block.seed,
      "case": dataset.cases[case],
      "group": dataset.groups[case],
      **metrics.case_row(
        margin,
        dataset.full_masks[case],
        dataset.spacings.get(dataset.cases[case]),
        dataset.regions,
      ),
    }
