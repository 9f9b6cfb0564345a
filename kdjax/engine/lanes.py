"""A step of several trials, mapped but for their objectives.

Every trial has a lane. All lanes are one `vmap` through the student and the
optimizer; an objective, its regressors and their gradient are mapped over the
lanes that train for it and cost no other. Which lanes those are is known when
the program is made, from a list of objectives by lane. Where devices, or arms
that are stepped in turn, have different lists, each takes its branch.
"""

import functools
import itertools
import typing

from flax import struct
import jax
import jax.numpy as jnp

from kdjax.distill import mapped
from kdjax.distill import trials
from kdjax.engine import steps


@struct.dataclass
class States:
  """What the trials of `P` lanes carry from one step to the next.

  Attributes:
    trials: `steps.TrialState` with leaves `[P, ...]`.
    regressors: by name, `steps.RegressorState` with leaves `[R, ...]`: one for
      every lane that has one, in order, and perhaps more that none has.
  """

  trials: steps.TrialState
  regressors: dict[str, steps.RegressorState]


@struct.dataclass
class Lanes:
  """What the trials of `P` lanes are.

  Attributes:
    trials: `mapped.Trial` with leaves `[P]`.
    list: `[1]`, which of the program's lists of objectives is theirs.
    owners: by name, `[R]`: the lane that each regressor belongs to.
  """

  trials: mapped.Trial
  list: jax.Array
  owners: dict[str, jax.Array]


def init(key, weights, *, images, student, regressors):
  """`States` of one trial, but with a regressor for every pair.

  Leaves have no axis yet. See `steps.init_state` and `steps.init_regressors`.
  """
  return States(
    steps.init_state(key, weights, images=images, student=student),
    steps.init_regressors(
      key, images=images, student=student, regressors=regressors
    ),
  )


class Group(typing.NamedTuple):
  """Lanes side by side that train for one objective.

  Attributes:
    objective: theirs, or None.
    lanes: a slice of them.
    regressors: by name, a slice of those that they have.
  """

  objective: trials.Objective | None
  lanes: slice
  regressors: dict[str, slice]

  @property
  def size(self):
    """Number of lanes."""
    return self.lanes.stop - self.lanes.start


def groups(objectives):
  """The `Group`s of a list of objectives by lane."""
  found, lane, used = [], 0, {}
  for objective, members in itertools.groupby(objectives):
    size = len(list(members))
    regressors = {}
    for pair in mapped.learnt(objective):
      name = mapped.regressor_name(pair)
      first = used.get(name, 0)
      regressors[name] = slice(first, first + size)
      used[name] = first + size
    found.append(Group(objective, slice(lane, lane + size), regressors))
    lane += size
  return found


def train_step(
  states,
  lanes,
  count,
  batch,
  teachers,
  *,
  lists,
  student,
  regressors,
  schedule,
  compression=None,
  batch_axis=None,
):
  """One step of Adam on `(1 - alpha) * supervised + alpha * distillation`.

  Args:
    states: `States`.
    lanes: `Lanes`.
    count: steps done before this one, shared by all trials of a block.
    batch: `{"image": [B, H, W, C] (strong view), "mask": [B, H, W]}`.
    teachers: `(logits, features)` for every answer that the grid uses.
    lists: lists of an `Objective` or None for each of the `P` lanes.
    student: linen module.
    regressors: dict from pair to linen module.
    schedule: from the count to the part of the trial's learning rate.
    compression: `compression.Compression` of the student, or None.
    batch_axis: device axis over which the batch is split, or None.

  Returns:
    The new `States`; the old where a trial is not live.
  """
  objectives = dict.fromkeys(x for every in lists for x in every if x)
  supervise = functools.partial(
    steps.supervise, student=student, student_taps=mapped.taps(objectives, 0)
  )
  distill = _by_groups(
    lists,
    lanes.list[0],
    functools.partial(
      steps.distill,
      teachers=teachers,
      mask=batch["mask"],
      regressors=regressors,
    ),
  )
  weights = {name: x.params for name, x in states.regressors.items()}

  def descend(params, batch_stats, trial):
    if compression:
      batch_stats = compression.quantise(batch_stats, trial.numbers, count)
    (sup, answer), pull, batch_stats = jax.vjp(
      lambda params: supervise(params, batch_stats, trial, batch),
      params,
      has_aux=True,
    )
    loss, to_answer, to_weights = distill(trial, answer, weights)
    alpha = trial.numbers["alpha"]
    (gradients,) = pull((1.0 - alpha, to_answer))
    total = (1.0 - alpha) * sup + alpha * loss
    parts = {"train": total, "distill": loss, "sup": sup}
    return (gradients, parts, batch_stats), to_weights

  own = lanes.trials
  (gradients, parts, batch_stats), to_weights = jax.vmap(
    descend, out_axes=(0, None)
  )(states.trials.params, states.trials.batch_stats, own)
  if batch_axis:
    gradients, to_weights, parts, batch_stats = jax.lax.pmean(
      (gradients, to_weights, parts, batch_stats), batch_axis
    )
  norms = jax.vmap(steps.square_norm)
  squares = norms(gradients)
  for name, gradient in to_weights.items():
    squares = squares.at[lanes.owners[name]].add(norms(gradient))
  finite = jnp.isfinite(parts["train"]) & jnp.isfinite(squares)

  update = functools.partial(
    steps.update, compression=compression, count=count, schedule=schedule
  )
  stepped = jax.vmap(update)(
    states.trials, own, gradients, parts, batch_stats, finite
  )
  relearn = functools.partial(steps.relearn, count=count, schedule=schedule)
  relearnt = {
    name: jax.vmap(relearn)(
      states.regressors[name],
      # What met a number that is not finite is live no longer.
      *jax.tree.map(lambda x, i=i: x[i], (own, stepped.live)),
      to_weights[name],
    )
    for name, i in lanes.owners.items()
  }
  return States(stepped, relearnt)


