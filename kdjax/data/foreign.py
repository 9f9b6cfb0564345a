"""A data set that TFDS prepared elsewhere, read as one of ours.

Nothing is downloaded, and TensorFlow is not needed: it has to be there, as
array_record.
"""

import collections
import dataclasses
import hashlib
import pathlib

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from kdjax.data import folders
from kdjax.data import images
from kdjax.data import masks
from kdjax.data import regions
from kdjax.errors import UserError

PREFIX = "tfds:"
# What `data.features` names, in this order.
_PARTS = ("image", "mask", "label", "group")
_TAKES = "give those of image and mask, and perhaps of label and group"


@dataclasses.dataclass
class ForeignConfig(tfds.core.BuilderConfig):
  """Which data set to read, under a name that changes whenever it does."""

  name: str = ""
  source: tfds.core.DatasetBuilder | None = None
  features: dict = dataclasses.field(default_factory=dict)
  sizes: str = masks.SIZES[0]
  channels: int = 1
  shown: regions.Regions = regions.LESION

  @classmethod
  def of(
    cls,
    name,
    folder,
    features,
    sizes=masks.SIZES[0],
    channels=1,
    shown=regions.LESION,
  ):
    """The config for a data set that is prepared.

    Args:
      name: as TFDS calls it, "NAME", "NAME/CONFIG" or "NAME/CONFIG:VERSION".
      folder: TFDS' data_dir, "" for its own default.
      features: names of its image, mask, label and group, as many as it has.
      sizes: what becomes of masks of another size, see `masks.read`.
      channels: 3 for colours, 1 for their luma.
      shown: `Regions`, what masks show.

    Raises:
      UserError: it is not there or not as array_record, or has no such image.
    """
    source = _find(name, folder)
    named = dict(zip(_PARTS, features, strict=False))
    _check(source, name, named)
    splits = [
      (x.name, x.num_examples, x.num_bytes, *x.shard_lengths)
      for x in source.info.splits.values()
    ]
    said = repr((source.info.full_name, sorted(splits), named, sizes))
    digest = hashlib.sha256((said + shown.key).encode()).hexdigest()[:32]
    if channels != 1:
      digest += "-rgb"
    return cls(
      name=digest,
      source=source,
      features=named,
      sizes=sizes,
      channels=channels,
      shown=shown,
    )


class Foreign(folders.Cases):
  """Cases of another data set of TFDS."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = []

  def _generate_examples(self):
    config, tally = self.builder_config, collections.Counter()
    seen = {}
    for name, split, row in _rows(config.source):
      where = f"{PREFIX}{config.source.info.full_name}, {split}, {name}"
      image = _picture(row[config.features["image"]], where, config.channels)
      mask = _mask(row, config, image.shape[:2], where, tally)
      label, group = (_word(row, config, part) for part in ("label", "group"))
      key = image.shape, hashlib.sha256(image).digest()
      first, other = seen.setdefault(key, (group or name, name))
      if group and group != first:
        raise UserError(
          f"{where}: same pixels as {other} but groups {group} and {first}: "
          "put them into one."
        )
      tally["twins"] += not group and other != name
      yield (
        name,
        {
          "name": name,
          "label": label or "unlabelled",
          "group": group or first,
          "image": images.png(image),
          "mask": images.png(folders.grey(mask, config.shown.classes)),
        },
      )
      tally["flat"] += image.min() == image.max()
      tally["full"] += mask.all()
    self._note(tally)


def _find(name, folder):
  """The builder of a data set that is prepared; asks no network for it."""
  place = str(pathlib.Path(folder).expanduser()) if folder else None
  where = folder or "TFDS' own folder"
  way = (
    "prepare it there, with file_format=array_record, or set data.dir to where "
    "it is"
  )
  try:
    source = read_only_builder.builder_from_files(name, data_dir=place)
  # TFDS has many words for what is not there, or damaged.
  except Exception as error:
    raise UserError(
      f"data.name={PREFIX}{name}: no such data set is prepared in {where}: "
      f"{way}."
    ) from error
  kind = source.info.file_format
  if kind is None or kind.value != "array_record":
    raise UserError(
      f"data.name={PREFIX}{name} is prepared as {kind and kind.value}, which "
      f"takes TensorFlow to read: {way}."
    )
  return source


def _check(source, name, named):
  if len(named) < 2:
    raise UserError(f"data.features={tuple(named.values())}: {_TAKES}.")
  known = source.info.features
  for part, feature in named.items():
    if feature and feature not in known:
      raise UserError(
        f"data.features: {PREFIX}{name} has no {feature!r} for its {part}; it "
        f"has {', '.join(known)}: {_TAKES}."
      )


def _rows(source):
  """Name, split and example of every case: all splits one after another."""
  for split in sorted(source.info.splits):
    for i, row in enumerate(source.as_data_source(split=split)):
      yield f"{split}-{i:05d}", split, row


def _picture(pixels, where, channels):
  """A picture as uint8 `[h, w]`, colours as their luma, or `[h, w, 3]`."""
  pixels = np.asarray(pixels)
  if pixels.ndim == 3 and pixels.shape[-1] == 1:
    pixels = pixels[..., 0]
  if pixels.dtype == np.uint16 and pixels.ndim == 2:
    pixels = np.rint(pixels / 257).astype(np.uint8)
  colours = pixels.ndim == 3 and pixels.shape[-1] == 3
  if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or colours):
    raise UserError(
      f"{where}: its image is {pixels.dtype} {list(pixels.shape)} and no "
      "picture, grey or RGB of 8 bits."
    )
  if channels == 3:
    return images.coloured(pixels)
  return np.asarray(PIL.Image.fromarray(pixels).convert("L"))


def _mask(row, config, size, where, tally):
  """A case's classes, uint8 `[h, w]`, of its image's `size`."""
  values = np.asarray(row[config.features["mask"]])
  if values.ndim == 3 and values.shape[-1] == 1:
    values = values[..., 0]
  colours = config.shown.coloured
  like = (*values.shape[:2], 3) if colours else values.shape[:2]
  if values.ndim < 2 or values.shape != like or values.dtype.kind not in "uib":
    raise UserError(
      f"{where}: its mask is {values.dtype} {list(values.shape)}; one of "
      + ("colours [h, w, 3]" if colours else "whole numbers [h, w]")
      + " is needed."
    )
  return masks.fit(
    f"{where}, mask",
    values.astype(np.int64),
    size,
    config.sizes,
    tally,
    config.shown,
  )


def _word(row, config, part):
  """A case's label or group, "" where that is not named."""
  feature = config.features.get(part)
  if not feature:
    return ""
  value, known = row[feature], config.source.info.features[feature]
  if isinstance(known, tfds.features.ClassLabel):
    return known.int2str(int(value))
  return value.decode() if isinstance(value, bytes) else str(value)
