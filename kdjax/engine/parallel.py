"""Lifts functions of one block and of one trial to waves, arms and devices.

Axes: D devices (`pmap`, named `layouts.AXIS`), N blocks at once on a device and
G arms of a block (`vmap`).
"""

import functools

import jax
import jax.numpy as jnp

from kdjax.engine import layouts


def make_train_epoch(layout, prepare, step):
  """Lifts one block's preparation and one trial's step to an epoch of a wave.

  Args:
    layout: `Layout`.
    prepare: `(block, data, cases, epochs)` to `(batch, teachers)`; runs once
      per block, never once per arm.
    step: `lanes.train_step` but for `lists`.

  Returns:
    `train_epoch(states, lanes, blocks, data, batches)` to states; the states
    given are consumed. `batches` is `{"cases", "epochs": [D, T, N, B'],
    "counts": [D, T, N]}` on the host.
  """

  step = functools.partial(step, lists=layout.lists)

  def block_step(states, lanes, block, data, batch):
    shared = prepare(block, data, batch["cases"], batch["epochs"])
    own = lambda group: step(*group, batch["counts"], *shared)
    return _turn_by_turn(layout.turns, own, (states, lanes))

  def wave_step(states, lanes, blocks, data, batch):
    lifted = jax.vmap(block_step, in_axes=(0, layouts.OVER_BLOCKS, 0, None, 0))
    return lifted(states, lanes, blocks, data, batch)

  def wave_epoch(states, lanes, blocks, data, batches):
    body = lambda states, batch: (
      wave_step(states, lanes, blocks, data, batch),
      None,
    )
    if layout.scan:
      return jax.lax.scan(body, states, batches)[0]
    (steps,) = batches["counts"].shape[:1]
    for t in range(steps):  # One, see `Layout.parts`.
      states, _ = body(states, jax.tree.map(lambda x, t=t: x[t], batches))
    return states

  in_axes = (0, 0, 0, None, 0)
  return _over_devices(layout, wave_epoch, in_axes, donate_argnums=0)


def make_arms_step(layout, step):
  """What a device does for `layout.together` arms once their block is prepared.

  Returns:
    `arms_step(states, lanes, count, batch, teachers)`: a step of the arms of a
    turn on what `prepare` returned, all `[D, ...]`.
  """
  step = functools.partial(step, lists=layout.lists)
  return _over_devices(layout, step, (0, 0, 0, 0, 0))


def make_finish_epoch(layout, finish):
  """Lifts `finish(state, epoch, loss)` to a wave: losses `[D, N, G']`."""
  arms = jax.vmap(finish, in_axes=(0, None, 0))
  return _over_devices(layout, jax.vmap(arms), (0, 0, 0), donate_argnums=0)


def make_answer(layout, answer):
  """Lifts `answer(block, data, cases)` to the blocks of a wave.

  Returns:
    `answers(blocks, data, chunks)`: what was answered, `[D, N, E, ...]`, for
    an iterable of cases `[D, N, E']`, one after another.
  """
  blocks = jax.vmap(answer, in_axes=(0, None, 0))
  one = _over_devices(layout, blocks, (0, None, 0))

  def join(parts):
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *parts)

  join = _over_devices(layout, join, (0,))
  return lambda blocks, data, chunks: join(
    [one(blocks, data, chunk) for chunk in chunks]
  )


def make_evaluate(layout, look):
  """Lifts `look(params, batch_stats, data, chunk)` to all trials of a wave.

  `chunk` is the block's: leaves `[D, N, E]`; results are `[D, N, G', ...]`.
  """
  blocks = jax.vmap(_over_arms(layout, look), in_axes=(0, 0, None, 0))
  return _over_devices(layout, blocks, (0, 0, None, 0))


def _over_arms(layout, function):
  """Lifts `function(x, y, *shared)` to the arms `[G', ...]` of `x` and `y`."""

  def lifted(x, y, *shared):
    arm = lambda own: function(*own, *shared)
    # Once arms rest there are fewer than the layout was made for.
    turns = -(-len(jax.tree.leaves((x, y))[0]) // layout.together)
    return _turn_by_turn(turns, jax.vmap(arm), (x, y))

  return lifted


def _turn_by_turn(turns, function, tree):
  """`function` of all arms together, or of one turn of them after another."""
  if turns == 1:
    return function(tree)
  divide = lambda x: x.reshape(turns, -1, *x.shape[1:])
  join = lambda x: x.reshape(-1, *x.shape[2:])
  return jax.tree.map(join, jax.lax.map(function, jax.tree.map(divide, tree)))


def _over_devices(layout, function, in_axes, donate_argnums=()):
  return jax.pmap(
    function,
    axis_name=layouts.AXIS,
    in_axes=in_axes,
    devices=layout.devices,
    donate_argnums=donate_argnums,
  )
