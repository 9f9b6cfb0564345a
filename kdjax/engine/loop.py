"""Epochs: trains every block of a stage, resumes, and predicts test cases.

Teachers and students are trained by this one loop, as two stages.
"""

import contextlib
import csv
import functools
import io
import itertools
import math
import sys

from flax import serialization
import jax
import numpy as np
from tqdm import tqdm

from kdjax import files
from kdjax.engine import checkpoint
from kdjax.engine import interruption
from kdjax.engine import scalars
from kdjax.engine import stages
from kdjax.engine import stopwatch
from kdjax.models import folding

HISTORY = (
  "stage",
  "arm",
  "fold",
  "seed",
  "epoch",
  *scalars.SCALARS,
  "live",
)


def train(study):
  """Trains the teachers, then all students; goes on where a run stopped.

  Returns:
    `(teachers, students)`, each a dict from block to `{"params",
    "batch_stats"}` with leaves `[G, ...]`: the best epoch's.
  """
  teachers = run_stage(study, study.teacher_stage)
  students = run_stage(study, study.student_stage, teachers)
  return teachers, students


def run_stage(study, stage, teachers=None):
  """Trains all blocks of `stage`; returns the best states by block.

  As many trials at once as the devices have memory for: where it runs out,
  fewer go on from the last checkpoint.

  Raises:
    Interrupted: a signal came; all that was trained is saved.
    UserError: a checkpoint cannot be written, or no trial fits.
  """
  while True:
    try:
      return _train_blocks(study, stage, teachers)
    except jax.errors.JaxRuntimeError as error:
      study = stages.with_fewer(study, stage, error)


def _train_blocks(study, stage, teachers):
  with contextlib.ExitStack() as stack:
    saved = {
      block: stack.enter_context(
        contextlib.closing(_checkpoint(study, stage, block))
      )
      for block in study.blocks
    }
    progress = {block: saved[block].restore() for block in study.blocks}
    # The last run may have died between a checkpoint and its history.
    write_history(study, stage, progress)
    todo = [block for block in study.blocks if not progress[block].finished]
    if todo:
      programs = stages.Programs(study, stage, len(todo))
      waves = _waves(programs, todo, progress)
      cadence = checkpoint.Cadence(study.config.engine)
      with _bar(programs, stage, waves) as bar:
        for wave in waves:
          _train_wave(programs, wave, saved, progress, teachers, cadence, bar)
      print(f"{stage.name}: {cadence}.", file=sys.stderr)
  return {
    block: {
      "params": progress[block].states["best_params"],
      "batch_stats": progress[block].states["best_batch_stats"],
    }
    for block in study.blocks
  }


def _waves(programs, todo, progress):
  """`todo` in waves, each of blocks that are equally far in their epoch."""
  place = lambda block: progress[block].step % programs.steps_per_epoch
  size = programs.layout.wave
  waves = []
  for _, group in itertools.groupby(sorted(todo, key=place), place):
    group = list(group)
    waves += [group[i : i + size] for i in range(0, len(group), size)]
  return waves


