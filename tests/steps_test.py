"""One trial, one step: what learns, what does not, and what a stop keeps."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.distill import losses
from kdjax.distill import mapped
from kdjax.distill import pathways
from kdjax.distill import trials
from kdjax.engine import batches
from kdjax.engine import inference
from kdjax.engine import lanes
from kdjax.engine import steps
from kdjax.models import UNet

PAIR = ("encoder2", "encoder3")
OBJECTIVES = tuple(
  trials.Objective(pathway, loss, () if pathway == "L" else ((*PAIR, 1.0),))
  for pathway in pathways.PATHWAYS
  for loss in ("MSE", "KLD")
)
STUDENT = UNet(widths=(3, 5), decoder_widths=(3,), in_channels=1)
REGRESSORS = {PAIR: pathways.Regressor(width=6)}


NAME = mapped.regressor_name(PAIR)


def make_objective(pathway, loss="MSE"):
  pairs = () if pathway == "L" else ((*PAIR, 1.0),)
  return trials.Objective(pathway, loss, pairs)


def make_trial(pathway=None, answer=0, **numbers):
  numbers = {
    "alpha": 0.5 if pathway else 0.0,
    "temperature": 1.0,
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "soft_dice": 0.0,
    **numbers,
  }
  return mapped.Trial(
    answer=jnp.int32(answer),
    numbers={name: jnp.float32(value) for name, value in numbers.items()},
  )


def make_batch(seed=0):
  image, mask = jax.random.split(jax.random.key(seed))
  return {
    "image": jax.random.normal(image, (2, 8, 8, 1)),
    "mask": jax.random.bernoulli(mask, 0.3, (2, 8, 8)).astype(jnp.int32),
  }


def make_teachers():
  def one(seed):
    logits, feature = jax.random.split(jax.random.key(seed))
    return (
      jax.random.normal(logits, (2, 8, 8, 2)),
      {"encoder3": jax.random.normal(feature, (2, 2, 2, 6))},
    )

  return one(1), one(2)


@pytest.fixture(scope="module")
def states():
  """Of one trial, without the axis of lanes."""
  return lanes.init(
    jax.random.key(0),
    {},
    images=jnp.zeros((1, 8, 8, 1)),
    student=STUDENT,
    regressors=REGRESSORS,
  )


@functools.cache
def train_step(objectives, schedule=lambda count: 1.0):
  return jax.jit(
    functools.partial(
      lanes.train_step,
      lists=(objectives,),
      student=STUDENT,
      regressors=REGRESSORS,
      schedule=schedule,
    )
  )


def stack(*trees):
  return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def run_all(states, arms, batch=None, count=0, **step):
  """A step of arms `(objective, trial)` from the same states; their states.

  A trial without a regressor has none in what is returned.
  """
  objectives = tuple(objective for objective, _ in arms)
  owners = [i for i, x in enumerate(objectives) if mapped.learnt(x)]
  regressors = (
    {NAME: stack(*[states.regressors[NAME]] * len(owners))} if (owners) else {}
  )
  after = train_step(objectives, **step)(
    lanes.States(stack(*[states.trials] * len(arms)), regressors),
    lanes.Lanes(
      trials=stack(*(trial for _, trial in arms)),
      list=jnp.zeros(1, jnp.int32),
      owners={name: jnp.array(owners) for name in regressors},
    ),
    jnp.int32(count),
    batch or make_batch(),
    make_teachers(),
  )
  pick = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
  return [
    lanes.States(
      pick(after.trials, i),
      {NAME: pick(after.regressors[NAME], owners.index(i))}
      if i in owners
      else {},
    )
    for i in range(len(arms))
  ]


def run(states, pathway=None, loss="MSE", batch=None, step=None, **trial):
  """The states after a step of one trial."""
  objective = make_objective(pathway, loss) if pathway else None
  arm = objective, make_trial(pathway, **trial)
  return run_all(states, [arm], batch, **(step or {}))[0]


def changed(before, after):
  return any(
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    )
  )


def test_the_regressor_learns_with_an_optimizer_of_its_own(states):
  after = run(states, "HReg", "KLD")
  before = states.regressors[NAME]
  assert changed(before.params, after.regressors[NAME].params)
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  for state in (before, states.trials):
    (moments,) = {
      x.size for x in jax.tree.leaves(state.optimizer) if x.size > 1
    }
    assert moments == size(state.params) > 0


@pytest.mark.parametrize("pathway", [None, "L", "H"])
def test_no_other_pathway_has_a_regressor(states, pathway):
  after = run(states, pathway)
  assert not after.regressors
  assert changed(states.trials.params, after.trials.params)


def test_lanes_of_one_objective_share_a_group_and_its_regressors():
  hreg, logits = make_objective("HReg"), make_objective("L")
  other = trials.Objective("HReg", "KLD", hreg.pairs)
  found = lanes.groups((None, hreg, hreg, logits, other))
  assert [(x.objective, x.lanes, x.regressors) for x in found] == [
    (None, slice(0, 1), {}),
    (hreg, slice(1, 3), {NAME: slice(0, 2)}),
    (logits, slice(3, 4), {}),
    (other, slice(4, 5), {NAME: slice(2, 3)}),
  ]


@pytest.mark.slow
def test_a_trial_beside_others_is_the_trial_alone(states):
  arms = [(None, make_trial())]
  arms += [
    (x, make_trial(x.pathway, answer=i % 2, learning_rate=0.01 * (1 + i)))
    for i, x in enumerate(OBJECTIVES)
  ]
  found = list(zip(arms, run_all(states, arms), strict=True))
  # Those that other tests compile, too.
  for arm, beside in found[:1] + found[2:3] + found[-1:]:
    (alone,) = run_all(states, [arm])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      alone,
      beside,
    )


def test_a_regressor_that_no_lane_has_stays_as_it_is(states):
  """Where devices have unlike lists, one has room for more than it needs."""
  objective = make_objective("HReg")
  two = {NAME: stack(*[states.regressors[NAME]] * 2)}
  after = train_step((objective,))(
    lanes.States(stack(states.trials), two),
    lanes.Lanes(
      stack(make_trial("HReg")),
      jnp.zeros(1, jnp.int32),
      {NAME: jnp.array([0, 0])},
    ),
    jnp.int32(0),
    make_batch(),
    make_teachers(),
  )
  params = after.regressors[NAME].params
  own, spare = (jax.tree.map(lambda x, i=i: x[i], params) for i in (0, 1))
  assert changed(states.regressors[NAME].params, own)
  assert not changed(states.regressors[NAME].params, spare)


def test_the_students_loss_is_cross_entropy_alone(states):
  sums = run(states).trials.sums
  assert float(sums["distill"]) == 0.0
  np.testing.assert_array_equal(sums["train"], sums["sup"])


def test_soft_dice_adds_its_weight_to_the_supervised_loss(states):
  sup = lambda weight: float(run(states, soft_dice=weight).trials.sums["sup"])
  none, one, two = sup(0.0), sup(1.0), sup(2.0)
  assert none < one
  np.testing.assert_allclose(two - none, 2 * (one - none), rtol=1e-4)


def test_the_schedule_scales_the_trials_own_rate(states):
  def moved(schedule, rate):
    step = {"schedule": schedule, "count": 3}
    return run(states, learning_rate=rate, step=step).trials

  half = moved(lambda count: count / 6, 0.02)
  whole = moved(lambda count: 1.0, 0.01)
  assert changed(states.trials.params, half.params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    half.params,
    whole.params,
  )


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_the_total_weighs_both_losses(states, alpha):
  sums = run(states, "L", "KLD", alpha=alpha).trials.sums
  expected = (1 - alpha) * sums["sup"] + alpha * sums["distill"]
  np.testing.assert_allclose(sums["train"], expected, rtol=1e-6)
  assert float(sums["distill"]) > 0


def test_the_gradient_is_that_of_the_weighed_sum(states):
  """Of one trial, by finite differences along the gradient that Adam read."""
  after = run(states, "HReg", "KLD", alpha=0.3)
  moment = lambda x: optax.tree.get(x.optimizer, "mu") / (1.0 - 0.9)
  parts = {
    "trials": (states.trials, after.trials),
    NAME: (states.regressors[NAME], after.regressors[NAME]),
  }
  for name, (before, then) in parts.items():
    gradient = moment(then)
    flat, unravel = jax.flatten_util.ravel_pytree(before.params)
    length = jnp.linalg.norm(gradient)
    assert length > 0

    def loss(step, name=name, flat=flat, unravel=unravel, along=gradient):
      moved = unravel(flat + step * along / jnp.linalg.norm(along))
      at = states
      if name == "trials":
        at = at.replace(trials=at.trials.replace(params=moved))
      else:
        own = at.regressors[name].replace(params=moved)
        at = at.replace(regressors={name: own})
      return float(run(at, "HReg", "KLD", alpha=0.3).trials.sums["train"])

    # float32 and ReLUs: of the order of a percent.
    slope = (loss(0.003) - loss(-0.003)) / 0.006
    np.testing.assert_allclose(slope, length, rtol=0.05)


def test_the_trial_picks_its_answer(states):
  strong, weak = (
    float(run(states, "L", "MSE", answer=answer).trials.sums["distill"])
    for answer in (0, 1)
  )
  assert strong != weak


def test_several_levels_add_up_by_weight():
  logits, ones = jnp.zeros((1, 2, 2, 2)), jnp.ones((1, 2, 2, 3))
  student = (None, {"a": ones, "b": ones})
  teacher = (logits, {"a": 0 * ones, "b": 3 * ones})
  pairs = (("a", "a", 1.0), ("b", "b", 0.25))
  got = steps.distill(
    student,
    {},
    make_trial(),
    teachers=(teacher,),
    mask=jnp.zeros((1, 2, 2), int),
    objective=trials.Objective("H", "MSE", pairs),
    regressors={},
  )
  np.testing.assert_allclose(got, 1.0 * 1.0 + 0.25 * 4.0, rtol=1e-6)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_no_gradient_reaches_the_teacher(states, loss):
  student = (
    jax.random.normal(jax.random.key(5), (2, 8, 8, 2)),
    {"encoder2": jax.random.normal(jax.random.key(6), (2, 4, 4, 5))},
  )
  weights = {NAME: states.regressors[NAME].params}
  for pathway in losses.LOSSES[loss].pathways:
    objective = make_objective(pathway, loss)
    value, (to_student, to_teachers) = jax.value_and_grad(
      lambda s, t, objective=objective: steps.distill(
        s,
        weights,
        make_trial(),
        teachers=t,
        mask=make_batch()["mask"],
        objective=objective,
        regressors=REGRESSORS,
      ),
      argnums=(0, 1),
    )(student, make_teachers())
    assert float(value) > 0
    assert all(not x.any() for x in jax.tree.leaves(to_teachers))
    assert any(x.any() for x in jax.tree.leaves(to_student))


def test_a_non_finite_batch_freezes_the_trial_at_its_last_good_state(states):
  batch = make_batch()
  batch["image"] = batch["image"].at[0, 0, 0, 0].set(jnp.nan)
  after = run(states, "HReg", "KLD", batch)
  assert not after.trials.live
  assert after.trials.diverged
  assert not changed(states.trials.params, after.trials.params)
  assert not changed(states.trials.batch_stats, after.trials.batch_stats)
  assert not changed(states.regressors, after.regressors)
  again = run(after, "HReg", "KLD")
  assert not changed(states.trials.params, again.trials.params)
  assert not changed(states.regressors, again.regressors)


def test_a_stopped_trial_rests(states):
  stopped = states.replace(trials=states.trials.replace(live=jnp.bool_(False)))
  after = run(stopped, "HReg", "MSE")
  assert not changed(stopped, after)
  assert not after.trials.diverged


@pytest.fixture(scope="module")
def state(states):
  return states.trials


def finish(state, epoch, loss, max_epochs=100, patience=2):
  return steps.finish_epoch(
    state, epoch, jnp.float32(loss), max_epochs=max_epochs, patience=patience
  )


def step(state):
  return run(lanes.States(state, {})).trials


def test_the_best_epoch_is_kept_and_patience_ends_a_trial(state):
  first = finish(step(state), 1, 0.5)
  assert first.live
  assert float(first.best_criterion) == 0.5
  assert not changed(first.params, first.best_params)
  assert float(first.sums["train"]) == 0.0
  second = finish(step(first), 2, 0.6)
  assert second.live
  assert not changed(first.best_params, second.best_params)
  assert changed(second.params, second.best_params)
  third = finish(step(second), 3, 0.5)  # As good is not better.
  assert not third.live
  assert not changed(first.best_params, third.best_params)


def test_without_patience_a_trial_goes_on_to_the_end(state):
  for epoch in range(1, 5):
    state = finish(state, epoch, 0.5, max_epochs=5, patience=0)
    assert state.live
  assert not finish(state, 5, 0.5, max_epochs=5, patience=0).live


def test_the_last_epoch_ends_a_trial(state):
  assert not finish(state, 5, 0.5, max_epochs=5).live
  assert finish(state, 4, 0.5, max_epochs=5).live


def test_evaluation_leaves_padding_and_lesion_free_cases_out():
  params = {"params": {}, "batch_stats": {}}

  class Oracle:
    """Predicts a lesion where the image is positive."""

    def apply(self, variables, images):
      return jnp.concatenate([-images, images], axis=-1) * 50.0

  masks = jnp.zeros((4, 4, 4), jnp.int32)
  masks = masks.at[0, :2].set(1).at[1, :1].set(1).at[3].set(1)
  images = jnp.where(masks.at[1, 1].set(1) > 0, 1.0, -1.0)[..., None]
  # Perfect; half of the prediction right; no lesion; padding.
  sums = inference.evaluate(
    params["params"],
    params["batch_stats"],
    images,
    masks,
    jnp.array([1.0, 1.0, 1.0, 0.0]),
    model=Oracle(),
  )
  assert float(sums["cases"]) == 3.0
  assert float(sums["lesions"]) == 2.0
  np.testing.assert_allclose(sums["dice"], 1.0 + 2 * 4 / (8 + 4), rtol=1e-6)


def test_the_cached_view_asks_no_teacher():
  cases, epochs = jnp.array([4, 2]), jnp.array([0, 3])
  answers = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
  block = {
    "key": jax.random.key(1),
    "answers": {"teacher": (answers, {"encoder3": answers[:, ::4, ::4]})},
    "rows": jnp.array([0, 0, 1, 0, 0]),  # Cases 4 and 2 are trained on.
  }
  data = {
    "images": jnp.arange(5 * 64, dtype=jnp.uint8).reshape(5, 8, 8),
    "masks": jnp.zeros((5, 8, 8), jnp.uint8),
  }
  batch, ((logits, features),) = batches.prepare_batch(
    block,
    data,
    cases,
    epochs,
    teacher=None,
    views=("cached",),
    answers=(("cached", "trained"),),
    teacher_taps=("encoder3",),
    render=lambda key, image, mask: (
      {"strong": image + jax.random.uniform(key)},
      mask,
    ),
    carry=lambda key, maps: jax.tree.map(
      lambda x: x + jax.random.uniform(key), maps
    ),
    normalise=lambda x: x,
    teacher_normalise=None,
  )
  # What is carried moves with the case's own view.
  moved = batch["image"] - data["images"][cases]
  assert float(jnp.ptp(moved[:, 0, 0])) > 0
  np.testing.assert_allclose(
    logits - answers, jnp.stack([moved, moved], -1), atol=1e-5
  )
  np.testing.assert_array_equal(features["encoder3"], logits[:, ::4, ::4])
