"""Data sets in a folder on disk: what is a case, how its files are read.

The folder is input that nobody has checked: it is never written to, and
whatever in it could mislead a study is refused with a `UserError`.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from kdjax.data import images
from kdjax.data import manifest
from kdjax.errors import UserError

_LAYOUTS = (
  "images/ and masks/ (plain), original/ and GT/ (UDIAT), or "
  "benign/, malignant/, normal/ with *_mask.png (BUSI)"
)
_PAIRS = (("images", "masks"), ("original", "GT"))
_CLASSES = ("benign", "malignant", "normal")
_UNLABELLED = "unlabelled"


@dataclasses.dataclass(frozen=True)
class CaseFiles:
  """One image on disk, what is known of it, and its masks (one or more)."""

  name: str
  label: str
  group: str  # Empty: no manifest says it.
  image: pathlib.Path
  masks: tuple[pathlib.Path, ...]
  spacing: tuple[float, float] | None = None  # mm per pixel, down and across.


def find_cases(folder):
  """Every case in `folder`, sorted by name, as a list of `CaseFiles`.

  The layout is recognised from the subfolders: `images/` and `masks/`,
  `original/` and `GT/` (UDIAT), or BUSI as published. A `manifest.csv` beside
  them, with a column `name` (file name without ending) and perhaps `class` and
  `group`, overrides the labels and groups of any layout. It may give the
  `spacing` of pixels too, or `spacing_y` and `spacing_x`, in mm; a cell is
  empty where it is not known. No image is opened.

  Raises:
    UserError: missing, empty or unknown folder; an image without a mask, a
      mask without an image; two files of one name; a manifest that does not
      fit the files; a link that leaves the folder.
  """
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise UserError(
      f"{folder}: no such folder; set data.dir to an existing one"
    )
  inner = folder / "Dataset_BUSI_with_GT"
  if inner.is_dir() and not manifest.leaves(inner, folder):
    folder = inner
  here = lambda name: (folder / name).is_dir()
  pairs = [pair for pair in _PAIRS if all(map(here, pair))]
  classes = list(filter(here, _CLASSES))
  if len(pairs) + bool(classes) != 1:
    what = "several layouts" if pairs else "no known layout"
    raise UserError(f"{folder}: {what} found; kdjax reads {_LAYOUTS}")
  if pairs:
    cases = _pair(*(_stems(folder, name) for name in pairs[0]))
  else:
    cases = _find_busi(folder, classes)
  if not cases:
    raise UserError(f"{folder}: no images in it; kdjax reads {_LAYOUTS}")
  cases = _apply_manifest(folder / manifest.NAME, cases)
  return sorted(cases, key=lambda case: case.name)


def _find_busi(folder, classes):
  cases = {}
  for label in classes:
    images, masks = {}, collections.defaultdict(list)
    for stem, path in _stems(folder, label).items():
      if match := re.fullmatch(r"(.+)_mask(_\d+)?", stem):
        masks[match[1]].append(path)
      else:
        images[stem] = path
    for case in _pair(images, masks, label):
      if case.name in cases:
        raise UserError(
          f"{case.image}: {cases[case.name].image} has the same name; "
          "rename one of them"
        )
      cases[case.name] = case
  return list(cases.values())


def _stems(folder, name):
  """The images in the subfolder `name`, as a dict from stem to path."""
  paths = {}
  try:
    found = sorted((folder / name).iterdir())
  except OSError as error:
    raise UserError(
      f"{folder / name}: cannot be read ({error.strerror}); make it readable"
    ) from error
  for path in found:
    if path.name.startswith(".") or path.name.lower() == "thumbs.db":
      continue
    if not path.name.isprintable():
      raise UserError(f"{str(path)!r}: unprintable file name; rename it")
    if manifest.leaves(path, folder):
      raise UserError(
        f"{path}: a link out of {folder}; put the file itself there"
      )
    if path.suffix.lower() not in images.FORMATS or not path.is_file():
      raise UserError(
        f"{path}: not a PNG, JPEG, BMP or TIFF file; convert it or move it out"
      )
    if path.stem in paths:
      raise UserError(
        f"{path}: {paths[path.stem].name} has the same name; keep one of them"
      )
    paths[path.stem] = path
  return paths


def _pair(images, masks, label=_UNLABELLED):
  """Joins two dicts from stem to path(s) into unmanifested `CaseFiles`."""
  _refuse(
    [images[stem] for stem in images if stem not in masks],
    "an image without a mask; add the mask (all black when nothing is there) "
    "or remove the image",
  )
  _refuse(
    [masks[stem] for stem in masks if stem not in images],
    "a mask without an image; add the image or remove the mask",
  )
  listed = lambda x: tuple(x) if isinstance(x, list) else (x,)
  return [
    CaseFiles(stem, label, "", image, listed(masks[stem]))
    for stem, image in images.items()
  ]


def _refuse(offenders, what):
  """Raises a `UserError` for the first of `offenders`, if there are any."""
  if offenders:
    first = offenders[0]
    first = first[0] if isinstance(first, list) else first
    more = f" ({len(offenders)} such)" if len(offenders) > 1 else ""
    raise UserError(f"{first}: {what}{more}")


def _apply_manifest(path, cases):
  """Labels and groups `cases` by the rows of the manifest, if there is one."""
  if not os.path.lexists(path):
    return cases
  rows = manifest.read(path)
  known = {case.name for case in cases}
  _refuse(
    [f"{path}: {name!r}" for name in rows if name not in known],
    "a row without a file; names are file names without ending",
  )
  _refuse(
    [case.image for case in cases if case.name not in rows],
    f"an image without a row in {path.name}; add the row or remove the image",
  )
  return [
    dataclasses.replace(
      case,
      label=rows[case.name].get("class", case.label),
      group=rows[case.name].get("group", ""),
      spacing=rows[case.name]["spacing"],
    )
    for case in cases
  ]


def digest(cases):
  """A sha256 in hex of names, labels, groups and the bytes of every file."""
  total = hashlib.sha256()
  for case in cases:
    files = (case.image, *case.masks)
    said = [case.name, case.label, case.group, *(path.name for path in files)]
    total.update(repr(said).encode())
    for path in files:
      try:
        with path.open("rb") as file:
          total.update(hashlib.file_digest(file, "sha256").digest())
      except OSError as error:
        raise UserError(
          f"{path}: cannot be read ({error.strerror}); make it readable"
        ) from error
  return total.hexdigest()


def read_mask(paths, size, *, tally=None):
  """The union of the masks at `paths`, bool `[H, W]`, True in the lesion.

  Of two values the larger is the lesion, whatever they are; a mask of one
  value is empty when it is 0, else full. A mask of more values comes from
  anti-aliasing or JPEG and is cut at half its range, if it is nearly
  two-valued: its range is at least 128 (less is a map of labels), and at most
  5 % of its pixels are further than 10 % of the range from both ends.

  Args:
    paths: the mask files of one case.
    size: `(H, W)` of the case's image.
    tally: a Counter to which "cut" is added for each mask that was cut.

  Raises:
    UserError: a mask of another size, of many values, or unreadable.
  """
  union = np.zeros(size, bool)
  for path in map(pathlib.Path, paths):
    values = images.read_grey(path)
    if values.shape != tuple(size):
      (h, w), (height, width) = values.shape, size
      raise UserError(
        f"{path}: the mask is {w}x{h} but its image {width}x{height}; "
        "export it again at the image's size"
      )
    low, high = int(values.min()), int(values.max())
    if low == high:
      union |= values > 0
      continue
    inside = (values > low) & (values < high)
    if inside.any():
      edge = (high - low) / 10
      stray = np.mean((values > low + edge) & (values < high - edge))
      if high - low < 128 or stray > 0.05:
        raise UserError(
          f"{path}: {len(np.unique(values))} grey levels from {low} to {high}, "
          "so not a mask; save it with two values, the lesion the larger"
        )
      if tally is not None:
        tally["cut"] += 1
    union |= values > (low + high) / 2
  return union


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
  """Which cases to prepare, under a name that changes whenever they do."""

  name: str = ""
  cases: tuple[CaseFiles, ...] = ()

  @classmethod
  def of(cls, cases):
    """The config for the cases that `find_cases` returned."""
    return cls(name=digest(cases)[:32], cases=tuple(cases))


class Folder(tfds.core.GeneratorBasedBuilder):
  """Cases from a folder: name, label, group, image and mask as greyscale PNG.

  `info.metadata["notes"]` lists what a reader of the results should know.
  """

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = []

  def _info(self):
    image = lambda: tfds.features.Image(
      shape=(None, None, 1), encoding_format="png"
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "name": tfds.features.Text(),
          "label": tfds.features.Text(),
          "group": tfds.features.Text(),
          "image": image(),
          "mask": image(),
        }
      ),
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing is downloaded.
    # "all" is what TFDS calls the union of splits, so a split may not be.
    return {"cases": self._generate_examples()}

  def _generate_examples(self):
    cases = self.builder_config.cases
    tally = collections.Counter()
    for case, group in zip(cases, groups(cases, tally), strict=True):
      image = images.read_image(case.image)
      mask = read_mask(case.masks, image.shape, tally=tally)
      tally["several"] += len(case.masks) > 1
      tally["flat"] += image.min() == image.max()
      tally["full"] += mask.all()
      yield (
        case.name,
        {
          "name": case.name,
          "label": case.label,
          "group": group,
          "image": images.png(image),
          "mask": images.png(mask.astype(np.uint8) * 255),
        },
      )
    # TFDS saves the metadata after the last example, so this is in time.
    self.info.metadata["notes"] = [
      f"{tally[key]} {text}" for key, text in _NOTES.items() if tally[key]
    ]


_NOTES = {
  "several": "images have several masks, merged by union",
  "cut": "masks are not two-valued (anti-aliasing or JPEG), cut at half range",
  "full": "masks cover the whole image",
  "flat": "images are of one grey",
  "twins": "images equal another one pixel by pixel, put into one group",
}


def groups(cases, tally):
  """A group for each case: the manifest's, else one per distinct image.

  Args:
    cases: as from `find_cases`.
    tally: a Counter to which "twins" is added for each automatic merge.

  Raises:
    UserError: the manifest puts equal images into different groups, which a
      split by group would let leak from training into the test.
  """
  first, found = {}, []
  for case in cases:
    image = images.read_image(case.image)
    key = (image.shape, hashlib.sha256(image).digest())
    other = first.setdefault(key, case)
    if case.group != other.group:
      raise UserError(
        f"{case.image}: same pixels as {other.name} but groups {case.group} "
        f"and {other.group}; put them into one group in {manifest.NAME}"
      )
    if not case.group:
      tally["twins"] += other is not case
    found.append(case.group or other.name)
  return found
