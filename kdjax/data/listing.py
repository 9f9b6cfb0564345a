"""What of a folder's files is a case: layouts, names that pair, the manifest.

The folder is input that nobody has checked: it is never written to, and
whatever in it could mislead a study is refused with a `UserError`. No image is
opened here.
"""

import collections
import dataclasses
import os
import pathlib
import re

from kdjax.data import images
from kdjax.data import manifest
from kdjax.errors import UserError

_PAIRS = (
  ("images", "masks"),
  ("original", "GT"),  # UDIAT.
  ("image", "mask"),
  ("images", "labels"),
  ("imgs", "masks"),
)
_CLASSES = ("benign", "malignant", "normal")
_LAYOUTS = (
  "images/ and masks/ (or original/ and GT/, image/ and mask/, images/ and "
  "labels/, imgs/ and masks/), or benign/, malignant/, normal/ with *_mask.png "
  f"(BUSI), or files anywhere that a {manifest.NAME} lists in columns image "
  "and mask"
)
_UNLABELLED = "unlabelled"
_SAME_NAME = "{}"


@dataclasses.dataclass(frozen=True)
class CaseFiles:
  """One image on disk, what is known of it, and its masks (one or more)."""

  name: str
  label: str
  group: str  # Empty: nothing says it.
  image: pathlib.Path
  masks: tuple[pathlib.Path, ...]
  spacing: tuple[float, float] | None = None  # mm per pixel, down and across.


def find(folder, mask_name=_SAME_NAME, group=""):
  """Every case in `folder`, sorted by name, as a list of `CaseFiles`.

  The layout is recognised from the subfolders: `images/` and `masks/` and their
  like, or BUSI as published. A `manifest.csv` beside them, with a column `name`
  (file name without ending) and perhaps `class` and `group`, overrides the
  labels and groups of any layout. It may give the `spacing` of pixels too, or
  `spacing_y` and `spacing_x`, in mm; a cell is empty where it is not known.
  With columns `image` and `mask`, paths from the folder (several masks with
  semicolons between), it is itself the layout.

  Args:
    folder: where the files are.
    mask_name: a mask's name without ending, of its image's, as "{}_mask"; for
      images and masks in a folder each.
    group: a regular expression that finds the group, such as the patient, in
      the name of a case: its first bracket, or all that it matches. "" leaves
      groups to the manifest, which goes before.

  Raises:
    UserError: missing, empty or unknown folder; an image without a mask, a
      mask without an image; two files of one name; a manifest that does not
      fit the files; a link that leaves the folder; a name without a group.
  """
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise UserError(
      f"{folder}: no such folder; set data.dir to an existing one"
    )
  inner = folder / "Dataset_BUSI_with_GT"
  if inner.is_dir() and not manifest.leaves(inner, folder):
    folder = inner
  path = folder / manifest.NAME
  rows = manifest.read(path) if os.path.lexists(path) else None
  if any("image" in row for row in (rows or {}).values()):
    cases = _listed(folder, rows)
  else:
    cases = _in_subfolders(folder, mask_name)
  if not cases:
    raise UserError(f"{folder}: no images in it; kdjax reads {_LAYOUTS}")
  if rows is not None:
    cases = _apply_manifest(path, rows, cases)
  if group:
    cases = [_grouped(case, group) for case in cases]
  return sorted(cases, key=lambda case: case.name)


def _in_subfolders(folder, mask_name):
  """The cases of a layout that the names of subfolders tell."""
  here = lambda name: (folder / name).is_dir()
  pairs = [pair for pair in _PAIRS if all(map(here, pair))]
  classes = list(filter(here, _CLASSES))
  if len(pairs) + bool(classes) != 1:
    what = "several layouts" if pairs else "no known layout"
    raise UserError(f"{folder}: {what} found; kdjax reads {_LAYOUTS}")
  if classes:
    return _find_busi(folder, classes)
  found, masks = (_stems(folder, name) for name in pairs[0])
  return _pair(found, _renamed(found, masks, mask_name))


