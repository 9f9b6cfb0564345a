"""Networks in few bits: fake quantisation of kernels and of layers' inputs.

Jacob et al., https://arxiv.org/abs/1712.05877: what a layer computes with is
rounded to one of `2 ** bits` values, and the gradient passes as if it were not.
A kernel's scale is its output channel's and has no zero point; an input's is
the tensor's and has one.

A BatchNorm, once it is folded, multiplies each output channel of its kernel by
a constant, and so the channel's scale: the folded kernel, rounded, is the
rounded one, folded. So a network trains as it will be deployed without being
folded.
"""

import dataclasses
import functools
import math
from typing import Any
from typing import NamedTuple

from flax import linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

NONE = 32  # Bits of what is not rounded.
LAYERS = (nn.Conv, nn.ConvTranspose, nn.Dense)

# A layer's, among the batch statistics: the range of its inputs, and its bits.
ENDS = ("low", "high")
STATE = {**dict.fromkeys(ENDS, 0.0), "bits": float(NONE)}
_STATISTICS = "batch_stats"
_MOMENTUM = 0.9  # Of ranges, as of a BatchNorm's statistics.


class Layer(NamedTuple):
  """A convolution or dense layer.

  Attributes:
    groups: of its channels.
    positions: of an image, at each of which it uses every weight once.
  """

  groups: int
  positions: int


@dataclasses.dataclass(frozen=True)
class Quantised:
  """A network whose convolutions and dense layers compute in few bits.

  To be used as the linen module that it holds, whose attributes it has. In how
  many bits is a state of each layer, as is the range of its inputs: `STATE` at
  the layer's path among the batch statistics, so that both map over trials. In
  training the range is the batch's, which the state averages; where bits are
  `NONE` nothing is rounded.

  Attributes:
    module: linen module from images to logits.
  """

  module: nn.Module

  def __getattr__(self, name):
    # What is copied or read from a pickle has no module yet.
    if name.startswith("__") or name == "module":
      raise AttributeError(name)
    return getattr(self.module, name)

  def clone(self, **changes):
    """The same with other attributes of the module."""
    return Quantised(self.module.clone(**changes))

  def init(self, *args, **kwargs):
    """As of a linen module; the state of layers is among the statistics."""
    with nn.intercept_methods(self._call):
      return self.module.init(*args, **kwargs)

  def apply(self, variables, *args, **kwargs):
    """As of a linen module."""
    params = round_kernels(variables["params"], variables[_STATISTICS])
    with nn.intercept_methods(self._call):
      return self.module.apply({**variables, "params": params}, *args, **kwargs)

  def _call(self, call, args, kwargs, context):
    """Calls a layer with its input rounded, and keeps the input's range."""
    layer = context.module
    if context.method_name != "__call__" or not isinstance(layer, LAYERS):
      return call(*args, **kwargs)
    x, *rest = args
    if layer.is_initializing():
      for name, value in STATE.items():
        layer.put_variable(_STATISTICS, name, jnp.full((), value, x.dtype))
      return call(x, *rest, **kwargs)
    low, high, bits = (layer.get_variable(_STATISTICS, name) for name in STATE)
    if layer.is_mutable_collection(_STATISTICS):
      axis = getattr(self.module, "norm_axis", None)
      now = _range(x, axis, low.dtype)
      for name, old, new in zip(ENDS, (low, high), now, strict=True):
        kept = _MOMENTUM * old + (1 - _MOMENTUM) * new
        layer.put_variable(_STATISTICS, name, kept)
      low, high = now
    return call(round_inputs(x, low, high, bits), *rest, **kwargs)


def round_kernels(params, batch_stats):
  """A network's parameters with the kernels rounded of which bits are known."""
  params = flax.traverse_util.flatten_dict(params)
  for path, bits in layer_bits(batch_stats).items():
    kernel = (*path, "kernel")
    params[kernel] = round_kernel(params[kernel], bits)
  return flax.traverse_util.unflatten_dict(params)


def layer_bits(batch_stats):
  """The bits of each layer by its path; {} of a network without any."""
  flat = flax.traverse_util.flatten_dict(batch_stats)
  return {path[:-1]: x for path, x in flat.items() if path[-1] == "bits"}


