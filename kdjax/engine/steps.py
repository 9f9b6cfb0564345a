"""One trial, one device: state, the parts of a step, epoch's end, evaluation.

Pure functions without loops or I/O. They never see the grid (`G`) or the
devices (`D`); `lanes` makes a step of several trials of them and `parallel`
lifts it. Teachers are trained by the same step: trials without an objective.
"""

import functools
import zlib

from flax import struct
import jax
import jax.numpy as jnp
import optax

from kdjax.distill import losses
from kdjax.distill import mapped
from kdjax.distill import pathways
from kdjax.distill import supervised
from kdjax.distill import taps
from kdjax.models import pretrained


@struct.dataclass
class TrialState:
  """What a trial carries from one step to the next.

  `sums` adds up the losses of an epoch's steps on the device. A trial that
  stopped, or whose loss or gradient was not finite, is not `live`: it keeps
  its last state.
  """

  params: dict
  batch_stats: dict
  optimizer: optax.OptState
  sums: dict
  best_params: dict
  best_batch_stats: dict
  best_criterion: jax.Array  # What chose them; the smaller, the better.
  stale: jax.Array  # Epochs since then.
  live: jax.Array
  diverged: jax.Array


@struct.dataclass
class RegressorState:
  """A regressor of a trial that has one; it is thrown away after training."""

  params: dict
  optimizer: optax.OptState


def make_optimizer(learning_rate, weight_decay):
  """Adam, or AdamW where the trial decays weights.

  Flattened, so that the same arithmetic is compiled whatever the layers.
  """
  return optax.flatten(optax.adamw(learning_rate, weight_decay=weight_decay))


def init_state(key, weights, *, images, student):
  """A fresh trial, the same for all arms of a block.

  Args:
    key: of the block.
    weights: variables to start from where not at random, or {}.
    images: `[B, H, W, C]`, only lends its shape.
    student: linen module.
  """
  variables = pretrained.merge(student.init(key, images), weights)
  params = variables["params"]
  # Flax starts statistics in float32 whatever the rest; a step would not.
  dtype = jnp.result_type(*jax.tree.leaves(params))
  batch_stats = jax.tree.map(
    lambda x: x.astype(dtype), variables.get("batch_stats", {})
  )
  number = _number()
  return TrialState(
    params=params,
    batch_stats=batch_stats,
    optimizer=_begin(params),
    sums={name: jnp.zeros((), number) for name in ("train", "distill", "sup")},
    best_params=params,
    best_batch_stats=batch_stats,
    best_criterion=jnp.full((), jnp.inf, number),
    stale=jnp.int32(0),
    live=jnp.bool_(True),
    diverged=jnp.bool_(False),
  )


def init_regressors(key, *, images, student, regressors):
  """A fresh `RegressorState` for every pair, by name.

  Args:
    key: of the block.
    images: `[B, H, W, C]`, only lends its shape.
    student: linen module.
    regressors: dict from pair to linen module.
  """
  if not regressors:
    return {}
  student_taps = tuple(dict.fromkeys(pair[0] for pair in regressors))
  features = jax.eval_shape(
    lambda x: taps.apply(student, student.init(key, x), x, taps=student_taps),
    images,
  )[1]
  states = {}
  for pair, regressor in regressors.items():
    blank = jnp.zeros(features[pair[0]].shape, features[pair[0]].dtype)
    # From its name, so that the grid's other regressors do not matter.
    name = mapped.regressor_name(pair)
    own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    params = regressor.init(own_key, blank)["params"]
    states[name] = RegressorState(params, _begin(params))
  return states


def supervise(params, batch_stats, trial, batch, *, student, student_taps):
  """A student's answer to a batch, and what the masks say of it.

  Supervised is cross-entropy + `soft_dice` * soft Dice.

  Args:
    params: of the student.
    batch_stats: of the student.
    trial: `Trial` of scalars.
    batch: `{"image": [B, H, W, C] (strong view), "mask": [B, H, W]}`.
    student: linen module.
    student_taps: what to return of its features.

  Returns:
    `((loss, (logits, features)), batch_stats)`.
  """
  variables = {"params": params, "batch_stats": batch_stats}
  logits, features, batch_stats = taps.apply(
    student, variables, batch["image"], taps=student_taps, train=True
  )
  entropy = jnp.mean(supervised.cross_entropy(logits, batch["mask"]))
  overlap = jnp.mean(supervised.soft_dice(logits, batch["mask"]))
  loss = entropy + trial.numbers["soft_dice"] * overlap
  return (loss, (logits, features)), batch_stats


