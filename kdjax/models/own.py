"""Networks of other packages, which a config names "package.module:Class".

Such a class is a linen module that is called as ours are:

  `net(images, train=False)`, `[B, H, W, in_channels]` to logits
  `[B, H, W, num_classes]`; with `train` BatchNorms use and update the batch's
  statistics, collection "batch_stats", if there are any;

and has the attributes `num_classes` and `in_channels` (1 or 3). Its other
attributes are the config's, and its submodules are levels to distil from. Of
the following it may have each; what it has not, it goes without:

  stride          what the side of an image must be a multiple of; 1.
  normalisation   mean and deviation of three channels; ImageNet's.
  linear_levels   submodules whose maps are negative in places; else found out
                  by what they return for noise.
  convolution     what its `nn.Conv` call, `conv_general_dilated`: without, a
                  CPU takes several times longer.
  norm_axis       its BatchNorms' `axis_name`: without, no batch is split over
                  devices.
  dtype           of its arithmetic: without, engine.dtype is float32.
  folded          see `folding`, for networks of `layers.ConvNorm`.

An nnx module goes into one by `flax.nnx.bridge.ToLinen`, stage by stage where
its stages are to be levels.
"""

import functools
import importlib
import inspect
from typing import Any

from flax import linen as nn
import jax

from kdjax.errors import UserError
from kdjax.models import layers

_NEEDED = ("num_classes", "in_channels")
# Fields that our own networks have, as a network has them that lacks them.
_FIELDS = {
  "convolution": jax.lax.conv_general_dilated,
  "norm_axis": None,
  "dtype": None,
  "folded": False,
}
_CONSTANTS = {
  "stride": 1,
  "normalisation": layers.IMAGENET,
  "linear_levels": None,
}


@functools.cache
def find(name):
  """The class that `name` says, with all attributes that kdjax asks for.

  `lacks` is what it had not and leaves unread.

  Raises:
    UserError: it cannot be imported, or is no such class.
  """
  module, _, attribute = name.partition(":")
  try:
    found = getattr(importlib.import_module(module), attribute, None)
  except Exception as error:  # A module may raise whatever it likes.
    raise UserError(
      f"{name}: {module} cannot be imported ({type(error).__name__}: {error}); "
      "install it, or set PYTHONPATH to where it is."
    ) from error
  if not isinstance(found, type) or not issubclass(found, nn.Module):
    raise UserError(f"{name}: {module} has no linen module {attribute!r}.")
  for needed in _NEEDED:
    if not hasattr(found, needed) and needed not in found.__dataclass_fields__:
      raise UserError(f"{name} has no attribute {needed}.")
  if "train" not in inspect.signature(found.__call__).parameters:
    raise UserError(f"{name} takes no train: it is called net(images, train=).")
  fields = found.__dataclass_fields__
  lacks = {x: value for x, value in _FIELDS.items() if x not in fields}
  constants = {x: y for x, y in _CONSTANTS.items() if not hasattr(found, x)}
  return type(
    found.__name__,
    (found,),
    {
      "__module__": found.__module__,
      "__qualname__": found.__qualname__,
      "__doc__": found.__doc__,
      "__annotations__": dict.fromkeys(lacks, Any),
      "lacks": tuple(lacks),
      **lacks,
      **constants,
    },
  )


def lacks(model, field):
  """Whether a network leaves one of the fields that ours have unread."""
  return field in getattr(model, "lacks", ())
