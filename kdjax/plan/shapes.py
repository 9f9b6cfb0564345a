"""The shapes that a stage's programs are called with, for who only compiles."""

import functools

import jax
import numpy as np

from kdjax.engine import lanes
from kdjax.models import folding


def arguments(programs):
  """The shapes that `loop` gives to each program of an epoch, by its name."""
  study, layout = programs.study, programs.layout
  wave = list(study.blocks[: layout.wave])
  batches = programs.batches(wave, dict.fromkeys(wave, 0))
  devices, blocks = layout.block_ids.shape
  spread = lambda tree, *lead: _shapes(tree, 0, devices, *lead)
  key = study.blocks[0].key
  fresh = jax.eval_shape(programs.init, key, {})
  trials = spread(fresh.trials, blocks, layout.arm_ids.shape[1])
  regressors = {
    name: spread(fresh.regressors[name], blocks, places.ids.shape[1])
    for name, places in layout.regressors.items()
  }
  shared = {
    "key": spread(jax.eval_shape(lambda: key), blocks),
    "teacher": {},
  }
  for network in programs.networks:
    shared[network] = spread(teacher(study), blocks)
  epochs = spread(jax.ShapeDtypeStruct((), np.int32), blocks)
  return {
    "train_epoch": (
      lanes.States(trials, regressors),
      programs.lanes(wave),
      # The teacher's answers, where they are asked for once.
      jax.eval_shape(functools.partial(programs.remember, wave), shared),
      programs.data,
      layout.parts(batches)[0],
    ),
    "evaluate": (
      trials.params,
      trials.batch_stats,
      programs.data,
      next(iter(programs.chunks(wave, "val"))),
    ),
    "finish_epoch": (trials, epochs, trials.best_criterion),
  }


def turn(programs):
  """The shapes that `parallel.make_arms_step` takes, of one block's turn."""
  states, own, shared, data, batches = arguments(programs)["train_epoch"]
  batch = _shapes(batches, 3)  # From [D, T, N, ...].
  prepared = jax.eval_shape(
    programs.prepare, _shapes(shared, 2), data, batch["cases"], batch["epochs"]
  )
  devices, turns = len(programs.layout.devices), programs.layout.turns
  part = lambda x, axis: jax.ShapeDtypeStruct(
    (devices, x.shape[axis] // turns, *x.shape[axis + 1 :]), x.dtype
  )
  of_blocks = functools.partial(jax.tree.map, lambda x: part(x, 2))
  of_devices = functools.partial(jax.tree.map, lambda x: part(x, 1))
  return (
    of_blocks(states),  # From [D, N, turns * P, ...].
    own.replace(
      trials=of_blocks(own.trials),
      list=of_devices(own.list),  # From [D, turns].
      owners=of_devices(own.owners),
    ),
    *_shapes((batch["counts"], *prepared), 0, devices),
  )


def teacher(study):
  """Shapes of a teacher in inference form."""
  model, images = study.make_model("teacher"), study.blank("teacher")
  return jax.eval_shape(
    lambda: folding.fold(model, model.init(study.blocks[0].key, images))[1]
  )


def _shapes(tree, dropped, *lead):
  """Shapes without the first `dropped` axes, behind the axes of `lead`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[dropped:]), x.dtype), tree
  )
