"""Epochs: trains every block of a stage, resumes, and predicts test cases.

Teachers and students are trained by this one loop, as two stages.
"""

import csv
import functools
import io
import math
import sys
import time

from flax import serialization
import jax
import numpy as np
from tqdm import tqdm

from kdjax import files
from kdjax.engine import checkpoint
from kdjax.engine import scalars
from kdjax.engine import stages
from kdjax.engine import stopwatch

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


def train(study):
  """Trains the teachers, then all students; goes on where a run stopped.

  Returns:
    `(teachers, students)`, each a dict from block to `{"params",
    "batch_stats"}` with leaves `[G, ...]`: the best epoch's.
  """
  teachers = run_stage(study, stages.teacher_stage(study))
  students = run_stage(study, stages.student_stage(study), teachers)
  return teachers, students


def run_stage(study, stage, teachers=None):
  """Trains all blocks of `stage`; returns the best states by block."""
  saved = {block: _checkpoint(study, stage, block) for block in study.blocks}
  progress = {block: saved[block].restore() for block in study.blocks}
  todo = [block for block in study.blocks if not progress[block].finished]
  if todo:
    programs = stages.Programs(study, stage, len(todo))
    wave = programs.layout.wave
    with _bar(programs, stage, len(todo)) as bar:
      for first in range(0, len(todo), wave):
        _train_wave(
          programs, todo[first : first + wave], saved, progress, teachers, bar
        )
  for manager in saved.values():
    manager.close()
  return {
    block: {
      "params": progress[block].states["best_params"],
      "batch_stats": progress[block].states["best_batch_stats"],
    }
    for block in study.blocks
  }


def _train_wave(programs, wave, saved, progress, teachers, bar):
  """Trains the blocks of a wave together, and updates their `progress`."""
  study, stage, layout = programs.study, programs.stage, programs.layout
  states = _start(programs, wave, progress)
  shared = _shared(programs, wave, teachers)
  live = layout.gather(states.live)
  last_save = time.monotonic()
  start = bar.n
  while live.any():
    watch = stopwatch.Stopwatch()
    epochs = {block: progress[block].epoch for block in wave}
    states = programs.train_epoch(
      states,
      programs.trials,
      shared,
      programs.data,
      programs.batches(wave, epochs),
    )
    results = _mean_over_chunks(
      programs.evaluate(
        states.params["student"], states.batch_stats, programs.data, chunk
      )
      for chunk in programs.chunks(wave, "val")
    )
    sums = jax.device_get(states.sums)  # Finishing the epoch empties them.
    states = programs.finish_epoch(
      states,
      layout.spread_blocks(
        np.array([epochs[b] + 1 for b in programs.pad(wave)], np.int32)
      ),
      results["loss"],
    )
    measured = layout.gather(
      {
        **{f"{k}_loss": v / programs.steps_per_epoch for k, v in sums.items()},
        "val_loss": results["loss"],
        "val_dice": results["dice"],
        "live": states.live,
        "diverged": states.diverged,
      }
    )
    trained = int(live[: len(wave)].sum())
    share = watch.stop() * len(layout.devices) / trained
    for i, block in enumerate(wave):
      progress[block].epoch += 1
      progress[block].history += _rows(
        stage, block, progress[block].epoch, measured, i, live[i], share
      )
    live = measured["live"][: len(wave)]
    bar.set_postfix_str(f"{wave[0].name}, {live.sum()} live", refresh=False)
    bar.update()
    minutes = (time.monotonic() - last_save) / 60
    if not live.any() or minutes >= study.config.engine.checkpoint_minutes:
      gathered = layout.gather(states)
      for i, block in enumerate(wave):
        progress[block].finished = not live[i].any()
        progress[block].states = serialization.to_state_dict(
          jax.tree.map(lambda x, i=i: x[i], gathered)
        )
        saved[block].save(progress[block])
      write_history(study, stage, progress)
      last_save = time.monotonic()
  # Trials that stopped early leave the bar's estimate too long.
  bar.update(stage.training.max_epochs - (bar.n - start))


def _start(programs, wave, progress):
  """The states of a wave, fresh or as they were saved, on the devices."""
  weights = programs.study.load_weights(programs.stage.name)
  rows = []
  for block in programs.pad(wave):
    state = jax.tree.map(
      lambda x: np.repeat(
        np.asarray(x)[None], len(programs.stage.arms), axis=0
      ),
      jax.device_get(programs.init(block.key, weights)),
    )
    if progress[block].states:
      state = serialization.from_state_dict(state, progress[block].states)
    rows.append(state)
  return programs.layout.spread(_stack(rows))


