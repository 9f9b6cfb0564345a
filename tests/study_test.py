"""What can be checked before anything compiles is."""

import pytest

from kdjax import configs
from kdjax import recorded
from kdjax.engine import checks
from kdjax.engine import streams
from kdjax.engine import studies
from kdjax.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
  """One place for prepared phantoms."""
  make.cache = str(tmp_path_factory.mktemp("cache"))


def make(tmp_path, *overrides):
  config = configs.load(
    "configs/paper.py:tiny", [*overrides, ("data.cache_dir", make.cache)]
  )
  return studies.make_study(config, tmp_path / "run")


@pytest.mark.parametrize(
  ("key", "text", "said"),
  [
    (
      "grid.pair",
      "('encoder9','encoder5'),",
      "the student has no level 'encoder9'; it has .*encoder4",
    ),
    (
      "grid.pair",
      "('encoder4','bridge'),",
      "the teacher has no level 'bridge'",
    ),
    ("grid.pair", "('head','head'),", "choose pathway L"),
    ("data.image_size", "36", "not a multiple of"),
    ("folds", "7", "folds=7 is not there"),
    ("folds", "()", "nothing to train"),
    ("student.name", "VNet", "student.name='VNet' is not a model"),
    ("student.num_classes", "3", "background and lesion are 2"),
    ("student.decoder_widths", "4,4", "one decoder width fewer"),
    ("student.in_channels", "2", "1 or 3 channels"),
    ("student_training.batch_size", "0", "at least 1"),
    ("engine.lowering", "fast", "choose from auto"),
    ("engine.dtype", "float16", "choose from float32"),
    ("engine.dtype", "float64", "JAX_ENABLE_X64"),
    ("engine.blocks_at_once", "-1", "at least 0"),
    ("splits.num_folds", "0", "num_folds"),
    ("splits.kind", "random", "kind"),
    ("splits.test_cases", "500", "test_cases"),
  ],
)
def test_what_cannot_work_is_refused_before_it_compiles(
  tmp_path, key, text, said
):
  with pytest.raises(UserError, match=said) as caught:
    make(tmp_path, (key, text))
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("pathway", "loss", "said"),
  [
    ("L", "FitNets", "L_FitNets .* choose pathway HReg"),
    ("H", "CWD", "H_CWD .* which leaves H_KLD"),
    ("H", "PKD", "H_PKD .* choose pathway L or HReg"),
    ("L,H", "FitNets,KLD", "L_FitNets .* choose pathway HReg"),
  ],
)
def test_a_loss_that_no_pathway_has_is_refused(tmp_path, pathway, loss, said):
  with pytest.raises(UserError, match=said):
    make(tmp_path, ("grid.pathway", pathway), ("grid.loss", loss))


@pytest.mark.parametrize("loss", ["SP", "PKD"])
def test_a_batch_whose_cases_are_compared_is_not_split(tmp_path, loss):
  """Two trials on the four devices of the tests would have to."""
  grid = [("grid.pathway", "HReg"), ("grid.view", "weak"), ("grid.loss", loss)]
  with pytest.raises(UserError, match=f"HReg_{loss}_WAug compares the"):
    make(tmp_path, *grid)
  make(tmp_path, *grid, ("grid.alpha", "0.3,0.5,0.7"))  # Four trials.


def test_an_unknown_attribute_of_a_model_is_named(tmp_path):
  config = configs.load("configs/paper.py:tiny").unlock()
  config.student.depth = 3
  with pytest.raises(UserError, match="student.depth .* it has widths"):
    studies.make_study(config, tmp_path)


def test_a_changed_data_set_is_refused(tmp_path):
  study = make(tmp_path)
  recorded.claim_data(study)
  recorded.claim_data(study)
  with pytest.raises(UserError, match="fingerprint"):
    recorded.claim_data(
      make_like(study, data=make(tmp_path, ("data.seed", "5")).dataset)
    )


def make_like(study, data):
  return studies.dataclasses.replace(study, dataset=data)


def test_the_stream_shows_every_case_once_a_pass_in_another_order(tmp_path):
  study = make(tmp_path)
  block = study.blocks[0]
  train = study.folds[0].train
  size = 4
  steps = 3 * len(train) // size + 1
  batches = streams.draw(train, block, 0, steps, size)
  cases, passes = (batches[x].reshape(-1) for x in ("cases", "epochs"))
  orders = [cases[passes == p] for p in range(3)]
  for order in orders:
    assert sorted(order) == sorted(train)
  assert list(orders[0]) != list(orders[1])
  # Any step can be found again.
  later = streams.draw(train, block, 5, 2, size)
  for name in later:
    assert (later[name] == batches[name][5:7]).all()


def test_blocks_of_another_fold_or_seed_see_other_orders(tmp_path):
  train = make(tmp_path).folds[0].train
  orders = {
    tuple(streams.draw(train, studies.Block(*b), 0, 3, 4)["cases"].reshape(-1))
    for b in [(0, 0), (0, 1), (1, 0)]
  }
  assert len(orders) == 3


def test_a_cache_beyond_the_devices_memory_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(checks.memory, "of_device", lambda device: 100_000)
  study = make(tmp_path, ("grid.view", "weak"))
  # Logits of 32 x 32 x 2 and features of 2 x 2 x 8, float32.
  held = len(study.folds[0].train) * 4 * (32 * 32 * 2 + 2 * 2 * 8)
  with pytest.raises(UserError, match=rf"hold {held:,} bytes .* 100,000"):
    make(tmp_path, ("grid.view", "weak,cached"))
