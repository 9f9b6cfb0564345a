"""From a data set's files to arrays: prepared by TFDS once, read by grain."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import pathlib

import absl.logging
import grain
import numpy as np
import tensorflow_datasets as tfds

from kdjax.data import folders
from kdjax.data import foreign
from kdjax.data import images
from kdjax.data import listing
from kdjax.data import masks
from kdjax.data import phantom
from kdjax.data import regions
from kdjax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A data set in memory, its N cases sorted by name."""

  name: str  # "phantom", or the folder's own name.
  version: str
  fingerprint: str  # sha256 in hex: names, groups, labels, pixels, spacings.
  cases: tuple[str, ...]
  groups: tuple[str, ...]  # Cases of one group must not be split.
  labels: tuple[str, ...]
  images: np.ndarray  # uint8 [N, S, S] or, of colours, [N, S, S, 3], 0 to 255
  masks: np.ndarray  # uint8 [N, S, S], classes: 0 is the background
  full_masks: tuple[np.ndarray, ...]  # uint8 [h, w] each, the same as on disk
  notes: tuple[str, ...]  # What a reader of the results should know.
  # Of the cases where it is known: mm per pixel on disk, down and across.
  spacings: dict = dataclasses.field(default_factory=dict)
  digests: tuple[str, ...] = ()  # Of each case, what the fingerprint is of all.
  regions: tuple[str, ...] = regions.LESION.names  # Classes from 1 on.


def load(data):
  """The data set that `data` describes, as a `Dataset`.

  The first call prepares it below `cache_dir`, under a key of all its bytes,
  so a changed folder is prepared anew. Preparation appears whole or not at
  all. Images are squeezed to S x S (the aspect is not kept) with an
  anti-aliased bilinear filter; a pixel of a mask is of the class that has the
  most of its area.

  Args:
    data: name ("phantom", "folder" or "tfds:NAME"), dir, mask_name, group and
      masks (of a folder: see `listing.find` and `masks.read`), features (of
      TFDS, see `foreign`), regions (see `regions.make`), channels (1 for
      grey, 3 for colours), classes (the labels to keep, all when empty),
      image_size (S), num_cases and seed (of the phantom), cache_dir.

  Raises:
    UserError: an unknown name or class; whatever `listing`, `masks` and
      `foreign` refuse;
      a cache that cannot be written or read.
  """
  if data.channels not in (1, 3):
    raise UserError(
      f"data.channels={data.channels}: 1 for grey or 3 for colours"
    )
  if data.image_size < 1:
    raise UserError(f"data.image_size={data.image_size} must be positive")
  cache = pathlib.Path(data.cache_dir).expanduser()
  shown = regions.make(data.regions)
  name, make = _choose(data, cache, shown)
  with _quiet():
    builder = _prepare(make, cache)
    rows = _read(builder, data.image_size, data.channels, shown.classes)
  known = sorted({row["label"] for row in rows})
  if unknown := sorted(set(data.classes) - set(known)):
    raise UserError(
      f"data.classes: no case of {name} is {unknown[0]!r}; "
      f"choose from {', '.join(known)}"
    )
  if data.classes:
    rows = [row for row in rows if row["label"] in data.classes]
  column = lambda key: tuple(row[key] for row in rows)
  spacings = _spacings(builder, column("name"))
  # Where none is known they leave the fingerprint alone.
  parts = (*column("digest"), repr(spacings).encode() if spacings else b"")
  return Dataset(
    name=name,
    version=str(builder.version),
    fingerprint=hashlib.sha256(b"".join(parts)).hexdigest(),
    cases=column("name"),
    groups=column("group"),
    labels=column("label"),
    images=np.stack(column("image")),
    masks=np.stack(column("mask")),
    full_masks=column("full_mask"),
    notes=tuple((builder.info.metadata or {}).get("notes", ())),
    spacings=spacings,
    digests=tuple(digest.hex() for digest in column("digest")),
    regions=shown.names,
  )


def _spacings(builder, names):
  """What the manifest says of these cases; not in the cache, but read anew."""
  files = getattr(builder.builder_config, "cases", ())
  known = {case.name: case.spacing for case in files if case.spacing}
  return {name: known[name] for name in names if name in known}