def _train_wave(programs, wave, saved, progress, teachers, cadence, bar):
  """Trains the blocks of a wave together, and updates their `progress`."""
  states = start_states(programs, wave, progress)
  shared = programs.remember(wave, share(programs, wave, teachers))
  live = programs.layout.gather(states.live)[: len(wave)]
  resting = None  # What the arms that were compacted away ended with.
  start = bar.n
  while live.any():
    compacted = programs.compact(live)
    if compacted is not programs:
      resting = programs.layout.gather(states, resting)
      states = compacted.layout.spread(resting)
      programs = compacted
      bar.write(
        f"{wave[0].name}: {live.any(axis=0).sum()} arms go on in a smaller "
        "program, to be compiled.",
        file=sys.stderr,
      )
    watch = stopwatch.Stopwatch()
    states = _train_epoch(programs, wave, states, shared, progress)
    whole = progress[wave[0]].step % programs.steps_per_epoch == 0
    if whole:
      states, measured = _finish_epoch(programs, wave, states, progress)
    took = watch.stop() * len(programs.layout.devices) / live.sum()
    for block in wave:
      progress[block].seconds += float(took)
    if whole:
      _record(programs, wave, measured, live, progress)
      live = measured["live"][: len(wave)]
      bar.set_postfix_str(f"{wave[0].name}, {live.sum()} live", refresh=False)
      bar.update()
    stopping = interruption.hold()
    if cadence.due() or stopping or not live.any():
      with cadence.saving():
        gathered = programs.layout.gather(states, resting)
        _save(programs, wave, gathered, live, saved, progress)
    if stopping:
      break
  else:  # Trials that stopped early leave the bar's estimate too long.
    bar.update(programs.stage.training.max_epochs - (bar.n - start))
  for block in wave:
    saved[block].wait()
  interruption.release()


def _train_epoch(programs, wave, states, shared, progress):
  """Steps to the end of the epoch, or of the step in which a signal came."""
  steps = {block: progress[block].step for block in wave}
  for part in programs.layout.parts(programs.batches(wave, steps)):
    states = programs.train_epoch(
      states, programs.trials, shared, programs.data, part
    )
    # JAX queues steps, and a signal must not wait for a queue of them.
    jax.block_until_ready(states)
    for block in wave:
      progress[block].step += part["counts"].shape[1]
    if interruption.hold():
      break
  return states


def _finish_epoch(programs, wave, states, progress):
  """Validates, keeps the best, stops trials; returns states and numbers."""
  layout = programs.layout
  results = _mean_over_chunks(
    programs.evaluate(
      states.params["student"], states.batch_stats, programs.data, chunk
    )
    for chunk in programs.chunks(wave, "val")
  )
  sums = jax.device_get(states.sums)  # Finishing the epoch empties them.
  epochs = [
    progress[block].step // programs.steps_per_epoch
    for block in programs.pad(wave)
  ]
  states = programs.finish_epoch(
    states, layout.spread_blocks(np.array(epochs, np.int32)), results["loss"]
  )
  return states, layout.gather(
    {
      **{f"{k}_loss": v / programs.steps_per_epoch for k, v in sums.items()},
      "val_loss": results["loss"],
      "val_dice": results["dice"],
      "live": states.live,
      "diverged": states.diverged,
    }
  )


def _record(programs, wave, measured, live_before, progress):
  """Adds the rows of an epoch to the histories of a wave's blocks."""
  for i, block in enumerate(wave):
    of_block = jax.tree.map(lambda x, i=i: x[i], measured)
    mine = progress[block]
    epoch = mine.step // programs.steps_per_epoch
    mine.history += _rows(
      programs.stage, block, epoch, of_block, live_before[i], mine.seconds
    )
    mine.seconds = 0.0


def _save(programs, wave, gathered, live, saved, progress):
  """Saves the blocks of a wave, but those that were finished before."""
  for i, block in enumerate(wave):
    if progress[block].finished:
      continue
    progress[block].finished = not live[i].any()
    progress[block].states = serialization.to_state_dict(
      jax.tree.map(lambda x, i=i: x[i], gathered)
    )
    saved[block].save(progress[block])
  write_history(programs.study, programs.stage, progress)


def start_states(programs, wave, progress):
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


def share(programs, wave, teachers):
  """What the trials of every block of a wave share: random key and teacher."""
  full = programs.pad(wave)
  keys = np.stack([jax.random.key_data(block.key) for block in full])
  shared = {
    "key": jax.random.wrap_key_data(programs.layout.spread_blocks(keys)),
    "teacher": {},
  }
  if teachers:
    shared["teacher"] = programs.layout.spread_blocks(
      _stack([_fold(programs.study, teachers[block]) for block in full])
    )
  return shared


