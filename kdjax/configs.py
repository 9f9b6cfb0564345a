"""Reads a config file, applies overrides, and refuses what nobody would read.

A config file has `get_config(size)`; `FILE.py:tiny` asks for the size "tiny".
"""

import ast
import difflib
import importlib.util
import json
import pathlib
import sys

from etils import epath
import ml_collections

from kdjax import fields
from kdjax import files
from kdjax import schema
from kdjax import workdirs
from kdjax.errors import UserError

# Groups and fields that leave training's results alone, so that a workdir may
# go on with others. Where the data are is free: what they are is checked apart.
FREE = (
  "report",
  "published",
  "question",
  "data.dir",
  "data.cache_dir",
  "engine.cpu_devices",
  "engine.blocks_at_once",
  "engine.arms_at_once",
  "engine.checkpoint_minutes",
  "engine.checkpoint_epochs",
)


def load(source, overrides=()):
  """Reads `FILE.py` or `FILE.py:size`, and sets `key.path=value` overrides.

  Returns:
    A locked `ConfigDict`.

  Raises:
    UserError: no such file, no get_config, an unknown or missing field, a
      value of the wrong type.
  """
  path, _, size = str(source).partition(":")
  config = _run(pathlib.Path(path), size)
  check(config, path)
  for override in overrides:
    _set(config, *override)
  check(config, path)
  return config.lock()


def _run(path, size):
  if not path.is_file():
    raise UserError(f"There is no config file {path}.")
  if path.suffix != ".py":
    raise UserError(f"{path} is no config: its name does not end in .py.")
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  # So that a config may say `from configs import paper`.
  folder = str(path.resolve().parent.parent)
  sys.path.insert(0, folder)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(*([size] if size else []))
    if not isinstance(config, ml_collections.ConfigDict):
      raise TypeError(f"it returns a {type(config).__name__}, no ConfigDict")
    asked = (module.__doc__ or "").strip().split("\n\n")[0]
    config.question = " ".join(asked.split())
    return config
  except UserError:
    raise
  # It is a program, which may raise anything, or leave.
  except (Exception, SystemExit) as error:
    raise UserError(
      f"{path} is no config with a get_config(size): "
      f"{type(error).__name__}: {error}."
    ) from error
  finally:
    sys.path.remove(folder)


def check(config, path, known=schema.FIELDS, prefix=""):
  """Holds a config's fields against `FIELDS`, and raises `UserError`."""
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(f"{path}: {prefix[:-1] or 'config'} is no group of fields.")
  for name in config:
    if name not in known:
      raise UserError(
        f"{path}: config has no field {prefix}{name}{_nearest(name, known)}."
      )
  for name, inner in known.items():
    if name not in config:
      raise UserError(f"{path}: config lacks the field {prefix}{name}.")
    if isinstance(inner, dict):
      check(config[name], path, inner, f"{prefix}{name}.")
    elif name in ("teacher", "student"):
      check(config[name], path, dict.fromkeys(config[name], inner), f"{name}.")
    else:
      fields.check(config[name], inner, f"{path}: {prefix}{name}")


def _nearest(name, names):
  nearest = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
  if nearest:
    return f" (did you mean {nearest[0]}?)"
  return f" (it has {', '.join(names)})"


def _set(config, key, text):
  *parents, name = key.split(".")
  for depth, parent in enumerate([*parents, name]):
    if not isinstance(config, ml_collections.ConfigDict) or (
      parent not in config
    ):
      known = config if isinstance(config, ml_collections.ConfigDict) else ()
      raise UserError(
        f"--config.{key}: config has no field "
        f"{'.'.join([*parents, name][: depth + 1])}{_nearest(parent, known)}."
      )
    if depth < len(parents):
      config = config[parent]
  old = config[name]
  if isinstance(old, ml_collections.ConfigDict):
    raise UserError(
      f"--config.{key}={text}: it is a group of {', '.join(old)}; set one."
    )
  try:
    config[name] = _value(old, text)
  except TypeError as error:
    raise UserError(
      f"--config.{key}={text}: it takes {type(old).__name__}, such as {old!r}."
    ) from error


def override(config, overrides, group):
  """A copy of a config with fields of one of its groups changed.

  Args:
    config: `ConfigDict`.
    overrides: pairs of a dotted name and what it is set to, as a string.
    group: which one, such as "data".

  Raises:
    UserError: a field of another group, an unknown one, or a wrong value.
  """
  config = config.copy_and_resolve_references().unlock()
  for key, text in overrides:
    if not key.startswith(f"{group}."):
      raise UserError(f"--config.{key}: only {group}.* may be changed here.")
    _set(config, key, text)
    name = key.removeprefix(f"{group}.")
    fields.check(config[group][name], schema.FIELDS[group][name], key)
  return config.lock()


