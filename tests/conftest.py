"""Four CPU devices, strict shapes, quick compilation."""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile

from tests import started

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = started.xla_flags(devices=4)
if "PYTEST_XDIST_WORKER" not in os.environ:
  # One cache of compilations for all that this run of the tests starts: its
  # workers and their commands. Half of a test's time goes into compiling.
  _KEPT = tempfile.mkdtemp(prefix="kdjax-tests-")
  atexit.register(shutil.rmtree, _KEPT, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _KEPT
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import numpy as np
import pytest

from configs import paper
from kdjax import cli
from kdjax.data import pipeline
from kdjax.data import splits
from kdjax.engine import studies

gc.set_threshold(*cli.COLLECTED)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Several times quicker to compile; what is tested is not speed.
jax.config.update("jax_disable_most_optimizations", True)


# Files that train or compile for minutes, the longest first: what is short
# comes last, or one worker would wait for the other at the end.
_LONGEST = (
  "chaos_test cli_test grid_test processes_test launch_test tpu_test "
  "peer_test bench_test buckets_test search_test shares_test answers_test"
).split()


def pytest_collection_modifyitems(items):
  """Lets the longest files begin, the longest first."""
  rank = {name: i for i, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_runtest_teardown():
  """Ends what a test, or a fixture that failed, has left running."""
  started.end_all()


@pytest.fixture(autouse=True)
def _room_for_programs():
  """Lets go of what was compiled before the process has no room for more.

  A compiled program maps its code in hundreds of pieces, and Linux gives a
  process 65,530: XLA dies of a segmentation fault when they run out.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def _no_tpu_left():
  """Takes back what compiling for a slice tells libtpu.

  A command that a later test starts would take this machine for a TPU's host.
  """
  names = ("TPU_", "ALLOW_MULTIPLE_LIBTPU_LOAD")
  told = lambda: {x for x in os.environ if x.startswith(names)}
  before = told()
  yield
  for name in told() - before:
    del os.environ[name]


def make_dataset(cases=12, side=16):
  """Bright discs on noise: learnable, and in memory at once."""
  rng = np.random.default_rng(0)
  line = np.arange(side)
  centres = rng.uniform(side * 0.3, side * 0.7, (cases, 2))
  far = (line[None, :, None] - centres[:, 0, None, None]) ** 2
  far = far + (line[None, None, :] - centres[:, 1, None, None]) ** 2
  masks = (far < (side * 0.25) ** 2).astype(np.uint8)
  images = rng.integers(0, 100, masks.shape) + 120 * masks
  names = tuple(f"case{i:02d}" for i in range(cases))
  return pipeline.Dataset(
    name="discs",
    version="1",
    fingerprint="0",
    cases=names,
    groups=names,
    labels=("disc",) * cases,
    images=images.astype(np.uint8),
    masks=masks,
    full_masks=tuple(mask > 0 for mask in masks),
    notes=(),
  )


def make_config(dtype="float32"):
  """The paper's arms with the smallest networks that have all parts."""
  config = paper.get_config("tiny")
  config.data.image_size = 16
  config.splits.update(num_folds=2, test_cases=3)
  config.teacher.update(widths=(4, 6, 6), decoder_widths=(4, 4))
  config.student.update(widths=(3, 5), decoder_widths=(3,))
  config.grid.pair = (("encoder2", "encoder3"),)
  config.grid.learning_rate = (1e-2,)
  # Compiles in a third of the time of what a CPU chooses by itself.
  config.engine.update(dtype=dtype, lowering="plain")
  return config


def make_study(config, arms, workdir):
  """A study of discs; `arms` picks arms of the grid by name, None all."""
  dataset = make_dataset()
  every = {arm.name: arm for arm in studies.trials.make_arms(config.grid)}
  return studies.Study(
    config=config.lock(),
    workdir=workdir,
    dataset=dataset,
    folds=splits.make_folds(dataset, config.splits),
    blocks=tuple(
      studies.Block(fold, seed)
      for seed in config.seeds
      for fold in config.folds
    ),
    arms=tuple(every[name] for name in arms or every),
  )
