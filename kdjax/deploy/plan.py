"""The largest setting of a study that fits a TPU slice, compiled for it.

Both stages are compiled as `train` would compile them there, on the first host:
its share of the blocks is the largest, and no host needs another. Where they
ask for more memory than there is, the engine's settings are lowered one by one.
"""

import dataclasses
import pathlib
import sys

import numpy as np

from kdjax.data import pipeline
from kdjax.deploy import compiled
from kdjax.deploy import topology
from kdjax.engine import processes
from kdjax.engine import stages
from kdjax.engine import study as studies
from kdjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
  """A study on a slice.

  Attributes:
    study: `Study`, with the settings that fit and the blocks of all hosts.
    slice: `topology.Slice`.
    costs: `compiled.StageCost` by stage, "teacher" and "student".
    settings: the fields that were changed, and their values; {} where the
      config fits as it is.
    refused: one line for everything that did not fit.
    assumed: one line for everything that this machine did not know.
  """

  study: studies.Study
  slice: topology.Slice
  costs: dict
  settings: dict
  refused: tuple
  assumed: tuple


def make_plan(config, where):
  """Compiles the study of `config` for a slice, as large as it fits.

  Args:
    config: `ConfigDict`.
    where: `topology.Slice`.

  Raises:
    UserError: the config is wrong, or nothing fits.
  """
  dataset, assumed = stand_in(config)
  whole = make_study(config, dataset)
  share = processes.Share(where.hosts)
  refused = []
  for settings in candidates(config, len(where.first_host)):
    study = dataclasses.replace(whole, config=_changed(whole.config, settings))
    mine = dataclasses.replace(study, blocks=share.of(study.blocks))
    try:
      costs = {
        stage.name: compiled.compile_stage(mine, stage, where.first_host)
        for stage in (stages.student_stage(mine), stages.teacher_stage(mine))
      }
    except compiled.DoesNotFit as error:
      refused.append(_refusal(settings, error, where))
      print(f"kdjax: {refused[-1]}", file=sys.stderr)
      continue
    return Plan(study, where, costs, settings, tuple(refused), assumed)
  raise UserError(
    f"{refused[-1]} Nothing smaller is left: choose chips with more memory, or "
    "a smaller data.image_size."
  )


def candidates(config, devices):
  """Settings to try on a host's devices, the largest first; {} changes none."""
  yield {}
  smaller = {}
  while (blocks := smaller.get(_BLOCKS, config.engine.blocks_at_once)) > 1:
    smaller = {_BLOCKS: blocks // 2}
    yield smaller
  if config.engine.dtype == "float32":
    smaller = {**smaller, "engine.dtype": "bfloat16"}
    yield smaller
  # Another study, so last; a device may have to hold a part of a batch.
  sizes = {f"{x}.batch_size": config[x].batch_size for x in _TRAININGS}
  while not any(size % (2 * devices) for size in sizes.values()):
    sizes = {name: size // 2 for name, size in sizes.items()}
    yield {**smaller, **sizes}


_BLOCKS = "engine.blocks_at_once"
_TRAININGS = ("teacher_training", "student_training")


def make_study(config, dataset):
  """The study that `train` would run on a TPU, but from random weights."""
  # What "auto" is on a TPU; asked here, it would be what suits this machine.
  auto = config.engine.lowering == "auto"
  settings = {"engine.lowering": "plain"} if auto else {}
  for role in ("teacher", "student"):
    # They change no shape, and their file may be elsewhere.
    if "weights" in config[role]:
      settings[f"{role}.weights"] = ""
  return studies.make_study(_changed(config, settings), pathlib.Path(), dataset)


def _changed(config, settings):
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(settings)
  return config.lock()


def stand_in(config):
  """A data set to plan with, and lines about what was assumed of it.

  Only its size matters, so phantoms are not simulated; a folder is read where
  it is on this machine.
  """
  data = config.data
  if data.name == "folder" and pathlib.Path(data.dir).expanduser().is_dir():
    return pipeline.load(data), ()
  names = tuple(f"case{i:05d}" for i in range(data.num_cases))
  blank = np.broadcast_to(
    np.uint8(0), (data.num_cases, data.image_size, data.image_size)
  )
  dataset = pipeline.Dataset(
    name=data.name,
    version="",
    fingerprint="",
    cases=names,
    groups=names,
    labels=("",) * data.num_cases,
    images=blank,
    masks=blank,
    full_masks=(),
    notes=(),
  )
  if data.name != "folder":
    return dataset, ()
  return dataset, (
    f"data.dir={data.dir!r} is not on this machine: {data.num_cases} cases "
    "assumed (--config.data.num_cases).",
  )


def _refusal(settings, error, where):
  fields = ", ".join(f"{name}={value}" for name, value in settings.items())
  needed = f"{error.needed / 2**30:.2f}" if error.needed else "more"
  return (
    f"{fields or 'The config as it is'} does not fit {where.name}: "
    f"{error.program} asks for {needed} of {where.memory / 2**30:.2f} GiB."
  )
