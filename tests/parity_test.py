"""Encoders, U-Net and U-Net++ equal segmentation_models_pytorch's.

Skipped without it: it needs PyTorch, which kdjax does not.
"""

import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models import EncoderUNet
from kdjax.models import pretrained
from kdjax.models import UNetPlusPlus

torch = pytest.importorskip("torch")
reference = pytest.importorskip("segmentation_models_pytorch")


def randomise(network):
  """Weights and statistics that leave no part of a network without effect."""
  torch.manual_seed(0)
  with torch.no_grad():
    for name, tensor in network.state_dict().items():
      if name.endswith("num_batches_tracked"):
        continue
      if tensor.ndim > 1:
        tensor.normal_(0.0, (2.0 / tensor[0].numel()) ** 0.5)
      elif name.endswith("running_var"):
        tensor.uniform_(0.5, 1.5)
      elif name.endswith("running_mean") or name.endswith("bias"):
        tensor.normal_(0.0, 0.1)
      else:  # Small, so that a sum of many blocks does not overflow.
        tensor.uniform_(0.1, 0.6)


def stage_name(block):
  """The reference's "3" or "x_1_3" to "decoder1" or "nested1_3"."""
  if nested := re.fullmatch(r"x_(\d)_(\d)", block):
    depth, layer = map(int, nested.groups())
    level = 4 - layer
    return f"nested{level}_{layer - depth + 1}" if depth else f"decoder{level}"
  return f"decoder{4 - int(block)}"


def move(network, model):
  """All of the reference's tensors as linen variables of `model`."""
  tensors = {k: v.numpy() for k, v in network.state_dict().items()}
  encoder = {
    name.removeprefix("encoder."): tensors.pop(name)
    for name in list(tensors)
    if name.startswith("encoder.")
  }
  found = flax.traverse_util.flatten_dict(
    pretrained.convert(encoder, model, "reference")
  )
  leaves = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
  }
  for name, tensor in tensors.items():
    if name.endswith("num_batches_tracked"):
      continue
    if name.startswith("segmentation_head.0."):
      place = ("head",)
      part = name.removeprefix("segmentation_head.0.")
      kind, leaf = "params", "kernel" if part == "weight" else "bias"
    else:
      _, _, block, conv, i, part = name.split(".")
      place = (stage_name(block), conv, "conv" if i == "0" else "norm")
      kind, leaf = leaves[part] if i == "1" else ("params", "kernel")
    if leaf == "kernel":
      tensor = tensor.transpose(2, 3, 1, 0)
    assert (kind, *place, leaf) not in found
    found[(kind, *place, leaf)] = tensor
  return flax.traverse_util.unflatten_dict(found)


@pytest.mark.slow
@pytest.mark.parametrize(
  "model, theirs",
  (
    (EncoderUNet("resnet18"), "Unet"),
    (EncoderUNet("resnet50"), "Unet"),
    (EncoderUNet("resnet152"), "Unet"),
    (UNetPlusPlus("resnet18"), "UnetPlusPlus"),
    (UNetPlusPlus("resnet152"), "UnetPlusPlus"),
  ),
  ids=lambda x: getattr(x, "encoder", x),
)
def test_logits_and_parameters_equal_the_references(model, theirs):
  network = getattr(reference, theirs)(
    model.encoder, encoder_weights=None, classes=2
  ).eval()
  randomise(network)
  variables = move(network, model)
  images = np.random.default_rng(0).normal(size=(2, 96, 64, 3))
  images = images.astype(np.float32)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.array(images))
  )
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
  count = sum(x.size for x in jax.tree.leaves(variables["params"]))
  assert count == sum(x.numel() for x in network.parameters())
  ours = jax.jit(model.apply)(variables, images)
  with torch.no_grad():
    expected = network(torch.tensor(images.transpose(0, 3, 1, 2)))
  expected = expected.numpy().transpose(0, 2, 3, 1)
  error = np.abs(ours - expected).max() / np.abs(expected).max()
  print(f"{theirs} {model.encoder}: {count} parameters, error {error:.1e}")
  # The reference's logits are of the order of one.
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
