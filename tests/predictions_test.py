"""Predictions come back from their file as they went in."""

import numpy as np

from kdjax.evaluate import predictions
from tests import simulated


def test_masks_images_and_sizes_survive(tmp_path):
  effects = {"Teacher": 0.1, "L_MSE": 0.0}
  frame = simulated.per_case(
    np.random.default_rng(0), effects, cases=12, folds=2, seeds=2
  )
  # An odd side leaves bits over in the last byte.
  data, rows, masks = simulated.predictions(tmp_path, frame, side=9)
  found = predictions.read(tmp_path)
  assert found.cases == data.cases
  np.testing.assert_array_equal(found.images, data.images)
  np.testing.assert_array_equal(found.truths, data.masks == 1)
  assert found.sizes.tolist() == [[90, 120]] * 12
  assert len(rows) == 2 * 2 * 12
  for row, mask in zip(rows, masks, strict=True):
    stored = found.mask(row["model"], row["fold"], row["seed"], row["case"])
    np.testing.assert_array_equal(stored, mask)
  assert found.mask("Student", 0, 0, data.cases[0]) is None


def test_a_workdir_without_the_file_has_no_predictions(tmp_path):
  assert predictions.read(tmp_path) is None
