"""Masks and overlays of image files by an exported network; needs no JAX.

Reads, resizes and decides as `kdjax train` does when it tests a network.
"""

import os
import pathlib
import statistics
import sys
import time

import numpy as np
import PIL.Image

from kdjax.data import images
from kdjax.deploy import runtime
from kdjax.errors import UserError

_CONTOUR = (255, 64, 64)


def run(model, paths, out, batch=1):
  """Predicts every image and writes `NAME_mask.png` and `NAME_overlay.png`.

  A file that cannot be read is named on stderr and the others go on.

  Args:
    model: an ONNX file from `kdjax export`.
    paths: image files, and folders of them.
    out: the folder to write to; made if it is missing.
    batch: images that go through the network at once.

  Returns:
    `(text, failures)`: a line per image and how long the network took; how
    many images could not be predicted.

  Raises:
    UserError: nothing at all can be predicted.
  """
  if batch < 1:
    raise UserError(f"--batch={batch}: at least 1.")
  out = pathlib.Path(out)
  network = runtime.Network(model)
  todo, failed = _find(paths, out)
  lines, milliseconds = [], []
  for first in range(0, len(todo), batch):
    read = []
    for path in todo[first : first + batch]:
      try:
        read.append((path, images.read_image(path, network.channels)))
      except UserError as error:
        failed.append(str(error))
    if not read:
      continue
    inputs = np.stack([images.squeeze(x, network.side) for _, x in read])
    begun = time.perf_counter()
    margins = network.margins(inputs)
    milliseconds.append(1000 * (time.perf_counter() - begun) / len(read))
    for (path, image), margin in zip(read, margins, strict=True):
      if not np.isfinite(margin).all():
        failed.append(f"{path}: the network's answer is not finite")
        continue
      mask = images.upsample(margin, image.shape[:2]) > 0
      pictures = mask.astype(np.uint8) * 255, overlay(image, mask)
      for target, pixels in zip(_outputs(path, out), pictures, strict=True):
        _write(target, pixels)
      lines.append(f"{path}: lesion on {mask.mean():.2%} of the image")
  for line in failed:
    print(f"kdjax: {' '.join(line.split())}", file=sys.stderr)
  if milliseconds:
    lines.append(
      f"{len(lines)} predicted; the network took "
      f"{statistics.median(milliseconds):.3g} ms an image (median, "
      f"{batch} at once, {os.cpu_count()} cores)"
    )
  return "\n".join(lines), len(failed)


def overlay(image, mask):
  """An image, grey or RGB, with the border of a mask `[h, w]` in red: RGB."""
  inner = np.pad(mask, 1)
  inner = (
    inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
  )
  shown = images.coloured(image).copy()
  shown[mask & ~inner] = _CONTOUR
  return shown


def _find(paths, out):
  """The images to predict, and what is wrong with the others."""
  found, failed, taken = [], [], {}
  for path in map(pathlib.Path, paths):
    if path.is_dir():
      if out.resolve() == path.resolve():
        raise UserError(
          f"--out={out} is a folder of images: choose another one."
        )
      inside = [
        x for x in sorted(path.iterdir()) if x.suffix.lower() in images.FORMATS
      ]
      if not inside:
        failed.append(f"{path}: no images in this folder; name another")
      found += inside
    else:
      found.append(path)
  todo = []
  given = {path.resolve() for path in found}
  for path in found:
    if clashes := given & {x.resolve() for x in _outputs(path, out)}:
      raise UserError(
        f"--out={out}: {clashes.pop()} is an image to predict and would be "
        "written over: choose another folder."
      )
    other = taken.setdefault(path.stem, path)
    if other is path:
      todo.append(path)
    else:
      failed.append(f"{path}: named as {other}; predict it to another --out")
  return todo, failed


def _outputs(path, out):
  return out / f"{path.stem}_mask.png", out / f"{path.stem}_overlay.png"


def _write(path, pixels):
  """Writes a PNG that appears whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}")
  try:
    PIL.Image.fromarray(pixels).save(beside, "PNG")
    beside.replace(path)
  finally:
    beside.unlink(missing_ok=True)
