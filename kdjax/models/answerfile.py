"""Reads a teacher's answers from disk: a file for each case, by any framework.

Nothing in a file is executed: .npz without pickles, or .safetensors.
"""

import functools
import pathlib
import zipfile

import numpy as np

from kdjax.errors import UserError
from kdjax.models import tensorfile

LOGITS = "logits"
# A file beside the answers, that names the cases their teacher was trained on.
TRAINED_ON = "trained_on.txt"
_ENDINGS = (".npz", ".safetensors")


def folder_of(folder, fold):
  """The folder of a fold's teacher: `{fold}` in its name is the fold."""
  return pathlib.Path(folder.replace("{fold}", str(fold))).expanduser()


def read(folder, cases, classes):
  """The answers about `cases`, a dict from name to `[M, h, w, C]` float32.

  Args:
    folder: of one teacher.
    cases: `M` names; a file is called as its case, with .npz or .safetensors.
    classes: `K`. "logits" are `[h, w, K]`, where one channel stands for two:
      background is 0. All else is named maps `[h, w, C]` to distil from.

  Raises:
    UserError: names the case that is missing, twice there, misshapen, not
      finite, or unlike the others.
  """
  if not folder.is_dir():
    raise UserError(f"teacher.folder: there is no folder {folder}.")
  rows, first = [], None
  for case in cases:
    path = _find(folder, case)
    row = _check(path, _read(path), classes)
    shapes = {name: x.shape for name, x in row.items()}
    first = first or (path, shapes)
    if shapes != first[1]:
      raise UserError(
        f"{path} has {_said(shapes)}, where {first[0].name} has "
        f"{_said(first[1])}: give every case the same."
      )
    rows.append(row)
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def trained_on(folder):
  """The names of the cases that a teacher was trained on; None if not told.

  Raises:
    UserError: the file is no text.
  """
  path = folder / TRAINED_ON
  if not path.exists():
    return None
  try:
    return set(filter(None, map(str.strip, path.read_text().splitlines())))
  except UnicodeError as error:
    raise UserError(f"{path} is no text: a case's name a line.") from error


@functools.lru_cache(maxsize=8)
def describe(folder):
  """What a teacher's answers hold beside logits, from the first file found.

  Args:
    folder: of any fold, `{fold}` in it.

  Returns:
    A dict from a map's name to the map, `[h, w, C]`.

  Raises:
    UserError: there is no file, or it cannot be read.
  """
  parts = folder.split("{fold}")
  pattern = pathlib.Path("*".join(parts)).expanduser()
  root, *rest = pattern.parts
  folders = sorted(pathlib.Path(root).glob(str(pathlib.Path(*rest))))
  for place in folders:
    for path in sorted(place.rglob("*")):
      if path.suffix in _ENDINGS:
        found = _read(path)
        return {name: x for name, x in found.items() if name != LOGITS}
  raise UserError(
    f"teacher.folder={folder}: no answer, CASE.npz or CASE.safetensors, is "
    "there."
  )


def _find(folder, case):
  found = [folder / f"{case}{x}" for x in _ENDINGS]
  found = [path for path in found if path.is_file()]
  if len(found) != 1:
    said = "is there twice" if found else "is not there"
    raise UserError(
      f"{folder}: the answer about case {case} {said} ({case}.npz or "
      f"{case}.safetensors)."
    )
  return found[0]


def _read(path):
  if path.suffix == ".safetensors":
    return tensorfile.read(path)
  try:
    if not zipfile.is_zipfile(path):  # Else NumPy would try it as others.
      raise ValueError("it is no .npz")
    with np.load(path, allow_pickle=False) as file:
      return {name: file[name] for name in file.files}
  # Damaged bytes can raise whatever the readers of zip and .npy do.
  except Exception as error:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path} cannot be read ({why}).") from error


def _check(path, row, classes):
  """A file's arrays as float32, logits of all classes."""
  if LOGITS not in row:
    raise UserError(f"{path} has no array {LOGITS!r}, [h, w, {classes}].")
  for name, x in row.items():
    if "/" in name or not name.isprintable():
      raise UserError(f"{path}: {name!r} is no name of a map.")
    if x.ndim != 3 or not x.size:
      raise UserError(f"{path}: {name} is {_shape(x)} and not [h, w, C].")
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
      raise UserError(f"{path}: {name} is of {x.dtype}, no real numbers.")
  with np.errstate(over="ignore"):  # What does not fit is not finite.
    row = {name: np.asarray(x, np.float32) for name, x in row.items()}
  for name, x in row.items():
    if not np.isfinite(x).all():
      raise UserError(f"{path}: {name} has a number that is not finite.")
  logits = row[LOGITS]
  if classes == 2 and logits.shape[-1] == 1:
    row[LOGITS] = np.concatenate([np.zeros_like(logits), logits], axis=-1)
  elif logits.shape[-1] != classes:
    raise UserError(
      f"{path}: {LOGITS} is {_shape(logits)} and not [h, w, {classes}]."
    )
  return row


def _shape(x):
  return f"[{', '.join(map(str, x.shape))}]"


def _said(shapes):
  return ", ".join(
    f"{name} [{', '.join(map(str, shape))}]"
    for name, shape in sorted(shapes.items())
  )