def bare(model, variables):
  """A network with its kernels rounded, whose inputs are not, and its ranges.

  Returns:
    `(module, variables, ranges)`: the ranges are `(low, high)` of the inputs of
    each layer in few bits, in the order that they are called in, and empty for
    a network that is not `Quantised`.
  """
  if not isinstance(model, Quantised):
    return model, variables, ()
  stats = variables["batch_stats"]
  params = round_kernels(variables["params"], stats)
  ranges = {
    path: tuple(functools.reduce(dict.get, path, stats)[x] for x in ENDS)
    for path in layer_bits(stats)
  }
  blank = jnp.zeros((1, model.stride, model.stride, model.in_channels))
  called = layers(model.module, blank)
  return (
    model.module,
    {"params": params, "batch_stats": strip(stats)},
    tuple(ranges[path] for path in called),
  )


def layers(model, images):
  """A network's convolutions and dense layers, as they are called.

  Args:
    model: linen module.
    images: `[B, H, W, C]`, only lends its shape.

  Returns:
    A dict from path to `Layer`.
  """
  called = {}

  def note(call, args, kwargs, context):
    layer, out = context.module, call(*args, **kwargs)
    if isinstance(layer, LAYERS) and context.method_name == "__call__":
      # A transposed one uses its kernel at what goes in.
      at = args[0] if isinstance(layer, nn.ConvTranspose) else out
      before = called.get(layer.path)  # One that is shared computes again.
      called[layer.path] = Layer(
        getattr(layer, "feature_group_count", 1),
        math.prod(at.shape[1:-1]) + (before.positions if before else 0),
      )
    return out

  with nn.intercept_methods(note):
    jax.eval_shape(model.init, jax.random.key(0), images)
  return called


def take(module, variables, bits):
  """A trained network of `bits`, though it was trained beside some of others.

  Args:
    module: linen module.
    variables: `{"params", "batch_stats"}` of one network.
    bits: that it was trained in; `NONE` if in none.

  Returns:
    `(model, variables)`: a `Quantised` one, or the module without any `STATE`.
  """
  if bits < NONE:
    return Quantised(module), variables
  return module, {**variables, "batch_stats": strip(variables["batch_stats"])}


def strip(batch_stats):
  """A network's batch statistics without the `STATE` of layers."""
  flat = flax.traverse_util.flatten_dict(batch_stats)
  layers = layer_bits(batch_stats)
  kept = {x: y for x, y in flat.items() if x[:-1] not in layers}
  return flax.traverse_util.unflatten_dict(kept)


def scales(kernel, bits):
  """What a kernel's integers are multiples of, `[1, ..., C]`.

  Args:
    kernel: `[..., C]`, C output channels.
    bits: scalar in 2 to `NONE`; integers go from `1 - 2 ** (bits - 1)` to the
      opposite.
  """
  axes = tuple(range(kernel.ndim - 1))
  largest = jnp.max(jnp.abs(kernel), axes, keepdims=True)
  largest = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1))
  return largest / jnp.asarray(2.0 ** (bits - 1) - 1, kernel.dtype)


def round_kernel(kernel, bits):
  """A kernel in `bits`, see `scales`; as it is where they are `NONE`."""
  scale = scales(kernel, bits)
  return jnp.where(bits < NONE, _round(kernel / scale) * scale, kernel)


@jax.jit  # `deploy.graph` finds it by name.
def round_inputs(x, low, high, bits):
  """A layer's input rounded to `2 ** bits` values from `low` to `high`.

  Zero is one of them, so that padding is exact. What lies outside is the
  nearest of them and has no gradient.

  Args:
    x: any shape.
    low: scalar.
    high: scalar.
    bits: scalar; x stays where it is `NONE`.
  """
  scale, zero = grid(low, high, bits)
  scale, largest = scale.astype(x.dtype), jnp.asarray(2.0**bits - 1, x.dtype)
  inside = jnp.clip(x, -zero * scale, (largest - zero) * scale)
  rounded = _round(inside / scale) * scale
  return jnp.where(bits < NONE, rounded, x).astype(x.dtype)


def grid(low, high, bits):
  """The step between rounded inputs, and which of them, from 0, is zero."""
  low, high = jnp.minimum(low, 0), jnp.maximum(high, 0)
  scale = jnp.where(high > low, high - low, 1) / (2.0**bits - 1)
  return scale, jnp.round(-low / scale)


@jax.custom_jvp
def _round(x):
  """To the nearest integer; the gradient passes straight through."""
  return jnp.round(x)


_round.defjvps(lambda tangent, _, x: tangent)


def _range(x, axis: str | None, dtype: Any):
  """The smallest and the largest of a batch, which may be split over `axis`."""
  x = jax.lax.stop_gradient(x)
  low, high = jnp.min(x), jnp.max(x)
  if axis:
    low, high = jax.lax.pmin(low, axis), jax.lax.pmax(high, axis)
  return low.astype(dtype), high.astype(dtype)
