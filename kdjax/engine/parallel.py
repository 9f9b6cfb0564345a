"""Lifts functions of one block and of one trial to waves, arms and devices.

Axes: D devices (`pmap`, named `layouts.AXIS`), N blocks at once on a device and
G arms of a block (`vmap`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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
  if _from_python(layout):
    return _make_turned_step(layout, prepare, step)

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


def _make_turned_step(layout, prepare, step):
  """`train_epoch` of one step as two programs: a preparation, a turn of arms.

  So that a CPU compiles a turn and not all arms, and has no loop around a
  convolution's gradient, which is 20 to 45 times slower there.
  """

  def block_turn(states, lanes, turn, count, shared):
    own = _of_turn((states, lanes), turn, turns)
    stepped = step(*own, count, *shared)
    put = lambda x, new: _divide(x, turns).at[turn].set(new).reshape(x.shape)
    return jax.tree.map(put, states, stepped)

  def block_batch(block, data, batch):
    return prepare(block, data, batch["cases"], batch["epochs"])

  turns = layout.turns
  ready = _over_devices(
    layout, jax.vmap(block_batch, in_axes=(0, None, 0)), (0, None, 0)
  )
  train = _over_devices(
    layout,
    jax.vmap(block_turn, in_axes=(0, layouts.OVER_BLOCKS, None, 0, 0)),
    (0, 0, None, 0, 0),
    donate_argnums=0,
  )

  def train_epoch(states, lanes, blocks, data, batches):
    batch = jax.tree.map(lambda x: x[:, 0], batches)  # See `Layout.parts`.
    shared = ready(blocks, data, batch)
    for turn in range(turns):
      states = train(states, lanes, turn, batch["counts"], shared)
    return states

  return train_epoch


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

  def turns(arms):
    # Once arms rest there are fewer than the layout was made for.
    return -(-arms // layout.together)

  def turns_of(variables):
    return turns(len(jax.tree.leaves(variables)[0]))

  def arms(own, data, chunk):
    return jax.vmap(lambda trial: look(*trial, data, chunk))(own)

  def block_arms(params, batch_stats, data, chunk):
    own = params, batch_stats  # Of answers there are no params.
    every = lambda turn: arms(turn, data, chunk)
    return _turn_by_turn(turns_of(own), every, own)

  def block_turn(params, batch_stats, turn, data, chunk):
    own = params, batch_stats
    return arms(_of_turn(own, turn, turns_of(own)), data, chunk)

  if not _from_python(layout):
    blocks = jax.vmap(block_arms, in_axes=(0, 0, None, 0))
    return _over_devices(layout, blocks, (0, 0, None, 0))
  blocks = jax.vmap(block_turn, in_axes=(0, 0, None, None, 0))
  one = _over_devices(layout, blocks, (0, 0, None, None, 0))

  def evaluate(params, batch_stats, data, chunk):
    arms = jax.tree.leaves((params, batch_stats))[0].shape[2]
    parts = [
      jax.device_get(one(params, batch_stats, turn, data, chunk))
      for turn in range(turns(arms))
    ]
    return jax.tree.map(lambda *x: np.concatenate(x, axis=2), *parts)

  return evaluate


def _from_python(layout):
  """Whether turns are calls from Python: where steps are, on CPU."""
  return layout.turns > 1 and not layout.scan


def _of_turn(tree, turn, turns):
  """The arms of one of several turns: `[G', ...]` to `[P, ...]`."""
  return jax.tree.map(lambda x: _divide(x, turns)[turn], tree)


def _divide(x, turns):
  """`[G', ...]` to `[turns, P, ...]`."""
  return x.reshape(turns, -1, *x.shape[1:])


def _turn_by_turn(turns, function, tree):
  """`function` of all arms together, or of one turn of them after another."""
  if turns == 1:
    return function(tree)
  divided = jax.tree.map(lambda x: _divide(x, turns), tree)
  join = lambda x: x.reshape(-1, *x.shape[2:])
  return jax.tree.map(join, jax.lax.map(function, divided))


def _over_devices(layout, function, in_axes, donate_argnums=()):
  return jax.pmap(
    function,
    axis_name=layouts.AXIS,
    in_axes=in_axes,
    devices=layout.devices,
    donate_argnums=donate_argnums,
  )
