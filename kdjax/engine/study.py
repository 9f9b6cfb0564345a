"""A config resolved and checked: data, folds, blocks, arms and networks."""

import dataclasses
import functools
import hashlib
import json
import typing

from etils import epath
import jax
import jax.numpy as jnp
import ml_collections

from kdjax import fields
from kdjax import files
from kdjax import models
from kdjax.data import pipeline
from kdjax.data import splits
from kdjax.data import views
from kdjax.distill import pathways
from kdjax.distill import sense
from kdjax.distill import taps
from kdjax.distill import trials
from kdjax.engine import convolution
from kdjax.engine import parallel
from kdjax.engine import stages
from kdjax.errors import UserError
from kdjax.models import pretrained

# Fields of a model that no config gives.
NOT_CONFIGURED = (
  "parent",
  "name",
  "convolution",
  "norm_axis",
  "dtype",
  "folded",
)


@dataclasses.dataclass(frozen=True)
class Block:
  """The trials that see the same batches: one fold, one seed."""

  fold: int
  seed: int

  @property
  def name(self):
    """Such as "fold0-seed1"."""
    return f"fold{self.fold}-seed{self.seed}"

  @property
  def key(self):
    """Random key of everything that the block's trials share."""
    return jax.random.fold_in(jax.random.key(self.seed), self.fold)


def changed(config, settings):
  """A copy of `config` with fields changed, by their dotted names."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.update_from_flattened_dict(settings)
  return config.lock()


@dataclasses.dataclass(frozen=True)
class Study:
  """What a run needs to know; made by `make_study`.

  Attributes:
    config: locked `ConfigDict`.
    workdir: where everything is written.
    dataset: `pipeline.Dataset`.
    folds: all folds of the data set, run or not.
    blocks: the blocks to run.
    arms: of the student stage, Students first.
    first: whether this process writes what several share.
  """

  config: ml_collections.ConfigDict
  workdir: epath.Path
  dataset: pipeline.Dataset
  folds: tuple
  blocks: tuple[Block, ...]
  arms: tuple[trials.Arm, ...]
  first: bool = True

  @functools.cached_property
  def identity(self):
    """A sha256 in hex of what decides a trial's numbers: networks and data."""
    parts = [self.config[x].to_dict() for x in ("teacher", "student", "grid")]
    said = repr((parts, [x.name for x in self.arms], self.dataset.fingerprint))
    return hashlib.sha256(said.encode()).hexdigest()

  def changed(self, settings):
    """The same with other values of fields, such as "engine.dtype"."""
    return dataclasses.replace(self, config=changed(self.config, settings))

  def make_model(self, role, batch_axis=None):
    """The linen module of `role`, "teacher" or "student"."""
    return make_model(
      self.config[role], self.config.engine, role, batch_axis=batch_axis
    )

  def make_normalise(self, role):
    """From views in [0, 1] to the input of `role`'s network."""
    model = self.make_model(role)
    return functools.partial(
      views.normalise,
      channels=model.in_channels,
      statistics=model.normalisation,
    )

  def load_weights(self, role):
    """What `role` starts from instead of random weights, see `pretrained`."""
    return pretrained.load(self.make_model(role))

  def blank(self, role):
    """Zeros in the shape of one image of `role`, `[1, S, S, C]`."""
    return _blank(self.make_model(role), self.config)

  def make_regressors(self):
    """The regressors that the grid's objectives need, by pair of taps."""
    pairs = dict.fromkeys(
      pair[:2]
      for x in trials.objectives(self.arms)
      if x.pathway == "HReg"
      for pair in x.pairs
    )
    teacher = self.make_model("teacher")
    wanted = tuple({pair[1] for pair in pairs})
    widths = {
      tap: feature.shape[-1]
      for tap, feature in _features(
        teacher, self.blank("teacher"), wanted
      ).items()
    }
    return {
      pair: pathways.Regressor(
        widths[pair[1]],
        convolution.choose(self.config.engine.lowering),
        jnp.dtype(self.config.engine.dtype),
      )
      for pair in pairs
    }


def parameters(config):
  """Number of trained parameters by row of the table, regressors left out."""
  count = {}
  for role in ("teacher", "student"):
    model = make_model(config[role], config.engine, role)
    variables = _shapes(model, _blank(model, config))
    count[role] = sum(x.size for x in jax.tree.leaves(variables["params"]))
  students = {
    arm.name: count["student"] for arm in trials.make_arms(config.grid)
  }
  return {"Teacher": count["teacher"], **students}


