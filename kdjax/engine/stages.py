"""A stage: its arms and network, its batches, and the programs it compiles."""

from collections.abc import Mapping
import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from kdjax.data import views
from kdjax.distill import mapped
from kdjax.distill import trials
from kdjax.engine import batches
from kdjax.engine import compression
from kdjax.engine import fitting
from kdjax.engine import inference
from kdjax.engine import lanes
from kdjax.engine import parallel
from kdjax.engine import schedules
from kdjax.engine import steps
from kdjax.engine import streams
from kdjax.models import quantised


@dataclasses.dataclass(frozen=True)
class Stage:
  """One of the trainings: its arms, its network and what teaches it.

  Attributes:
    name: "teacher", "compressed" teachers, "student", or of a rung of the
      search for its numbers.
    role: "teacher" or "student", the network's field in the config.
    arms: rows of the grid.
    training: batch size, epochs, schedule, and what chooses the best epoch.
    teacher: linen module in inference form, or None.
    own: by fold, the same arms where their numbers are the fold's own.
  """

  name: str
  role: str
  arms: tuple[trials.Arm, ...]
  training: ml_collections.ConfigDict
  teacher: nn.Module | None
  own: Mapping[int, tuple[trials.Arm, ...]] = dataclasses.field(
    default_factory=dict
  )

  def arms_of(self, block):
    """The arms with the numbers that they have in a block."""
    return self.own.get(block.fold, self.arms)

  def make_model(self, study, batch_axis=None):
    """The linen module of its trials."""
    model = study.make_model(self.role, batch_axis)
    if compression.uses_bits(self.arms):
      return quantised.Quantised(model)
    return model


def make_init(model, images, regressors):
  """`lanes.init` of a network and its regressors, from key and weights."""
  return jax.jit(
    functools.partial(
      lanes.init, images=images, student=model, regressors=regressors
    ),
    # Drawing weights runs once a block: compiling it well would take longer.
    compiler_options={"xla_backend_optimization_level": 0},
  )