def _renamed(found, masks, mask_name):
  """The masks by the name of their image.

  Raises:
    UserError: a name with no one place for the image's, or one that pairs
      nothing where another would pair all.
  """
  if mask_name.count("{}") != 1:
    raise UserError(
      f"data.mask_name={mask_name!r} has no one {{}} where the image's name "
      "goes, as {}_mask"
    )
  before, after = mask_name.split("{}")
  paired = {
    stem[len(before) : len(stem) - len(after)]: path
    for stem, path in masks.items()
    if stem.startswith(before) and stem.endswith(after)
  }
  if not set(found) & set(paired) and (better := _mask_name(found, masks)):
    raise UserError(
      f"{next(iter(masks.values()))}: no mask has the name that its image asks "
      f"for; data.mask_name={better} pairs all {len(found)}"
    )
  # What is called otherwise is a mask without an image, by no image's name.
  left = set(masks.values()) - set(paired.values())
  return paired | {str(path): path for path in sorted(left)}


def _mask_name(found, masks):
  """The `mask_name` that would pair every image with a mask, or None."""
  if not found or len(found) != len(masks):
    return None
  # The shortest is the least likely to hold another's name by chance.
  stem = max(found, key=len)
  for name in (x for x in masks if stem in x):
    before, _, after = name.partition(stem)
    if {f"{before}{x}{after}" for x in found} == set(masks):
      return f"{before}{{}}{after}"
  return None


def _listed(folder, rows):
  """The cases that a manifest lists with their files."""
  owner, found = {}, []
  for name, row in rows.items():
    where = f"{folder / manifest.NAME}: {name}"
    texts = [row["image"], *map(str.strip, row["mask"].split(";"))]
    image, *masks = (_file(folder, text, where) for text in texts)
    for path in (image, *masks):
      if owner.setdefault(path, name) != name:
        raise UserError(
          f"{where}: {path} is {owner[path]}'s already; drop one row"
        )
    found.append(CaseFiles(name, _UNLABELLED, "", image, tuple(masks)))
  return found


def _file(folder, text, where):
  """The image file that a manifest's cell names."""
  path = folder / text
  if pathlib.PurePath(text).is_absolute() or ".." in path.parts:
    raise UserError(f"{where}: {text!r} leaves {folder}; give a path below it")
  if manifest.leaves(path, folder):
    raise UserError(
      f"{path}: a link out of {folder}; put the file itself there"
    )
  if path.suffix.lower() not in images.FORMATS:
    raise UserError(
      f"{where}: {text!r} is no PNG, JPEG, BMP or TIFF file; convert it"
    )
  if not path.is_file():
    raise UserError(f"{where}: there is no file {path}; correct the path")
  return path


def _grouped(case, pattern):
  """The case in the group that its name tells, unless a manifest has."""
  if case.group:
    return case
  try:
    match = re.search(pattern, case.name)
  except re.error as error:
    raise UserError(
      f"data.group={pattern!r} is no regular expression ({error})"
    ) from error
  found = match and (match[1] if match.re.groups else match[0])
  if not found:
    raise UserError(
      f"{case.image}: data.group={pattern!r} finds no group in {case.name!r}; "
      "correct it, or list groups in a manifest"
    )
  return dataclasses.replace(case, group=found)


def _find_busi(folder, classes):
  cases = {}
  for label in classes:
    found, masks = {}, collections.defaultdict(list)
    for stem, path in _stems(folder, label).items():
      if match := re.fullmatch(r"(.+)_mask(_\d+)?", stem):
        masks[match[1]].append(path)
      else:
        found[stem] = path
    for case in _pair(found, masks, label):
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


def _pair(found, masks, label=_UNLABELLED):
  """Joins two dicts from stem to path(s) into unmanifested `CaseFiles`."""
  _refuse(
    [found[stem] for stem in found if stem not in masks],
    "an image without a mask; add the mask (all black when nothing is there) "
    "or remove the image",
  )
  _refuse(
    [masks[stem] for stem in masks if stem not in found],
    "a mask without an image; add the image or remove the mask",
  )
  listed = lambda x: tuple(x) if isinstance(x, list) else (x,)
  return [
    CaseFiles(stem, label, "", image, listed(masks[stem]))
    for stem, image in found.items()
  ]


def _refuse(offenders, what):
  """Raises a `UserError` for the first of `offenders`, if there are any."""
  if offenders:
    first = offenders[0]
    first = first[0] if isinstance(first, list) else first
    more = f" ({len(offenders)} such)" if len(offenders) > 1 else ""
    raise UserError(f"{first}: {what}{more}")


def _apply_manifest(path, rows, cases):
  """Labels and groups `cases` by the rows of the manifest at `path`."""
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
