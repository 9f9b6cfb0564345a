"""Networks of other packages train, teach, are exported and refused."""

import jax
import numpy as np
import pytest

from kdjax.data import views
from kdjax.deploy import trained
from kdjax.engine import course
from kdjax.engine import fitting
from kdjax.engine import levels
from kdjax.engine import loop
from kdjax.engine import networks
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.models import own
from tests import conftest
from tests import nets

ARMS = ("Student", "L_KLD", "H_KLD", "HReg_MSE")


def make_config(**fields):
  config = conftest.make_config()
  config.teacher = dict(name="tests.nets:Normed", widths=(4, 6))
  config.student = dict(name="tests.nets:Plain", width=3)
  config.grid.pair = (("first", "conv1"),)
  config.regressor.activation = "linear"
  for name, value in fields.items():
    config[name.partition("__")[0]][name.partition("__")[2]] = value
  return config


def make_study(workdir, names=ARMS, **fields):
  return conftest.make_study(make_config(**fields), names, workdir)


def test_what_a_network_lacks_is_filled_in_and_left_unread():
  found = own.find("tests.nets:Normed")
  assert found.stride == 2 and found.linear_levels is None
  assert found.__name__ == "Normed" and issubclass(found, nets.Normed)
  network = found(widths=(3,), norm_axis=None, folded=True)
  assert network == found(widths=(3,)).clone(folded=True)
  variables = network.init(jax.random.key(0), np.zeros((1, 4, 4, 3)))
  same = nets.Normed(widths=(3,)).init(
    jax.random.key(0), np.zeros((1, 4, 4, 3))
  )
  jax.tree.map(np.testing.assert_array_equal, variables, same)


def test_an_attribute_that_cannot_be_hashed_is_no_hindrance():
  network = own.find("tests.nets:Described")(width=3, notes={"by": ["us"]})
  images = np.zeros((1, 4, 4, 1), np.float32)
  found = networks.features(network, images, ("first",))
  assert found["first"].shape == (1, 4, 4, 3)


def test_whether_its_levels_are_negative_is_found_out(tmp_path):
  study = make_study(tmp_path)
  assert levels.is_signed(study, "conv1")
  assert not levels.is_signed(study, None)


@pytest.mark.slow
def test_they_train_teach_and_predict(tmp_path):
  study = make_study(tmp_path)
  teachers, students = course.train(study).values()
  (block,) = study.blocks
  assert teachers[block]["batch_stats"]
  assert not students[block]["batch_stats"]
  kernels = students[block]["params"]["first"]["kernel"]
  for i in range(len(ARMS)):
    for j in range(i):
      assert not np.allclose(kernels[i], kernels[j]), (ARMS[i], ARMS[j])
  # They are saved, and go on from there.
  again = course.train(make_study(tmp_path))
  jax.tree.map(np.testing.assert_array_equal, students, again["student"])

  # What runs alone says what the grid's programs say.
  for role, stage, best in (
    ("teacher", study.teacher_stage, teachers),
    ("student", study.student_stage, students),
  ):
    ((_, margins),) = loop.predict(study, stage, best)
    model = trained.make_model(study.config, role)
    variables = jax.tree.map(lambda x: x[-1], best[block])
    images = study.dataset.images[study.folds[block.fold].test]
    alone = trained.make_inference(model, variables)(images)
    np.testing.assert_allclose(margins[-1], alone, rtol=1e-4, atol=1e-4)
    # And what the class says by itself.
    plain = getattr(nets, type(model).__name__)(
      **{x: getattr(model, x) for x in ("num_classes", "in_channels")},
      **({"width": 3} if role == "student" else {"widths": (4, 6)}),
    )
    inputs = views.normalise(
      images.astype(np.float32) / 255, model.in_channels, model.normalisation
    )
    logits = plain.apply(variables, inputs)
    np.testing.assert_allclose(
      alone, logits[..., 1] - logits[..., 0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_an_nnx_network_trains_and_teaches_through_flax_s_bridge(tmp_path):
  config = make_config(grid__pair=(("second", "second"),))
  for role, width in (("teacher", 6), ("student", 3)):
    config[role] = dict(name="tests.nets:Bridged", width=width)
  study = conftest.make_study(config, ARMS, tmp_path)
  teachers, students = course.train(study).values()
  (block,) = study.blocks
  kernels = students[block]["params"]["second"]["conv"]["kernel"]
  for i in range(len(ARMS)):
    for j in range(i):
      assert not np.allclose(kernels[i], kernels[j]), (ARMS[i], ARMS[j])
  start = jax.device_get(
    nets.Bridged(width=6).init(jax.random.key(0), np.zeros((1, 16, 16, 3)))
  )["batch_stats"]
  changed = jax.tree.map(
    lambda x, y: not np.allclose(x[0], y), teachers[block]["batch_stats"], start
  )
  assert all(jax.tree.leaves(changed))  # Its statistics are the batches'.
  ((_, margins),) = loop.predict(study, study.student_stage, students)
  images = study.dataset.images[study.folds[block.fold].test]
  inputs = views.normalise(
    images.astype(np.float32) / 255,
    3,
    study.make_model("student").normalisation,
  )
  for i in range(len(ARMS)):
    logits = nets.Bridged(width=3).apply(
      jax.tree.map(lambda x, i=i: x[i], students[block]), inputs
    )
    np.testing.assert_allclose(
      margins[i], logits[..., 1] - logits[..., 0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    ({"student__name": "tests.nowhere:Net"}, "cannot be imported .ModuleNot"),
    ({"student__name": "tests.nets:Nothing"}, "no linen module 'Nothing'"),
    ({"student__name": "tests.nets:function"}, "no linen module 'function'"),
    ({"student__name": "tests.nets:NoClasses"}, "no attribute num_classes"),
    ({"student__name": "tests.nets:NoTrain"}, "takes no train: it is called"),
    ({"student__name": "Nets"}, "or name your own, package.module:Class"),
    ({"student__depth": 3}, "student.depth is not an attribute of tests.nets"),
    ({"student__width": 0}, "student.width"),
    ({"engine__dtype": "bfloat16"}, "has no attribute dtype, which engine"),
    ({"data__image_size": 15}, "not a multiple of 2, which teacher needs"),
    ({"grid__pair": (("third", "conv1"),)}, "no level 'third'; it has first"),
    ({"regressor__activation": "relu"}, "HReg_MSE at first-conv1 would"),
  ],
)
def test_what_cannot_be_is_refused(fields, said, tmp_path):
  with pytest.raises(UserError, match=said) as caught:
    studies.make_study(make_config(**fields), tmp_path, conftest.make_dataset())
  assert "\n" not in str(caught.value)


def test_a_batch_of_theirs_is_not_split(tmp_path):
  study = make_study(tmp_path)
  for stage, devices in ((study.teacher_stage, 1), (study.student_stage, 4)):
    layout = fitting.make_layout(study, stage, 1, jax.devices()[:4])
    assert not layout.split_batch and len(layout.devices) == devices