def _shared(programs, wave, teachers):
  """What the trials of every block of a wave share: random key and teacher."""
  full = programs.pad(wave)
  keys = np.stack([jax.random.key_data(block.key) for block in full])
  return {
    "key": jax.random.wrap_key_data(programs.layout.spread_blocks(keys)),
    "teacher": programs.layout.spread_blocks(
      _stack([jax.tree.map(lambda x: x[0], teachers[b]) for b in full])
    )
    if teachers
    else {},
  }


def _stack(trees):
  return jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *trees)


def _mean_over_chunks(results):
  """Adds up what `steps.evaluate` returned; loss and Dice `[D, N, G']`."""
  total = functools.reduce(
    lambda a, b: jax.tree.map(np.add, a, b), map(jax.device_get, results)
  )
  return {
    "loss": total["loss"] / total["cases"],
    "dice": total["dice"] / np.maximum(total["lesions"], 1),
  }


def _rows(stage, block, epoch, measured, i, live_before, device_seconds):
  """One row of history for every trial that trained in this epoch."""
  rows = []
  for g, arm in enumerate(stage.arms):
    if live_before[g]:
      numbers = {
        name: float(measured[name][i, g])
        for name in HISTORY
        if name.endswith(("_loss", "_dice"))
      }
      if measured["diverged"][i, g]:
        numbers["train_loss"] = float(
          "nan"
        )  # How a reader knows it from a stop.
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
          "device_seconds": device_seconds,
        }
      )
  return rows


def write_history(study, stage, progress):
  """Writes history.csv anew: what other stages left, and this stage's rows."""
  path = study.workdir / "history.csv"
  others = []
  if path.exists():
    with path.open(newline="") as f:
      others = [x for x in csv.DictReader(f) if x["stage"] != stage.name]
  text = io.StringIO()
  # No run repeats its times, so they stay in the checkpoints.
  writer = csv.DictWriter(
    text, HISTORY, lineterminator="\n", extrasaction="ignore"
  )
  writer.writeheader()
  writer.writerows(others)
  rows = [row for x in progress.values() for row in x.history]
  writer.writerows(rows)
  files.write_text(path, text.getvalue())
  scalars.write(study.workdir / "tensorboard", rows)


def device_seconds(study, stage):
  """What training took, by trial: a dict from (arm's name, block) to seconds.

  An epoch's wall time (steps and validation; not compiling, nor saving) times
  the number of devices, shared equally by the trials that trained in it.
  Epochs that a stopped run did not save are not in it; a trial that was trained
  before times were kept has NaN.
  """
  seconds = {}
  for block in study.blocks:
    saved = _checkpoint(study, stage, block)
    for row in saved.history():
      trial = row["arm"], block
      took = row.get("device_seconds", math.nan)
      seconds[trial] = seconds.get(trial, 0.0) + took
    saved.close()
  return seconds


def _checkpoint(study, stage, block):
  return checkpoint.Checkpoint(
    study.workdir / "checkpoints" / stage.name / block.name
  )


def _bar(programs, stage, blocks):
  """A bar over all epochs of a stage, of which early stopping may skip some."""
  waves = -(-blocks // programs.layout.wave)
  devices = programs.layout.devices
  print(
    f"{stage.name}: {len(stage.arms)} x {blocks} trials (arms x blocks), "
    f"{programs.layout.wave} block(s) at once on {len(devices)} "
    f"{devices[0].platform} device(s), {programs.steps_per_epoch} steps an "
    f"epoch, {stage.training.max_epochs} epochs at most; compiling first.",
    file=sys.stderr,
  )
  return tqdm(
    total=waves * stage.training.max_epochs,
    desc=stage.name,
    unit="epoch",
    file=sys.stderr,
    mininterval=1.0,
    dynamic_ncols=True,
  )


def predict(study, stage, best):
  """Margins on the test cases, yielded as `(block, [G, M, S, S])`.

  A margin is the lesion's logit minus the background's, of the best epoch.
  """
  programs = stages.Programs(study, stage, len(study.blocks))
  layout = programs.layout
  for first in range(0, len(study.blocks), layout.wave):
    wave = list(study.blocks[first : first + layout.wave])
    states = layout.spread(_stack([best[b] for b in programs.pad(wave)]))
    margins = [
      layout.gather(
        programs.predict(
          states["params"], states["batch_stats"], programs.data, chunk
        )
      )
      for chunk in programs.chunks(wave, "test")
    ]
    margins = np.concatenate(margins, axis=2)  # [W, G, M, S, S]
    for i, block in enumerate(wave):
      yield block, margins[i, :, : len(study.folds[block.fold].test)]
