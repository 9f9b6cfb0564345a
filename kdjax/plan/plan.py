"""The largest setting of a study that fits some accelerators, compiled there.

Every stage is compiled as `train` would compile it there, on the first host:
its share of the blocks is the largest, and no host needs another. Where they
ask for more memory than there is, fewer trials are in memory at once, which
changes no result; then numbers are narrower, then batches smaller.
"""

import dataclasses
import pathlib
import sys

import numpy as np

from kdjax.data import pipeline
from kdjax.data import regions
from kdjax.engine import convolution
from kdjax.engine import fitting
from kdjax.engine import networks
from kdjax.engine import processes
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.plan import chips
from kdjax.plan import compiled


@dataclasses.dataclass(frozen=True)
class Plan:
  """A study on a slice.

  Attributes:
    study: `Study`, with the settings that fit and the blocks of all hosts.
    slice: `chips.Slice`.
    costs: `compiled.StageCost` by the name of the stage.
    settings: the fields that were changed, and their values; {} where the
      config fits as it is.
    refused: one line for everything that did not fit.
    assumed: one line for everything that this machine did not know.
  """

  study: studies.Study
  slice: chips.Slice
  costs: dict
  settings: dict
  refused: tuple
  assumed: tuple


def make_plan(config, where):
  """Compiles the study of `config` for a slice, as large as it fits.

  Args:
    config: `ConfigDict`.
    where: `chips.Slice`.

  Raises:
    UserError: the config is wrong, or nothing fits.
  """
  dataset, assumed = stand_in(config)
  whole = make_study(config, dataset, where.platform)
  devices, refused = where.host, []

  def refuse(settings, program, needed, bound=""):
    refused.append(_refusal(settings, program, needed, bound, where))
    print(f"kdjax: {refused[-1]}", file=sys.stderr)

  def fit(name, changed):
    """A stage's `(StageCost, settings)` with most trials in memory, or None."""
    study = _first_host(whole.changed(changed), where)
    (stage,) = (x for x in study.stages if x.name == name)
    program, least = "", 0.0  # What did not fit, and its bytes for a trial.
    for trials, engine in trials_to_try(study, stage, devices):
      settings = {**changed, **engine}
      if trials * least > where.memory:
        refuse(settings, program, trials * least, "at least ")
        continue
      print(
        f"kdjax: compiling the stage {name}: {_said(settings)} ...",
        file=sys.stderr,
      )
      try:
        cost = compiled.compile_stage(study.changed(engine), stage, devices)
        cost.check_fits(where.memory)
        return cost, engine
      except compiled.DoesNotFit as error:
        refuse(settings, error.program, error.needed)
        # What does not depend on their number counts in favour of fewer.
        program, least = error.program, max(least, (error.needed or 0) / trials)
    return None

  for changed in studies_to_try(config, len(devices)):
    costs, settings = {}, dict(changed)
    for name in [stage.name for stage in whole.stages]:
      if not (found := fit(name, changed)):
        break
      costs[name], engine = found
      # One value for all stages, though `train` finds one for each.
      settings |= {k: min(v, settings.get(k, v)) for k, v in engine.items()}
    else:
      study = whole.changed(settings)
      return Plan(study, where, costs, settings, tuple(refused), assumed)
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


def trials_to_try(study, stage, devices):
  """`(trials, settings)`: how many are in memory at once, the most first."""
  settings = {}
  while True:
    layout = fitting.make_layout(
      study.changed(settings), stage, len(study.blocks), devices
    )
    yield layout.block_ids.shape[1] * layout.together, settings
    if not (fewer := layout.fewer()):
      return
    settings = settings | fewer


def _first_host(study, where):
  """The study with the blocks that process 0 trains."""
  share = processes.Share(where.hosts)
  return dataclasses.replace(study, blocks=share.of(study))


_TRAININGS = ("teacher_training", "student_training")


def make_study(config, dataset, platform="tpu"):
  """The study that `train` would run there, but from random weights."""
  networks.refuse_answers(config, "plan")
  # What "auto" is there; asked here, it would be what suits this machine.
  auto = config.engine.lowering == "auto"
  lowering = convolution.ON_ACCELERATORS[platform]
  settings = {"engine.lowering": lowering} if auto else {}
  for role in ("teacher", "student"):
    # They change no shape, and their file may be elsewhere.
    if "weights" in config[role]:
      settings[f"{role}.weights"] = ""
  config = studies.changed(config, settings)
  return studies.make_study(config, pathlib.Path(), dataset)


def stand_in(config):
  """A data set to plan with, and lines about what was assumed of it.

  Only its size matters, so phantoms are not simulated; a folder is read where
  it is on this machine.
  """
  data = config.data
  if data.name == "folder" and pathlib.Path(data.dir).expanduser().is_dir():
    return pipeline.load(data), ()
  names = tuple(f"case{i:05d}" for i in range(data.num_cases))
  shown = regions.make(data.regions)
  shape = (data.num_cases, data.image_size, data.image_size)
  # Each shows every region, so that nothing is missed in them.
  striped = (np.arange(data.image_size) % shown.classes).astype(np.uint8)
  dataset = pipeline.Dataset(
    name=data.name,
    version="",
    fingerprint="",
    cases=names,
    groups=names,
    labels=("",) * data.num_cases,
    images=np.broadcast_to(np.uint8(0), shape),
    masks=np.broadcast_to(striped, shape),
    full_masks=(),
    notes=(),
    regions=shown.names,
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
