"""manifest.csv of a data folder: what is known of each of its images."""

import csv
import math
import pathlib
import re

from kdjax.errors import UserError

NAME = "manifest.csv"
_FILES = ("image", "mask")


def read(path):
  """A dict from name to the row: name and spacing, and what else is given.

  That is class and group; and image and mask where it has both, in which case
  the name is optional: the image's path without ending, "_" for "/".
  """
  if leaves(path, path.parent):
    raise UserError(f"{path}: a link out of the folder; put the file there")
  if not path.is_file():  # A pipe would be waited for.
    raise UserError(f"{path}: not a file; put the manifest there, or nothing")
  try:
    # Spreadsheets put a byte order mark first, which would hide column one.
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file)
      columns = reader.fieldnames or []
      lines = [(reader.line_num, line) for line in reader]
  except (OSError, UnicodeError, csv.Error) as error:
    raise UserError(f"{path}: not a UTF-8 CSV file ({error})") from error
  if twice := [x for x in columns if columns.count(x) > 1]:
    raise UserError(f"{path}: column {twice[0]!r} is there twice; drop one")
  listed = _FILES if set(_FILES) <= set(columns) else ()
  if "name" not in columns and not listed:
    raise UserError(
      f"{path}: no column 'name' among {columns}; the first line must be "
      "'name,class,group' or 'image,mask,class,group', with commas"
    )
  if len({"spacing_y", "spacing_x"} & set(columns)) == 1 or (
    {"spacing", "spacing_y"} <= set(columns)
  ):
    raise UserError(
      f"{path}: give a column spacing, or both spacing_y and spacing_x"
    )
  rows = {}
  for number, line in lines:
    where = f"{path}: line {number}"
    if None in line:
      raise UserError(f"{where}: more cells than columns; quote the commas")
    row = {
      column: (line[column] or "").strip()
      for column in (*listed, "name", "class", "group")
      if column in columns
    }
    for column, value in row.items():
      if not value or not value.isprintable():
        raise UserError(
          f"{where}: {column} is {value!r}; fill it in or drop the column"
        )
    if "name" not in row:
      whole = pathlib.PurePosixPath(row["image"])
      row["name"] = re.sub(r"[/\\]", "_", str(whole.with_suffix("")))
    name = row["name"]
    if name in (".", "..") or re.search(r"[/\\]", name):
      raise UserError(
        f"{where}: {name!r} is a path; give the file name without ending"
      )
    if name in rows:
      raise UserError(f"{where}: {name!r} appears twice; keep one row of it")
    rows[name] = row | {"spacing": _spacing(line, where)}
  return rows


def _spacing(line, where):
  """What a row of the manifest says of its image's pixels, mm, or None."""
  found = []
  for one in ("spacing_y", "spacing_x"):
    column = one if one in line else "spacing"
    text = (line.get(column) or "").strip()
    try:
      value = float(text) if text else None
    except ValueError:
      value = math.nan
    if value is not None and not 0 < value < math.inf:
      raise UserError(
        f"{where}: {column} is {text!r}; give millimetres per pixel, a number "
        "above 0, or leave it empty where it is not known"
      )
    found.append(value)
  if None not in found:
    return tuple(found)
  if found != [None, None]:
    raise UserError(f"{where}: spacing_y or spacing_x is empty; give both")
  return None


def leaves(path, folder):
  """Whether `path` is a link to somewhere outside of `folder`, or to itself."""
  try:
    # Strict, or a link to itself is as good as any from Python 3.13 on; what is
    # missing leads nowhere.
    strict = path.is_symlink()
    return not path.resolve(strict).is_relative_to(folder.resolve())
  except FileNotFoundError:
    return not path.resolve().is_relative_to(folder.resolve())
  except (OSError, RuntimeError):
    return True
