"""From the mask files of a case to the class of each of its pixels."""

import pathlib

import numpy as np

from kdjax.data import images
from kdjax.data import regions as tables
from kdjax.errors import UserError

# What becomes of a mask that has not its image's size.
SIZES = ("same", "resize")
# How much wider or higher a resized mask may become by it: rounding to pixels.
_BENT = 0.02


def read(paths, size, *, regions=tables.LESION, sizes="same", tally=None):
  """The union of the masks at `paths`: classes, uint8 `[H, W]`.

  Of one region without a table of values, the larger of two values is the
  region, whatever they are; a mask of one value is empty when it is 0, else
  full. A mask of more values comes from anti-aliasing or JPEG and is cut at
  half its range, if it is nearly two-valued: its range is at least 128 (less is
  a map of labels), and at most 5 % of its pixels are further than 10 % of the
  range from both ends. With a table a pixel's value is looked up, a palette's
  by its number.

  Args:
    paths: the mask files of one case.
    size: `(H, W)` of the case's image.
    regions: `Regions`, what they show.
    sizes: one of `SIZES`: "resize" brings a mask of another size to its
      image's; a pixel is of the class that has the most of its area.
    tally: a Counter to which "cut" and "resized" are added for each such mask.

  Raises:
    UserError: a mask of another size or, resized, of another aspect; of
      values that mean nothing, or unreadable; two that contradict each other.
  """
  union = np.zeros(size, np.uint8)
  tally = {} if tally is None else tally
  for path in map(pathlib.Path, paths):
    values = _open(path, regions)
    found = fit(path, values, size, sizes, tally, regions)
    if np.any((union > 0) & (found > 0) & (union != found)):
      raise UserError(
        f"{path}: it and another mask of its case say two classes of one "
        "pixel; draw each pixel in one of them"
      )
    union = np.maximum(union, found)
  return union


def _open(path, regions):
  """A mask file's values: grey, numbers, or colours."""
  if not regions.table:
    return images.read_grey(path)
  if regions.coloured:
    return images.read_image(path, 3)
  return images.read_numbers(path)


def fit(where, values, size, sizes, tally, regions=tables.LESION):
  """The classes in the values of one mask, see `read`: uint8 `[H, W]`.

  Args:
    where: what the mask is called in an error.
    values: whole numbers `[h, w]`, or colours `[h, w, 3]`.
    size: `(H, W)`.
    sizes: one of `SIZES`.
    tally: a Counter, or its like.
    regions: `Regions`.
  """
  if regions.table:
    mask = tables.classify(where, values, regions)
  else:
    mask, cut = _decide(where, values)
    if cut:
      tally["cut"] = tally.get("cut", 0) + 1
  if mask.shape != tuple(size):
    mask = _resized(where, mask, size, sizes, regions)
    tally["resized"] = tally.get("resized", 0) + 1
  return mask


def _decide(path, values):
  """The region in a mask's values, and whether more than two were cut."""
  low, high = int(values.min()), int(values.max())
  if low == high:
    return (values > 0).astype(np.uint8), False
  inside = (values > low) & (values < high)
  if inside.any():
    edge = (high - low) / 10
    stray = np.mean((values > low + edge) & (values < high - edge))
    if high - low < 128 or stray > 0.05:
      raise UserError(
        f"{path}: {len(np.unique(values))} grey levels from {low} to {high}, "
        "so not a mask; save it with two values, the lesion the larger, or "
        "name what its numbers mean in data.regions"
      )
  return (values > (low + high) / 2).astype(np.uint8), bool(inside.any())


def _resized(path, mask, size, sizes, regions):
  """A mask at its image's size, where that was asked for and can be."""
  (h, w), (height, width) = mask.shape, size
  said = f"{path}: the mask is {w}x{h} but its image {width}x{height}; "
  if sizes != "resize":
    raise UserError(
      f"{said}export it again at the image's size, or set data.masks=resize"
    )
  if abs(w * height / (h * width) - 1) > _BENT:
    raise UserError(f"{said}not of the same aspect, so no resizing fits it")
  return tables.resize(mask, regions.classes, size)