def load_data(config):
  """The data set of `config` and all its folds."""
  dataset = pipeline.load(config.data)
  return dataset, splits.make_folds(dataset, config.splits)


def make_study(config, workdir, dataset=None):
  """Loads the data and checks everything that can be checked before compiling.

  Args:
    config: `ConfigDict`.
    workdir: where everything is written.
    dataset: `pipeline.Dataset` to take instead of the config's.

  Raises:
    UserError: names the field, file or case at fault.
  """
  _check_engine(config.engine)
  for role in ("teacher", "student"):
    make_model(config[role], config.engine, role)
  arms = trials.make_arms(config.grid)
  dataset = dataset or pipeline.load(config.data)
  _check_training(config, len(dataset.cases))
  folds = splits.make_folds(dataset, config.splits)
  for fold in config.folds:
    if not 0 <= fold < len(folds):
      raise UserError(
        f"folds={fold} is not there: {config.splits.kind} made folds 0 to "
        f"{len(folds) - 1}."
      )
  blocks = tuple(
    Block(fold, seed) for seed in config.seeds for fold in config.folds
  )
  if not blocks:
    raise UserError("folds or seeds is empty: there is nothing to train.")
  if len(set(blocks)) < len(blocks):
    raise UserError("folds or seeds has a number twice: give each once.")
  study = Study(config, epath.Path(workdir), dataset, folds, blocks, arms)
  _check_models(study)
  for stage in (stages.teacher_stage(study), stages.student_stage(study)):
    stages.make_layout(study, stage, len(blocks))
  return study


def claim_data(study):
  """Writes `data.json`, or compares the data set with the one there.

  Raises:
    UserError: the workdir was begun with other data; names the cases.
  """
  path = study.workdir / "data.json"
  dataset = study.dataset
  record = {
    "name": dataset.name,
    "version": dataset.version,
    "fingerprint": dataset.fingerprint,
    "folds": [splits.fold_record(dataset, fold) for fold in study.folds],
    "cases": dict(zip(dataset.cases, dataset.digests, strict=False)),
  }
  if not path.exists():
    files.write_text(path, json.dumps(record, indent=2) + "\n")
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


def make_model(spec, engine, role, batch_axis=None):
  """The linen module that `spec` (name and attributes) describes.

  Raises:
    UserError: an unknown model or attribute, or one that makes no network.
  """
  attributes = spec.to_dict()
  name = attributes.pop("name", None)
  if name not in models.MODELS:
    raise UserError(
      f"{role}.name={name!r} is not a model: choose from "
      f"{', '.join(models.MODELS)}."
    )
  known = {
    field.name: _attribute(field.type)
    for field in dataclasses.fields(models.MODELS[name])
    if field.name not in NOT_CONFIGURED
  }
  for attribute, value in attributes.items():
    if attribute not in known:
      raise UserError(
        f"{role}.{attribute} is not an attribute of {name}: it has "
        f"{', '.join(known)}."
      )
    fields.check(value, known[attribute], f"{role}.{attribute}")
  return models.MODELS[name](
    **attributes,
    convolution=convolution.choose(engine.lowering),
    norm_axis=batch_axis,
    dtype=jnp.dtype(engine.dtype),
  )


def _attribute(kind):
  """The `Field` of a model's attribute of type `kind`; numbers are counts."""
  if many := typing.get_origin(kind) is tuple:
    kind = typing.get_args(kind)[0]
  limits = (1, 2**16) if kind is int else ()
  return fields.Field("", kind, *limits)._replace(many=many)


def _check_engine(engine):
  if engine.lowering not in ("auto", *convolution.LOWERINGS):
    raise UserError(
      f"engine.lowering={engine.lowering!r}: choose from auto, "
      f"{', '.join(convolution.LOWERINGS)}."
    )
  if engine.dtype not in ("float32", "bfloat16", "float64"):
    raise UserError(
      f"engine.dtype={engine.dtype!r}: choose from float32, bfloat16, float64."
    )
  if engine.dtype == "float64" and not jax.config.jax_enable_x64:
    raise UserError("engine.dtype=float64 needs JAX_ENABLE_X64=1 set.")


