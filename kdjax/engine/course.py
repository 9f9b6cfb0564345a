"""The course of a study: teachers, smaller ones, a search's rungs, students.

Each is a stage of the one loop, and so resumes by itself.
"""

import dataclasses
import functools
import math
import sys

from kdjax import workdirs
from kdjax.distill import axes
from kdjax.engine import adoption
from kdjax.engine import compression
from kdjax.engine import loop
from kdjax.engine import rungs


def train(study):
  """Trains the teachers, then all students; goes on where a run stopped.

  Where Teachers are to be compressed, or arms are tuned, these and the search
  for those's numbers come in between.

  Returns:
    By the name of each of `study.stages` a dict from block to `{"params",
    "batch_stats"}` with leaves `[G, ...]`: the best epoch's.
  """
  if rungs.tuned(study) and study.first:
    print(f"search: {cost(study)}.", file=sys.stderr)
  stage = study.teacher_stage
  adoption.adopt(study, functools.partial(loop.saved, study, stage))
  teachers = loop.run_stage(study, stage)
  if rungs.tuned(study):
    study = _search(study, teachers)
  return {stage.name: teachers} | {
    stage.name: loop.run_stage(study, stage, teachers)
    for stage in study.stages[1:]
  }


def cost(study):
  """What a search will train, and how much that is, in words."""
  config, arms = study.config, rungs.tuned(study)
  steps = rungs.make(config.search)
  folds = len({block.fold for block in study.blocks})
  untuned = len(study.arms) - len(arms)
  whole = config.student_training.max_epochs * len(study.blocks)
  searching = sum(x.draws * x.epochs for x in steps) * len(arms) * folds
  said = ", then ".join(
    f"{x.draws} for {x.epochs} epoch" + "s" * (x.epochs > 1) for x in steps
  )
  text = (
    f"{len(arms)} arms x {folds} folds, of each {said}: {searching} epochs of "
    "a student"
  )
  if untuned:
    text += f", {searching / (untuned * whole):.1f} times the untuned arms'"
  return f"{text}; the best draws are trained anew for {whole * len(arms)}"


def search_seconds(study):
  """Device-seconds of each tuned arm's search, the mean over folds, by name."""
  study, total = _searching(study), {}
  for rung in rungs.make(study.config.search) if rungs.tuned(study) else ():
    for (draw, _), took in loop.device_seconds(study, rung).items():
      arm = draw.rpartition("#")[0]
      total[arm] = total.get(arm, 0.0) + took / len(study.blocks)
  return total


def _searching(study):
  """The study of the blocks that search: every fold's first seed."""
  first = study.config.seeds[0]
  blocks = tuple(block for block in study.blocks if block.seed == first)
  return dataclasses.replace(study, blocks=blocks)


def _search(study, teachers):
  """The study whose tuned arms have the numbers that were found."""
  searching, records = _searching(study), []
  kept = rungs.start(searching)
  steps = rungs.make(study.config.search)
  for i, rung in enumerate(steps):
    stage = rungs.make_stage(searching, rung, kept)
    loop.run_stage(searching, stage, teachers)
    left = steps[i + 1].draws if i + 1 < len(steps) else 1
    kept, found = _choose(searching, stage, kept, left)
    records += [{"rung": i + 1, "epochs": rung.epochs, **row} for row in found]
  if study.first:
    workdirs.write_table(study.workdir, workdirs.SEARCH, records)
  return rungs.with_numbers(study, kept)


def _choose(study, stage, kept, left):
  """Which draws go on, by fold and arm, and a row for each that was trained."""
  chosen, records = {}, []
  for block in study.blocks:
    trained = {}
    for row in loop.history(study, stage, block):
      trained.setdefault(row["arm"], []).append(row)
    arms = {arm.name: arm for arm in stage.arms_of(block)}
    first = {
      name: compression.first_epoch(
        study.config, arm.numbers, stage.training.max_epochs
      )
      for name, arm in arms.items()
    }
    chosen[block.fold] = {}
    for name, draws in kept[block.fold].items():
      best = {
        draw: rungs.best_epoch(
          trained[rungs.draw_name(name, draw)],
          stage.training.select,
          first[rungs.draw_name(name, draw)],
        )
        for draw in draws
      }
      on = rungs.choose(
        {x: criterion for x, (_, criterion) in best.items()}, left
      )
      chosen[block.fold][name] = on
      for draw, (row, criterion) in best.items():
        arm = arms[rungs.draw_name(name, draw)]
        records.append(
          {
            "arm": name,
            "fold": block.fold,
            "draw": draw + 1,
            "numbers": " ".join(
              f"{x.name}={arm.numbers[x.name]!r}"
              for x in axes.numbers()
              if arm.reads(x)
            ),
            "best_epoch": row["epoch"],
            "val_loss": row["val_loss"],
            "val_dice": row["val_dice"],
            "diverged": int(math.isinf(criterion)),
            "kept": int(draw in on),
          }
        )
  return chosen, records
