"""A wave: blocks that train together, where they are and how far they came."""

import functools
import typing

from flax import serialization
import jax
import numpy as np

from kdjax.distill import mapped
from kdjax.engine import interruption
from kdjax.engine import lanes
from kdjax.engine import shares
from kdjax.engine import stopwatch
from kdjax.models import folding


class Epoch(typing.NamedTuple):
  """What a wave did in an epoch, or in the part of it before a signal came.

  Attributes:
    steps: number of them.
    seconds: of a device, for each trial that trained.
    trained: `[W, G]`, whether a trial did.
    measured: dict of `[W, G]` at the epoch's end; empty before it.
  """

  steps: int
  seconds: float
  trained: np.ndarray
  measured: dict


class Wave:
  """Blocks in training: their trials' states, and the arms that rest.

  Arms none of whose trials is live are compacted away: they rest on the host.

  Attributes:
    programs: `stages.Programs`.
    blocks: equally far in their epoch.
    live: `[W, G]`, whether a trial trains on.
    weighed: `alpha` that each trains with, and `distill_share`, measured as
      `shares` says or NaN in an epoch without; each `[W, G]`.
  """

  def __init__(self, programs, blocks, progress, teachers):
    self.programs = programs
    self.blocks = blocks
    self._steps = {block: progress[block].step for block in blocks}
    self._layout = programs.layout
    alpha = programs.numbers(blocks, "alpha")
    self.weighed = {
      "alpha": alpha,
      "distill_share": np.full_like(alpha, np.nan),
    }
    for i, block in enumerate(blocks):
      for name, saved in progress[block].weighed.items():
        self.weighed[name][i] = saved
    self._lanes = programs.lanes(blocks, self.weighed["alpha"])
    self._train_epoch = programs.train_epoch
    self._states = start_states(programs, blocks, progress, teachers)
    self._shared = programs.remember(blocks, share(programs, blocks, teachers))
    self._resting = None
    live = self._states.trials.live
    self.live = self._layout.gather(live)[: len(blocks)]

  def gather(self):
    """The states of all arms, on the host: leaves `[W, G, ...]`.

    A regressor's have a row for every arm that has one: `[W, R, ...]`.
    """
    return self._layout.gather_states(self._states, self._resting)

  def compact(self):
    """Lets arms that have stopped rest; returns whether that saved a place."""
    layout = self._layout.keep(np.flatnonzero(self.live.any(axis=0)))
    if layout is self._layout:
      return False
    self._resting = self.gather()
    self._layout = layout
    self._lanes = self.programs.lanes(
      self.blocks, self.weighed["alpha"], layout
    )
    self._states = layout.spread_states(self._resting)
    self._train_epoch = self.programs.train_epoch_in(layout)
    return True

  def train_epoch(self):
    """Trains to the end of the `Epoch`, unless a signal comes before."""
    trained = self.live
    per_epoch = self.programs.steps_per_epoch
    watch = stopwatch.Stopwatch()
    epoch, within = divmod(self._steps[self.blocks[0]], per_epoch)
    if not within:
      self._weigh(epoch)
    steps = self._train()
    measured = {}
    if self._steps[self.blocks[0]] % per_epoch == 0:
      measured = self._finish_epoch()
      self.live = measured["live"][: len(self.blocks)]
      measured |= self.weighed
    seconds = watch.stop() * len(self._layout.devices) / trained.sum()
    return Epoch(steps, float(seconds), trained, measured)

  def _weigh(self, epoch):
    """Measures distillation's share of gradients; lets alphas follow it."""
    programs, alpha = self.programs, self.weighed["alpha"]
    share = np.full_like(alpha, np.nan)
    asked = programs.numbers(self.blocks, "share")
    due = shares.due(
      epoch,
      programs.stage.training.max_epochs,
      programs.steps_per_epoch,
      asked.any(),
    )
    if due and mapped.objectives(programs.stage.arms):
      norms = self._norms()
      share = shares.share(alpha, *norms)
      if asked.any():
        alpha = shares.follow(alpha, asked, *norms)
        if not epoch:  # What it would have been says nothing.
          share = shares.share(alpha, *norms)
        self._lanes = programs.lanes(self.blocks, alpha, self._layout)
    self.weighed = {"alpha": alpha, "distill_share": share}

  def _norms(self):
    """`shares.norms` on the batch that comes next, each `[W, G]`."""
    batches = self.programs.batches(self.blocks, self._steps)
    batch = jax.tree.map(lambda x: x[:, :1], batches)
    rest = self._shared, self.programs.data, batch
    train = lambda states, own: self._train_epoch(states, own, *rest)
    found = shares.norms(train, self._states, self._lanes)
    return [self._layout.gather(x)[: len(self.blocks)] for x in found]

  def _train(self):
    """Steps to the end of the epoch, or of the step in which a signal came."""
    programs, taken = self.programs, 0
    batches = programs.batches(self.blocks, self._steps)
    for part in self._layout.parts(batches):
      self._states = self._train_epoch(
        self._states, self._lanes, self._shared, programs.data, part
      )
      # JAX queues steps, and a signal must not wait for a queue of them.
      jax.block_until_ready(self._states)
      taken += part["counts"].shape[1]
      if interruption.hold():
        break
    self._steps = {block: step + taken for block, step in self._steps.items()}
    return taken

  def _finish_epoch(self):
    """Validates, keeps the best, stops trials; returns what was measured."""
    programs, layout = self.programs, self._layout
    states = self._states.trials
    results = _mean_over_chunks(
      programs.evaluate(states.params, states.batch_stats, programs.data, chunk)
      for chunk in programs.chunks(self.blocks, "val")
    )
    sums = jax.device_get(states.sums)  # Finishing the epoch empties them.
    epochs = [
      self._steps[block] // programs.steps_per_epoch
      for block in programs.pad(self.blocks)
    ]
    # As in training: [D, N, G'] of the terms and of their weight.
    weight = np.asarray(self._lanes.trials.numbers["soft_dice"])
    loss = results["cross_entropy"] + weight * results["soft_dice"]
    criterion = {"loss": loss, "dice": -results["dice"]}
    finished = programs.finish_epoch(
      states,
      layout.spread_blocks(np.array(epochs, np.int32)),
      criterion[programs.stage.training.select],
    )
    self._states = self._states.replace(trials=finished)
    return layout.gather(
      {
        **{f"{k}_loss": v / programs.steps_per_epoch for k, v in sums.items()},
        "val_loss": loss,
        "val_dice": results["dice"],
        "live": finished.live,
        "diverged": finished.diverged,
      }
    )


