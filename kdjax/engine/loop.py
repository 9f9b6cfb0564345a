"""Epochs: trains every block of a stage, resumes, and predicts test cases.

Teachers and students are trained by this one loop, as two stages.
"""

import csv
import dataclasses
import functools
import io
import sys
import time

from flax import linen as nn
from flax import serialization
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from tqdm import tqdm

from kdjax import files
from kdjax.data import views
from kdjax.distill import trials
from kdjax.engine import checkpoint
from kdjax.engine import parallel
from kdjax.engine import steps

HISTORY = (
  "stage",
  "arm",
  "fold",
  "seed",
  "epoch",
  "train_loss",
  "distill_loss",
  "sup_loss",
  "val_loss",
  "val_dice",
  "learning_rate",
  "live",
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """One of the two trainings: its arms, its network and what teaches it.

  Attributes:
    name: "teacher" or "student"; also the network's field in the config.
    arms: rows of the grid.
    training: batch size, epochs and patience.
    teacher: linen module, or None.
  """

  name: str
  arms: tuple[trials.Arm, ...]
  training: ml_collections.ConfigDict
  teacher: nn.Module | None


def teacher_stage(study):
  """Teachers: a grid whose only arm distils nothing."""
  training = study.config.teacher_training
  arm = trials.Arm(
    name="Teacher",
    reference="Teacher",
    objective=None,
    view=trials.VIEWS[0],
    alpha=0.0,
    temperature=1.0,
    learning_rate=training.learning_rate,
    weight_decay=training.weight_decay,
  )
  return Stage("teacher", (arm,), training, None)


def student_stage(study):
  """Students: the grid of the config, taught by the teachers."""
  return Stage(
    "student",
    study.arms,
    study.config.student_training,
    study.make_model("teacher"),
  )


def train(study):
  """Trains the teachers, then all students; goes on where a run stopped.

  Returns:
    `(teachers, students)`, each a dict from block to `{"params",
    "batch_stats"}` with leaves `[G, ...]`: the best epoch's.
  """
  teachers = run_stage(study, teacher_stage(study))
  students = run_stage(study, student_stage(study), teachers)
  return teachers, students


def run_stage(study, stage, teachers=None):
  """Trains all blocks of `stage`; returns the best states by block."""
  saved = {
    block: checkpoint.Checkpoint(
      study.workdir / "checkpoints" / stage.name / block.name
    )
    for block in study.blocks
  }
  found = {block: saved[block].restore() for block in study.blocks}
  histories = {b: found[b][2] if found[b] else [] for b in study.blocks}
  best = {
    block: _best(state[1])
    for block, state in found.items()
    if state and state[3]
  }
  todo = [block for block in study.blocks if block not in best]
  if todo:
    run = _Programs(study, stage, len(todo))
    for first in range(0, len(todo), run.layout.wave):
      wave = todo[first : first + run.layout.wave]
      states = _train_wave(run, wave, saved, found, histories, teachers)
      best.update({b: _best(serialization.to_state_dict(s)) for b, s in states})
  for manager in saved.values():
    manager.close()
  return best


def _best(state):
  return {
    "params": state["best_params"],
    "batch_stats": state["best_batch_stats"],
  }


class _Programs:
  """The compiled programs of a stage, each compiled once for all its waves."""

  def __init__(self, study, stage, num_blocks):
    config = study.config
    training = stage.training
    self.study = study
    self.stage = stage
    self.layout = parallel.make_layout(
      len(stage.arms),
      num_blocks,
      training.batch_size,
      blocks_at_once=config.engine.blocks_at_once,
    )
    model = study.make_model(stage.name, self.layout.batch_axis)
    objectives = trials.objectives(stage.arms)
    regressors = study.make_regressors() if objectives else {}
    self.data = self.layout.replicate(
      {
        "images": study.dataset.images,
        "masks": study.dataset.masks,
      }
    )
    self.trials = self.layout.spread_arms(trials.stack(stage.arms))
    # Of all folds, run or not: a trial's epochs must not depend on the others.
    longest = max(len(fold.train) for fold in study.folds)
    self.steps_per_epoch = -(-longest // training.batch_size)
    # Drawing weights runs once a block: compiling it well would take longer.
    self.init = jax.jit(
      functools.partial(
        steps.init_state,
        images=study.blank(stage.name),
        student=study.make_model(stage.name),
        regressors=regressors,
      ),
      compiler_options={"xla_backend_optimization_level": 0},
    )
    normalise = functools.partial(views.normalise, channels=model.in_channels)
    self.train_epoch = parallel.make_train_epoch(
      self.layout,
      functools.partial(
        steps.prepare_batch,
        teacher=stage.teacher,
        views=trials.views(stage.arms),
        teacher_taps=tuple(
          dict.fromkeys(x.pair[1] for x in objectives if x.pair)
        ),
        render=functools.partial(views.render, settings=config.views),
        normalise=normalise,
      ),
      functools.partial(
        steps.train_step,
        student=model,
        regressors=regressors,
        objectives=objectives,
        batch_axis=self.layout.batch_axis,
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
    plain = study.make_model(stage.name)

    def evaluate(params, batch_stats, data, chunk):
      images = normalise(data["images"][chunk["cases"]].astype(float) / 255.0)
      masks = data["masks"][chunk["cases"]].astype(jnp.int32)
      return steps.evaluate(
        params, batch_stats, images, masks, chunk["weights"], model=plain
      )

    def predict(params, batch_stats, data, chunk):
      images = normalise(data["images"][chunk["cases"]].astype(float) / 255.0)
      return steps.predict(params, batch_stats, images, model=plain)

    self.evaluate = parallel.make_evaluate(self.layout, evaluate)
    self.predict = parallel.make_evaluate(self.layout, predict)

  def pad(self, wave):
    """A full wave: the last block again where blocks have run out."""
    return wave + [wave[-1]] * (self.layout.wave - len(wave))

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


def _train_wave(run, wave, saved, found, histories, teachers):
  """Trains the blocks of a wave together; returns `(block, state)` pairs."""
  study, stage, layout = run.study, run.stage, run.layout
  full = run.pad(wave)
  epochs = {block: found[block][0] if found[block] else 0 for block in wave}
  rows = []
  for block in full:
    fresh = jax.tree.map(
      lambda x: np.repeat(np.asarray(x)[None], len(stage.arms), axis=0),
      jax.device_get(run.init(block.key)),
    )
    rows.append(
      serialization.from_state_dict(fresh, found[block][1])
      if found[block]
      else fresh
    )
  states = layout.spread(jax.tree.map(lambda *x: np.stack(x), *rows))
  blocks = {
    "key": jax.random.wrap_key_data(
      layout.spread_blocks(
        np.stack([jax.random.key_data(block.key) for block in full])
      )
    ),
    "teacher": layout.spread_blocks(
      jax.tree.map(
        lambda *x: np.stack([np.asarray(leaf)[0] for leaf in x]),
        *(teachers[block] for block in full),
      )
    )
    if teachers
    else {},
  }
  label = f"{stage.name} {', '.join(block.name for block in wave)}"
  last_save = time.monotonic()
  live = np.ones((len(wave), len(stage.arms)), bool)
  with _bar(label, stage.training.max_epochs, min(epochs.values())) as bar:
    while live.any():
      states = run.train_epoch(
        states, run.trials, blocks, run.data, _batches(run, full, epochs)
      )
      sums = states.sums
      results = _mean_over_chunks(
        run.evaluate(
          states.params["student"], states.batch_stats, run.data, chunk
        )
        for chunk in run.chunks(wave, "val")
      )
      before = live
      epochs = {block: epoch + 1 for block, epoch in epochs.items()}
      ended = layout.spread_blocks(
        np.array([epochs[block] for block in full], np.int32)
      )
      sums = jax.device_get(sums)
      diverged_before = states.diverged
      states = run.finish_epoch(states, ended, results["loss"])
      del diverged_before
      measured = layout.gather(
        {
          "train_loss": sums["train"] / run.steps_per_epoch,
          "distill_loss": sums["distill"] / run.steps_per_epoch,
          "sup_loss": sums["sup"] / run.steps_per_epoch,
          "val_loss": results["loss"],
          "val_dice": results["dice"],
          "live": states.live,
        }
      )
      live = measured["live"][: len(wave)]
      for i, block in enumerate(wave):
        histories[block] += _rows(
          stage, block, epochs[block], measured, i, before[i]
        )
      bar.set_postfix_str(f"live {live.sum()}", refresh=False)
      bar.update()
      minutes = (time.monotonic() - last_save) / 60
      if not live.any() or minutes >= study.config.engine.checkpoint_minutes:
        gathered = layout.gather(states)
        for i, block in enumerate(wave):
          state = jax.tree.map(lambda x, i=i: x[i], gathered)
          saved[block].save(
            epochs[block], state, histories[block], not live[i].any()
          )
        write_history(study, stage, histories)
        last_save = time.monotonic()
  return [
    (block, jax.tree.map(lambda x, i=i: x[i], gathered))
    for i, block in enumerate(wave)
  ]


def _batches(run, wave, epochs):
  """The batches of the next epoch of every block, laid out over devices."""
  size, count = run.stage.training.batch_size, run.steps_per_epoch
  streams = [
    stream(
      run.study.folds[block.fold].train,
      block,
      epochs[block] * count,
      count,
      size,
    )
    for block in wave
  ]
  return run.layout.spread_batches(
    jax.tree.map(lambda *x: np.stack(x), *streams)
  )


def _mean_over_chunks(results):
  """Adds up what `steps.evaluate` returned; loss and Dice `[D, N, G']`."""
  total = functools.reduce(
    lambda a, b: jax.tree.map(np.add, a, b), map(jax.device_get, results)
  )
  return {
    "loss": total["loss"] / total["cases"],
    "dice": total["dice"] / np.maximum(total["lesions"], 1),
  }


def _rows(stage, block, epoch, measured, i, live_before):
  """One row of history for every trial that trained in this epoch."""
  rows = []
  for g, arm in enumerate(stage.arms):
    if live_before[g]:
      numbers = {
        name: float(measured[name][i, g])
        for name in HISTORY
        if name.endswith(("_loss", "_dice"))
      }
      rows.append(
        {
          "stage": stage.name,
          "arm": arm.name,
          "fold": block.fold,
          "seed": block.seed,
          "epoch": epoch,
          **numbers,
          "learning_rate": arm.learning_rate,
          "live": int(measured["live"][i, g]),
        }
      )
  return rows


def write_history(study, stage, histories):
  """Writes history.csv anew: what other stages left, and this stage's rows."""
  path = study.workdir / "history.csv"
  others = []
  if path.exists():
    with path.open(newline="") as f:
      others = [x for x in csv.DictReader(f) if x["stage"] != stage.name]
  text = io.StringIO()
  writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
  writer.writeheader()
  writer.writerows(others)
  for rows in histories.values():
    writer.writerows(rows)
  files.write_text(path, text.getvalue())


def _bar(label, total, initial):
  return tqdm(
    total=total,
    initial=initial,
    desc=label,
    unit="epoch",
    file=sys.stderr,
    mininterval=1.0,
    dynamic_ncols=True,
  )


def predict(study, stage, best):
  """Margins on the test cases, yielded as `(block, [G, M, S, S])`.

  A margin is the lesion's logit minus the background's, of the best epoch.
  """
  run = _Programs(study, stage, len(study.blocks))
  for first in range(0, len(study.blocks), run.layout.wave):
    wave = list(study.blocks[first : first + run.layout.wave])
    states = run.layout.spread(
      jax.tree.map(
        lambda *x: np.stack([np.asarray(leaf) for leaf in x]),
        *(best[block] for block in run.pad(wave)),
      )
    )
    margins = [
      run.layout.gather(
        run.predict(states["params"], states["batch_stats"], run.data, chunk)
      )
      for chunk in run.chunks(wave, "test")
    ]
    margins = np.concatenate(margins, axis=2)  # [W, G, M, S, S]
    for i, block in enumerate(wave):
      yield block, margins[i, :, : len(study.folds[block.fold].test)]


def stream(train, block, step, steps, batch_size):
  """The cases of `steps` batches after `step` of them, shuffled anew each pass.

  The stream runs on over the borders of passes, so batches keep one shape and
  no case is dropped; it depends on the block alone, so any step can be found
  again.

  Args:
    train: rows of the data set.
    block: `Block`.
    step: steps done before.
    steps: steps to come, `T`.
    batch_size: `B`.

  Returns:
    `{"cases", "epochs": [T, B], "counts": [T]}`, int32.
  """
  positions = step * batch_size + np.arange(steps * batch_size)
  passes, places = np.divmod(positions, len(train))
  cases = np.concatenate(
    [
      np.random.default_rng((block.seed, block.fold, p)).permutation(train)[
        places[passes == p]
      ]
      for p in np.unique(passes)
    ]
  )
  shape = lambda x: x.reshape(steps, batch_size).astype(np.int32)
  return {
    "cases": shape(cases),
    "epochs": shape(passes),
    "counts": np.arange(step, step + steps, dtype=np.int32),
  }
