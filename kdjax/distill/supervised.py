"""The supervised loss: cross-entropy, and soft Dice beside it."""

import jax
import jax.numpy as jnp
import optax

# Added above and below in soft Dice: an empty mask has a finite loss, and one
# that vanishes with the prediction.
_SMOOTH = 1.0


def cross_entropy(logits, mask):
  """Cross-entropy, mean over pixels.

  Args:
    logits: `[B, H, W, K]`.
    mask: `[B, H, W]`, classes by number.

  Returns:
    `[B]`, at least 0.
  """
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, mask)
  return jnp.mean(entropy, axis=(1, 2))


def soft_dice(logits, mask):
  """1 - Dice of probabilities, image by image, mean over foreground classes.

  `1 - (2 sum_n p_n y_n + s) / (sum_n p_n + sum_n y_n + s)` with `s = 1` pixel
  (Sudre et al., https://arxiv.org/abs/1707.03237, of one class; Milletari et
  al., https://arxiv.org/abs/1606.04797, square below).

  Args:
    logits: `[B, H, W, K]`, class 0 is background.
    mask: `[B, H, W]`, classes by number.

  Returns:
    `[B]`, 0 to 1; finite where a class is nowhere.
  """
  p = jax.nn.softmax(logits)[..., 1:]
  y = jax.nn.one_hot(mask, logits.shape[-1], dtype=p.dtype)[..., 1:]
  total = lambda x: jnp.sum(x, axis=(1, 2))
  dice = (2.0 * total(p * y) + _SMOOTH) / (total(p) + total(y) + _SMOOTH)
  return 1.0 - jnp.mean(dice, axis=-1)
