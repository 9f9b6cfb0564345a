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

# Of regions in their order, then again from the first.
_HUES = np.array(
  [(255, 64, 64), (64, 160, 255), (255, 200, 0), (64, 220, 120)], np.uint8
)


def run(model, paths, out, batch=1):
  """Predicts every image and writes `NAME_mask.png` and `NAME_overlay.png`.

  A file that cannot be read is named on stderr and the others go on.

  A mask is 255 in the lesion; of several regions it has their numbers.

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
      classes = images.decide(images.upsample(margin, image.shape[:2]))
      pictures = (
        _mask(classes, len(network.regions)),
        PIL.Image.fromarray(overlay(image, classes)),
      )
      for target, picture in zip(_outputs(path, out), pictures, strict=True):
        _write(target, picture)
      parts = [
        f"{name} on {np.mean(classes == number):.2%}"
        for number, name in enumerate(network.regions, start=1)
      ]
      lines.append(f"{path}: {', '.join(parts)} of the image")
  for line in failed:
    print(f"kdjax: {' '.join(line.split())}", file=sys.stderr)
  if milliseconds:
    lines.append(
      f"{len(lines)} predicted; the network took "
      f"{statistics.median(milliseconds):.3g} ms an image (median, "
      f"{batch} at once, {os.cpu_count()} cores)"
    )
  return "\n".join(lines), len(failed)


def overlay(image, classes):
  """An image, grey or RGB, with the border of each region in colour: RGB.

  Args:
    image: uint8 `[h, w]` or `[h, w, 3]`.
    classes: `[h, w]`, 0 is the background.
  """
  classes = np.asarray(classes, np.uint8)
  around = np.pad(classes, 1, constant_values=0)
  inner = np.all(
    [
      classes == x
      for x in (
        around[:-2, 1:-1],
        around[2:, 1:-1],
        around[1:-1, :-2],
        around[1:-1, 2:],
      )
    ],
    axis=0,
  )
  shown = images.coloured(image).copy()
  border = (classes > 0) & ~inner
  shown[border] = _HUES[(classes[border] - 1) % len(_HUES)]
  return shown


def _mask(classes, count):
  """A picture of a mask: 255 where the region is; of several their numbers.

  Those are places in a palette, so that they are seen, too.
  """
  if count == 1:
    return PIL.Image.fromarray(classes * np.uint8(255))
  picture = PIL.Image.fromarray(classes, "P")
  hues = _HUES[np.arange(count) % len(_HUES)]
  picture.putpalette([0, 0, 0, *hues.ravel().tolist()])
  return picture


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


def _write(path, picture):
  """Writes a PNG that appears whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f".{path.name}")
  try:
    picture.save(beside, "PNG")
    beside.replace(path)
  finally:
    beside.unlink(missing_ok=True)