def _fold(study, best):
  """A trained teacher's variables in inference form."""
  only = jax.tree.map(lambda x: x[0], best)
  return folding.fold(study.make_model("teacher"), only)[1]


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


def _rows(stage, block, epoch, measured, live_before, seconds):
  """One row of history for every trial that trained in this epoch."""
  rows = []
  for g, arm in enumerate(stage.arms):
    if live_before[g]:
      numbers = {
        name: float(measured[name][g])
        for name in HISTORY
        if name.endswith(("_loss", "_dice"))
      }
      if measured["diverged"][g]:
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
          "live": int(measured["live"][g]),
          "device_seconds": seconds,
        }
      )
  return rows


def write_history(study, stage, progress):
  """Writes history.csv anew: what other stages left, and this stage's rows."""
  rows = [row for x in progress.values() for row in x.history]
  if study.first:
    path = study.workdir / "history.csv"
    _write_rows(path, [*_other_rows(path, stage), *rows])
  scalars.write(study.workdir / "tensorboard", rows)


def _write_rows(path, rows):
  text = io.StringIO()
  # No run repeats its times, so they stay in the checkpoints.
  writer = csv.DictWriter(
    text, HISTORY, lineterminator="\n", extrasaction="ignore"
  )
  writer.writeheader()
  writer.writerows(sorted(rows, key=lambda x: x["stage"] != "teacher"))
  files.write_text(path, text.getvalue())


def _other_rows(path, stage):
  """The rows of other stages; none where the file is missing or damaged."""
  try:
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
  except (FileNotFoundError, UnicodeError, csv.Error):
    return []
  whole = lambda row: (
    None not in (*row, *row.values()) and set(row) == set(HISTORY)
  )
  return [x for x in rows if whole(x) and x["stage"] != stage.name]


def device_seconds(study, stage):
  """What training took, by trial: a dict from (arm's name, block) to seconds.

  An epoch's wall time (steps and validation; not compiling, nor saving) times
  the number of devices, shared equally by the trials that trained in it.
  What a killed run did not save is not in it; a trial that was trained before
  times were kept has NaN.
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
  owner = " ".join((study.identity, stage.name, block.name))
  return checkpoint.Checkpoint(
    study.workdir / "checkpoints" / stage.name / block.name, owner
  )


def _bar(programs, stage, waves):
  """A bar over all epochs of a stage, of which early stopping may skip some."""
  blocks = sum(map(len, waves))
  devices = programs.layout.devices
  print(
    f"{stage.name}: {len(stage.arms)} x {blocks} trials (arms x blocks), "
    f"{programs.layout.wave} block(s) at once on {len(devices)} "
    f"{devices[0].platform} device(s), {programs.steps_per_epoch} steps an "
    f"epoch, {stage.training.max_epochs} epochs at most; compiling first.",
    file=sys.stderr,
  )
  return tqdm(
    total=len(waves) * stage.training.max_epochs,
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
  programs, left = None, list(study.blocks)
  while left:
    try:
      programs = programs or stages.Programs(study, stage, len(left))
      wave = left[: programs.layout.wave]
      margins = _predict_wave(programs, wave, best)
    except jax.errors.JaxRuntimeError as error:
      study, programs = stages.with_fewer(study, stage, error), None
      continue
    for block, of_block in zip(wave, margins, strict=False):
      yield block, of_block[:, : len(study.folds[block.fold].test)]
    left = left[len(wave) :]


def _predict_wave(programs, wave, best):
  """Margins `[W, G, M, S, S]` of the test cases, padded."""
  layout = programs.layout
  states = layout.spread(_stack([best[b] for b in programs.pad(wave)]))
  margins = [
    layout.gather(
      programs.predict(
        states["params"], states["batch_stats"], programs.data, chunk
      )
    )
    for chunk in programs.chunks(wave, "test")
  ]
  return np.concatenate(margins, axis=2)
