"""Per-case metrics against counts and distances made by hand."""

import math

from hypothesis import given
from hypothesis import settings
from hypothesis.extra import numpy as arrays
import numpy as np
import pytest

from kdjax.data import images
from kdjax.evaluate import metrics

LESION = np.pad(np.ones((2, 3), bool), 2)  # [6, 7]
EMPTY = np.zeros_like(LESION)
DIAGONAL = math.sqrt(6**2 + 7**2)

masks = arrays.arrays(bool, (6, 7))
quick = settings(deadline=None, max_examples=100, derandomize=True)


def mask(*pixels, shape=(4, 12)):
  drawn = np.zeros(shape, bool)
  drawn[tuple(zip(*pixels, strict=True))] = True
  return drawn


def row(prediction, truth):
  return metrics.case_row(np.where(prediction, 1.0, -1.0), truth)


def test_dice_and_iou_are_counts_of_pixels():
  truth = mask((0, 0), (0, 1), (1, 0), (1, 1))
  prediction = mask((0, 1), (1, 1), (2, 1))
  assert metrics.dice(prediction, truth) == pytest.approx(2 * 2 / (3 + 4))
  assert metrics.iou(prediction, truth) == pytest.approx(2 / 5)


def test_precision_and_recall_share_what_both_cover():
  truth = mask((0, 0), (0, 1), (1, 0), (1, 1))
  prediction = mask((0, 1), (1, 1), (2, 1))
  assert metrics.precision(prediction, truth) == pytest.approx(2 / 3)
  assert metrics.recall(prediction, truth) == pytest.approx(2 / 4)


@quick
@given(masks, masks)
def test_dice_is_symmetric_in_unit_range_and_tied_to_iou(first, second):
  first[0, 0] = second[0, 1] = True  # Neither is empty.
  dice = metrics.dice(first, second)
  assert 0 <= dice <= 1
  assert dice == metrics.dice(second, first)
  assert metrics.iou(first, second) == pytest.approx(dice / (2 - dice))
  assert metrics.dice(first, first) == metrics.iou(first, first) == 1


def test_masks_of_other_shapes_are_refused_not_broadcast():
  for metric in (metrics.dice, metrics.iou, metrics.surface_distances):
    with pytest.raises(ValueError, match=r"\(1, 7\)"):
      metric(LESION[2:3], LESION)


@pytest.mark.parametrize(
  "prediction, truth, overlap, distance",
  [
    (LESION, LESION, 1, 0),
    (EMPTY, LESION, 0, DIAGONAL),
    (LESION, EMPTY, math.nan, math.nan),
    (EMPTY, EMPTY, math.nan, math.nan),
  ],
)
def test_empty_masks_follow_the_stated_rule(
  prediction, truth, overlap, distance
):
  found = row(prediction, truth)
  # Probabilities are of margins, whatever is empty.
  calibration = {name: found.pop(name) for name in ("brier", "ece")}
  assert all(0 <= x <= 1 for x in calibration.values())
  assert found == pytest.approx(
    {
      "dice": overlap,
      "iou": overlap,
      "hd95": distance,
      "assd": distance,
      "empty_truth": int(truth is EMPTY),
      "empty_prediction": int(prediction is EMPTY),
      "precision": overlap,
      "recall": overlap,
      "hd95_mm": None,
      "assd_mm": None,
    },
    nan_ok=True,
  )


@quick
@given(masks, masks)
def test_a_missed_lesion_never_improves_a_score(prediction, truth):
  truth[3, 3] = True
  missed, seen = row(EMPTY, truth), row(prediction, truth)
  for metric in ("dice", "iou", "precision", "recall"):
    assert missed[metric] <= seen[metric]
  for metric in ("hd95", "assd"):
    assert missed[metric] >= seen[metric]


def test_surface_distances_of_two_pixels_is_their_distance():
  found = metrics.surface_distances(mask((0, 2)), mask((3, 6)))
  assert found == pytest.approx((5, 5))


def test_hd95_takes_the_worse_direction_and_assd_pools_both():
  # There: 0. Back: 0 and 10, whose 95th percentile is 9.5.
  near, both = mask((0, 0)), mask((0, 0), (0, 10))
  for pair in ((near, both), (both, near)):
    assert metrics.surface_distances(*pair) == pytest.approx((9.5, 10 / 3))


def test_surface_distances_of_two_squares_by_hand():
  # The ring of 8 pixels around (3, 3) and the pixel itself: four neighbours
  # at 1, four corners at the root of 2; back from the pixel, 1.
  square, pixel = np.zeros((2, 7, 7), bool)
  square[2:5, 2:5] = pixel[3, 3] = True
  hd95, assd = metrics.surface_distances(square, pixel)
  assert hd95 == pytest.approx(math.sqrt(2))
  assert assd == pytest.approx((4 + 4 * math.sqrt(2) + 1) / 9)