def start_states(programs, wave, progress, teachers=None):
  """The states of a wave, fresh or as they were saved, on the devices.

  Where Teachers train on, what is fresh is the block's trained one.
  """
  weights = programs.study.load_weights(programs.stage.role)
  layout, found = programs.layout, []
  for block in programs.pad(wave):
    if teachers and programs.stage.role == "teacher":
      weights = jax.tree.map(lambda x: np.asarray(x)[0], teachers[block])
    fresh = jax.device_get(programs.init(block.key, weights))
    states = lanes.States(
      _repeat(fresh.trials, layout.arms),
      {
        name: _repeat(fresh.regressors[name], places.rows)
        for name, places in layout.regressors.items()
      },
    )
    if progress[block].states:
      states = serialization.from_state_dict(states, progress[block].states)
    found.append(states)
  return layout.spread_states(stack(found))


def _repeat(tree, rows):
  return jax.tree.map(
    lambda x: np.repeat(np.asarray(x)[None], rows, axis=0), tree
  )


def share(programs, wave, teachers):
  """What the trials of every block of a wave share: random key and teacher.

  And the teacher's network as its training found it, where a control asks it.
  """
  full = programs.pad(wave)
  keys = np.stack([jax.random.key_data(block.key) for block in full])
  shared = {
    "key": jax.random.wrap_key_data(programs.layout.spread_blocks(keys)),
    "teacher": {},
  }
  find = {
    "teacher": lambda block: teachers[block],
    "untrained": functools.partial(_untrained, programs),
  }
  for network in programs.networks:
    best = map(find[network], full)
    shared[network] = programs.layout.spread_blocks(
      stack([_fold(programs.study, x) for x in best])
    )
  return shared


def _untrained(programs, block):
  """What a teacher's training starts from, as if it had been its best."""
  weights = programs.study.load_weights("teacher")
  fresh = jax.device_get(programs.init_teacher(block.key, weights)).trials
  best = {"params": fresh.params, "batch_stats": fresh.batch_stats}
  return jax.tree.map(lambda x: np.asarray(x)[None], best)


def _fold(study, best):
  """A trained teacher's variables in inference form."""
  only = jax.tree.map(lambda x: x[0], best)
  return folding.fold(study.make_model("teacher"), only)[1]


def stack(trees):
  """Trees of one structure as one, along a new first axis."""
  return jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *trees)


def _mean_over_chunks(results):
  """Means over cases of `inference.evaluate`s results, each `[D, N, G']`."""
  total = functools.reduce(
    lambda a, b: jax.tree.map(np.add, a, b), map(jax.device_get, results)
  )
  return {
    "cross_entropy": total["cross_entropy"] / total["cases"],
    "soft_dice": total["soft_dice"] / total["cases"],
    "dice": total["dice"] / np.maximum(total["lesions"], 1),
  }