class Programs:
  """The compiled programs of a stage, each compiled once for all its waves."""

  def __init__(self, study, stage, num_blocks, devices=None):
    config = study.config
    training = stage.training
    self.study = study
    self.stage = stage
    self.layout = fitting.make_layout(study, stage, num_blocks, devices)
    model = stage.make_model(study, self.layout.batch_axis)
    plain = stage.make_model(study)
    objectives = mapped.objectives(stage.arms)
    regressors = study.make_regressors(objectives)
    self.data = self.layout.replicate(
      {
        "images": study.dataset.images,
        "masks": study.dataset.masks,
      }
    )
    # Of all folds, run or not: a trial's epochs must not depend on the others.
    longest = max(len(fold.train) for fold in study.folds)
    self.steps_per_epoch = -(-longest // training.batch_size)
    self.schedule = schedules.make(training, self.steps_per_epoch)
    self.init = make_init(plain, study.blank(stage.role), regressors)
    self.init_teacher = make_init(
      study.make_model("teacher"), study.blank("teacher"), {}
    )
    rendering = {
      "views": mapped.views(stage.arms),
      "render": functools.partial(
        views.render, settings=config.views, classes=model.num_classes
      ),
      "normalise": study.make_normalise(stage.role),
      "teacher_normalise": study.make_normalise("teacher"),
    }
    self.render_batch = jax.jit(
      functools.partial(batches.render_batch, **rendering)
    )
    self.answers = mapped.answers(stage.arms)
    self.networks = batches.networks(self.answers)
    teaching = {
      "teacher": stage.teacher,
      "teacher_taps": mapped.taps(objectives, 1),
    }
    self.prepare = functools.partial(
      batches.prepare_batch,
      **teaching,
      **rendering,
      answers=self.answers,
      carry=functools.partial(views.carry, settings=config.views),
    )
    self.step = functools.partial(
      lanes.train_step,
      student=model,
      regressors=regressors,
      schedule=self.schedule,
      compression=compression.make(
        config,
        stage.arms,
        plain,
        study.blank(stage.role),
        training,
        self.steps_per_epoch,
      ),
      batch_axis=self.layout.batch_axis,
    )
    self.train_epoch = self._train_epoch_of(self.layout)
    self._compacted = {}
    self.answer = parallel.make_answer(
      self.layout,
      functools.partial(
        batches.answer, **teaching, look=study.make_look("teacher")
      ),
    )
    self.finish_epoch = parallel.make_finish_epoch(
      self.layout,
      functools.partial(
        steps.finish_epoch,
        max_epochs=training.max_epochs,
        patience=training.patience,
      ),
    )
    look = study.make_look(stage.role)

    def evaluate(params, batch_stats, data, chunk):
      images = look(data, chunk["cases"])
      masks = data["masks"][chunk["cases"]].astype(jnp.int32)
      return inference.evaluate(
        params, batch_stats, images, masks, chunk["weights"], model=plain
      )

    def predict(params, batch_stats, data, chunk):
      images = look(data, chunk["cases"])
      return inference.predict(params, batch_stats, images, model=plain)

    self.evaluate = parallel.make_evaluate(self.layout, evaluate)
    self.predict = parallel.make_evaluate(self.layout, predict)

  def _train_epoch_of(self, layout):
    return parallel.make_train_epoch(layout, self.prepare, self.step)

  def train_epoch_in(self, layout):
    """`train_epoch` of this layout, or of a compacted one."""
    if layout is self.layout:
      return self.train_epoch
    like = layout.lists, layout.turns
    if like not in self._compacted:
      self._compacted[like] = self._train_epoch_of(layout)
    return self._compacted[like]

  def pad(self, wave):
    """A full wave: the last block again where blocks have run out."""
    return wave + [wave[-1]] * (self.layout.wave - len(wave))

  def numbers(self, wave, name):
    """`[W, G]` of an axis of numbers, as the arms of a wave have it."""
    return np.array(
      [[arm.numbers[name] for arm in self.stage.arms_of(x)] for x in wave]
    )

  def lanes(self, wave, alpha=None, layout=None):
    """The `lanes.Lanes` of a wave.

    Args:
      wave: its blocks.
      alpha: `[W, G]`, in the place of the arms' own.
      layout: another than the stage's.
    """
    found = [mapped.stack(self.stage.arms_of(x)) for x in wave]
    if alpha is not None:
      found = [
        x.replace(
          numbers={
            **x.numbers,
            "alpha": jnp.asarray(own, x.numbers["alpha"].dtype),
          }
        )
        for x, own in zip(found, alpha, strict=True)
      ]
    stacked = jax.tree.map(lambda *x: np.stack(x), *self.pad(found))
    return (layout or self.layout).lay(stacked)

  def remember(self, wave, blocks):
    """Adds to a wave's `blocks` what `batches.prepare_batch` needs of them.

    For view "cached" the teachers are asked here about every training image.
    """
    networks = batches.networks(x for x in self.answers if x[0] == "cached")
    if not networks:
      return blocks
    rows = np.zeros((self.layout.wave, len(self.study.dataset.cases)), np.int32)
    for row, block in zip(rows, self.pad(wave), strict=True):
      train = self.study.folds[block.fold].train
      row[train] = np.arange(len(train))
    return {
      **blocks,
      "rows": self.layout.spread_blocks(rows),
      "answers": {
        network: self.answer(
          {**blocks, "teacher": blocks[network]},
          self.data,
          (x["cases"] for x in self.chunks(wave, "train")),
        )
        for network in networks
      },
    }

  def batches(self, wave, steps):
    """The batches after `steps`, by block, to the end of the epoch, laid out.

    The blocks of a wave are equally far in their epochs.
    """
    left = self.steps_per_epoch - steps[wave[0]] % self.steps_per_epoch
    drawn = [
      streams.draw(
        self.study.folds[block.fold].train,
        block,
        steps[block],
        left,
        self.stage.training.batch_size,
      )
      for block in self.pad(wave)
    ]
    return self.layout.spread_batches(
      jax.tree.map(lambda *x: np.stack(x), *drawn)
    )

  def chunks(self, wave, part):
    """The cases of `part` of every block, in chunks of one static shape."""
    cases = [getattr(self.study.folds[b.fold], part) for b in self.pad(wave)]
    longest = max(len(getattr(fold, part)) for fold in self.study.folds)
    size = min(longest, self.stage.training.batch_size)
    for start in range(0, longest, size):
      rows = [x[start : start + size] for x in cases]
      blank = lambda x: size - len(x)
      yield self.layout.spread_blocks(
        {
          "cases": np.stack(
            [np.pad(x, (0, blank(x))).astype(np.int32) for x in rows]
          ),
          "weights": np.stack(
            [np.pad(np.ones(len(x)), (0, blank(x))) for x in rows]
          ).astype(np.float32),
        }
      )
