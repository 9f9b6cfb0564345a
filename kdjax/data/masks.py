"""From the mask files of a case to where its lesion is."""

import pathlib

import numpy as np
import PIL.Image

from kdjax.data import images
from kdjax.errors import UserError

# What becomes of a mask that has not its image's size.
SIZES = ("same", "resize")
# How much wider or higher a resized mask may become by it: rounding to pixels.
_BENT = 0.02


def read(paths, size, *, sizes="same", tally=None):
  """The union of the masks at `paths`, bool `[H, W]`, True in the lesion.

  Of two values the larger is the lesion, whatever they are; a mask of one
  value is empty when it is 0, else full. A mask of more values comes from
  anti-aliasing or JPEG and is cut at half its range, if it is nearly
  two-valued: its range is at least 128 (less is a map of labels), and at most
  5 % of its pixels are further than 10 % of the range from both ends.

  Args:
    paths: the mask files of one case.
    size: `(H, W)` of the case's image.
    sizes: one of `SIZES`: "resize" brings a mask of another size to its
      image's; a pixel is lesion where more than half of its area is.
    tally: a Counter to which "cut" and "resized" are added for each such mask.

  Raises:
    UserError: a mask of another size or, resized, of another aspect; of many
      values, or unreadable.
  """
  union = np.zeros(size, bool)
  tally = {} if tally is None else tally
  for path in map(pathlib.Path, paths):
    union |= fit(path, images.read_grey(path), size, sizes, tally)
  return union


def fit(where, values, size, sizes, tally):
  """The lesion in the values `[h, w]` of one mask, see `read`: bool `[H, W]`.

  Args:
    where: what the mask is called in an error.
    values: whole numbers.
    size: `(H, W)`.
    sizes: one of `SIZES`.
    tally: a Counter, or its like.
  """
  mask, cut = _decide(where, values)
  if cut:
    tally["cut"] = tally.get("cut", 0) + 1
  if mask.shape != tuple(size):
    mask = _resized(where, mask, size, sizes)
    tally["resized"] = tally.get("resized", 0) + 1
  return mask


def _decide(path, values):
  """The lesion in a mask's values, and whether more than two were cut."""
  low, high = int(values.min()), int(values.max())
  if low == high:
    return values > 0, False
  inside = (values > low) & (values < high)
  if inside.any():
    edge = (high - low) / 10
    stray = np.mean((values > low + edge) & (values < high - edge))
    if high - low < 128 or stray > 0.05:
      raise UserError(
        f"{path}: {len(np.unique(values))} grey levels from {low} to {high}, "
        "so not a mask; save it with two values, the lesion the larger"
      )
  return values > (low + high) / 2, bool(inside.any())


def _resized(path, mask, size, sizes):
  """A mask at its image's size, where that was asked for and can be."""
  (h, w), (height, width) = mask.shape, size
  said = f"{path}: the mask is {w}x{h} but its image {width}x{height}; "
  if sizes != "resize":
    raise UserError(
      f"{said}export it again at the image's size, or set data.masks=resize"
    )
  if abs(w * height / (h * width) - 1) > _BENT:
    raise UserError(f"{said}not of the same aspect, so no resizing fits it")
  area = PIL.Image.fromarray(mask.astype(np.float32))
  area = area.resize((width, height), PIL.Image.Resampling.BOX)
  return np.asarray(area) > 0.5
