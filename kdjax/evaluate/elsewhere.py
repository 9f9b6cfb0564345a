"""The trained networks of a workdir, tested on a data set that none saw."""

import sys

from etils import epath
import numpy as np

from kdjax import files
from kdjax import readers
from kdjax import recorded
from kdjax import workdirs
from kdjax.data import pipeline
from kdjax.data import regions
from kdjax.data import splits
from kdjax.distill import trials
from kdjax.engine import checkpoint
from kdjax.engine import networks
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.evaluate import cases

# What a report says of networks, whatever they are tested on.
_OF_TRAINING = (
  workdirs.HISTORY,
  workdirs.EFFICIENCY,
  workdirs.PAIRS,
  workdirs.TEACHERS,
)


def make_study(source, config, out=None):
  """The study of `source` with all cases of another data set to be tested.

  Args:
    source: a trained workdir.
    config: its config, but for `data`.
    out: where what is found goes; in `source` by default, by the data's name.

  Raises:
    UserError: the data cannot be read, or hold a case that `source` has.
  """
  source = epath.Path(source)
  record = readers.data(source)
  dataset = pipeline.load(config.data)
  _check_regions(source, dataset)
  _check_unseen(source, record, dataset)
  every = np.arange(len(dataset.cases))
  folds = tuple(splits.Fold(every, every, every) for _ in record["folds"])
  return studies.Study(
    config,
    epath.Path(out or workdirs.tests(source) / dataset.name),
    dataset,
    folds,
    studies.make_blocks(config),
    trials.make_arms(config.grid),
  )


def _check_regions(source, dataset):
  """Refuses masks of which networks were taught other regions."""
  known = regions.make(recorded.read(source).data.regions).names
  if dataset.regions != known:
    raise UserError(
      f"--config.data.regions: the networks of {source} tell "
      f"{', '.join(known)}, not {', '.join(dataset.regions)}: name the same in "
      "that order, as lesion=2,cyst=1 where masks number them otherwise."
    )


def _check_unseen(source, record, dataset):
  if record["fingerprint"] == dataset.fingerprint:
    raise UserError(
      f"{source} was trained on this very data set: name another by "
      "--config.data.dir=DIR."
    )
  known = record.get("cases")
  if known is None:
    print(
      f"test: {source} is of an older kdjax, which kept no digests: whether it "
      "saw one of these cases is not checked.",
      file=sys.stderr,
    )
    return
  theirs = {digest: name for name, digest in known.items()}
  for name, digest in zip(dataset.cases, dataset.digests, strict=True):
    if digest in theirs:
      raise UserError(
        f"case {name} is {theirs[digest]} of {source}, which was trained on "
        "it: leave it out."
      )


def write(source, study):
  """Writes into `study.workdir` what a report needs; trains nothing.

  Args:
    source: the workdir whose networks are tested.
    study: of `make_study`.

  Raises:
    UserError: a network is not trained to its end, or other data were tested
      there before.
  """
  source = epath.Path(source)
  # Nobody can ask answers about these.
  silent = networks.is_answers(study.make_model("teacher"))
  trained = {
    stage.name: {block: _best(source, stage, block) for block in study.blocks}
    for stage in study.stages[1 if silent else 0 :]
  }
  _claim(source, study)
  for name in _OF_TRAINING:
    if workdirs.has(source, name):
      files.write_bytes(study.workdir / name, (source / name).read_bytes())
  cases.write(study, trained)


def _best(source, stage, block):
  folder = workdirs.checkpoints(source, stage.name, block.name)
  found = checkpoint.read(folder)
  if not found.finished:
    raise UserError(
      f"{folder}: not trained to its end: run `kdjax train` there again."
    )
  return checkpoint.best(found.states)


def _claim(source, study):
  """Writes data.json, or refuses where other data were tested."""
  home, dataset = readers.data(source), study.dataset
  record = {
    "name": dataset.name,
    "version": dataset.version,
    "fingerprint": dataset.fingerprint,
    "folds": [fold | {"test": list(dataset.cases)} for fold in home["folds"]],
    "cases": dict(zip(dataset.cases, dataset.digests, strict=True)),
    "trained_on": {
      "name": home["name"],
      "fingerprint": home["fingerprint"],
      "tested": [len(fold["test"]) for fold in home["folds"]],
    },
  }
  if workdirs.has(study.workdir, workdirs.DATA):
    if files.read_json(study.workdir / workdirs.DATA) != record:
      raise UserError(
        f"{study.workdir} has a test on other data: choose another --out."
      )
    return
  workdirs.write_record(study.workdir, workdirs.DATA, record)
