"""Metrics of one case, in numpy, at the resolution of its original mask.

A mask's classes are 0, the background, and regions; what follows is of each
region by itself, and a case's number is the mean over those that its truth
shows. The rule for empty masks, so that a missed lesion never improves a score:

  truth     prediction   overlaps    HD95, ASSD
  region    region       measured    measured
  region    empty        0           diagonal of the image, the worst possible
  empty     either       undefined   undefined

Overlaps are Dice, IoU, precision and recall. Undefined is NaN: left out of
means and tests, never counted as 1. False alarms on images without a lesion
are a count of their own, from `empty_truth` and `empty_prediction`.
"""

import warnings

import numpy as np
from scipy import ndimage
from scipy import special

from kdjax import workdirs
from kdjax.data import images

_BINS = 10


def dice(prediction, truth):
  """2 |A and B| / (|A| + |B|), bool `[h, w]` twice to a float in [0, 1].

  NaN where the truth is empty (Dice, https://doi.org/10.2307/1932409).
  """
  prediction, truth = _masks(prediction, truth)
  if not truth.any():
    return float("nan")
  both = np.count_nonzero(prediction & truth)
  sizes = np.count_nonzero(prediction) + np.count_nonzero(truth)
  return float(2 * both / sizes)


def iou(prediction, truth):
  """|A and B| / |A or B|, bool `[h, w]` twice to a float in [0, 1].

  NaN where the truth is empty.
  """
  prediction, truth = _masks(prediction, truth)
  if not truth.any():
    return float("nan")
  both = np.count_nonzero(prediction & truth)
  return float(both / np.count_nonzero(prediction | truth))


def precision(prediction, truth):
  """|A and B| / |A|, A predicted, bool `[h, w]` twice to a float in [0, 1].

  0 where nothing is predicted, NaN where the truth is empty.
  """
  prediction, truth = _masks(prediction, truth)
  if not truth.any():
    return float("nan")
  both = np.count_nonzero(prediction & truth)
  return float(both / max(np.count_nonzero(prediction), 1))


def recall(prediction, truth):
  """|A and B| / |B|, B the truth, bool `[h, w]` twice to a float in [0, 1].

  NaN where the truth is empty.
  """
  prediction, truth = _masks(prediction, truth)
  if not truth.any():
    return float("nan")
  return float(np.count_nonzero(prediction & truth) / np.count_nonzero(truth))


def surface_distances(prediction, truth, spacing=(1.0, 1.0)):
  """HD95 and ASSD, bool `[h, w]` twice to two floats.

  A surface is the pixels of a mask that touch its outside, by an edge; the
  image's border is outside. HD95 is the larger of the two directed 95th
  percentiles of the distance to the other surface, ASSD the mean distance over
  the pixels of both surfaces (Taha and Hanbury,
  https://doi.org/10.1186/s12880-015-0068-x).

  Args:
    prediction: a mask.
    truth: a mask.
    spacing: of the pixels, down and across; the distances have its unit.

  Returns:
    `(hd95, assd)`, both the image's diagonal where nothing is predicted, both
    NaN where the truth is empty.
  """
  prediction, truth = _masks(prediction, truth)
  if not truth.any():
    return float("nan"), float("nan")
  if not prediction.any():
    diagonal = float(np.hypot(*np.multiply(truth.shape, spacing)))
    return diagonal, diagonal
  # Both surfaces lie in this box, so cropping costs nothing and saves the time
  # of transforming an image that is mostly background.
  box = ndimage.find_objects(prediction | truth, max_label=1)[0]
  prediction, truth = prediction[box], truth[box]
  there = _distances(_surface(prediction), _surface(truth), spacing)
  back = _distances(_surface(truth), _surface(prediction), spacing)
  hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
  return float(hd95), float(np.mean(np.concatenate([there, back])))


def calibration(margin, truth):
  """Brier score and expected calibration error over pixels, two floats.

  Brier is half the mean over pixels of the square of probabilities minus truth,
  summed over classes: of two classes the mean square of the lesion's (Brier
  1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2). The
  error is the sum over ten bins of equal width of the probability of lesion,
  each of n_b of the n pixels: n_b / n * |mean truth - mean probability| (Guo et
  al., arXiv 1706.04599, equation 3); of several regions the mean over them
  (Nixon et al., arXiv 1904.01685, static calibration error). Both are in
  [0, 1], 0 is perfect, and an empty truth is as good as any.

  Args:
    margin: a region's logit minus the background's, float `[h, w]`; or of
      several regions `[h, w, R]`.
    truth: classes, `[h, w]`.
  """
  said = _probabilities(margin)  # [n, R]
  regions = np.arange(1, said.shape[1] + 1)
  true = (np.ravel(truth)[:, None] == regions).astype(np.float64)
  errors = []
  for p, y in zip(said.T, true.T, strict=True):
    places = np.minimum((p * _BINS).astype(int), _BINS - 1)
    apart = np.bincount(places, weights=y - p, minlength=_BINS)
    errors.append(np.abs(apart).sum() / y.size)
  gap = said - true
  squares = (gap**2).sum(axis=1) + gap.sum(axis=1) ** 2  # The background's.
  return float(np.mean(squares / 2)), float(np.mean(errors))