def _check_training(config, cases):
  for role in ("teacher_training", "student_training"):
    if (size := config[role].batch_size) > cases:
      raise UserError(
        f"{role}.batch_size={size} is more than the data set's {cases} cases."
      )


def _check_models(study):
  config = study.config
  for role in ("teacher", "student"):
    model = study.make_model(role)
    if model.num_classes != 2:
      raise UserError(
        f"{role}.num_classes={model.num_classes}: lesion and background are 2."
      )
    if model.in_channels not in (1, 3):
      raise UserError(
        f"{role}.in_channels={model.in_channels}: images have 1 or 3 channels."
      )
    if config.data.image_size % model.stride:
      raise UserError(
        f"data.image_size={config.data.image_size} is not a multiple of "
        f"{model.stride}, which {role} needs."
      )
    try:
      variables = _shapes(model, study.blank(role))
    # Tracing raises whatever a network that cannot be provokes.
    except Exception as error:
      raise UserError(f"{role} makes no network: {error}") from error
    study.load_weights(role)
    side = ("student", "teacher").index(role)
    for tap in trials.taps(trials.objectives(study.arms), side):
      try:
        _features(model, study.blank(role), (tap,))
      except ValueError as error:
        raise UserError(
          f"grid.pair: the {role} has no level {tap!r}; it has "
          f"{', '.join(taps.levels(variables))}."
        ) from error
  _check_objectives(study)
  _check_cache(study)
  for role in ("teacher", "student"):
    _check_memory(study, role)


def _check_memory(study, role):
  """Refuses a network whose trials no device could hold."""
  arms = len(study.arms) if role == "student" else 1
  variables = _shapes(study.make_model(role), study.blank(role))
  # Parameters, Adam's two moments, and the best epoch's parameters.
  held = 4 * arms * sum(x.size * 4 for x in jax.tree.leaves(variables))
  there = parallel.memory(jax.local_devices()[0])
  devices = jax.local_device_count()
  if there and held > there * devices:
    raise UserError(
      f"{role}: its {arms} trial(s) of a block would hold {held:,} bytes on "
      f"{devices} device(s) of {there:,}: make it smaller."
    )


def _check_cache(study):
  """Refuses a cache of the teacher's maps that no device could hold."""
  if "cached" not in trials.views(study.arms):
    return
  model = study.make_model("teacher")
  side = study.config.data.image_size
  features = _features(
    model,
    study.blank("teacher"),
    trials.taps(trials.objectives(study.arms), 1),
  )
  an_image = 4 * side**2 * model.num_classes + sum(
    x.size * x.dtype.itemsize for x in features.values()
  )
  images = max(len(fold.train) for fold in study.folds)
  held = an_image * images
  there = parallel.memory(jax.local_devices()[0])
  if there and held > there:
    raise UserError(
      f"grid.view=cached would hold {held:,} bytes of the teacher's maps "
      f"({images} images) on a device of {there:,}: tap coarser levels in "
      "grid.pair, or choose strong or weak."
    )


def _check_objectives(study):
  """Refuses what would train and distil nothing."""
  objectives = trials.objectives(study.arms)
  side = study.config.data.image_size
  shapes = []
  for i, role in enumerate(("student", "teacher")):
    model = study.make_model(role)
    features = _features(model, study.blank(role), trials.taps(objectives, i))
    shapes.append({tap: x.shape[1:] for tap, x in features.items()})
    shapes[i][None] = (side, side, model.num_classes)
  for objective in objectives:
    for ours, theirs, _ in objective.pairs or ((None, None, 1.0),):
      if reason := sense.objection(
        objective,
        shapes[0][ours],
        shapes[1][theirs],
        study.config.student_training.batch_size,
      ):
        at = f" at {ours}-{theirs}" if ours else ""
        raise UserError(
          f"grid: {objective.pathway}_{objective.loss}{at} would distil "
          f"nothing: {reason}."
        )


def _blank(model, config):
  side = config.data.image_size
  return jnp.zeros((1, side, side, model.in_channels))


def _shapes(model, images):
  return jax.eval_shape(lambda: model.init(jax.random.key(0), images))


def _features(model, images, wanted):
  variables = _shapes(model, images)
  return jax.eval_shape(
    lambda v, x: taps.apply(model, v, x, taps=wanted)[1], variables, images
  )
