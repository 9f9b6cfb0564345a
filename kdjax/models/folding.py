"""The inference form of a trained network: BatchNorm folded into convolutions.

With running statistics a BatchNorm scales and shifts every channel by a
constant, which the convolution before it can do with its kernel and a bias.
"""

from flax import linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from kdjax.models import layers
from kdjax.models import own


def fold(model, variables):
  """The same network without BatchNorm, to run and never to train.

  `y = scale (W x - mean) / sqrt(var + eps) + bias` becomes `W' x + b'`.

  Args:
    model: linen module of `models.MODELS`, or one that `own` found.
    variables: its `{"params", "batch_stats"}`, of one network.

  Returns:
    `(inference_model, variables)`: logits and maps are those of `model` with
    `train=False`, to rounding; variables are `{"params": ...}`, and
    `"batch_stats"` where there are other BatchNorms than those of
    `layers.ConvNorm`. Every tap stays, but for the parts of these, which are
    one now. A network that cannot be folded is returned as it is.
  """
  if own.lacks(model, "folded"):
    return model.clone(folded=True, norm_axis=None), variables
  params = flax.traverse_util.flatten_dict(variables["params"])
  stats = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}))
  for path, epsilon in _epsilons(model, variables).items():
    norm = (*path, "norm")
    scale, bias = (params.pop((*norm, leaf)) for leaf in ("scale", "bias"))
    mean, variance = (stats.pop((*norm, leaf)) for leaf in ("mean", "var"))
    factor = scale * jax.lax.rsqrt(variance + epsilon)  # [C]
    kernel = (*path, "conv", "kernel")
    params[kernel] = params[kernel] * factor[None, None, None, :]
    params[(*path, "conv", "bias")] = bias - mean * factor
  folded = {"params": flax.traverse_util.unflatten_dict(params)}
  if stats:
    folded["batch_stats"] = flax.traverse_util.unflatten_dict(stats)
  return model.clone(folded=True, norm_axis=None), folded


def _epsilons(model, variables):
  """Path of every `ConvNorm` of `model` to its BatchNorm's epsilon."""
  found = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, layers.ConvNorm):
      found[context.module.path] = context.module.epsilon
    return call(*args, **kwargs)

  blank = jnp.zeros((1, model.stride, model.stride, model.in_channels))
  with nn.intercept_methods(note):
    jax.eval_shape(model.apply, variables, blank)
  return found
