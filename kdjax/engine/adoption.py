"""Teachers trained elsewhere, taken over as if trained here.

From another workdir of kdjax, from files of PyTorch, from Orbax checkpoints,
or as answers alone.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import sys

from etils import epath
import jax
import numpy as np

from kdjax import files
from kdjax import readers
from kdjax import recorded
from kdjax import workdirs
from kdjax.engine import checkpoint
from kdjax.engine import networks
from kdjax.errors import UserError
from kdjax.models import answerfile
from kdjax.models import answers
from kdjax.models import orbaxfolder
from kdjax.models import smp

# What a teacher comes out of: fields, and groups of them.
_ALIKE = (
  "teacher",
  "teacher_training",
  "views",
  "data.image_size",
  "data.regions",
)


def adopt(study, open_checkpoint):
  """Puts trained teachers where a run keeps the checkpoints of its own.

  In a workdir fold and seed find their own, or the fold's first where it has no
  such seed. A file, or an Orbax checkpoint, is every block's, or the fold's
  where its name has {fold}. A block that has a checkpoint keeps it. Does
  nothing where `teacher_training.checkpoint` is empty and the teacher a
  network.

  Args:
    study: `studies.Study`.
    open_checkpoint: from a block to its teacher's `checkpoint.Checkpoint`.

  Raises:
    UserError: that workdir's teachers are not finished, not such as this config
      asks for, or were trained on a case that is tested here; a file does not
      fit the teacher.
  """
  model = study.make_model("teacher")
  answered = networks.is_answers(model)
  training = study.config.teacher_training
  name = training.get("checkpoint", "")
  if answered:
    name = ", ".join(model.folders)
  if not name:
    return
  source = epath.Path(name).expanduser()
  if answered:
    find, unseen = _of_answers(study), _told_unseen(study)
  elif read := _reader(study, source):
    find, unseen = _of_files(study, source, read), False
  else:
    find, unseen = _of_workdir(study, source), True
  digests = {}
  for block in study.blocks:
    with contextlib.closing(open_checkpoint(block)) as saved:
      mine = saved.restore()
      if not mine.step:
        # Once; a run that has its teachers needs the source no more.
        mine = find(block)
        saved.save(mine)
      digests[block.name] = mine.digest()
  if study.first:
    record = {"from": str(source), "digests": digests, "unseen": unseen}
    workdirs.write_record(study.workdir, workdirs.TEACHERS, record)
  print(f"teacher: taken over from {source}.", file=sys.stderr)


def _reader(study, source):
  """What reads a teacher's file or Orbax checkpoint; None of a workdir."""
  if source.suffix in smp.ENDINGS:
    return smp.read
  first = _of_fold(source, study.blocks[0].fold)
  return orbaxfolder.read if orbaxfolder.find(first) else None


def _of_fold(source, fold):
  return epath.Path(str(source).replace("{fold}", str(fold)))


def _of_files(study, source, read):
  """From a block to the `Progress` of a teacher that a file holds."""
  model = study.make_model("teacher")
  read = functools.cache(functools.partial(read, model=model))

  def find(block):
    variables = read(_of_fold(source, block.fold))
    best = {
      f"best_{name}": jax.tree.map(lambda x: x[None], variables[name])
      for name in ("params", "batch_stats")
    }
    states = {"trials": best, "regressors": {}}
    return checkpoint.Progress(step=1, states=states, finished=True)

  return find


def check_answers(study):
  """Refuses answers that are not there, or that the grid cannot learn from.

  Raises:
    UserError: names the case or the field.
  """
  model = study.make_model("teacher")
  if not networks.is_answers(model):
    return
  if not model.folder:
    raise UserError("teacher.folder is empty: name where its answers are.")
  if len(set(model.folders)) < len(model.folders):
    raise UserError(
      f"teacher.others={model.others} with folder={model.folder}: name each "
      "teacher once."
    )
  if name := study.config.teacher_training.checkpoint:
    raise UserError(
      f"teacher_training.checkpoint={name}: teacher.name=Answers trains none; "
      "empty it."
    )
  for arm in study.arms:
    if arm.objective and arm.view != "cached":
      raise UserError(
        f"grid.view={arm.view} shows a teacher what it has not answered: "
        "teacher.name=Answers takes cached alone."
      )
    if arm.source == "untrained":
      raise UserError(
        "grid.source=untrained asks a network, and teacher.name=Answers has "
        "none: leave it out."
      )
  _told_unseen(study)
  for fold in _folds(study):
    _said(study, fold)


def _of_answers(study):
  """From a block to the `Progress` that holds what its teacher said."""

  def find(block):
    tables = {
      name: {"table": table[None]}
      for name, table in _said(study, block.fold).items()
    }
    best = {"best_params": {}, "best_batch_stats": tables}
    states = {"trials": best, "regressors": {}}
    return checkpoint.Progress(step=1, states=states, finished=True)

  return find


def _said(study, number):
  """What the teacher of a fold said, tables of all cases: 0 where unasked."""
  fold, cases = study.folds[number], study.dataset.cases
  asked = sorted({*fold.train, *fold.test})
  found = answers.tables(
    study.make_model("teacher"),
    tuple(cases[i] for i in asked),
    number,
    study.config.data.image_size,
  )
  tables = {}
  for name, x in found.items():
    tables[name] = np.zeros((len(cases), *x.shape[1:]), np.float32)
    tables[name][asked] = x
  return tables


def _folds(study):
  return tuple(dict.fromkeys(block.fold for block in study.blocks))


def _told_unseen(study):
  """Whether all folds' answers tell that no tested case trained their teacher.

  Raises:
    UserError: they tell of one that did.
  """
  told, folders = True, study.make_model("teacher").folders
  for fold, folder in itertools.product(_folds(study), folders):
    folder = answerfile.folder_of(folder, fold)
    seen = answerfile.trained_on(folder)
    told &= seen is not None
    for i in study.folds[fold].test:
      if study.dataset.cases[i] in (seen or ()):
        raise UserError(
          f"{folder / answerfile.TRAINED_ON}: the teacher of fold {fold} was "
          f"trained on case {study.dataset.cases[i]}, which is tested here: "
          "take answers of one that was not."
        )
  return told


def _of_workdir(study, source):
  """From a block to the `Progress` of its teacher in another workdir."""

  @functools.cache
  def check():
    """Refuses a workdir whose teachers cannot be taken; returns its seeds."""
    theirs = files.read_json(workdirs.there(source, workdirs.CONFIG))
    _check_alike(study, source, theirs)
    _check_unseen(study, source)
    return theirs.get("seeds") or [0]

  def find(block):
    seed = block.seed if block.seed in check() else check()[0]
    found = _read(source, dataclasses.replace(block, seed=seed).name)
    found.history = [x | {"seed": block.seed} for x in found.history]
    return found

  return find


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
  there, here = recorded.flatten(theirs), recorded.flatten(ours)
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
  record = readers.data(source)
  dataset = study.dataset
  same = record["fingerprint"] == dataset.fingerprint
  digests = record.get("cases") or {}
  known = lambda name: name if same else digests.get(name)
  ours = dataset.cases if same else dataset.digests
  for fold in _folds(study):
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
