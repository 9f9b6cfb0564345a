"""Teachers that another workdir trained, taken over as if trained here."""

import contextlib
import json
import sys

from etils import epath

from kdjax import files
from kdjax import workdirs
from kdjax.engine import checkpoint
from kdjax.errors import UserError

# What a teacher comes out of: fields, and groups of them.
_ALIKE = ("teacher", "teacher_training", "views", "data.image_size")


def adopt(study, open_checkpoint):
  """Copies the checkpoints of trained teachers to where a run keeps its own.

  Fold and seed find their own there, or the fold's first where it has no such
  seed. A block that has a checkpoint keeps it. Does nothing where
  `teacher_training.checkpoint` is empty.

  Args:
    study: `studies.Study`.
    open_checkpoint: from a block to its teacher's `checkpoint.Checkpoint`.

  Raises:
    UserError: that workdir's teachers are not finished, not such as this config
      asks for, or were trained on a case that is tested here.
  """
  name = study.config.teacher_training.get("checkpoint", "")
  if not name:
    return
  source = epath.Path(name).expanduser()
  theirs = files.read_json(workdirs.there(source, workdirs.CONFIG))
  _check_alike(study, source, theirs)
  _check_unseen(study, source)
  seeds = theirs.get("seeds") or [0]
  digests = {}
  for block in study.blocks:
    seed = block.seed if block.seed in seeds else seeds[0]
    with contextlib.closing(open_checkpoint(block)) as saved:
      mine = saved.restore()
      if not mine.step:
        mine = _read(source, f"fold{block.fold}-seed{seed}")
        mine.history = [x | {"seed": block.seed} for x in mine.history]
        saved.save(mine)
      digests[block.name] = mine.digest()
  if study.first:
    record = {"from": str(source), "digests": digests}
    workdirs.write_record(study.workdir, workdirs.TEACHERS, record)
  print(f"teacher: taken over from {source}.", file=sys.stderr)


def _read(source, block):
  folder = workdirs.checkpoints(source, "teacher", block)
  found = checkpoint.read(folder)
  if not found.finished:
    raise UserError(
      f"{folder}: its teacher is not trained to its end: run `kdjax train` "
      f"there again, or train one here: teacher_training.checkpoint=''."
    )
  if "trials" not in found.states:
    raise UserError(f"{folder}: saved by an older kdjax: train anew.")
  return found


def _check_alike(study, source, theirs):
  """Refuses teachers that this config would not have trained."""
  ours = json.loads(json.dumps(study.config.to_dict(), default=list))
  for name in _ALIKE:
    there, here = (_flat(x, name) for x in (theirs, ours))
    for field, value in here.items():
      # An older kdjax had no such field.
      if field.endswith(".checkpoint") or field not in there:
        continue
      if there[field] != value:
        raise UserError(
          f"teacher_training.checkpoint={source}: its {field} is "
          f"{there[field]!r} and not {value!r}: set them alike."
        )


def _check_unseen(study, source):
  """Refuses teachers that saw a case which is tested here.

  Cases are known by name in the same data set, else by what is in them.
  """
  record = workdirs.data(source)
  dataset = study.dataset
  same = record["fingerprint"] == dataset.fingerprint
  digests = record.get("cases") or {}
  known = lambda name: name if same else digests.get(name)
  ours = dataset.cases if same else dataset.digests
  for fold in dict.fromkeys(block.fold for block in study.blocks):
    if fold >= len(record["folds"]):
      raise UserError(
        f"teacher_training.checkpoint={source} has no fold {fold}: it has "
        f"{len(record['folds'])}."
      )
    there = record["folds"][fold]
    seen = {known(x) for x in (*there["train"], *there["val"])}
    test = study.folds[fold].test if len(ours) else ()
    for i in test:
      if ours[i] in seen:
        raise UserError(
          f"teacher_training.checkpoint={source}: its teacher of fold {fold} "
          f"was trained on case {dataset.cases[i]}, which is tested here: "
          "take the data and splits of that run."
        )


def _flat(tree, name):
  """The fields of a group, or the one field, by dotted name."""
  for part in name.split("."):
    tree = tree.get(part, {}) if isinstance(tree, dict) else {}
  if not isinstance(tree, dict):
    return {name: tree}
  return {f"{name}.{key}": value for key, value in tree.items()}
