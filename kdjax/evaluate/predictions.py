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
    truths: bool `[N, S, S]`.
    sizes: height and width on disk, `[N, 2]`, pixels; images were squeezed.
    rows: (model, fold, seed, case) to the row of `masks`.
    masks: bit-packed predictions, uint8 `[R, ceil(S * S / 8)]`.
  """

  cases: tuple[str, ...]
  images: np.ndarray
  truths: np.ndarray
  sizes: np.ndarray
  rows: dict
  masks: np.ndarray

  def mask(self, model, fold, seed, case):
    """The predicted mask, bool `[S, S]`, or None if there is none."""
    row = self.rows.get((model, int(fold), int(seed), case))
    if row is None:
      return None
    side = self.images.shape[1]
    bits = np.unpackbits(self.masks[row], count=side * side)
    return bits.reshape(side, side).astype(bool)


def write(workdir, dataset, rows, masks):
  """Writes the file.

  Args:
    workdir: where to.
    dataset: `pipeline.Dataset`, or what has its cases, images and masks.
    rows: dicts with the keys `TRIAL`, one per mask.
    masks: bool `[S, S]` each, at the network's resolution.
  """
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
    truths=np.packbits(dataset.masks[chosen].astype(bool), axis=None),
    sizes=np.array([dataset.full_masks[i].shape for i in chosen]),
    rows=np.array(
      [[number.get(x, int)(row[x]) for x in TRIAL] for row in rows], np.int32
    ),
    masks=np.stack([np.packbits(np.asarray(x, bool)) for x in masks]),
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


def _read(content):
  with np.load(content, allow_pickle=False) as found:
    images, models = found["images"], found["models"].tolist()
    cases = tuple(found["cases"].tolist())
    shape = images.shape[:3]
    bits = np.unpackbits(found["truths"], count=math.prod(shape))
    return Predictions(
      cases,
      images,
      bits.reshape(shape).astype(bool),
      found["sizes"],
      {
        (models[m], int(fold), int(seed), cases[c]): i
        for i, (m, fold, seed, c) in enumerate(found["rows"])
      },
      found["masks"],
    )