def _value(old, text):
  """What `text` means for a field whose value is `old`."""
  if isinstance(old, str):
    return text
  if not isinstance(old, tuple):
    return _literal(text)
  value = _literal(text)
  has_words = lambda values: any(isinstance(x, str) for x in values)
  words = not old or has_words(old)
  if value == text:  # No literal as a whole: words or numbers with commas.
    parts = [part for part in text.split(",") if part]
    value = parts if words else [*map(_literal, parts)]
  value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
  if not words and has_words(value):
    raise TypeError(f"{text} has words where {old} has none")
  return value


def _literal(text):
  """What Python reads `text` as; the text itself where it reads nothing."""
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return text


def claim(config, workdir, write=True):
  """Writes the config into `workdir`, or compares it with the one there.

  What leaves training's results alone (`FREE`) may differ, and is written anew.

  Args:
    config: `ConfigDict`.
    workdir: where to.
    write: False only compares.

  Raises:
    UserError: the workdir belongs to another config; names the fields.
  """
  text = json.dumps(config.to_dict(), indent=2, default=list) + "\n"
  path = epath.Path(workdir) / workdirs.CONFIG
  if write and not path.exists():
    files.write_text(path, text)
    return
  old, new = _with_new_fields(files.read_json(path)), json.loads(text)
  if old == new:
    return
  # A search that no arm asks for leaves all as it is.
  tuned = "tuned" in new["grid"]["tuning"]
  free = (*FREE, *([] if tuned else ["search"]))
  trained = lambda tree: {
    name: value
    for name, value in flatten(tree).items()
    if not any(f"{name}.".startswith(f"{x}.") for x in free)
  }
  old, new = trained(old), trained(new)
  if differing := [x for x in {**old, **new} if old.get(x) != new.get(x)]:
    changes = ", ".join(
      f"{x} ({old.get(x)!r} there, {new.get(x)!r} now)" for x in differing[:5]
    )
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    raise UserError(
      f"{workdir} belongs to another config: {changes}{more}. Choose another "
      "--workdir, or the old values."
    )
  if write:
    files.write_text(path, text)


def read(workdir):
  """The config that `workdir` was trained with, locked.

  Raises:
    UserError: there is none.
  """
  path = workdirs.there(workdir, workdirs.CONFIG)
  tree = _tuples(_with_new_fields(files.read_json(path)))
  try:
    _check_read(tree)
  except UserError as error:
    raise UserError(f"{path} is damaged ({error}): restore it.") from error
  return ml_collections.ConfigDict(tree).lock()


# What an older kdjax did where it had no such field.
_NEW = {
  "data": {
    "mask_name": "{}",
    "masks": "same",
    "group": "",
    "features": ["image", "mask"],
    "channels": 1,
    "regions": ["lesion"],
  },
  "grid": {
    "soft_dice": [0.0],
    "source": ["trained"],
    "tuning": ["untuned"],
    "share": [0.0],
    "weighting": ["grid"],
  },
}


def _with_new_fields(tree):
  """What config.json holds, with the fields that an older kdjax had not."""
  if not isinstance(tree, dict):
    return tree
  old = {x: tree[x] for x in _NEW if isinstance(tree.get(x), dict)}
  return tree | {x: {**_NEW[x], **group} for x, group in old.items()}


# What a report cannot do without.
_NEEDED = {
  "": ("data", "splits", "folds", "seeds", "grid", "published"),
  "data.": ("name",),
  "splits.": ("kind",),
  "grid.": tuple(schema.FIELDS["grid"]),
}


def _check_read(tree, known=schema.FIELDS, prefix=""):
  """Holds what is there against `FIELDS`; an older kdjax wrote fewer."""
  if not isinstance(tree, dict):
    raise UserError(f"{prefix[:-1]} is no group of fields")
  for name in _NEEDED.get(prefix, ()):
    if name not in tree:
      raise UserError(f"it lacks {prefix}{name}")
  for name in (x for x in known if x in tree):
    if isinstance(known[name], dict):
      _check_read(tree[name], known[name], f"{prefix}{name}.")
    else:
      fields.check(tree[name], known[name], f"{prefix}{name}")


def _tuples(tree):
  if isinstance(tree, dict):
    return {name: _tuples(value) for name, value in tree.items()}
  return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree


def flatten(tree, prefix=""):
  """The fields of nested dicts by dotted name, behind `prefix`."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f"{prefix}{name}."))
    else:
      flat[prefix + name] = value
  return flat
