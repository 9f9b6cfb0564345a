"""Into how many devices a CPU is divided, and who decides it."""

import os
import subprocess
import sys

import jax
import pytest

from configs import paper
from kdjax.engine import cores


def make_config(folds, seeds=1):
  config = paper.get_config("tiny")
  config.folds, config.seeds = tuple(range(folds)), tuple(range(seeds))
  return config


@pytest.mark.parametrize(
  ("folds", "seeds", "at_most", "expected"),
  [
    (2, 1, 2, 2),
    (1, 1, 8, 1),
    (3, 1, 2, 1),  # The second device would be idle for a third of the time.
    (3, 1, 64, 3),
    (3, 2, 4, 3),
    (0, 1, 2, 1),  # Refused later, with its reason.
  ],
)
def test_blocks_are_shared_evenly(folds, seeds, at_most, expected):
  assert cores.choose(make_config(folds, seeds), at_most) == expected


def devices(config_devices, **environment):
  """The number of devices of a process that asks for some."""
  code = (
    "import jax\n"
    "from configs import paper\n"
    "from kdjax.engine import cores\n"
    "config = paper.get_config('tiny')\n"
    "config.folds = (0, 1)\n"
    f"config.engine.cpu_devices = {config_devices}\n"
    "cores.divide(config)\n"
    "print(jax.local_device_count(), cores.cores())\n"
  )
  plain = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=plain | {"JAX_PLATFORMS": "cpu"} | environment,
    check=True,
    capture_output=True,
    text=True,
  )
  return tuple(map(int, done.stdout.split()))


def test_a_process_gets_the_devices_it_asks_for():
  assert devices(3)[0] == 3
  found, cores_here = devices(0)
  assert found == cores.choose(make_config(2), cores_here)


def test_who_divided_the_cpu_before_is_obeyed():
  flag = "--xla_force_host_platform_device_count=5"
  assert devices(3, XLA_FLAGS=flag)[0] == 5


def test_a_notebook_that_has_begun_keeps_its_devices(capsys):
  before = jax.devices("cpu")
  config = make_config(2)
  config.engine.cpu_devices = 3
  environment = os.environ.pop("XLA_FLAGS")
  try:
    cores.divide(config)
  finally:
    os.environ["XLA_FLAGS"] = environment
  assert jax.devices("cpu") == before
  assert "JAX is at work already" in capsys.readouterr().err
