"""Test images, truths and predicted masks, for pictures.

A workdir's own file: it holds images of patients, so it is never copied to
results. Numbers come from per-case tables alone.
"""

import dataclasses
import io
import math

from etils import epath
import numpy as np

from kdjax import files
from kdjax import workdirs
from kdjax.errors import UserError

TRIAL = ("model", "fold", "seed", "case")


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """What was shown to the models and what they said; N cases, R rows.

  Attributes:
    cases: names, `[N]`.
    images: uint8 `[N, S, S]` or `[N, S, S, 3]`, as the networks saw them.
    truths: classes, uint8 `[N, S, S]`.
    sizes: height and width on disk, `[N, 2]`, pixels; images were squeezed.
    rows: (model, fold, seed, case) to the row of `masks`.
    masks: bit-packed predictions, uint8 `[R, K - 1, ceil(S * S / 8)]`.
  """

  cases: tuple[str, ...]
  images: np.ndarray
  truths: np.ndarray
  sizes: np.ndarray
  rows: dict
  masks: np.ndarray

  def mask(self, model, fold, seed, case):
    """The predicted classes, uint8 `[S, S]`, or None if there are none."""
    row = self.rows.get((model, int(fold), int(seed), case))
    if row is None:
      return None
    side = self.images.shape[1]
    bits = np.unpackbits(self.masks[row], axis=-1, count=side * side)
    return _together(bits.reshape(-1, side, side))


def write(workdir, dataset, rows, masks):
  """Writes the file.

  Args:
    workdir: where to.
    dataset: `pipeline.Dataset`, or what has its cases, images and masks.
    rows: dicts with the keys `TRIAL`, one per mask.
    masks: classes, `[S, S]` each, at the network's resolution.
  """
  count = len(getattr(dataset, "regions", ("lesion",)))
  apart = lambda x: np.stack([x == i + 1 for i in range(count)], axis=-3)
  pack = lambda x: np.packbits(apart(x).reshape(count, -1), axis=-1)
  tested = sorted({row["case"] for row in rows})
  place = {case: i for i, case in enumerate(dataset.cases)}
  chosen = [place[case] for case in tested]
  models = list(dict.fromkeys(row["model"] for row in rows))
  number = {"model": models.index, "case": {c: i for i, c in enumerate(tested)}}
  number["case"] = number["case"].__getitem__
  content = io.BytesIO()
  np.savez_compressed(
    content,
    cases=np.array(tested),
    models=np.array(models),
    images=dataset.images[chosen],
    truths=np.packbits(apart(dataset.masks[chosen]), axis=None),
    sizes=np.array([dataset.full_masks[i].shape for i in chosen]),
    rows=np.array(
      [[number.get(x, int)(row[x]) for x in TRIAL] for row in rows], np.int32
    ),
    masks=np.stack([pack(np.asarray(x)) for x in masks]),
  )
  files.write_bytes(
    epath.Path(workdir) / workdirs.PREDICTIONS, content.getvalue()
  )


def read(workdir):
  """The `Predictions` of a workdir, or None if it has none."""
  path = epath.Path(workdir) / workdirs.PREDICTIONS
  if not path.exists():
    return None
  try:
    return _read(io.BytesIO(path.read_bytes()))
  # Damaged bytes raise whatever the readers of zip and NumPy stumble on.
  except Exception as error:
    raise UserError(
      f"{path}: damaged; delete it and run `kdjax train` again in this workdir "
      "to evaluate anew."
    ) from error


def _together(planes):
  """Where each region is, `[..., R, S, S]`, as classes `[..., S, S]`."""
  numbers = np.arange(1, planes.shape[-3] + 1, dtype=np.uint8)
  return np.einsum("...rhw,r->...hw", planes, numbers)


def _read(content):
  with np.load(content, allow_pickle=False) as found:
    images, models = found["images"], found["models"].tolist()
    cases = tuple(found["cases"].tolist())
    masks = found["masks"]
    if masks.ndim == 2:  # Of an older kdjax, which had one region.
      masks = masks[:, None]
    shape = (len(images), masks.shape[1], *images.shape[1:3])
    bits = np.unpackbits(found["truths"], count=math.prod(shape))
    return Predictions(
      cases,
      images,
      _together(bits.reshape(shape)),
      found["sizes"],
      {
        (models[m], int(fold), int(seed), cases[c]): i
        for i, (m, fold, seed, c) in enumerate(found["rows"])
      },
      masks,
    )
