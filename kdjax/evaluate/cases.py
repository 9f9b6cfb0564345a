"""Writes per_case.csv: what every model said of every test case."""

import csv
import io

from kdjax import files
from kdjax.engine import loop
from kdjax.engine import stages
from kdjax.evaluate import metrics

COLUMNS = (
  "model",
  "fold",
  "seed",
  "case",
  "group",
  "dice",
  "iou",
  "hd95",
  "assd",
  "empty_truth",
  "empty_prediction",
)


def write(study, teachers, students):
  """Predicts the test cases of every block and writes per_case.csv.

  Args:
    study: `Study`.
    teachers: best states by block, as `loop.train` returns them.
    students: the same.
  """
  rows = []
  for stage, best in (
    (stages.teacher_stage(study), teachers),
    (stages.student_stage(study), students),
  ):
    for block, margins in loop.predict(study, stage, best):
      for arm, of_arm in zip(stage.arms, margins, strict=True):
        rows += _rows(study, block, arm.name, of_arm)
  text = io.StringIO()
  writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  files.write_text(study.workdir / "per_case.csv", text.getvalue())


def _rows(study, block, model, margins):
  dataset = study.dataset
  for case, margin in zip(study.folds[block.fold].test, margins, strict=True):
    yield {
      "model": model,
      "fold": block.fold,
      "seed": block.seed,
      "case": dataset.cases[case],
      "group": dataset.groups[case],
      **metrics.case_row(margin, dataset.full_masks[case]),
    }
