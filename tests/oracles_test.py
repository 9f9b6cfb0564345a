"""Metrics against other people's, where those are installed.

None of them is a dependency: `pip install --no-deps monai surface-distance`
beside torch.
"""

import numpy as np
import pytest

from kdjax.evaluate import metrics

# Their own code's deprecations are no concern of ours.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Down and across; not alike, so that exchanged axes show.
SPACINGS = ((1.0, 1.0), (0.4, 0.1))


def shapes():
  """Pairs of masks: random, blobs, and the cases where definitions part."""
  rng = np.random.default_rng(0)
  blank = np.zeros((24, 31), bool)

  def box(top, bottom, left, right):
    drawn = blank.copy()
    drawn[top:bottom, left:right] = True
    return drawn

  def blob():
    y, x = np.indices(blank.shape)
    centre, radius = rng.uniform((6, 6), (18, 24)), rng.uniform(2, 7)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2

  ring = box(4, 14, 5, 18) & ~box(6, 12, 8, 14)
  pairs = {
    "pixel and pixel": (box(3, 4, 2, 3), box(20, 21, 28, 29)),
    "equal": (box(3, 9, 4, 12),) * 2,
    "inside": (box(3, 19, 4, 25), box(8, 12, 9, 15)),
    "apart": (box(1, 4, 1, 5), box(15, 22, 20, 30)),
    "at the border": (box(0, 24, 0, 4), box(10, 24, 0, 31)),
    "whole image": (~blank, box(10, 12, 10, 12)),
    "with a hole": (ring, box(4, 14, 5, 18)),
    "in two parts": (box(2, 5, 2, 5) | box(18, 22, 20, 28), box(2, 6, 2, 6)),
  }
  pairs |= {f"blobs {i}": (blob(), blob()) for i in range(40)}
  for i in range(40):
    noise = rng.random((2, *blank.shape)) < rng.uniform(0.05, 0.7)
    pairs[f"noise {i}"] = tuple(noise)
  return pairs


PAIRS = shapes()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_metrics_agree_with_monai(spacing):
  """The same definitions, so the same numbers to float32's rounding."""
  monai = pytest.importorskip("monai.metrics")
  torch = pytest.importorskip("torch")
  worst = {}
  for prediction, truth in PAIRS.values():
    pair = [torch.tensor(x[None, None]) for x in (prediction, truth)]
    # Its sums of bools would be bools.
    confusion = monai.get_confusion_matrix(*(x.float() for x in pair))
    hd95, assd = metrics.surface_distances(prediction, truth, spacing)
    how = {"include_background": True, "spacing": spacing}
    for name, ours, theirs in (
      ("dice", metrics.dice(prediction, truth), monai.compute_dice(*pair)),
      ("iou", metrics.iou(prediction, truth), monai.compute_iou(*pair)),
      (
        "precision",
        metrics.precision(prediction, truth),
        monai.compute_confusion_matrix_metric("precision", confusion),
      ),
      (
        "recall",
        metrics.recall(prediction, truth),
        monai.compute_confusion_matrix_metric("recall", confusion),
      ),
      (
        "hd95",
        hd95,
        monai.compute_hausdorff_distance(*pair, percentile=95, **how),
      ),
      (
        "assd",
        assd,
        monai.compute_average_surface_distance(*pair, symmetric=True, **how),
      ),
    ):
      error = abs(ours - theirs.item())
      worst[name] = max(worst.get(name, 0.0), error)
  print(f"MONAI, spacing {spacing}, worst errors: {worst}")
  assert len(worst) == 6
  assert max(worst.values()) < 1e-5, worst


@pytest.mark.parametrize("truth_is_empty", [False, True])
def test_overlaps_of_an_empty_mask_are_monais(truth_is_empty):
  """0 where nothing is predicted, undefined where nothing is there.

  Distances are not compared: MONAI's are infinite or undefined, and a mean
  without them would reward a missed lesion; `metrics_test` holds our rule.
  """
  monai = pytest.importorskip("monai.metrics")
  torch = pytest.importorskip("torch")
  pair = [np.zeros((24, 31), bool), PAIRS["inside"][0]]
  if truth_is_empty:
    pair.reverse()
  theirs = [torch.tensor(x[None, None]) for x in pair]
  for ours, function in (
    (metrics.dice(*pair), monai.compute_dice),
    (metrics.iou(*pair), monai.compute_iou),
  ):
    np.testing.assert_equal(ours, function(*theirs).item())
    np.testing.assert_equal(ours, np.nan if truth_is_empty else 0.0)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_agree_with_surface_distance_to_a_pixel(spacing):
  """DeepMind's surfaces run between pixels, and HD95 weighs their lengths.

  Ours are the outermost pixels, as MONAI's and Taha and Hanbury's. So the two
  differ by what a surface is, at most a pixel's diagonal where masks are
  compact, and agree on equal masks.
  """
  theirs = pytest.importorskip("surface_distance")
  diagonal = np.hypot(*spacing)
  worst = {"dice": 0.0, "hd95": 0.0, "assd": 0.0}
  for name, (prediction, truth) in PAIRS.items():
    if name.startswith("noise"):
      continue  # All surface: what a pixel's own border weighs decides.
    found = theirs.compute_surface_distances(truth, prediction, spacing)
    hd95, assd = metrics.surface_distances(prediction, truth, spacing)
    mean = np.mean(
      np.concatenate(
        [found["distances_gt_to_pred"], found["distances_pred_to_gt"]]
      )
    )
    robust = theirs.compute_robust_hausdorff(found, 95)
    if name == "equal":
      assert hd95 == assd == mean == robust == 0
    dice = theirs.compute_dice_coefficient(truth, prediction)
    error = abs(metrics.dice(prediction, truth) - dice)
    worst["dice"] = max(worst["dice"], error)
    worst["hd95"] = max(worst["hd95"], abs(hd95 - robust) / diagonal)
    worst["assd"] = max(worst["assd"], abs(assd - mean) / diagonal)
  print(f"surface-distance, {spacing}, worst, in diagonals: {worst}")
  assert worst["dice"] < 1e-12
  assert max(worst.values()) <= 1.0, worst
