"""Networks from Orbax checkpoints of Flax variables, whoever trained them."""

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp

from kdjax.errors import UserError
from kdjax.models import pretrained

# What of a checkpoint is a network's; an optimizer's state is left alone.
_PARTS = ("params", "batch_stats")


def find(path):
  """The folder of the arrays at `path`, None where that is no checkpoint.

  Args:
    path: a `pathlib.Path`, of what StandardSave or PyTreeSave wrote, or of a
      step that a CheckpointManager did, whose only item has its default name.
  """
  places = [path / "_METADATA", path / "default" / "_METADATA"]
  return next((x.parent for x in places if x.is_file()), None)


def read(path, model):
  """The variables of `model` as a checkpoint has them.

  Args:
    path: see `find`; the tree has `params`, and `batch_stats` where the network
      has statistics, at its top.
    model: linen module, not folded.

  Returns:
    `{"params", "batch_stats"}` of float32 arrays.

  Raises:
    UserError: it is no checkpoint, damaged, or of another network; names the
      first arrays that do not fit.
  """
  folder = find(path)
  if folder is None:
    raise UserError(f"{path}: there is no Orbax checkpoint.")
  found = {
    "/".join(place): array
    for place, array in flax.traverse_util.flatten_dict(_load(folder)).items()
  }
  wanted = pretrained.places(model)
  names = {place: "/".join(place) for place in wanted}
  network = type(model).__name__
  variables = pretrained.fill(
    found, names, wanted, path, network, from_torch=False
  )
  return {part: variables.get(part, {}) for part in _PARTS}


def _load(folder):
  """The parts that are a network's, as numpy arrays; nothing is run."""
  try:
    checkpointer = ocp.PyTreeCheckpointer()
    tree = checkpointer.metadata(folder).item_metadata.tree
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
    )
    found = checkpointer.restore(
      folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
    )
    parts = {part: found[part] for part in _PARTS if part in found}
  # Damaged files raise whatever Orbax and its readers stumble on.
  except Exception as error:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
      f"{folder}: the Orbax checkpoint cannot be read ({why})."
    ) from error
  if not isinstance(parts.get("params"), dict):
    raise UserError(
      f"{folder} has no tree of params at its top: save the network's "
      'variables, {"params": ..., "batch_stats": ...}.'
    )
  return parts
