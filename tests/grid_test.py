"""The grid is honest: a trial in it is the same trial alone."""

import jax
import numpy as np
import pytest

from conftest import make_config
from kdjax.engine import loop
from kdjax.engine import parallel

SOME = ("Student", "L_KLD", "H_KLD_WAug", "HReg_MSE_WAug")


def train(study, devices=1, monkeypatch=None):
  """Teachers and students after training, gathered by arm's name."""
  monkeypatch.setattr(
    parallel.jax, "local_devices", lambda: jax.devices()[:devices]
  )
  teachers, students = loop.train(study)
  return {
    arm.name: jax.tree.map(lambda x, i=i: np.asarray(x)[i], students[block])
    for block in study.blocks
    for i, arm in enumerate(study.arms)
  }


def equal(a, b, **tolerance):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b
  )


@pytest.fixture(scope="module")
def exact():
  """In float64 a real mistake stands out by ten orders of magnitude."""
  with jax.enable_x64(True):
    yield


def test_bits(make_study, monkeypatch, tmp_path):
  grid = train(make_study(workdir=tmp_path / "all"), 1, monkeypatch)
  for name in SOME:
    alone = train(make_study(arms=(name,), workdir=tmp_path / name), 1, monkeypatch)
    worst = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), grid[name], alone[name])
    print(name, max(jax.tree.leaves(worst)))