def _by_groups(lists, chosen, distill):
  """Lifts a loss of one lane to all of a map's, each at its own cost.

  Args:
    lists: lists of an `Objective` or None by lane.
    chosen: scalar, which of them is these lanes'.
    distill: `steps.distill` of an answer, its regressors and its trial.

  Returns:
    A function of one lane, to be mapped over all: from its trial, its answer
    and the regressors of all lanes, which are not mapped, to its loss and the
    gradients of `alpha` times it: of the answer, and of all the regressors.
  """
  branches = [
    functools.partial(_distill_groups, distill, groups(x)) for x in lists
  ]

  @jax.custom_batching.custom_vmap
  def of_a_lane(trial, answer, weights):
    # Lends its shapes: which lane this is, only the map knows.
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return zeros(trial.numbers["alpha"]), zeros(answer), zeros(weights)

  @of_a_lane.def_vmap
  def _of_all_lanes(size, mapped, *operands):
    del size
    _, answers_mapped, weights_mapped = mapped
    found = (
      jax.lax.switch(chosen, branches, *operands)
      if len(branches) > 1
      else branches[0](*operands)
    )
    return found, (True, answers_mapped, weights_mapped)

  return of_a_lane


def _distill_groups(distill, grouped, own, answers, weights):
  """What `_by_groups` promises, of all lanes.

  Args:
    distill: `steps.distill` of an answer, its regressors and its trial.
    grouped: `Group`s.
    own: `Trial` of the lanes.
    answers: students' `(logits, features)`, leaves `[P, B, h, w, C]`.
    weights: parameters of the regressors by name, `[R, ...]`.
  """
  logits, features = answers
  found, to_logits = [], []
  to_features = {tap: [] for tap in features}
  to_weights = {name: [] for name in weights}
  for group in grouped:
    objective = group.objective
    if not objective:
      found.append(jnp.zeros(group.size, own.numbers["alpha"].dtype))
      read, learnt = (None, {}), {}
    else:
      cut = lambda x, lanes=group.lanes: x[lanes]
      read = (
        None if objective.pairs else cut(logits),
        {tap: cut(features[tap]) for tap in mapped.taps([objective], 0)},
      )
      regressors = {
        name: jax.tree.map(lambda x, part=part: x[part], weights[name])
        for name, part in group.regressors.items()
      }

      def one(trial, answer, regressors, objective=objective):
        loss, pull = jax.vjp(
          lambda a, r: distill(a, r, trial, objective=objective),
          answer,
          regressors,
        )
        return loss, *pull(trial.numbers["alpha"])

      loss, read, learnt = jax.vmap(one)(
        jax.tree.map(cut, own), read, regressors
      )
      found.append(loss)
    none = lambda x, lanes=group.lanes: jnp.zeros_like(x[lanes])
    to_logits.append(none(logits) if read[0] is None else read[0])
    for tap, x in features.items():
      to_features[tap].append(read[1][tap] if tap in read[1] else none(x))
    for name, x in learnt.items():
      to_weights[name].append(x)
  return (
    jnp.concatenate(found),
    (
      jnp.concatenate(to_logits),
      {tap: jnp.concatenate(x) for tap, x in to_features.items()},
    ),
    {name: _fill(x, weights[name]) for name, x in to_weights.items()},
  )


def _fill(parts, like):
  """Trees of `parts` in a row, and zeros to the length of `like`."""

  def join(x, *parts):
    rest = jnp.zeros((len(x) - sum(map(len, parts)), *x.shape[1:]), x.dtype)
    return jnp.concatenate([*parts, rest])

  return jax.tree.map(join, like, *parts)
