"""What a network says of images as they are: its scores and its margins."""

import jax.numpy as jnp

from kdjax.distill import supervised


def evaluate(params, batch_stats, images, masks, weights, *, model):
  """Sums over a chunk of cases, for a mean over all chunks.

  Args:
    params: of `model`.
    batch_stats: of `model`.
    images: `[E, H, W, C]`, normalised, not augmented.
    masks: `[E, H, W]`, int.
    weights: `[E]`, 0 for the padding of the last chunk.
    model: linen module.

  Returns:
    Scalars `cross_entropy`, `soft_dice` and `cases`, `dice` and `lesions`: Dice
    is added up where the mask is not empty, `lesions` counts those cases.
  """
  logits = model.apply({"params": params, "batch_stats": batch_stats}, images)
  predicted = logits[..., 1] > logits[..., 0]
  truth = masks > 0
  size = lambda x: jnp.sum(x, axis=(1, 2))
  lesion = weights * (size(truth) > 0)
  dice = (
    2.0
    * size(predicted & truth)
    / jnp.maximum(size(predicted) + size(truth), 1)
  )
  return {
    "cross_entropy": jnp.sum(weights * supervised.cross_entropy(logits, masks)),
    "soft_dice": jnp.sum(weights * supervised.soft_dice(logits, masks)),
    "cases": jnp.sum(weights),
    "dice": jnp.sum(lesion * dice),
    "lesions": jnp.sum(lesion),
  }


def predict(params, batch_stats, images, *, model):
  """Lesion logit minus background logit, `[E, H, W, C]` to `[E, H, W]`."""
  logits = model.apply({"params": params, "batch_stats": batch_stats}, images)
  return logits[..., 1] - logits[..., 0]
