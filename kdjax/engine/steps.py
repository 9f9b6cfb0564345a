"""One trial, one device: state, train step, epoch's end, evaluation.

Pure functions without loops or I/O. They never see the grid (`G`) or the
devices (`D`); `parallel` lifts them. Teachers are trained by the same step:
trials without an objective.
"""

import functools
import zlib

from flax import struct
import jax
import jax.numpy as jnp
import optax

from kdjax.distill import losses
from kdjax.distill import pathways
from kdjax.distill import supervised
from kdjax.distill import taps
from kdjax.distill import trials
from kdjax.models import pretrained


@struct.dataclass
class TrialState:
  """What a trial carries from one step to the next.

  `sums` adds up the losses of an epoch's steps on the device. A trial that
  stopped, or whose loss or gradient was not finite, is not `live`: it keeps
  its last state.
  """

  params: dict  # "student", and "regressors" by pair.
  batch_stats: dict
  optimizer: optax.OptState
  sums: dict
  best_params: dict  # Of the student alone: regressors are thrown away.
  best_batch_stats: dict
  best_criterion: jax.Array  # What chose them; the smaller, the better.
  stale: jax.Array  # Epochs since then.
  live: jax.Array
  diverged: jax.Array


def make_optimizer(learning_rate, weight_decay):
  """Adam, or AdamW where the trial decays weights.

  Flattened, so that the same arithmetic is compiled whatever the layers.
  """
  return optax.flatten(optax.adamw(learning_rate, weight_decay=weight_decay))


def regressor_name(pair):
  """Key of the regressor of `pair` among the parameters."""
  return "-".join(tap.replace("/", ".") for tap in pair)


def init_state(key, weights, *, images, student, regressors):
  """A fresh trial, the same for all arms of a block.

  Args:
    key: of the block.
    weights: variables to start from where not at random, or {}.
    images: `[B, H, W, C]`, only lends its shape.
    student: linen module.
    regressors: dict from pair to linen module.
  """
  variables = pretrained.merge(student.init(key, images), weights)
  params = {"student": variables["params"], "regressors": {}}
  # Flax starts statistics in float32 whatever the rest; a step would not.
  dtype = jnp.result_type(*jax.tree.leaves(variables["params"]))
  batch_stats = jax.tree.map(
    lambda x: x.astype(dtype), variables.get("batch_stats", {})
  )
  if regressors:
    student_taps = tuple({pair[0] for pair in regressors})
    features = jax.eval_shape(
      lambda v, x: taps.apply(student, v, x, taps=student_taps)[1],
      variables,
      images,
    )
    for pair, regressor in regressors.items():
      blank = jnp.zeros(features[pair[0]].shape, features[pair[0]].dtype)
      # From its name, so that the grid's other regressors do not matter.
      name = regressor_name(pair)
      own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
      params["regressors"][name] = regressor.init(own_key, blank)["params"]
  number = _number()
  return TrialState(
    params=params,
    batch_stats=batch_stats,
    optimizer=make_optimizer(learning_rate=0.0, weight_decay=0.0).init(params),
    sums={name: jnp.zeros((), number) for name in ("train", "distill", "sup")},
    best_params=variables["params"],
    best_batch_stats=batch_stats,
    best_criterion=jnp.full((), jnp.inf, number),
    stale=jnp.int32(0),
    live=jnp.bool_(True),
    diverged=jnp.bool_(False),
  )


def distillation_loss(trial, student, teachers, mask, regress, objectives):
  """The trial's objective under the trial's view, averaged to a scalar.

  Every objective is computed and one kept; they are cheap next to the
  networks, keep them so. Selecting what goes into a loss as well as what comes
  out lets no NaN through from one that was not chosen, backward or forward.

  Args:
    trial: scalars.
    student: `(logits, features)` of the strong view.
    teachers: the same of the teacher, one for every view that the grid uses.
    mask: `[B, H, W]`, of the strong view.
    regress: from a pair and a student's map to a map of the teacher's width.
    objectives: 1, 2, ... of `trial.objective`.
  """

  def compare(objective, chosen, student_map, teacher_maps, pair):
    loss = losses.LOSSES[objective.loss]
    # Only the choice of the view depends on the trial, so that what is done to
    # a teacher's map is done once for all trials.
    compared = [
      pathways.PATHWAYS[objective.pathway](
        student_map,
        jax.lax.stop_gradient(teacher_map),
        lambda x: regress(pair, x),
        loss.relational,
      )
      for teacher_map in teacher_maps
    ]
    ours = compared[0][0]
    target = jax.lax.select_n(trial.view, *(x for _, x in compared))
    classes = pathways.memberships(mask, target, student[0].shape[-1])
    each = loss.function(
      jnp.where(chosen, ours, jnp.zeros_like(ours)),
      target,
      trial.numbers["temperature"],
      classes,
    )  # [B]
    return jnp.mean(each).astype(_number())

  def value(objective, chosen):
    if not objective.pairs:
      teacher_maps = [logits for logits, _ in teachers]
      return compare(objective, chosen, student[0], teacher_maps, None)
    return sum(
      weight
      * compare(
        objective,
        chosen,
        student[1][ours],
        [features[theirs] for _, features in teachers],
        (ours, theirs),
      )
      for ours, theirs, weight in objective.pairs
    )

  total = jnp.zeros((), _number())
  for i, objective in enumerate(objectives, start=1):
    chosen = trial.objective == i
    total = jnp.where(chosen, value(objective, chosen), total)
  return total