def _probabilities(margin):
  """Of each region in each pixel, `[n, R]`; 0 where nothing is predicted."""
  margin = np.asarray(margin, np.float64)
  if margin.ndim == 2:
    return np.nan_to_num(special.expit(margin)).reshape(-1, 1)
  margin = margin.reshape(-1, margin.shape[-1])
  logits = np.concatenate([np.zeros((len(margin), 1)), margin], axis=1)
  return np.nan_to_num(special.softmax(logits, axis=1)[:, 1:])


def case_row(margin, truth, spacing=None, regions=("lesion",)):
  """All metrics of one case, `[S, S]` and `[h, w]` to a dict.

  The prediction is what `images.decide` makes of the upsampled margin.

  Args:
    margin: a region's logit minus the background's; `[S, S, R]` of several.
    truth: the original mask, classes by number.
    spacing: mm per pixel of the mask, down and across; None if not known.
    regions: names of the classes from 1 on.

  Returns:
    Means over the regions in `truth` of `dice`, `iou` in [0, 1]; `hd95`, `assd`
    in pixels of the original mask; `empty_truth`, `empty_prediction`, 0 or 1,
    where no region is; `precision`, `recall` in [0, 1]; `hd95_mm`, `assd_mm`,
    None where the spacing is not known; `brier`, `ece` of `calibration`. Of
    several regions also `dice_NAME` and `empty_prediction_NAME` of each.
  """
  truth = np.asarray(truth)
  upsampled = images.upsample(margin, truth.shape)
  prediction = images.decide(upsampled)
  each = [
    _of_region(prediction == number, truth == number, spacing)
    for number in range(1, len(regions) + 1)
  ]
  brier, ece = calibration(upsampled, truth)
  mean = lambda name: _mean([row[name] for row in each])
  row = {
    "dice": mean("dice"),
    "iou": mean("iou"),
    "hd95": mean("hd95"),
    "assd": mean("assd"),
    "empty_truth": int(not truth.any()),
    "empty_prediction": int(not prediction.any()),
    "precision": mean("precision"),
    "recall": mean("recall"),
    "hd95_mm": mean("hd95_mm") if spacing else None,
    "assd_mm": mean("assd_mm") if spacing else None,
    "brier": brier,
    "ece": ece,
  }
  if len(regions) > 1:
    for number, (name, own) in enumerate(zip(regions, each, strict=True), 1):
      row[workdirs.of_region("dice", name)] = own["dice"]
      row[workdirs.of_region("empty_prediction", name)] = int(
        not (prediction == number).any()
      )
  return row


def _of_region(prediction, truth, spacing):
  """What is measured of one region, bool `[h, w]` twice to a dict."""
  hd95, assd = surface_distances(prediction, truth)
  row = {
    "dice": dice(prediction, truth),
    "iou": iou(prediction, truth),
    "hd95": hd95,
    "assd": assd,
    "precision": precision(prediction, truth),
    "recall": recall(prediction, truth),
  }
  if spacing:
    far = surface_distances(prediction, truth, spacing)
    row["hd95_mm"], row["assd_mm"] = far
  return row


def _mean(values):
  """The mean of what is defined; NaN where nothing is."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)
    return float(np.nanmean(values))


def _masks(prediction, truth):
  """Both as bool, after a check that nothing is broadcast."""
  prediction, truth = np.asarray(prediction, bool), np.asarray(truth, bool)
  if prediction.shape != truth.shape or truth.ndim != 2:
    raise ValueError(
      f"A prediction of shape {prediction.shape} cannot be compared with a "
      f"truth of shape {truth.shape}: both must be the same [h, w]."
    )
  return prediction, truth


def _surface(mask):
  """Pixels of `mask` with a neighbour outside it, `[h, w]` to `[h, w]`."""
  return mask & ~ndimage.binary_erosion(mask)


def _distances(start, goal, spacing):
  """From every pixel of `start` to the nearest of `goal`, `[n]`."""
  return ndimage.distance_transform_edt(~goal, sampling=spacing)[start]
