"""One trained network of a workdir: which one, and its weights."""

import dataclasses
import hashlib

from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax import readers
from kdjax import recorded
from kdjax import workdirs
from kdjax.data import regions
from kdjax.data import views
from kdjax.distill import trials
from kdjax.engine import checkpoint
from kdjax.engine import compression
from kdjax.engine import inference
from kdjax.engine import networks
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.models import folding
from kdjax.models import quantised

TEACHER = trials.TEACHER
# Stages that leave networks: whose, and the config's field of how they train.
_ROLES = {"teacher": "teacher", "compressed": "teacher", "student": "student"}
_SETTINGS = {
  "teacher": "teacher_training",
  "compressed": "teacher_compression",
  "student": "student_training",
}


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained network.

  Attributes:
    workdir: where it was trained.
    config: of the run.
    arm: its name, or "Teacher".
    fold: 0-based.
    seed: of its training.
    validation: loss or Dice, whichever chose the epoch whose weights these are.
    model: linen module with plain convolutions, in float32.
    variables: `{"params", "batch_stats"}`.
  """

  workdir: epath.Path
  config: ml_collections.ConfigDict
  arm: str
  fold: int
  seed: int
  validation: float
  model: nn.Module
  variables: dict

  @property
  def validated(self):
    """What validation said of it: "validation loss 0.1234"."""
    name = {"val_loss": "loss", "val_dice": "Dice"}[_criterion(self.config)]
    return f"validation {name} {self.validation:.4f}"

  @property
  def shape(self):
    """Of the images that go in, `(S, S)` or, of colours, `(S, S, 3)`."""
    return shape(self.config)

  @property
  def margins(self):
    """Of the margins that come out: `(S, S)`, or `(S, S, R)` of regions."""
    side, names = self.shape[0], regions.several(self.regions)
    return (side, side, *([len(names)] if names else []))

  @property
  def regions(self):
    """Names of the classes from 1 on."""
    return regions.make(self.config.data.regions).names

  @property
  def config_hash(self):
    """sha256 of the config's file, in hex."""
    return hashlib.sha256(
      (self.workdir / workdirs.CONFIG).read_bytes()
    ).hexdigest()

  @property
  def bits(self):
    """That it computes in, `quantised.NONE` if in float32."""
    stats = self.variables.get("batch_stats", {})
    found = quantised.layer_bits(stats).values()
    return int(min(found, default=quantised.NONE))

  def inference(self):
    """From uint8 `[B, *shape]` to margins `[B, *self.margins]`, to run alone.

    Scaling and normalisation are inside, BatchNorm is in the convolutions. Of a
    network in few bits weights and layers' inputs are rounded to them.
    """
    return make_inference(self.model, self.variables)

  def bare(self):
    """The same, of a network in few bits without rounding inputs.

    Returns:
      `(function, ranges)`: `ranges` are those of layers' inputs, see
      `quantised.bare`.
    """
    model, variables, ranges = quantised.bare(self.model, self.variables)
    return make_inference(model, variables), ranges


def shape(config):
  """See `Trained.shape`."""
  side = config.data.image_size
  return (side, side, *([3] if config.data.channels == 3 else []))


def make_inference(model, variables):
  """See `Trained.inference`."""
  folded, weights = folding.fold(model, variables)

  def network(images):
    inputs = views.normalise(
      images.astype(jnp.float32) / 255.0,
      model.in_channels,
      model.normalisation,
      colours=images.ndim == 4,
    )
    stats = weights.get("batch_stats", {})
    return inference.predict(weights["params"], stats, inputs, model=folded)

  return network


def make_model(config, role):
  """The network of "teacher" or "student", to run on any machine alone."""
  engine = ml_collections.ConfigDict(config.engine.to_dict())
  engine.update(lowering="plain", dtype="float32")
  return networks.make_model(config[role], engine, role)


def load(workdir, arm="best", fold=None, seed=None):
  """A network of `workdir`; what is not asked for, validation decides.

  The best arm is the one of the lowest validation loss on average over folds
  and seeds, which all arms share; then the fold and seed of the lowest. Where
  Dice chose the students' epochs it is the highest Dice. Test cases have no
  say.

  Args:
    workdir: a trained one; it is only read.
    arm: a row of the table, or "best" of the students.
    fold: 0-based, or None.
    seed: one of the config's, or None.

  Raises:
    UserError: no such network there.
  """
  workdir = epath.Path(workdir)
  config = recorded.read(workdir)
  criterion = _criterion(config)
  stages = _stages(config)
  table = _validation(workdir, config, stages, criterion)
  higher = criterion == "val_dice"
  arm, fold, seed = _choose(
    -table if higher else table,
    workdir,
    [x.name for x in stages["student"]],
    arm,
    fold,
    seed,
  )
  stage, place = next(
    (stage, i)
    for stage, arms in stages.items()
    for i, x in enumerate(arms)
    if x.name == arm
  )
  block = studies.Block(fold, seed)
  folder = workdirs.checkpoints(workdir, stage, block.name)
  best = checkpoint.best(checkpoint.read(folder).states)
  variables = jax.tree.map(lambda x: np.asarray(x[place], np.float32), best)
  model, variables = quantised.take(
    make_model(config, _ROLES[stage]),
    variables,
    stages[stage][place].numbers["bits"],
  )
  return Trained(
    workdir,
    config,
    arm,
    fold,
    seed,
    float(table.loc[(arm, fold, seed)]),
    model,
    variables,
  )


def _stages(config):
  """The arms of each stage that leaves networks, by its name."""
  return {
    "teacher": (trials.make_teacher(config.teacher_training),),
    "compressed": trials.make_compressed(config),
    "student": trials.make_arms(config.grid),
  }


def _criterion(config):
  """The column of the history that chose the students' epochs."""
  # An older kdjax had no other.
  training = config.get("student_training", {})
  return f"val_{training.get('select', 'loss')}"


def _validation(workdir, config, stages, criterion):
  """The best of a column by (arm, fold, seed), diverged trials left out."""
  frame = readers.history(workdir)
  first = {
    x.name: compression.first_epoch(
      config, x.numbers, config[_SETTINGS[stage]].max_epochs
    )
    for stage, arms in stages.items()
    for x in arms
    if trials.smaller(x)
  }
  frame = frame[frame["epoch"] >= frame["arm"].map(first).fillna(0)]
  frame = frame.assign(sound=np.isfinite(frame["train_loss"]))
  trials_of = frame.groupby(["arm", "fold", "seed"])
  values = trials_of[criterion]
  best = values.max() if criterion == "val_dice" else values.min()
  return best[trials_of["sound"].all()].dropna()


def _choose(table, workdir, students, arm, fold, seed):
  for name, value in (("arm", arm), ("fold", fold), ("seed", seed)):
    known = table.index.get_level_values(name)
    if value is None or (name == "arm" and value == "best"):
      continue
    if value not in known:
      raise UserError(
        f"--{name}={value}: {workdir} has {name}s "
        f"{', '.join(map(str, dict.fromkeys(known)))}."
      )
    table = table[known == value]
  if arm == "best":
    table = table[table.index.get_level_values("arm").isin(students)]
    means = table.groupby("arm").mean()
    if means.empty:
      raise UserError(f"{workdir} has no trained student: train there first.")
    table = table[table.index.get_level_values("arm") == means.idxmin()]
  if table.empty:
    raise UserError(f"{workdir}: arm {arm} was not trained on that.")
  arm, fold, seed = table.idxmin()
  return str(arm), int(fold), int(seed)
