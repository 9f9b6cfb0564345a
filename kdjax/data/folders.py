"""A data set in a folder on disk, as TFDS prepares it.

Which files are a case, `listing` says; the folder is never written to.
"""

import collections
import dataclasses
import hashlib

import numpy as np
import tensorflow_datasets as tfds

from kdjax.data import images
from kdjax.data import listing
from kdjax.data import manifest
from kdjax.data import masks
from kdjax.data import regions
from kdjax.errors import UserError


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


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
  """Which cases to prepare, under a name that changes whenever they do."""

  name: str = ""
  cases: tuple[listing.CaseFiles, ...] = ()
  sizes: str = masks.SIZES[0]
  channels: int = 1
  shown: regions.Regions = regions.LESION

  @classmethod
  def of(cls, cases, sizes=masks.SIZES[0], channels=1, shown=regions.LESION):
    """The config for what `listing.find` returned.

    Args:
      cases: which.
      sizes: what becomes of masks of other sizes, see `masks.read`.
      channels: of the images, see `images.read_image`.
      shown: `Regions`, what masks show.
    """
    name = digest(cases)[:32]
    if sizes != masks.SIZES[0]:
      name += f"-{sizes}"
    if channels != 1:
      name += "-rgb"
    if shown.key:
      name += f"-{hashlib.sha256(shown.key.encode()).hexdigest()[:8]}"
    return cls(
      name=name,
      cases=tuple(cases),
      sizes=sizes,
      channels=channels,
      shown=shown,
    )


class Cases(tfds.core.GeneratorBasedBuilder):
  """Cases: name, label, group, image and mask as PNG.

  Of `builder_config.channels`, 1 or 3, for images; masks are grey, see `grey`.

  `info.metadata["notes"]` lists what a reader of the results should know.
  """

  # TFDS makes no data set of what has no name of its own.
  BUILDER_CONFIGS = []

  def _info(self):
    picture = lambda channels: tfds.features.Image(
      shape=(None, None, channels), encoding_format="png"
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          "name": tfds.features.Text(),
          "label": tfds.features.Text(),
          "group": tfds.features.Text(),
          "image": picture(self.builder_config.channels),
          "mask": picture(1),
        }
      ),
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing is downloaded.
    # "all" is what TFDS calls the union of splits, so a split may not be.
    return {"cases": self._generate_examples()}

  def _note(self, tally):
    """Keeps what was tallied; after the last example, before TFDS saves it."""
    self.info.metadata["notes"] = [
      f"{tally[key]} {text}" for key, text in _NOTES.items() if tally[key]
    ]


class Folder(Cases):
  """Cases from a folder: name, label, group, image and mask as PNG.

  `info.metadata["notes"]` lists what a reader of the results should know.
  """

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = []

  def _generate_examples(self):
    config = self.builder_config
    cases = config.cases
    tally = collections.Counter()
    grouped = groups(cases, tally, config.channels)
    for case, group in zip(cases, grouped, strict=True):
      image = images.read_image(case.image, config.channels)
      mask = masks.read(
        case.masks,
        image.shape[:2],
        regions=config.shown,
        sizes=config.sizes,
        tally=tally,
      )
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
          "mask": images.png(grey(mask, config.shown.classes)),
        },
      )
    self._note(tally)


def grey(mask, classes):
  """Classes as greys that an eye tells apart, evenly from 0 to 255: uint8."""
  return mask.astype(np.uint8) * (255 // (classes - 1))


def number(pixels, classes):
  """Greys of `grey` as classes again, uint8."""
  return pixels // (255 // (classes - 1))


_NOTES = {
  "several": "images have several masks, merged by union",
  "cut": "masks are not two-valued (anti-aliasing or JPEG), cut at half range",
  "resized": "masks were of another size than their image and resized to it",
  "full": "masks cover the whole image",
  "flat": "images are of one grey",
  "twins": "images equal another one pixel by pixel, put into one group",
}


def groups(cases, tally, channels=1):
  """A group for each case: the manifest's, else one per distinct image.

  Args:
    cases: as from `listing.find`.
    tally: a Counter to which "twins" is added for each automatic merge.
    channels: in which images are compared.

  Raises:
    UserError: equal images are in different groups, which a split by group
      would let leak from training into the test.
  """
  first, found = {}, []
  for case in cases:
    image = images.read_image(case.image, channels)
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