def _choose(data, cache, shown):
  """The data set's name, and a function that makes its TFDS builder."""
  if data.name == "phantom":
    if data.num_cases < 1 or data.seed < 0:
      raise UserError(
        f"data.num_cases={data.num_cases} must be positive and "
        f"data.seed={data.seed} not negative"
      )
    if shown not in map(regions.make, (("lesion",), ("lesion", "cyst"))):
      raise UserError(
        f"data.regions={','.join(data.regions)}: a phantom shows lesion, or "
        "lesion,cyst"
      )
    config = phantom.PhantomConfig(
      num_cases=data.num_cases, seed=data.seed, cysts=len(shown.names) > 1
    )
    # TFDS refuses a config that its class has already under the same name.
    config = phantom.Phantom.builder_configs.get(config.name, config)
    return "phantom", functools.partial(
      phantom.Phantom, data_dir=cache, config=config
    )
  if data.masks not in masks.SIZES:
    raise UserError(
      f"data.masks={data.masks!r}: choose {' or '.join(masks.SIZES)}"
    )
  if data.name.startswith(foreign.PREFIX):
    name = data.name.removeprefix(foreign.PREFIX)
    config = foreign.ForeignConfig.of(
      name, data.dir, data.features, data.masks, data.channels, shown
    )
    return config.source.info.name, functools.partial(
      foreign.Foreign, data_dir=cache, config=config
    )
  if data.name != "folder":
    raise UserError(
      f"data.name={data.name!r} is unknown; choose phantom, folder or tfds:NAME"
    )
  if not data.dir:
    raise UserError("data.dir is empty; set it to the folder with the images")
  folder = pathlib.Path(data.dir).expanduser().resolve()
  if cache.resolve().is_relative_to(folder):
    raise UserError(
      f"data.cache_dir={cache} is inside data.dir, which is never written to; "
      "choose another place"
    )
  found = listing.find(folder, data.mask_name, data.group)
  config = folders.FolderConfig.of(found, data.masks, data.channels, shown)
  return folder.name, functools.partial(
    folders.Folder, data_dir=cache, config=config
  )


@contextlib.contextmanager
def _quiet():
  """Keeps TFDS from talking: results alone belong on stdout.

  It prints what it prepares, and warns of each config not in its class. Its
  progress bars stay off for good, as it cannot say if they were on.
  """
  before = absl.logging.get_verbosity()
  absl.logging.set_verbosity(absl.logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    absl.logging.set_verbosity(before)


def _prepare(make, cache):
  """The builder that `make` makes, its data on disk.

  TFDS writes to a folder beside and renames it, so that an interrupted
  preparation is never taken for a whole one.
  """
  try:
    builder = _make(make, cache)
    try:
      builder.download_and_prepare(file_format="array_record")
    except OSError:
      # Another process may have renamed its own, equal folder first.
      builder = _make(make, cache)
      if not builder.data_path.exists():
        raise
  except OSError as error:
    raise UserError(
      f"data.cache_dir={cache} cannot be written ({error.strerror or error}); "
      "choose another place"
    ) from error
  return builder


def _make(make, cache):
  try:
    return make()
  except (OSError, UserError):
    raise
  except Exception as error:  # What TFDS makes of damaged descriptions.
    raise UserError(
      f"data.cache_dir={cache}: the prepared data cannot be read; delete this "
      "folder and run again"
    ) from error


def _read(builder, size, channels, classes):
  """Every example as a dict of names, arrays and a digest, sorted by name."""
  try:
    source = builder.as_data_source(split="all")
    rows = grain.MapDataset.source(source).map(
      functools.partial(_convert, size=size, channels=channels, classes=classes)
    )
    return sorted(rows, key=lambda row: row["name"])
  except Exception as error:  # Whatever array_record and PNG make of damage.
    raise UserError(
      f"{builder.data_path}: the prepared data cannot be read; delete this "
      "folder and run again"
    ) from error


def _convert(example, *, size, channels, classes):
  """One example of TFDS to what `Dataset` holds of it."""
  row = {key: example[key].decode() for key in ("name", "label", "group")}
  image, mask = example["image"], example["mask"][..., 0]  # [h, w]
  if image.shape[-1] == 1:
    image = image[..., 0]
  if channels == 3:  # Phantoms are grey.
    image = images.coloured(image)
  said = repr((*row.values(), image.shape)).encode()
  pixels = image.tobytes() + mask.tobytes()
  full = folders.number(mask, classes)
  return row | {
    "image": images.squeeze(image, size),
    "mask": regions.resize(full, classes, (size, size)),
    "full_mask": full,
    "digest": hashlib.sha256(said + pixels).digest(),
  }
