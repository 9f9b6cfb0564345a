"""What a trained network takes where it is stored, and computes at the least.

As it is deployed: BatchNorm in its convolutions. Each tensor as it is, or as
its non-zero numbers with a bitmap or with the gaps between them, whichever
takes least behind zlib; numbers of few bits are packed, with a scale for each
channel.
"""

import zlib

import flax.traverse_util
import numpy as np

from kdjax.models import folding
from kdjax.models import quantised

_LEVEL = 6  # Of zlib: 9 takes several times longer for a part in a thousand.


def nonzero(variables):
  """Trained parameters that are not zero."""
  params = flax.traverse_util.flatten_dict(variables["params"])
  return sum(int(np.count_nonzero(x)) for x in params.values())


def multiply_adds(layers, variables, weights=np.size):
  """Multiply-adds of an image in a network's convolutions and dense layers.

  As papers count them, so whatever a network is compiled to: a kernel's at the
  border, too, where it reaches beyond the image; resizing, BatchNorm, and what
  a module multiplies without a layer of linen's, not.

  Args:
    layers: its `quantised.layers`.
    variables: of one network.
    weights: of a kernel, how many count: `np.count_nonzero` for an engine that
      skips zeros.
  """
  params = flax.traverse_util.flatten_dict(variables["params"])
  return sum(
    layer.positions * int(weights(params[*path, "kernel"]))
    for path, layer in layers.items()
  )


def stored(model, variables):
  """Bytes that a trained network is stored in."""
  _, folded = folding.fold(model, variables)
  stats = folded.get("batch_stats", {})
  bits = {x: int(y) for x, y in quantised.layer_bits(stats).items()}
  total = 0
  for path, x in flax.traverse_util.flatten_dict(folded["params"]).items():
    of = bits.get(path[:-1], quantised.NONE)
    if path[-1] == "kernel" and of < quantised.NONE:
      total += kernel_bytes(np.asarray(x, np.float32), of)
    else:
      total += tensor_bytes(np.asarray(x, np.float32))
  # Of a layer in few bits the range of its inputs; of other BatchNorms theirs.
  return total + sum(
    4 * np.size(x)
    for path, x in flax.traverse_util.flatten_dict(stats).items()
    if path[-1] != "bits"
  )


def kernel_bytes(kernel, bits):
  """Bytes of a kernel in few bits: packed, and a scale for each channel."""
  scale = np.asarray(quantised.scales(kernel, np.float32(bits)))
  codes = np.rint(kernel / scale).astype(np.int64)
  return tensor_bytes(codes, bits) + 4 * scale.size


def tensor_bytes(x, bits=None):
  """Bytes of the least of three ways to store a tensor.

  Args:
    x: float32, or integers of `bits`.
    bits: None for float32.
  """
  flat = x.ravel()
  pack = lambda y: y.tobytes() if bits is None else packed(y, bits)
  ways = [pack(flat)]
  places = np.flatnonzero(flat)
  if len(places) < len(flat):
    values = pack(flat[places])
    gaps = np.diff(places, prepend=-1)
    kind = np.min_scalar_type(int(gaps.max(initial=0)))
    ways += [
      np.packbits(flat != 0).tobytes() + values,
      gaps.astype(kind).tobytes() + values,
    ]
  return min(len(zlib.compress(way, _LEVEL)) for way in ways)


def packed(codes, bits):
  """Signed integers of `bits`, one behind the other without a gap."""
  shifted = (codes + 2 ** (bits - 1))[:, None]
  planes = shifted >> np.arange(bits) & 1
  return np.packbits(planes.astype(np.uint8)).tobytes()
