"""The largest setting of a study that fits a TPU slice, compiled for it.

Both stages are compiled as `train` would compile them there, on the first host:
its share of the blocks is the largest, and no host needs another. Where they
ask for more memory than there is, fewer trials are in memory at once, which
changes no result; then numbers are narrower, then batches smaller.
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
  refused = []

  def compile_stage(make_stage, settings):
    study = _first_host(whole, settings, where)
    stage = make_stage(study)
    print(
      f"kdjax: compiling the {stage.name}s' stage: {_said(settings)} ...",
      file=sys.stderr,
    )
    try:
      return compiled.compile_stage(study, stage, where.first_host)
    except compiled.DoesNotFit as error:
      refuse(settings, error.program, error.needed)
      return error

  def refuse(settings, program, needed, bound=""):
    refused.append(_refusal(settings, program, needed, bound, where))
    print(f"kdjax: {refused[-1]}", file=sys.stderr)

  for changed in studies_to_try(config, len(where.first_host)):
    teacher = compile_stage(stages.teacher_stage, changed)
    if isinstance(teacher, compiled.DoesNotFit):
      continue
    study = _first_host(whole, changed, where)
    program, least = "", 0.0  # What did not fit, and its bytes for a trial.
    for trials, engine in trials_to_try(study, where.first_host):
      settings = {**changed, **engine}
      if trials * least > where.memory:
        refuse(settings, program, trials * least, "at least ")
        continue
      student = compile_stage(stages.student_stage, settings)
      if not isinstance(student, compiled.DoesNotFit):
        study = dataclasses.replace(
          whole, config=_changed(whole.config, settings)
        )
        costs = {"teacher": teacher, "student": student}
        return Plan(study, where, costs, settings, tuple(refused), assumed)
      # What does not depend on their number counts in favour of fewer.
      program = student.program
      least = max(least, (student.needed or 0) / trials)
  raise UserError(
    f"{refused[-1]} Nothing smaller is left: choose chips with more memory, or "
    "a smaller data.image_size."
  )


def studies_to_try(config, devices):
  """Settings that change what is computed, the least change first.

  Args:
    config: `ConfigDict`.
    devices: of a host; each may have to hold a part of a batch.
  """
  yield {}
  narrow = {}
  if config.engine.dtype == "float32":
    narrow = {"engine.dtype": "bfloat16"}
    yield narrow
  # Another study, so last.
  sizes = {f"{x}.batch_size": config[x].batch_size for x in _TRAININGS}
  while not any(size % (2 * devices) for size in sizes.values()):
    sizes = {name: size // 2 for name, size in sizes.items()}
    yield {**narrow, **sizes}


def trials_to_try(study, devices):
  """`(trials, settings)`: how many are in memory at once, the most first."""
  stage = stages.student_stage(study)
  layout = stages.make_layout(study, stage, len(study.blocks), devices)
  blocks, arms = layout.block_ids.shape[1], layout.together
  settings = {}
  yield blocks * arms, settings
  while blocks > 1:
    blocks //= 2
    settings = {**settings, "engine.blocks_at_once": blocks}
    yield blocks * arms, settings
  while arms > 1:
    arms //= 2
    settings = {**settings, "engine.arms_at_once": arms}
    yield blocks * arms, settings


def _first_host(study, settings, where):
  """The study with other settings, and the blocks that process 0 trains."""
  share = processes.Share(where.hosts)
  return dataclasses.replace(
    study,
    config=_changed(study.config, settings),
    blocks=share.of(study.blocks),
  )


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


def _refusal(settings, program, needed, bound, where):
  needed = f"{needed / 2**30:.2f}" if needed else "more"
  return (
    f"{_said(settings)} does not fit {where.name}: {program} asks for "
    f"{bound}{needed} of {where.memory / 2**30:.2f} GiB."
  )


def _said(settings):
  fields = ", ".join(f"{name}={value}" for name, value in settings.items())
  return fields or "the config as it is"
