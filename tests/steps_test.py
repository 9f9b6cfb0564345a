"""One trial, one step: what learns, what does not, and what a stop keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import losses
from kdjax.distill import pathways
from kdjax.distill import trials
from kdjax.engine import batches
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


def make_trial(pathway=None, loss="MSE", view=0, **numbers):
  objective = 0
  if pathway:
    pairs = () if pathway == "L" else ((*PAIR, 1.0),)
    objective = 1 + OBJECTIVES.index(trials.Objective(pathway, loss, pairs))
  numbers = {
    "alpha": 0.5 if pathway else 0.0,
    "temperature": 1.0,
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "soft_dice": 0.0,
    **numbers,
  }
  return trials.Trial(
    objective=jnp.int32(objective),
    view=jnp.int32(view),
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
def state():
  return steps.init_state(
    jax.random.key(0),
    {},
    images=jnp.zeros((1, 8, 8, 1)),
    student=STUDENT,
    regressors=REGRESSORS,
  )


@functools.cache
def train_step():
  return jax.jit(
    functools.partial(
      steps.train_step,
      student=STUDENT,
      regressors=REGRESSORS,
      objectives=OBJECTIVES,
      schedule=lambda count: 1.0,
    )
  )


def run(state, trial, batch=None):
  return train_step()(
    state, trial, jnp.int32(0), batch or make_batch(), make_teachers()
  )


def changed(before, after):
  return any(
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    )
  )


def test_the_regressor_learns_and_is_in_the_optimizer(state):
  after = run(state, make_trial("HReg", "KLD"))
  assert changed(state.params["regressors"], after.params["regressors"])
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  (moments,) = {x.size for x in jax.tree.leaves(state.optimizer) if x.size > 1}
  assert moments == size(state.params)
  assert size(state.params["regressors"]) > 0


@pytest.mark.parametrize("pathway", [None, "L", "H"])
def test_the_regressor_rests_without_its_pathway(state, pathway):
  after = run(state, make_trial(pathway))
  assert not changed(state.params["regressors"], after.params["regressors"])
  assert changed(state.params["student"], after.params["student"])


def test_the_students_loss_is_cross_entropy_alone(state):
  after = run(state, make_trial())
  assert float(after.sums["distill"]) == 0.0
  np.testing.assert_array_equal(after.sums["train"], after.sums["sup"])


def test_soft_dice_adds_its_weight_to_the_supervised_loss(state):
  sup = lambda weight: float(
    run(state, make_trial(soft_dice=weight)).sums["sup"]
  )
  none, one, two = sup(0.0), sup(1.0), sup(2.0)
  assert none < one
  np.testing.assert_allclose(two - none, 2 * (one - none), rtol=1e-4)


def test_the_schedule_scales_the_trials_own_rate(state):
  def moved(schedule, rate):
    step = jax.jit(
      functools.partial(
        steps.train_step,
        student=STUDENT,
        regressors=REGRESSORS,
        objectives=OBJECTIVES,
        schedule=schedule,
      )
    )
    trial = make_trial(learning_rate=rate)
    return step(state, trial, jnp.int32(3), make_batch(), make_teachers())

  half = moved(lambda count: count / 6, 0.02)
  whole = moved(lambda count: 1.0, 0.01)
  assert changed(state.params["student"], half.params["student"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    half.params,
    whole.params,
  )


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_the_total_weighs_both_losses(state, alpha):
  sums = run(state, make_trial("L", "KLD", alpha=alpha)).sums
  expected = (1 - alpha) * sums["sup"] + alpha * sums["distill"]
  np.testing.assert_allclose(sums["train"], expected, rtol=1e-6)
  assert float(sums["distill"]) > 0


def test_the_trial_picks_its_teachers_view(state):
  strong, weak = (
    float(run(state, make_trial("L", "MSE", view)).sums["distill"])
    for view in (0, 1)
  )
  assert strong != weak


def test_several_levels_add_up_by_weight():
  logits, ones = jnp.zeros((1, 2, 2, 2)), jnp.ones((1, 2, 2, 3))
  student = (logits, {"a": ones, "b": ones})
  teacher = (logits, {"a": 0 * ones, "b": 3 * ones})
  pairs = (("a", "a", 1.0), ("b", "b", 0.25))
  objectives = (trials.Objective("H", "MSE", pairs),)
  trial = make_trial().replace(objective=jnp.int32(1))
  got = steps.distillation_loss(
    trial, student, (teacher,), jnp.zeros((1, 2, 2), int), None, objectives
  )
  np.testing.assert_allclose(got, 1.0 * 1.0 + 0.25 * 4.0, rtol=1e-6)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_no_gradient_reaches_the_teacher(state, loss):
  student = (
    jax.random.normal(jax.random.key(5), (2, 8, 8, 2)),
    {"encoder2": jax.random.normal(jax.random.key(6), (2, 4, 4, 5))},
  )
  regress = lambda pair, x: REGRESSORS[pair].apply(
    {"params": state.params["regressors"][steps.regressor_name(pair)]}, x
  )
  trial = make_trial().replace(objective=jnp.int32(1))
  for pathway in losses.LOSSES[loss].pathways:
    pairs = () if pathway == "L" else ((*PAIR, 1.0),)
    objectives = (trials.Objective(pathway, loss, pairs),)
    value, (to_student, to_teachers) = jax.value_and_grad(
      lambda s, t, objectives=objectives: steps.distillation_loss(
        trial, s, t, make_batch()["mask"], regress, objectives
      ),
      argnums=(0, 1),
    )(student, make_teachers())
    assert float(value) > 0
    assert all(not x.any() for x in jax.tree.leaves(to_teachers))
    assert any(x.any() for x in jax.tree.leaves(to_student))


def test_a_non_finite_batch_freezes_the_trial_at_its_last_good_state(state):
  batch = make_batch()
  batch["image"] = batch["image"].at[0, 0, 0, 0].set(jnp.nan)
  after = run(state, make_trial("L", "KLD"), batch)
  assert not after.live
  assert after.diverged
  assert not changed(state.params, after.params)
  assert not changed(state.batch_stats, after.batch_stats)
  again = run(after, make_trial("L", "KLD"))
  assert not changed(state.params, again.params)


def test_a_stopped_trial_rests(state):
  stopped = state.replace(live=jnp.bool_(False))
  after = run(stopped, make_trial("HReg", "MSE"))
  assert not changed(stopped, after)
  assert not after.diverged


def finish(state, epoch, loss, max_epochs=100, patience=2):
  return steps.finish_epoch(
    state, epoch, jnp.float32(loss), max_epochs=max_epochs, patience=patience
  )


def test_the_best_epoch_is_kept_and_patience_ends_a_trial(state):
  first = finish(run(state, make_trial()), 1, 0.5)
  assert first.live
  assert float(first.best_criterion) == 0.5
  assert not changed(first.params["student"], first.best_params)
  assert float(first.sums["train"]) == 0.0
  second = finish(run(first, make_trial()), 2, 0.6)
  assert second.live
  assert not changed(first.best_params, second.best_params)
  assert changed(second.params["student"], second.best_params)
  third = finish(run(second, make_trial()), 3, 0.5)  # As good is not better.
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
  sums = steps.evaluate(
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
    "answers": (answers, {"encoder3": answers[:, ::4, ::4]}),
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