def train_step(
  state,
  trial,
  count,
  batch,
  teachers,
  *,
  student,
  regressors,
  objectives,
  schedule,
  batch_axis=None,
):
  """One step of Adam on `(1 - alpha) * supervised + alpha * distillation`.

  Supervised is cross-entropy + `soft_dice` * soft Dice.

  Args:
    state: `TrialState`.
    trial: `Trial` of scalars.
    count: steps done before this one, shared by all trials of a block.
    batch: `{"image": [B, H, W, C] (strong view), "mask": [B, H, W]}`.
    teachers: `(logits, features)` for every view that the grid uses.
    student: linen module.
    regressors: dict from pair to linen module.
    objectives: of the grid.
    schedule: from the count to the part of the trial's learning rate.
    batch_axis: device axis over which the batch is split, or None.

  Returns:
    The new `TrialState`; the old one where the trial is no longer live.
  """
  student_taps = trials.taps(objectives, 0)
  numbers = trial.numbers

  def total_loss(params):
    variables = {
      "params": params["student"],
      "batch_stats": state.batch_stats,
    }
    logits, features, batch_stats = taps.apply(
      student, variables, batch["image"], taps=student_taps, train=True
    )

    def regress(pair, x):
      weights = params["regressors"][regressor_name(pair)]
      return regressors[pair].apply({"params": weights}, x)

    entropy = jnp.mean(supervised.cross_entropy(logits, batch["mask"]))
    overlap = jnp.mean(supervised.soft_dice(logits, batch["mask"]))
    sup = entropy + numbers["soft_dice"] * overlap
    distill = (
      distillation_loss(
        trial, (logits, features), teachers, batch["mask"], regress, objectives
      )
      if objectives
      else jnp.zeros_like(sup)
    )
    total = (1.0 - numbers["alpha"]) * sup + numbers["alpha"] * distill
    parts = {"train": total, "distill": distill, "sup": sup}
    return total, (parts, batch_stats)

  gradients, (parts, batch_stats) = jax.grad(total_loss, has_aux=True)(
    state.params
  )
  if batch_axis:
    gradients, parts, batch_stats = jax.lax.pmean(
      (gradients, parts, batch_stats), batch_axis
    )
  # The count comes from outside, where it is not mapped over trials, so that
  # the bias correction is one number however many trials there are.
  updates, optimizer = make_optimizer(
    numbers["learning_rate"] * schedule(count), numbers["weight_decay"]
  ).update(
    gradients, optax.tree.set(state.optimizer, count=count), state.params
  )
  finite = jnp.isfinite(parts["train"]) & jnp.isfinite(
    optax.tree.norm(gradients)
  )
  stepped = state.replace(
    params=optax.apply_updates(state.params, updates),
    batch_stats=batch_stats,
    optimizer=optimizer,
    sums=jax.tree.map(jnp.add, state.sums, parts),
  )
  kept = state.replace(
    live=state.live & finite, diverged=state.diverged | (state.live & ~finite)
  )
  return _where(state.live & finite, stepped, kept)


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
    best_params=_where(better, state.params["student"], state.best_params),
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


def evaluate(params, batch_stats, images, masks, weights, *, model):
  """Sums over a chunk of cases, for a mean over all chunks.

  Args:
    params: of `model`.
    batch_stats: of `model`.
    images: `[E, H, W, C]`, normalised, not augmented.
    masks: `[E, H, W]`, int.
    weights: `[E]`, 0 for the padding of the last chunk.
    model: linen module.

  Returns:
    Scalars `cross_entropy`, `soft_dice` and `cases`, `dice` and `lesions`: Dice
    is added up where the mask is not empty, `lesions` counts those cases.
  """
  logits = model.apply({"params": params, "batch_stats": batch_stats}, images)
  predicted = logits[..., 1] > logits[..., 0]
  truth = masks > 0
  size = lambda x: jnp.sum(x, axis=(1, 2))
  lesion = weights * (size(truth) > 0)
  dice = (
    2.0
    * size(predicted & truth)
    / jnp.maximum(size(predicted) + size(truth), 1)
  )
  return {
    "cross_entropy": jnp.sum(weights * supervised.cross_entropy(logits, masks)),
    "soft_dice": jnp.sum(weights * supervised.soft_dice(logits, masks)),
    "cases": jnp.sum(weights),
    "dice": jnp.sum(lesion * dice),
    "lesions": jnp.sum(lesion),
  }


def predict(params, batch_stats, images, *, model):
  """Lesion logit minus background logit, `[E, H, W, C]` to `[E, H, W]`."""
  logits = model.apply({"params": params, "batch_stats": batch_stats}, images)
  return logits[..., 1] - logits[..., 0]
