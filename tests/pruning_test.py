"""Pruning thins as its authors say, by trial, and leaves others alone."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from kdjax.deploy import trained
from kdjax.engine import loop
from kdjax.engine import pruning
from kdjax.engine import rungs
from kdjax.errors import UserError
from tests import conftest

PATHS = (("a", "kernel"), ("b", "kernel"))


def make(**changes):
  return pruning.Pruning(
    **{"paths": PATHS, "scope": "layer", "begin": 10, "end": 30} | changes
  )


def make_params(seed, dtype=np.float32):
  draw = np.random.default_rng(seed).normal
  return {
    "a": {"kernel": draw(size=(3, 3, 4, 5)).astype(dtype)},
    "b": {"kernel": 0.1 * draw(size=(40,)).astype(dtype)},
    "c": {"kernel": draw(size=(7,)).astype(dtype)},
  }


def oracle(params, part, whole):
  """The smallest weights zero, by sorting."""
  flat = flax.traverse_util.flatten_dict(params)
  groups = [PATHS] if whole else [[path] for path in PATHS]
  new = dict(flat)
  for group in groups:
    every = np.concatenate([np.abs(flat[path]).ravel() for path in group])
    count = int(np.round(part * every.size))
    bound = np.sort(every)[count - 1] if count else -1.0
    for path in group:
      new[path] = np.where(np.abs(flat[path]) <= bound, 0, flat[path])
  return flax.traverse_util.unflatten_dict(new)


@pytest.mark.parametrize("steps", [0, 10, 11, 20, 29, 30, 99])
def test_the_part_is_that_of_equation_1(steps):
  if steps <= 10:
    expected = 0.0
  else:
    left = 1 - (min(steps, 30) - 10) / 20
    expected = 0.9 + (0.0 - 0.9) * left**3
  found = make().part(jnp.int32(steps), jnp.float32(0.9))
  # A few roundings of float32.
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scope", pruning.SCOPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.999])
def test_the_smallest_weights_go_as_a_sort_finds_them(sparsity, scope, dtype):
  with jax.enable_x64(dtype == np.float64):
    before, after = make_params(1, dtype), make_params(2, dtype)
    found = make(scope=scope).thin(
      before, after, jnp.int32(30), dtype(sparsity)
    )
    expected = oracle(after, sparsity, scope == "network")
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found["a"]["kernel"].dtype == dtype


def test_what_was_zero_stays_zero_where_a_trial_is_pruned():
  before, after = make_params(1), make_params(2)
  before["a"]["kernel"][0] = 0.0
  thin = lambda sparsity: make().thin(
    before, after, jnp.int32(30), jnp.float32(sparsity)
  )
  pruned = np.asarray(thin(0.5)["a"]["kernel"])
  assert (pruned[0] == 0).all()
  # They are among the half, not beside it.
  assert (pruned == 0).sum() == 90
  jax.tree.map(np.testing.assert_array_equal, thin(0.0), after)


def test_mapped_over_trials_each_has_its_own_part():
  stack = lambda seeds: jax.tree.map(
    lambda *x: np.stack(x), *map(make_params, seeds)
  )
  before, after = stack([1, 2, 3]), stack([4, 5, 6])
  parts = np.float32([0.0, 0.5, 0.97])
  thin = functools.partial(make().thin, steps=jnp.int32(25))
  one = lambda before, after, part: thin(before, after, sparsity=part)
  found = jax.jit(jax.vmap(one))(before, after, parts)
  for i, part in enumerate(parts):
    pick = lambda tree, i=i: jax.tree.map(lambda x: x[i], tree)
    alone = one(pick(before), pick(after), part)
    jax.tree.map(np.testing.assert_array_equal, pick(found), alone)


def test_first_last_and_depthwise_kernels_are_spared():
  images = jnp.zeros((1, 16, 16, 1))
  student = models.UNet(widths=(3, 5), decoder_widths=(3,), in_channels=1)
  paths = pruning.kernels(student, images)
  every = flax.traverse_util.flatten_dict(
    student.init(jax.random.key(0), images)["params"]
  )
  convolutions = [path for path, x in every.items() if x.ndim == 4]
  spared = set(convolutions) - set(paths)
  assert {path[0] for path in spared} == {"encoder1", "head"}
  assert len(spared) == 2
  teacher = models.EncoderUNet(encoder="efficientnet-lite0", in_channels=3)
  images = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(teacher.init, jax.random.key(0), images)["params"]
  flat = flax.traverse_util.flatten_dict(shapes)
  paths = pruning.kernels(teacher, images)
  assert len(paths) > 40
  assert all(flat[path].shape[2] > 1 for path in paths)  # None is depthwise.


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  config = conftest.make_config("float64")
  config.student_training.max_epochs = 5
  config.teacher_training.sparsity = 0.5
  config.grid.update(
    pathway=("L", "HReg"),
    loss=("MSE",),
    view=("weak",),
    sparsity=(0.0, 0.8),
    learning_rate=(0.05,),
  )
  return conftest.make_study(config, None, tmp_path_factory.mktemp("pruned"))


@pytest.fixture(scope="module")
def teachers(study):
  with jax.enable_x64(True):
    return loop.run_stage(study, study.teacher_stage)


@pytest.fixture(scope="module")
def students(study, teachers):
  with jax.enable_x64(True):
    return loop.run_stage(study, study.student_stage, teachers)


def zeros(study, best, arm):
  """By kernel that is pruned: how many weights are zero, and of how many."""
  flat = flax.traverse_util.flatten_dict(best["params"])
  with jax.enable_x64(True):
    paths = pruning.kernels(study.make_model("student"), study.blank("student"))
  return [
    (int((flat[path][arm] == 0).sum()), flat[path][arm].size) for path in paths
  ]


def test_arms_are_as_sparse_as_they_ask_and_the_others_are_dense(
  study, students
):
  names = [arm.name for arm in study.arms]
  assert names == [
    *("Student", "Student_sparse0.8"),
    *("L_MSE_WAug", "L_MSE_WAug_sparse0.8"),
    *("HReg_MSE_WAug", "HReg_MSE_WAug_sparse0.8"),
  ]
  for best in students.values():
    for i, arm in enumerate(study.arms):
      for count, size in zeros(study, best, i):
        wanted = arm.numbers["sparsity"] * size
        assert abs(count - wanted) <= 1, arm.name
  # A distilled arm's reference is the Student that is as sparse.
  assert study.arms[3].reference == "Student_sparse0.8"


def test_the_best_epoch_is_one_that_is_as_sparse_as_asked(study, students):
  del students
  first = functools.partial(pruning.first_epoch, study.config.pruning)
  assert first(5) == 3 and first(2) == 2
  table = trained._validation(
    study.workdir, study.config, study.arms, "val_loss"
  )
  history = trained.readers.history(study.workdir)
  for (arm, fold, seed), best in table.items():
    rows = history[
      (history["arm"] == arm)
      & (history["fold"] == fold)
      & (history["seed"] == seed)
    ]
    early = 2 if arm == "Teacher" else 3 if "sparse" in arm else 1
    assert best == rows[rows["epoch"] >= early]["val_loss"].min()


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["Student", "HReg_MSE_WAug", "HReg_MSE_WAug_sparse0.8"]
)
def test_a_trial_beside_pruned_ones_equals_itself_alone(
  name, study, teachers, students, tmp_path
):
  place = [arm.name for arm in study.arms].index(name)
  alone = dataclasses.replace(
    study, arms=(study.arms[place],), workdir=tmp_path
  )
  with jax.enable_x64(True):
    found = loop.run_stage(alone, alone.student_stage, teachers)
  for block, best in found.items():
    jax.tree.map(
      lambda ours, theirs: np.testing.assert_allclose(
        # As in grid_test: rounding, magnified by Adam's division.
        ours[0],
        theirs[place],
        rtol=1e-8,
        atol=1e-10,
      ),
      best,
      students[block],
    )


def test_epochs_are_whole_and_at_least_one(study):
  settings = study.config.pruning.copy_and_resolve_references()
  for end, epochs, first in ((0.7, 10, 7), (0.6, 12, 8), (0.01, 3, 1)):
    settings.end = end
    assert pruning.first_epoch(settings, epochs) == first


def test_a_searchs_best_draw_is_as_sparse_as_asked():
  rows = [
    {"epoch": i, "val_loss": loss, "val_dice": 0.0, "train_loss": 1.0}
    for i, loss in enumerate([0.1, 0.5, 0.4], start=1)
  ]
  assert rungs.best_epoch(rows, "loss")[0]["epoch"] == 1
  assert rungs.best_epoch(rows, "loss", first=2)[0]["epoch"] == 3


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("scope", "filter", "choose from layer, network"),
    ("begin", 0.9, "is not before pruning.end"),
  ],
)
def test_what_cannot_be_is_refused(field, value, said):
  config = conftest.make_config()
  config.pruning[field] = value
  with pytest.raises(UserError, match=said):
    conftest.studies.make_study(config.lock(), "nowhere")
