"""Reads a config file, applies overrides, and refuses what nobody would read.

A config file has `get_config(size)`; `FILE.py:tiny` asks for the size "tiny".
"""

import ast
import difflib
import importlib.util
import pathlib
import sys

import ml_collections

from kdjax import fields
from kdjax import schema
from kdjax.errors import UserError


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
