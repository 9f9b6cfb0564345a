"""What a network says of images as they are: its scores and its margins."""

import jax
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
    is the mean over the regions that a case's mask shows, and is added up where
    it shows any; `lesions` counts those cases.
  """
  logits = model.apply({"params": params, "batch_stats": batch_stats}, images)
  regions = lambda x: jax.nn.one_hot(x, logits.shape[-1], dtype=bool)[..., 1:]
  predicted, truth = regions(jnp.argmax(logits, axis=-1)), regions(masks)
  size = lambda x: jnp.sum(x, axis=(1, 2))  # [E, R]
  shown = size(truth) > 0
  lesion = weights * jnp.any(shown, axis=-1)
  dice = (
    2.0
    * size(predicted & truth)
    / jnp.maximum(size(predicted) + size(truth), 1)
  )
  dice = jnp.sum(dice * shown, axis=-1) / jnp.maximum(
    jnp.sum(shown, axis=-1), 1
  )
  return {
    "cross_entropy": jnp.sum(weights * supervised.cross_entropy(logits, masks)),
    "soft_dice": jnp.sum(weights * supervised.soft_dice(logits, masks)),
    "cases": jnp.sum(weights),
    "dice": jnp.sum(lesion * dice),
    "lesions": jnp.sum(lesion),
  }


def predict(params, batch_stats, images, *, model):
  """A region's logit minus the background's, `[E, H, W, C]` to `[E, H, W]`.

  Of several regions `[E, H, W, R]`.
  """
  logits = model.apply({"params": params, "batch_stats": batch_stats}, images)
  if logits.shape[-1] == 2:
    return logits[..., 1] - logits[..., 0]
  return logits[..., 1:] - logits[..., :1]
