"""Read named activations off any linen module, without touching the module.

A tap is a submodule's path, such as "encoder4" or "decoder1/conv2"; its
feature is whatever that submodule's `__call__` returned.
"""

import flax.traverse_util


def apply(module, variables, images, *, taps, train=False):
  """Runs `module` on `images` and keeps the features at `taps`.

  Args:
    module: a linen module from images `[B, H, W, C]` to logits `[B, H, W, K]`.
    variables: its variable collections.
    images: `[B, H, W, C]`.
    taps: paths of the submodules whose outputs to keep.
    train: whether batch statistics are those of the batch, and updated.

  Returns:
    `(logits, features, batch_stats)`: features is a dict from tap to array.

  Raises:
    ValueError: a tap names no submodule of `module`.
  """

  def keep(submodule, method):
    return method == "__call__" and "/".join(submodule.path) in taps

  logits, new = module.apply(
    variables,
    images,
    train=train,
    capture_intermediates=keep,
    mutable=["batch_stats"] if train else [],
  )
  captured = flax.traverse_util.flatten_dict(
    new.get("intermediates", {}), sep="/"
  )
  if missing := [tap for tap in taps if f"{tap}/__call__" not in captured]:
    raise ValueError(f"has no level {missing[0]!r}")
  features = {tap: captured[f"{tap}/__call__"][0] for tap in taps}
  return logits, features, new.get("batch_stats", {})


def levels(variables):
  """The taps one level deep that hold variables, in the module's order."""
  return tuple(variables.get("params") or variables["batch_stats"])
