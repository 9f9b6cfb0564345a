"""Scalars come back from TensorBoard's files as they went in."""

import struct

import pytest
from tensorboardX.proto import event_pb2

from kdjax import workdirs
from kdjax.engine import scalars


def history(epochs, arm="L_MSE"):
  return [
    {"stage": "student", "arm": arm, "fold": 0, "seed": 1, "epoch": epoch}
    | {name: epoch + i for i, name in enumerate(workdirs.SCALARS)}
    for epoch in range(1, epochs + 1)
  ]


def read(folder):
  """Every scalar of the one file in `folder`: (name, step) to value."""
  (path,) = folder.glob("events.*")
  content, found = path.read_bytes(), {}
  while content:
    (size,) = struct.unpack("<Q", content[:8])
    event = event_pb2.Event.FromString(content[12 : 12 + size])
    for value in event.summary.value:
      found[value.tag, event.step] = value.simple_value
    content = content[16 + size :]
  return found


def test_every_trial_has_its_scalars_and_new_epochs_are_added(tmp_path):
  writer = scalars.Scalars(tmp_path)
  writer.write(history(2) + history(3, "Student"))
  assert len(read(tmp_path / "Student" / "fold0-seed1")) == 3 * len(
    workdirs.SCALARS
  )
  first = read(tmp_path / "L_MSE" / "fold0-seed1")
  assert first["val_dice", 2] == pytest.approx(2 + 4)
  writer.write(history(12) + history(3, "Student"))
  second = read(tmp_path / "L_MSE" / "fold0-seed1")
  assert len(second) == 12 * len(workdirs.SCALARS)
  assert first.items() <= second.items()


@pytest.mark.parametrize("epochs", [3, 7])
def test_another_run_has_the_epochs_that_its_history_has(tmp_path, epochs):
  scalars.Scalars(tmp_path).write(history(5))
  resumed = scalars.Scalars(tmp_path)
  resumed.write(history(epochs))
  folder = tmp_path / "L_MSE" / "fold0-seed1"
  assert {step for _, step in read(folder)} == set(range(1, epochs + 1))
  resumed.write(history(9))
  assert {step for _, step in read(folder)} == set(range(1, 10))


def test_a_trial_without_new_epochs_is_left_alone(tmp_path):
  scalars.Scalars(tmp_path).write(history(12))
  (path,) = tmp_path.rglob("events.*")
  scalars.Scalars(tmp_path).write(history(12))
  assert list(tmp_path.rglob("events.*")) == [path]


def test_what_was_not_measured_is_no_scalar(tmp_path):
  rows = history(2)
  rows[1]["distill_share"] = float("nan")
  scalars.Scalars(tmp_path).write(rows)
  found = read(tmp_path / "L_MSE" / "fold0-seed1")
  assert ("distill_share", 1) in found and ("distill_share", 2) not in found
  assert ("alpha", 2) in found
