"""A PyTorch state dict of a U-Net becomes the teacher that it was."""

import json
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import configs
from kdjax import run
from kdjax import workdirs
from kdjax.data import pipeline
from kdjax.data import views
from kdjax.errors import UserError
from kdjax.evaluate import metrics
from kdjax.models import EncoderUNet
from kdjax.models import smp
from kdjax.models import UNetPlusPlus

WIDTHS = (64, 64, 128, 256, 512)  # Of ResNet-18's levels 1 to 5.
DECODER = (256, 128, 64, 32, 16)


def norm(name, width):
  for part in ("weight", "bias", "running_mean", "running_var"):
    yield f"{name}.{part}", (width,)
  yield f"{name}.num_batches_tracked", ()


def encoder():
  """Names and shapes of torchvision's ResNet-18 without its head."""
  yield "encoder.conv1.weight", (64, 3, 7, 7)
  yield from norm("encoder.bn1", 64)
  before = 64
  for level, width in enumerate(WIDTHS[1:], start=1):
    for block in range(2):
      name = f"encoder.layer{level}.{block}"
      yield f"{name}.conv1.weight", (width, before, 3, 3)
      yield from norm(f"{name}.bn1", width)
      yield f"{name}.conv2.weight", (width, width, 3, 3)
      yield from norm(f"{name}.bn2", width)
      if before != width:
        yield f"{name}.downsample.0.weight", (width, before, 1, 1)
        yield from norm(f"{name}.downsample.1", width)
      before = width


def stage(name, before, width):
  for conv, channels in ((1, before), (2, width)):
    yield (
      f"decoder.blocks.{name}.conv{conv}.0.weight",
      (
        width,
        channels,
        3,
        3,
      ),
    )
    yield from norm(f"decoder.blocks.{name}.conv{conv}.1", width)


def head(classes):
  yield "segmentation_head.0.weight", (classes, 16, 3, 3)
  yield "segmentation_head.0.bias", (classes,)


def unet(classes=2):
  yield from encoder()
  before = 512
  for i, (skip, width) in enumerate(
    zip((256, 128, 64, 64, 0), DECODER, strict=True)
  ):
    yield from stage(i, before + skip, width)
    before = width
  yield from head(classes)


def unet_plus_plus(classes=2):
  """Node x_d_l takes the node below it and all of its row before it.

  Rows l go from the coarsest skip, 256 channels, to the finest; d counts back
  from the last node of a row, which alone has the decoder's width.
  """
  yield from encoder()
  skips = (256, 128, 64, 64)
  for layer in range(4):
    for depth in range(layer + 1):
      last = depth == 0
      # Nodes before it in its row, the encoder's map among them.
      behind = layer - depth + 1
      if depth == layer:
        below = 512 if layer == 0 else skips[layer - 1]
      else:
        below = DECODER[layer - 1] if last else skips[layer - 1]
      width = DECODER[layer] if last else skips[layer]
      yield from stage(
        f"x_{depth}_{layer}", below + behind * skips[layer], width
      )
  yield from stage("x_0_4", DECODER[3], DECODER[4])
  yield from head(classes)


def tensors(listing, seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: np.abs(rng.normal(0, 0.05, shape)).astype(np.float32)
    for name, shape in listing
  }


def write(path, found):
  """As safetensors lays it out."""
  header, data = {}, b""
  for name, array in found.items():
    array = np.asarray(array, np.float32)
    end = len(data) + array.nbytes
    header[name] = {
      "dtype": "F32",
      "shape": array.shape,
      "data_offsets": [len(data), end],
    }
    data += array.tobytes()
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)
  return path


@pytest.mark.parametrize(
  ("listing", "model"),
  [(unet, EncoderUNet("resnet18")), (unet_plus_plus, UNetPlusPlus("resnet18"))],
  ids=["U-Net", "U-Net++"],
)
def test_every_tensor_has_its_place(listing, model, tmp_path):
  found = tensors(listing())
  variables = smp.read(write(tmp_path / "a.safetensors", found), model)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  )
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
  used = [x for x in found if not x.endswith("num_batches_tracked")]
  sums = sorted(float(x.sum()) for x in jax.tree.leaves(variables))
  np.testing.assert_allclose(sums, sorted(found[x].sum() for x in used))
  np.testing.assert_array_equal(
    variables["params"]["encoder3"]["block1"]["conv2"]["conv"]["kernel"],
    found["encoder.layer2.0.conv2.weight"].transpose(2, 3, 1, 0),
  )