def distill(answer, weights, trial, *, teachers, mask, objective, regressors):
  """An objective against the trial's answer, averaged to a scalar.

  Args:
    answer: a student's `(logits, features)`, of which it reads its own.
    weights: parameters of its regressors by name.
    trial: `Trial` of scalars.
    teachers: `(logits, features)` for every answer that the grid uses.
    mask: `[B, H, W]`, of the strong view.
    objective: `Objective`.
    regressors: dict from pair to linen module.
  """
  loss = losses.LOSSES[objective.loss]
  num_classes = teachers[0][0].shape[-1]

  def compare(student_map, teacher_maps, pair=None):
    def regress(x):
      own = weights[mapped.regressor_name(pair)]
      return regressors[pair].apply({"params": own}, x)

    # Only the choice of the answer depends on the trial, so that what is done
    # to a teacher's map is done once for all trials.
    compared = [
      pathways.PATHWAYS[objective.pathway](
        student_map,
        jax.lax.stop_gradient(teacher_map),
        regress,
        loss.relational,
      )
      for teacher_map in teacher_maps
    ]
    target = jax.lax.select_n(trial.answer, *(x for _, x in compared))
    each = loss.function(
      compared[0][0],
      target,
      trial.numbers["temperature"],
      pathways.memberships(mask, target, num_classes),
    )  # [B]
    return jnp.mean(each).astype(_number())

  if not objective.pairs:
    return compare(answer[0], [logits for logits, _ in teachers])
  return sum(
    weight
    * compare(
      answer[1][ours],
      [features[theirs] for _, features in teachers],
      (ours, theirs),
    )
    for ours, theirs, weight in objective.pairs
  )


def square_norm(gradients):
  """The squared norm of a tree, a scalar; not finite where a leaf is not."""
  return optax.tree.norm(gradients, squared=True)


def update(
  state,
  trial,
  gradients,
  parts,
  batch_stats,
  finite,
  *,
  compression=None,
  **when,
):
  """A `TrialState` after a step; the old one where it is not live.

  Args:
    state: `TrialState`.
    trial: `Trial` of scalars.
    gradients: of its parameters.
    parts: the losses of the step, as in `sums`.
    batch_stats: new ones.
    finite: whether losses and gradients are; if not it is live no longer.
    compression: `compression.Compression`, or None.
    **when: `count` and `schedule`, see `lanes.train_step`.
  """
  params, optimizer = _descend(state, trial, gradients, **when)
  if compression:
    state, params = compression.shrink(
      state, params, trial.numbers, when["count"] + 1
    )
  stepped = state.replace(
    params=params,
    batch_stats=batch_stats,
    optimizer=optimizer,
    sums=jax.tree.map(jnp.add, state.sums, parts),
  )
  kept = state.replace(
    live=state.live & finite, diverged=state.diverged | (state.live & ~finite)
  )
  return _where(state.live & finite, stepped, kept)


def relearn(state, trial, live, gradients, **when):
  """A `RegressorState` after a step; the old one where its trial rests."""
  return _where(
    live, RegressorState(*_descend(state, trial, gradients, **when)), state
  )


def _begin(params):
  return make_optimizer(learning_rate=0.0, weight_decay=0.0).init(params)


def _descend(state, trial, gradients, count, schedule):
  """A step of Adam from `state`: `(params, optimizer)`."""
  numbers = trial.numbers
  # The count comes from outside, where it is not mapped over trials, so that
  # the bias correction is one number however many trials there are.
  updates, optimizer = make_optimizer(
    numbers["learning_rate"] * schedule(count), numbers["weight_decay"]
  ).update(
    gradients, optax.tree.set(state.optimizer, count=count), state.params
  )
  return optax.apply_updates(state.params, updates), optimizer


def finish_epoch(state, epoch, criterion, *, max_epochs, patience):
  """Keeps the best state, counts stale epochs, stops, empties the sums.

  Args:
    state: `TrialState` after the epoch's last step.
    epoch: 1-based number of the epoch that ends.
    criterion: scalar, what chooses the best epoch; the smaller, the better.
    max_epochs: the epoch after which every trial stops.
    patience: stale epochs after which a trial stops; 0 is never.
  """
  better = state.live & (criterion < state.best_criterion)
  stale = jnp.where(better, 0, state.stale + state.live)
  live = state.live & (epoch < max_epochs)
  return state.replace(
    best_params=_where(better, state.params, state.best_params),
    best_batch_stats=_where(better, state.batch_stats, state.best_batch_stats),
    best_criterion=jnp.where(better, criterion, state.best_criterion),
    stale=stale,
    live=live & (stale < patience) if patience else live,
    sums=jax.tree.map(jnp.zeros_like, state.sums),
  )


def _number():
  """The type of losses: that of Python's float, as JAX is set."""
  return jnp.result_type(float)


def _where(condition, chosen, otherwise):
  return jax.tree.map(
    functools.partial(jnp.where, condition), chosen, otherwise
  )
