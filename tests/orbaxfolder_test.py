"""An Orbax checkpoint of a network's variables becomes the teacher it was."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from kdjax import configs
from kdjax import run
from kdjax.data import pipeline
from kdjax.data import views
from kdjax.errors import UserError
from kdjax.evaluate import metrics
from kdjax.models import orbaxfolder
from kdjax.models import UNet

MODEL = UNet(widths=(4, 4, 8, 8), decoder_widths=(8, 4, 4), num_classes=2)


def draw(seed=0):
  shapes = jax.eval_shape(
    lambda: MODEL.init(jax.random.key(0), np.zeros((1, 16, 16, 3)))
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), shapes
  )


def save(path, tree):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, tree)
  return path


def save_pytree(path, tree):
  ocp.PyTreeCheckpointer().save(path, tree)
  return path


def save_step(path, tree):
  with ocp.CheckpointManager(path) as manager:
    manager.save(7, args=ocp.args.StandardSave(tree))
  return path / "7"


@pytest.mark.parametrize("way", [save, save_pytree, save_step])
def test_a_network_is_read_and_an_optimizer_left_alone(way, tmp_path):
  variables = draw()
  state = {
    **variables,
    "step": 5,
    "opt_state": [np.ones(2), {"mu": np.ones(3)}],
  }
  found = orbaxfolder.read(way(tmp_path / "saved", state), MODEL)
  assert set(found) == {"params", "batch_stats"}
  jax.tree.map(np.testing.assert_array_equal, found, dict(variables))


def test_bfloat16_is_read_as_float32(tmp_path):
  half = jax.tree.map(lambda x: jax.numpy.asarray(x, "bfloat16"), draw())
  found = orbaxfolder.read(save(tmp_path / "saved", half), MODEL)
  leaf = found["params"]["head"]["kernel"]
  assert leaf.dtype == np.float32
  np.testing.assert_array_equal(
    leaf, np.asarray(half["params"]["head"]["kernel"])
  )


def _without_a_layer(tree):
  tree["params"].pop("encoder1")


def _with_another(tree):
  tree["params"]["other"] = {"kernel": np.ones((2, 2))}


def _misshapen(tree):
  tree["params"]["head"]["bias"] = np.ones(3)


def _not_finite(tree):
  tree["params"]["head"]["bias"] = np.array([np.nan, 0])


def _deeper(tree):
  tree["model"] = {"params": tree.pop("params")}


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (_without_a_layer, "does not fit UNet: it lacks params/encoder1"),
    (_with_another, "it also has params/other/kernel"),
    (_misshapen, r"wrong shapes or values of params/head/bias \(3,\)"),
    (_not_finite, r"params/head/bias \(not finite\)"),
    (_deeper, "has no tree of params at its top"),
  ],
)
def test_what_does_not_fit_is_one_line(change, said, tmp_path):
  tree = draw()
  change(tree)
  with pytest.raises(UserError, match=said) as error:
    orbaxfolder.read(save(tmp_path / "saved", tree), MODEL)
  assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def _cut(path):
  for file in (path / "d").iterdir():
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _junk(path):
  (path / "_METADATA").write_text("{")


def _lost(path):
  shutil.rmtree(path / "d")


READ = """
import pathlib, sys
from kdjax.errors import UserError
from kdjax.models import orbaxfolder
from tests.orbaxfolder_test import MODEL
for path in sys.argv[1:]:
  try:
    orbaxfolder.read(pathlib.Path(path), MODEL)
  except UserError as error:
    print(error)
"""


def test_a_damaged_checkpoint_is_one_line(tmp_path):
  paths = []
  for spoil in (_cut, _junk, _lost):
    paths.append(save(tmp_path / spoil.__name__, draw()))
    spoil(paths[-1])
  # In a process of its own: some of Orbax's reads fail later, where nobody
  # waits for them, and pytest would hold that against another test.
  said = subprocess.run(
    [sys.executable, "-c", READ, *paths],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.splitlines()
  assert len(said) == len(paths)
  for line, path in zip(said, paths, strict=True):
    assert str(path) in line and "cannot be read" in line


def test_another_folder_is_none(tmp_path):
  assert orbaxfolder.find(tmp_path) is None
  with pytest.raises(UserError, match="there is no Orbax checkpoint"):
    orbaxfolder.read(tmp_path, MODEL)


@pytest.mark.slow
def test_each_fold_s_teacher_is_the_row_of_the_table(tmp_path):
  """Its own Dice, and what the checkpoint says, case by case."""
  for fold in (0, 1):
    save(tmp_path / f"teacher{fold}", draw(fold))
  config = configs.load(
    "configs/paper.py:tiny",
    [
      ("data.cache_dir", str(tmp_path / "cache")),
      ("folds", "0,1"),
      ("grid.pathway", "L"),
      ("grid.loss", "KLD"),
      ("grid.view", "weak"),
      ("engine.lowering", "plain"),
      ("student_training.max_epochs", "1"),
      ("teacher_training.checkpoint", str(tmp_path / "teacher{fold}")),
    ],
  )
  with config.unlocked():
    config.teacher = dict(
      name="UNet",
      widths=MODEL.widths,
      decoder_widths=MODEL.decoder_widths,
      num_classes=2,
      in_channels=3,
    )
    config.grid.pair = (("encoder3", "encoder4"),)
  found = run.train(config, tmp_path / "run")
  dataset = pipeline.load(config.data)
  place = {case: i for i, case in enumerate(dataset.cases)}
  frame = found.per_case[found.per_case["model"] == "Teacher"]
  assert set(frame["fold"]) == {0, 1}
  for fold, rows in frame.groupby("fold"):
    cases = [place[x] for x in rows["case"]]
    images = dataset.images[cases].astype(np.float32) / 255
    logits = MODEL.apply(
      draw(fold), views.normalise(images, 3, MODEL.normalisation)
    )
    margins = np.asarray(logits[..., 1] - logits[..., 0])
    for case, margin, dice in zip(cases, margins, rows["dice"], strict=True):
      alone = metrics.case_row(margin, dataset.full_masks[case])["dice"]
      np.testing.assert_allclose(dice, alone, atol=1e-3)
  assert any("teacher0" in x or "teacher{fold}" in x for x in found.notes)
