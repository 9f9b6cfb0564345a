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

from kdjax import files
from kdjax.errors import UserError

# Every field of a config and what it is. Models, whose attributes differ, are
# checked against their class where they are made.
FIELDS = {
  "data": {
    "name": "phantom, or folder for images on disk",
    "dir": "where the folder is",
    "classes": "labels to keep; () keeps all",
    "image_size": "side that images are resized to, pixels",
    "num_cases": "phantoms to simulate",
    "seed": "of the phantoms",
    "cache_dir": "where prepared data sets are kept",
  },
  "splits": {
    "kind": "holdout or kfold",
    "num_folds": "splits to make",
    "test_cases": "test cases of a hold-out",
    "val_fraction": "part of the training cases held out for validation",
    "seed": "of the splits",
  },
  "folds": "0-based splits to run",
  "seeds": "random seeds to run, each with teachers of its own",
  "views": {
    "crop": "largest part of the side cut away",
    "shift": "largest move, part of the side",
    "scale": "largest change of size",
    "rotation": "largest angle, degrees",
    "noise": "largest deviation of Gaussian noise, images in [0, 1]",
    "dropout": "probability of a pixel to be black",
  },
  "teacher": None,
  "student": None,
  "teacher_training": {
    "batch_size": "cases in a step",
    "max_epochs": "epochs at most",
    "patience": "epochs without a better validation loss before stopping",
    "learning_rate": "of Adam",
    "weight_decay": "decoupled; 0 is Adam",
  },
  "student_training": {
    "batch_size": "cases in a step",
    "max_epochs": "epochs at most",
    "patience": "epochs without a better validation loss before stopping",
  },
  "grid": {
    "pathway": "L, H, HReg",
    "loss": "MSE, KLD, CWD, FitNets, AT, PKD, SP, SKD, IFVD, RAD",
    "view": "what the teacher sees: strong, weak; cached: the image as it is, "
    "once, its answer carried to the student's frame",
    "pair": "(student's tap, teacher's tap) of H and HReg; or several of them",
    "alpha": "weight of distillation; 1 - alpha of cross-entropy",
    "temperature": "of KLD and CWD",
    "learning_rate": "of Adam",
    "weight_decay": "decoupled; 0 is Adam",
  },
  "engine": {
    "dtype": "of the arithmetic: float32, bfloat16 or float64",
    "lowering": "of convolutions: auto, unrolled or plain",
    "blocks_at_once": "blocks that train together on one device",
    "checkpoint_minutes": "between two checkpoints of a stage",
    "checkpoint_epochs": "the same in epochs; 0 goes by minutes alone",
  },
  "report": {
    "equivalence_margin": "Dice points within which two models are equals",
  },
  "published": "set the paper's numbers beside ours",
  "question": "the first paragraph of the file's docstring",
}


# Groups and fields that leave training's results alone, so that a workdir may
# go on with others. Where the data are is free: what they are is checked apart.
FREE = (
  "report",
  "published",
  "question",
  "data.dir",
  "data.cache_dir",
  "engine.blocks_at_once",
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
  return config.lock()


def _run(path, size):
  if not path.is_file():
    raise UserError(f"There is no config file {path}.")
  spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  # So that a config may say `from configs import paper`.
  folder = str(path.resolve().parent.parent)
  sys.path.insert(0, folder)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(*([size] if size else []))
    asked = (module.__doc__ or "").strip().split("\n\n")[0]
    config.question = " ".join(asked.split())
    return config
  except (SyntaxError, ImportError, AttributeError, TypeError) as error:
    raise UserError(
      f"{path} is no config with a get_config(size): {error}."
    ) from error
  finally:
    sys.path.remove(folder)


def check(config, path, fields=FIELDS, prefix=""):
  """Holds a config's fields against `FIELDS`, and raises `UserError`."""
  for name in config:
    if name not in fields:
      raise UserError(
        f"{path}: config has no field {prefix}{name}{_nearest(name, fields)}."
      )
  for name, inner in fields.items():
    if name not in config:
      raise UserError(f"{path}: config lacks the field {prefix}{name}.")
    if isinstance(inner, dict):
      check(config[name], path, inner, f"{prefix}{name}.")


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


def _value(old, text):
  """What `text` means for a field whose value is `old`."""
  if isinstance(old, str):
    return text
  try:
    value = ast.literal_eval(text)
  except (SyntaxError, ValueError):
    value = text.split(",") if isinstance(old, tuple) else text
  if isinstance(old, tuple):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
  return value


def claim(config, workdir, write=True):
  """Writes `config.json` into `workdir`, or compares it with the one there.

  What leaves training's results alone (`FREE`) may differ, and is written anew.

  Args:
    config: `ConfigDict`.
    workdir: where to.
    write: False only compares.

  Raises:
    UserError: the workdir belongs to another config; names the fields.
  """
  text = json.dumps(config.to_dict(), indent=2, default=list) + "\n"
  path = epath.Path(workdir) / "config.json"
  if write and not path.exists():
    files.write_text(path, text)
    return
  old, new = files.read_json(path), json.loads(text)
  if old == new:
    return
  trained = lambda tree: {
    name: value
    for name, value in _flatten(tree).items()
    if not any(f"{name}.".startswith(f"{free}.") for free in FREE)
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
  path = epath.Path(workdir) / "config.json"
  if not path.exists():
    raise UserError(f"{workdir} has no config.json: train there first.")
  return ml_collections.ConfigDict(_tuples(files.read_json(path))).lock()


def _tuples(tree):
  if isinstance(tree, dict):
    return {name: _tuples(value) for name, value in tree.items()}
  return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree


def _flatten(tree, prefix=""):
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat.update(_flatten(value, f"{prefix}{name}."))
    else:
      flat[prefix + name] = value
  return flat