@quick
@given(masks, masks)
def test_surface_distances_equal_all_pairs_of_surface_pixels(first, second):
  first[2, 2] = second[4, 5] = True

  def surface(pixels):
    padded = np.pad(pixels, 1)
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    return [
      (i, j)
      for i, j in np.argwhere(pixels)
      if not all(padded[i + 1 + a, j + 1 + b] for a, b in steps)
    ]

  a, b = surface(first), surface(second)
  there = [min(math.dist(x, y) for y in b) for x in a]
  back = [min(math.dist(x, y) for x in a) for y in b]
  hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
  assd = (sum(there) + sum(back)) / (len(there) + len(back))
  found = metrics.surface_distances(first, second)
  assert found == pytest.approx((hd95, assd))


def test_millimetres_scale_each_axis_by_its_spacing():
  # 3 down at 0.4 mm and 4 across at 0.1 mm.
  found = metrics.surface_distances(
    mask((0, 2)), mask((3, 6)), spacing=(0.4, 0.1)
  )
  assert found == pytest.approx((math.hypot(1.2, 0.4),) * 2)
  margin = np.where(LESION, 1.0, -1.0)
  found = metrics.case_row(margin, np.roll(LESION, 1, axis=0), (0.4, 0.1))
  assert found["hd95"] == 1 and found["hd95_mm"] == pytest.approx(0.4)
  missed = metrics.case_row(-np.ones((6, 7)), LESION, (0.4, 0.1))
  diagonal = math.hypot(6 * 0.4, 7 * 0.1)
  assert missed["hd95_mm"] == missed["assd_mm"] == pytest.approx(diagonal)
  nothing = metrics.case_row(margin, EMPTY, (0.4, 0.1))
  assert math.isnan(nothing["hd95_mm"]) and math.isnan(nothing["assd_mm"])


def test_upsampling_is_bilinear_with_half_pixel_centres():
  margin = np.array([[-1, 1], [-1, 1]])
  resized = images.upsample(margin, (3, 4))
  assert resized.dtype == np.float32
  np.testing.assert_allclose(resized, [[-1, -0.5, 0.5, 1]] * 3, rtol=1e-6)


def test_upsampling_to_the_same_size_changes_nothing():
  margin = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
  np.testing.assert_array_equal(images.upsample(margin, (8, 8)), margin)


def test_prediction_is_made_at_the_resolution_of_the_mask():
  # Half-way between the two centres of a 2 x 2 margin, at the mask's size.
  truth = np.zeros((20, 40), bool)
  truth[:, 20:] = True
  assert metrics.case_row(np.array([[-1, 1], [-1, 1]]), truth)["dice"] == 1


def test_a_margin_of_zero_is_background():
  found = metrics.case_row(np.zeros((3, 3)), LESION)
  assert found["empty_prediction"] == 1


def test_a_margin_that_is_not_a_number_scores_as_a_miss():
  found = metrics.case_row(np.full((3, 3), np.nan), LESION)
  assert found["dice"] == 0
  assert found["hd95"] == pytest.approx(DIAGONAL)


def test_calibration_by_hand():
  # Half of the pixels said surely and rightly, half of them at 0.5, a quarter
  # of which are lesion.
  margin = np.array([[50.0, -50.0, 50.0, -50.0], [0.0, 0.0, 0.0, 0.0]])
  truth = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], bool)
  brier, error = metrics.calibration(margin, truth)
  assert brier == pytest.approx(0.5 * 0.25)
  assert error == pytest.approx(0.5 * 0.25)
  assert metrics.calibration(-margin, truth)[0] == pytest.approx(0.5 + 0.125)
  # What predicts nothing says 0 everywhere.
  lost = metrics.calibration(np.full((2, 4), np.nan), truth)
  assert lost == (pytest.approx(3 / 8), pytest.approx(3 / 8))


def test_calibration_is_the_sum_over_ten_bins():
  rng = np.random.default_rng(0)
  margin, truth = rng.normal(0, 3, (30, 40)), rng.random((30, 40)) < 0.3
  said = 1 / (1 + np.exp(-margin))
  expected = 0.0
  for low in range(10):
    inside = (said >= low / 10) & (said < (low + 1) / 10)
    if inside.any():
      apart = truth[inside].mean() - said[inside].mean()
      expected += inside.mean() * abs(apart)
  _, error = metrics.calibration(margin, truth)
  assert error == pytest.approx(expected)
  # Pixels that are lesion as often as they are said to be have none.
  many = np.full((1000, 100), np.log(0.3 / 0.7))
  _, error = metrics.calibration(many, rng.random(many.shape) < 0.3)
  assert error < 0.01
