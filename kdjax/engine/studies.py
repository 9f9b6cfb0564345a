"""A config resolved and checked: data, folds, blocks, arms and stages."""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib

from etils import epath
import jax
import jax.numpy as jnp
import ml_collections

from kdjax.data import pipeline
from kdjax.data import splits
from kdjax.data import views
from kdjax.distill import axes
from kdjax.distill import mapped
from kdjax.distill import pathways
from kdjax.distill import trials
from kdjax.engine import adoption
from kdjax.engine import checks
from kdjax.engine import compression
from kdjax.engine import convolution
from kdjax.engine import fitting
from kdjax.engine import networks
from kdjax.engine import rungs
from kdjax.engine import stages
from kdjax.errors import UserError
from kdjax.models import pretrained
from kdjax.models import quantised


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
    numbers: by fold, the arms with what a search chose for them there.
  """

  config: ml_collections.ConfigDict
  workdir: epath.Path
  dataset: pipeline.Dataset
  folds: tuple
  blocks: tuple[Block, ...]
  arms: tuple[trials.Arm, ...]
  first: bool = True
  numbers: Mapping[int, tuple[trials.Arm, ...]] = dataclasses.field(
    default_factory=dict
  )

  @functools.cached_property
  def identity(self):
    """A sha256 in hex of what decides a trial's numbers: networks and data."""
    parts = [self.config[x].to_dict() for x in ("teacher", "student", "grid")]
    # What an older kdjax saved stays this study's.
    for name, first in (
      ("source", axes.SOURCES[0]),
      ("tuning", axes.TUNINGS[0]),
      ("share", 0.0),
      ("weighting", axes.WEIGHTINGS[0]),
      ("sparsity", 0.0),
      ("bits", quantised.NONE),
    ):
      if parts[-1][name] == (first,):
        del parts[-1][name]
    if rungs.tuned(self):
      parts.append(self.config.search.to_dict())
    compressed = (*self.arms, *self.compressed_teachers)
    if any(x.numbers["sparsity"] for x in compressed):
      parts.append(self.config.pruning.to_dict())
    if compression.uses_bits(compressed):
      parts.append(self.config.quantisation.to_dict())
    if self.compressed_teachers:
      parts.append(self.config.teacher_compression.to_dict())
    said = repr((parts, [x.name for x in self.arms], self.dataset.fingerprint))
    return hashlib.sha256(said.encode()).hexdigest()

  @property
  def teacher_stage(self):
    """Teachers: a grid whose only arm distils nothing."""
    training = self.config.teacher_training
    arms = (trials.make_teacher(training),)
    return stages.Stage("teacher", "teacher", arms, training, None)

  @property
  def compressed_teachers(self):
    """Teachers that are made smaller, as arms."""
    return trials.make_compressed(self.config)

  @property
  def compressed_stage(self):
    """Trained Teachers that train on while they are made smaller."""
    training = self.config.teacher_training.copy_and_resolve_references()
    with training.unlocked():
      training.max_epochs = self.config.teacher_compression.max_epochs
    return stages.Stage(
      "compressed", "teacher", self.compressed_teachers, training.lock(), None
    )

  @property
  def stages(self):
    """What is trained and tested: teachers, smaller ones, students."""
    smaller = [self.compressed_stage] if self.compressed_teachers else []
    return (self.teacher_stage, *smaller, self.student_stage)

  @property
  def student_stage(self):
    """Students: the grid of the config, taught by the teachers."""
    return stages.Stage(
      "student",
      "student",
      self.arms,
      self.config.student_training,
      self.make_model("teacher").clone(folded=True),
      self.numbers,
    )

  def changed(self, settings):
    """The same with other values of fields, such as "engine.dtype"."""
    return dataclasses.replace(self, config=changed(self.config, settings))

  def make_model(self, role, batch_axis=None):
    """The linen module of `role`, "teacher" or "student"."""
    return networks.make_model(
      self.config[role], self.config.engine, role, batch_axis=batch_axis
    )

  def make_normalise(self, role):
    """From views in [0, 1] to the input of `role`'s network."""
    model = self.make_model(role)
    return functools.partial(
      views.normalise,
      channels=model.in_channels,
      statistics=model.normalisation,
      colours=self.config.data.channels == 3,
    )

  def make_look(self, role):
    """From the data and the numbers of cases to what `role`'s network takes."""
    if networks.is_answers(self.make_model(role)):
      return lambda data, cases: cases
    normalise = self.make_normalise(role)
    return lambda data, cases: normalise(
      data["images"][cases].astype(float) / 255.0
    )

  def load_weights(self, role):
    """What `role` starts from instead of random weights, see `pretrained`."""
    return pretrained.load(self.make_model(role))

  def blank(self, role):
    """Zeros in the shape of one image of `role`, `[1, S, S, C]`."""
    return networks.blank(self.make_model(role), self.config)

  def make_regressors(self, objectives):
    """The regressors that `objectives` need, by pair of taps."""
    pairs = dict.fromkeys(pair for x in objectives for pair in mapped.learnt(x))
    teacher = self.make_model("teacher")
    wanted = tuple(dict.fromkeys(pair[1] for pair in pairs))
    widths = {
      tap: feature.shape[-1]
      for tap, feature in networks.features(
        teacher, self.blank("teacher"), wanted
      ).items()
    }
    return {
      pair: pathways.Regressor(
        width=widths[pair[1]],
        activation=self.config.regressor.activation,
        convolution=convolution.choose(self.config.engine.lowering),
        dtype=jnp.dtype(self.config.engine.dtype),
      )
      for pair in pairs
    }


def make_blocks(config):
  """The blocks that `config` asks for."""
  return tuple(
    Block(fold, seed) for seed in config.seeds for fold in config.folds
  )


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
  checks.check_engine(config.engine)
  checks.check_regressor(config.regressor)
  checks.check_compression(config)
  for role in ("teacher", "student"):
    networks.make_model(config[role], config.engine, role)
  arms = trials.make_arms(config.grid)
  dataset = dataset or pipeline.load(config.data)
  checks.check_training(config, len(dataset.cases))
  rungs.check(config)
  folds = splits.make_folds(dataset, config.splits)
  for fold in config.folds:
    if not 0 <= fold < len(folds):
      raise UserError(
        f"folds={fold} is not there: {config.splits.kind} made folds 0 to "
        f"{len(folds) - 1}."
      )
  blocks = make_blocks(config)
  if not blocks:
    raise UserError("folds or seeds is empty: there is nothing to train.")
  if len(set(blocks)) < len(blocks):
    raise UserError("folds or seeds has a number twice: give each once.")
  study = Study(config, epath.Path(workdir), dataset, folds, blocks, arms)
  checks.check_masks(study)
  adoption.check_answers(study)
  checks.check_models(study)
  for stage in study.stages:
    fitting.make_layout(study, stage, len(blocks))
  return study