def test_one_logit_is_two_of_which_background_s_is_none(tmp_path):
  model = EncoderUNet("resnet18")
  one = smp.read(write(tmp_path / "a.safetensors", tensors(unet(1))), model)[
    "params"
  ]["head"]
  assert one["kernel"].shape == (3, 3, 16, 2) and one["bias"].shape == (2,)
  assert not one["kernel"][..., 0].any() and not one["bias"][0]
  assert one["kernel"][..., 1].any()


def test_a_wrapper_s_prefix_is_taken_off(tmp_path):
  found = tensors(unet())
  wrapped = {f"model.{name}": x for name, x in found.items()}
  model = EncoderUNet("resnet18")
  plain, other = (
    smp.read(write(tmp_path / f"{i}.safetensors", x), model)
    for i, x in enumerate((found, wrapped))
  )
  jax.tree.map(np.testing.assert_array_equal, plain, other)


def without(name):
  return lambda found: found.pop(name)


def changed(name, value):
  return lambda found: found.update({name: value})


@pytest.mark.parametrize(
  ("change", "model", "said"),
  [
    (without("encoder.conv1.weight"), "resnet18", "lacks encoder.conv1.weight"),
    (
      changed("std", np.ones(3)),
      "resnet18",
      "it also has std",
    ),
    (
      changed("segmentation_head.0.bias", np.ones(3)),
      "resnet18",
      r"wrong shapes or values of segmentation_head.0.bias \(3,\)",
    ),
    (
      changed("encoder.bn1.weight", np.full(64, np.nan)),
      "resnet18",
      r"encoder.bn1.weight \(not finite\)",
    ),
    (lambda found: None, "resnet34", "does not fit EncoderUNet on resnet34"),
    (lambda found: None, "efficientnet-lite0", "has to be an EncoderUNet or"),
  ],
)
def test_what_does_not_fit_is_refused(change, model, said, tmp_path):
  found = tensors(unet())
  change(found)
  path = write(tmp_path / "a.safetensors", found)
  with pytest.raises(UserError, match=said) as caught:
    smp.read(path, EncoderUNet(model))
  assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def make_config(folder, checkpoint):
  config = configs.load(
    "configs/paper.py:tiny",
    [
      ("data.cache_dir", str(folder / "cache")),
      ("grid.pathway", "L"),
      ("grid.loss", "KLD"),
      ("grid.view", "weak"),
      ("engine.lowering", "plain"),
      ("teacher_training.checkpoint", str(checkpoint)),
    ],
  )
  with config.unlocked():
    config.teacher = dict(
      name="EncoderUNet", encoder="resnet18", num_classes=2, in_channels=3
    )
  return config


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 2])
def test_pytorch_s_teacher_is_the_row_of_the_table(classes, tmp_path):
  pytest.importorskip("torch")
  config = make_config(tmp_path, tmp_path / "unet-{fold}.pth")
  dataset = pipeline.load(config.data)
  np.savez(tmp_path / "data.npz", images=dataset.images, masks=dataset.masks)
  subprocess.run(
    [
      sys.executable,
      "tests/peers/smp_unet.py",
      *(tmp_path / "data.npz", str(classes)),
      *(tmp_path / "unet-0.pth", tmp_path / "margins.npy"),
    ],
    check=True,
  )
  theirs = np.load(tmp_path / "margins.npy")
  assert theirs.std() > 0.1  # It has learned to say something.

  model = EncoderUNet("resnet18")
  variables = smp.read(tmp_path / "unet-0.pth", model)
  images = dataset.images.astype(np.float32) / 255
  inputs = views.normalise(images, 3, model.normalisation)
  logits = np.asarray(jax.jit(model.apply)(variables, inputs))
  # Forty layers in float32; margins are of the order of one.
  np.testing.assert_allclose(
    logits[..., 1] - logits[..., 0], theirs, rtol=1e-3, atol=1e-3
  )

  if classes == 1:
    return
  found = run.train(config, tmp_path / "run")
  rows = found.per_case.set_index(["model", "case"])
  for i, case in enumerate(dataset.cases):
    if ("Teacher", case) in rows.index:
      expected = metrics.case_row(theirs[i], dataset.full_masks[i])
      ours = rows.loc["Teacher", case]
      for name in ("dice", "brier"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-3)
  assert set(found.per_case["model"]) == {"Teacher", "Student", "L_KLD_WAug"}
  (note,) = [x for x in found.notes if "taken over" in x]
  assert "whether they saw cases that are tested here is not known" in note


@pytest.mark.slow
def test_a_file_that_is_not_there_is_one_line(tmp_path):
  config = make_config(tmp_path, tmp_path / "none-{fold}.pth")
  with pytest.raises(UserError, match="no weights .*none-0.pth"):
    run.train(config, tmp_path / "run")
  assert not (tmp_path / "run" / workdirs.PER_CASE).exists()
