"""Whole networks from files of segmentation_models_pytorch's state dicts.

U-Nets and U-Net++ on ResNets have the same layers there as here, so every
tensor has its place. Of version 0.6.0's own networks on a ResNet-18, trained,
what the lesion's logit has above the background's differs by 1e-5 at most.
"""

import re

import numpy as np

from kdjax.errors import UserError
from kdjax.models import decoders
from kdjax.models import encoders
from kdjax.models import pretrained
from kdjax.models import tensorfile

ENDINGS = (".pth", ".pt", ".safetensors")
_HEAD = "segmentation_head.0."


def read(path, model):
  """The variables of `model` as a file has them.

  A file of one logit is one of two, of which background's is 0: its sigmoid is
  the lesion's softmax. A prefix that all names have, such as "model.", is taken
  off.

  Args:
    path: of a state dict; nothing of it is run.
    model: `EncoderUNet` or `UNetPlusPlus` on a ResNet, not folded.

  Returns:
    `{"params", "batch_stats"}` of float32 arrays.

  Raises:
    UserError: the file is missing or damaged, or is of another network; names
      the first tensors that do not fit.
  """
  encoder = encoders.ENCODERS.get(getattr(model, "encoder", None))
  if not isinstance(encoder, encoders.ResNet):
    raise UserError(
      f"{path}: the teacher has to be an EncoderUNet or UNetPlusPlus on a "
      "ResNet, which segmentation_models_pytorch lays out alike."
    )
  wanted = pretrained.places(model)
  tensors = _two_logits(_without_prefix(tensorfile.read(path)))
  names = {place: _name(encoder, model, place) for place in wanted}
  network = f"{type(model).__name__} on {model.encoder}"
  return pretrained.fill(tensors, names, wanted, path, network)


def _without_prefix(tensors):
  """The tensors without what a wrapper put before all their names."""
  for name in tensors:
    before, found, _ = name.partition(_HEAD)
    if found and all(x.startswith(before) for x in tensors):
      return {x.removeprefix(before): y for x, y in tensors.items()}
  return tensors


def _two_logits(tensors):
  """The tensors with a head of two classes where it has one logit."""
  head = {
    x: tensors[x] for x in (f"{_HEAD}weight", f"{_HEAD}bias") if x in tensors
  }
  if any(x.shape[:1] != (1,) for x in head.values()):
    return tensors
  both = lambda x: np.concatenate([np.zeros_like(x), x])
  return tensors | {name: both(x) for name, x in head.items()}


def _name(encoder, model, place):
  """The tensor's name at a place of linen's variables."""
  _, first, *rest = place
  if first.startswith("encoder"):
    return f"encoder.{pretrained.name(encoder, place)}"
  if first == "head":
    return _HEAD + {"kernel": "weight", "bias": "bias"}[rest[0]]
  conv, part, leaf = rest
  block = f"decoder.blocks.{_block(model, first)}.{conv}"
  if part == "conv":
    return f"{block}.0.weight"
  return f"{block}.1.{pretrained.LEAVES[leaf]}"


def _block(model, stage):
  """ "decoder3" or "nested2_1" to the name of its block there."""
  column = 4 - int(re.search(r"\d", stage)[0])
  if stage.startswith("nested"):
    return f"x_{column - int(stage[-1]) + 1}_{column}"
  return f"x_0_{column}" if isinstance(model, decoders.UNetPlusPlus) else column
