"""The supervised loss by hand, and where a mask is empty."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.distill import supervised


def test_cross_entropy_is_the_mean_over_pixels():
  logits = jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
  mask = jax.random.bernoulli(jax.random.key(1), 0.3, (2, 4, 4)).astype(int)
  x = np.float64(logits)
  log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
  picked = np.take_along_axis(log_p, np.asarray(mask)[..., None], -1)
  np.testing.assert_allclose(
    supervised.cross_entropy(logits, mask), -picked.mean((1, 2, 3)), rtol=1e-5
  )


def test_soft_dice_by_hand():
  # Probabilities of a lesion 0.9, 0.2, 0.5 and 0.5; the first two are lesion.
  p = jnp.array([0.9, 0.2, 0.5, 0.5])
  logits = jnp.stack([jnp.zeros(4), jnp.log(p / (1 - p))], -1).reshape(
    1, 2, 2, 2
  )
  mask = jnp.array([[[1, 1], [0, 0]]])
  expected = 1 - (2 * (0.9 + 0.2) + 1) / ((0.9 + 0.2 + 0.5 + 0.5) + 2 + 1)
  np.testing.assert_allclose(
    supervised.soft_dice(logits, mask), [expected], rtol=1e-5
  )


def test_soft_dice_counts_each_image_by_itself():
  logits = 4 * jax.random.normal(jax.random.key(0), (3, 6, 6, 2))
  mask = jax.random.bernoulli(jax.random.key(1), 0.3, (3, 6, 6)).astype(int)
  one = lambda i: supervised.soft_dice(logits[i : i + 1], mask[i : i + 1])
  np.testing.assert_allclose(
    supervised.soft_dice(logits, mask),
    jnp.concatenate([one(i) for i in range(3)]),
    rtol=1e-6,
  )


def test_an_empty_mask_is_finite_and_asks_for_nothing():
  mask = jnp.zeros((1, 4, 4), int)
  loss = lambda x: supervised.soft_dice(
    jnp.stack([jnp.zeros_like(x), x], -1), mask
  )[0]
  sure = jnp.full((1, 4, 4), -50.0)
  np.testing.assert_allclose(loss(sure), 0.0, atol=1e-6)
  gradient = jax.grad(loss)(jnp.zeros((1, 4, 4)))
  assert jnp.isfinite(gradient).all()
  assert (gradient > 0).all()  # Less lesion is better.
