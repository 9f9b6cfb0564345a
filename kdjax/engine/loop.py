"""Epochs: trains every block of a stage, resumes, and predicts test cases.

Teachers, a search's draws and students are trained by this one loop, as
stages.
"""

import contextlib
import itertools
import math
import sys

from flax import serialization
import jax
import numpy as np
from tqdm import tqdm

from kdjax import workdirs
from kdjax.engine import checkpoint
from kdjax.engine import fitting
from kdjax.engine import histories
from kdjax.engine import interruption
from kdjax.engine import saves
from kdjax.engine import stages
from kdjax.engine import waves


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
      study = fitting.with_fewer(study, stage, error)


def _train_blocks(study, stage, teachers):
  with contextlib.ExitStack() as stack:
    kept = {
      block: stack.enter_context(contextlib.closing(saved(study, stage, block)))
      for block in study.blocks
    }
    progress = {block: kept[block].restore() for block in study.blocks}
    history = histories.History(study, stage)
    # The last run may have died between a checkpoint and its history.
    history.write(progress)
    todo = [block for block in study.blocks if not progress[block].finished]
    if todo:
      programs = stages.Programs(study, stage, len(todo))
      rounds = _rounds(programs, todo, progress)
      cadence = saves.Cadence(study.config.engine)
      with _bar(programs, stage, rounds) as bar:
        for blocks in rounds:
          # No name holds a wave's states while the next one's are made.
          _train_wave(
            waves.Wave(programs, blocks, progress, teachers),
            kept,
            history,
            progress,
            cadence,
            bar,
          )
      print(f"{stage.name}: {cadence}.", file=sys.stderr)
  return {
    block: checkpoint.best(progress[block].states) for block in study.blocks
  }


def _rounds(programs, todo, progress):
  """`todo` wave by wave, each of blocks that are equally far in their epoch."""
  place = lambda block: progress[block].step % programs.steps_per_epoch
  size = programs.layout.wave
  rounds = []
  for _, group in itertools.groupby(sorted(todo, key=place), place):
    group = list(group)
    rounds += [group[i : i + size] for i in range(0, len(group), size)]
  return rounds


def _train_wave(wave, kept, history, progress, cadence, bar):
  """Trains a wave to its end or a signal; writes its blocks' `progress`."""
  start, name = bar.n, wave.blocks[0].name
  while wave.live.any():
    if wave.compact():
      bar.write(
        f"{name}: {wave.live.any(axis=0).sum()} arms go on in a smaller "
        "program, to be compiled.",
        file=sys.stderr,
      )
    epoch = wave.train_epoch()
    _record(wave, epoch, progress)
    if epoch.measured:
      bar.set_postfix_str(f"{name}, {wave.live.sum()} live", refresh=False)
      bar.update()
    stopping = interruption.hold()
    if cadence.due() or stopping or not wave.live.any():
      with cadence.saving():
        _save(wave, kept, progress)
        history.write(progress)
    if stopping:
      break
  else:  # Trials that stopped early leave the bar's estimate too long.
    bar.update(wave.programs.stage.training.max_epochs - (bar.n - start))
  for block in wave.blocks:
    kept[block].wait()
  interruption.release()


def _record(wave, epoch, progress):
  """Adds a `waves.Epoch` to the steps, times and histories of its blocks."""
  programs = wave.programs
  for i, block in enumerate(wave.blocks):
    mine = progress[block]
    mine.step += epoch.steps
    mine.seconds += epoch.seconds
    if epoch.measured:
      mine.history += histories.rows(
        programs,
        block,
        mine.step,
        {name: x[i] for name, x in epoch.measured.items()},
        epoch.trained[i],
        mine.seconds,
      )
      mine.seconds = 0.0


def _save(wave, kept, progress):
  """Saves the blocks of a wave, but those that were finished before."""
  states = wave.gather()
  for i, block in enumerate(wave.blocks):
    mine = progress[block]
    if mine.finished:
      continue
    mine.finished = not wave.live[i].any()
    mine.weighed = {name: x[i].tolist() for name, x in wave.weighed.items()}
    mine.states = serialization.to_state_dict(
      jax.tree.map(lambda x, i=i: x[i], states)
    )
    kept[block].save(mine)


def device_seconds(study, stage):
  """What training took, by trial: a dict from (arm's name, block) to seconds.

  An epoch's wall time (steps and validation; not compiling, nor saving) times
  the number of devices, shared equally by the trials that trained in it.
  What a killed run did not save is not in it; a trial that was trained before
  times were kept has NaN.
  """
  seconds = {}
  for block in study.blocks:
    for row in history(study, stage, block):
      trial = row["arm"], block
      took = row.get("device_seconds", math.nan)
      seconds[trial] = seconds.get(trial, 0.0) + took
  return seconds


def history(study, stage, block):
  """The rows of a block's history of a stage, in order."""
  with contextlib.closing(saved(study, stage, block)) as found:
    return found.history()


def saved(study, stage, block):
  """The `Checkpoint` of a block in a stage."""
  owner = " ".join((study.identity, stage.name, block.name))
  folder = workdirs.checkpoints(study.workdir, stage.name, block.name)
  return checkpoint.Checkpoint(folder, owner)


def _bar(programs, stage, rounds):
  """A bar over all epochs of a stage, of which early stopping may skip some."""
  blocks = sum(map(len, rounds))
  devices = programs.layout.devices
  print(
    f"{stage.name}: {len(stage.arms)} x {blocks} trials (arms x blocks), "
    f"{programs.layout.wave} block(s) at once on {len(devices)} "
    f"{devices[0].platform} device(s), {programs.steps_per_epoch} steps an "
    f"epoch, {stage.training.max_epochs} epochs at most; compiling first.",
    file=sys.stderr,
  )
  return tqdm(
    total=len(rounds) * stage.training.max_epochs,
    desc=stage.name,
    unit="epoch",
    file=sys.stderr,
    mininterval=1.0,
    dynamic_ncols=True,
  )


def predict(study, stage, best):
  """Margins on the test cases, yielded as `(block, [G, M, S, S])`.

  A margin is a region's logit minus the background's, of the best epoch; of
  several regions they are `[G, M, S, S, R]`.
  """
  programs, left = None, list(study.blocks)
  while left:
    try:
      programs = programs or stages.Programs(study, stage, len(left))
      wave = left[: programs.layout.wave]
      margins = _predict_wave(programs, wave, best)
    except jax.errors.JaxRuntimeError as error:
      study, programs = fitting.with_fewer(study, stage, error), None
      continue
    for block, of_block in zip(wave, margins, strict=False):
      yield block, of_block[:, : len(study.folds[block.fold].test)]
    left = left[len(wave) :]


def _predict_wave(programs, wave, best):
  """Margins `[W, G, M, S, S]` of the test cases, padded."""
  layout = programs.layout
  states = layout.spread(waves.stack([best[b] for b in programs.pad(wave)]))
  margins = [
    layout.gather(
      programs.predict(
        states["params"], states["batch_stats"], programs.data, chunk
      )
    )
    for chunk in programs.chunks(wave, "test")
  ]
  return np.concatenate(margins, axis=2)
