"""Into how many devices a CPU is divided: as many as both stages can use."""

import os
import subprocess
import sys

import pytest

from configs import paper
from kdjax.engine import cores


def make_config(folds, batch_size=8):
  config = paper.get_config("tiny")
  config.folds = tuple(range(folds))
  config.grid.update(pathway=("L", "HReg"), loss=("KLD",), view=("weak",))
  config.teacher_training.batch_size = batch_size
  config.student_training.batch_size = batch_size
  return config


@pytest.mark.parametrize(
  ("config", "at_most", "expected"),
  [
    (make_config(2), 2, 2),  # A block each.
    (make_config(1), 2, 2),  # The teacher's batches of 8 are split.
    (make_config(1, batch_size=9), 2, 1),  # They do not split.
    (make_config(1, batch_size=9), 64, 3),  # Three students, three devices.
    (make_config(3), 64, 8),  # 9 students; 8 is what batches split over.
    (make_config(70), 64, 64),
    (make_config(0), 2, 1),  # Refused later, with its reason.
  ],
)
def test_both_stages_can_use_the_devices(config, at_most, expected):
  found = cores.choose(config, at_most)
  assert found <= at_most
  assert found == expected


def devices(config_devices, **environment):
  """The number of devices of a process that asks for some."""
  code = (
    "import jax\n"
    "from configs import paper\n"
    "from kdjax.engine import cores\n"
    "config = paper.get_config('tiny')\n"
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
  assert found == cores.choose(paper.get_config("tiny"), cores_here)


def test_who_divided_the_cpu_before_is_obeyed():
  flag = "--xla_force_host_platform_device_count=5"
  assert devices(3, XLA_FLAGS=flag)[0] == 5


def test_a_notebook_that_has_begun_keeps_its_devices(capsys):
  import jax

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
