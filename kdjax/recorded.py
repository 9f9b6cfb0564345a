"""What a workdir was begun with: its config, and what its data are.

Written once, compared with what comes later, read.
"""

import json

from etils import epath
import ml_collections

from kdjax import fields
from kdjax import files
from kdjax import schema
from kdjax import workdirs
from kdjax.data import splits
from kdjax.distill import axes
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
  free = (*FREE, *_unused(new))
  trained = lambda tree: {
    name: value
    for name, value in flatten(tree).items()
    if not any(f"{name}.".startswith(f"{x}.") for x in free)
  }
  old, new = trained(old), trained(new)
  # An older kdjax had no such field where a newer one has nothing in it.
  something = lambda tree, x: None if tree.get(x) == [] else tree.get(x)
  if differing := [
    x for x in {**old, **new} if something(old, x) != something(new, x)
  ]:
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


def _unused(tree):
  """What of a config leaves all as it is, since no arm asks for it."""
  # An older kdjax made no Teacher smaller.
  grid, smaller = tree["grid"], tree.get("teacher_compression", {})
  asked = {
    axis.name: {*grid[axis.name], *smaller.get(axis.name, ())} - {axis.unread}
    for axis in axes.compressing()
  }
  used = {
    "search": "tuned" in grid["tuning"],
    "pruning": asked["sparsity"],
    "quantisation": asked["bits"],
    # But for what they are.
    **{
      f"teacher_compression.{name}": any(map(smaller.get, asked))
      for name in smaller
      if name not in asked
    },
  }
  return [name for name, there in used.items() if not there]


def claim_data(study):
  """Writes what the data are, or compares the data set with the one there.

  Args:
    study: `engine.studies.Study`.

  Raises:
    UserError: the workdir was begun with other data; names the cases.
  """
  path = study.workdir / workdirs.DATA
  dataset = study.dataset
  record = {
    "name": dataset.name,
    "version": dataset.version,
    "fingerprint": dataset.fingerprint,
    "folds": [splits.fold_record(dataset, fold) for fold in study.folds],
    "cases": dict(zip(dataset.cases, dataset.digests, strict=False)),
  }
  if not path.exists():
    workdirs.write_record(study.workdir, workdirs.DATA, record)
    return
  old = files.read_json(path)
  if old == record:
    return
  differing = [
    _changes(old.get(name), record[name]) if name == "cases" else name
    for name in record
    if old.get(name) != record[name]
  ]
  raise UserError(
    f"{path}: the data set changed since this workdir was begun "
    f"({', '.join(differing)}): restore it, or choose another --workdir."
  )


def _changes(old, new):
  """Which cases differ, in words."""
  old = old if isinstance(old, dict) else {}
  groups = {
    "new": [x for x in new if x not in old],
    "gone": [x for x in old if x not in new],
    "altered": [x for x in new if x in old and old[x] != new[x]],
  }
  return "; ".join(
    f"{len(cases)} {what}: {', '.join(cases[:5])}"
    + (", ..." if len(cases) > 5 else "")
    for what, cases in groups.items()
    if cases
  )


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
    "sparsity": [0.0],
    "bits": [32],
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
