"""Teachers that another workdir trained, taken over as if trained here."""

import contextlib
import dataclasses
import json
import sys

from etils import epath

from kdjax import configs
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
  seeds, digests = None, {}
  for block in study.blocks:
    with contextlib.closing(open_checkpoint(block)) as saved:
      mine = saved.restore()
      if not mine.step:
        # Once; a run that has its teachers needs the other workdir no more.
        seeds = seeds or _check(study, source)
        seed = block.seed if block.seed in seeds else seeds[0]
        mine = _read(source, dataclasses.replace(block, seed=seed).name)
        mine.history = [x | {"seed": block.seed} for x in mine.history]
        saved.save(mine)
      digests[block.name] = mine.digest()
  if study.first:
    record = {"from": str(source), "digests": digests}
    workdirs.write_record(study.workdir, workdirs.TEACHERS, record)
  print(f"teacher: taken over from {source}.", file=sys.stderr)


def _check(study, source):
  """Refuses a workdir whose teachers cannot be taken; returns its seeds."""
  theirs = files.read_json(workdirs.there(source, workdirs.CONFIG))
  _check_alike(study, source, theirs)
  _check_unseen(study, source)
  return theirs.get("seeds") or [0]


def _read(source, block):
  folder = workdirs.checkpoints(source, "teacher", block)
  found = checkpoint.read(folder)
  if not found.finished:
    raise UserError(
      f"{folder}: its teacher is not trained to its end: run `kdjax train` "
      f"there again, or train one here: teacher_training.checkpoint=''."
    )
  return found


def _check_alike(study, source, theirs):
  """Refuses teachers that this config would not have trained."""
  ours = json.loads(json.dumps(study.config.to_dict(), default=list))
  there, here = configs.flatten(theirs), configs.flatten(ours)
  for field, value in here.items():
    asked = any(f"{field}.".startswith(f"{x}.") for x in _ALIKE)
    # An older kdjax had no such field.
    if not asked or field.endswith(".checkpoint") or field not in there:
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
