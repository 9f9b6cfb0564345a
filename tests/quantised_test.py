"""Few bits as their authors say: values, gradients, ranges, and folding."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from kdjax.models import folding
from kdjax.models import quantised


def make(seed=0, **changes):
  """A network in few bits, its variables after a step, and images."""
  fields = dict(widths=(3, 5), decoder_widths=(3,), in_channels=1) | changes
  network = quantised.Quantised(models.UNet(**fields))
  images = np.random.default_rng(seed).normal(size=(4, 16, 16, 1))
  images = images.astype(np.float32)
  variables = network.init(jax.random.key(seed), images)
  _, new = network.apply(variables, images, train=True, mutable=["batch_stats"])
  return network, {**variables, **new}, images


def in_bits(variables, bits):
  """The same where every layer has as many."""
  stats = flax.traverse_util.flatten_dict(variables["batch_stats"])
  stats = {
    path: jnp.full_like(x, bits) if path[-1] == "bits" else x
    for path, x in stats.items()
  }
  return {**variables, "batch_stats": flax.traverse_util.unflatten_dict(stats)}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kernels_are_rounded_per_channel_without_a_zero_point(bits):
  kernel = np.random.default_rng(1).normal(size=(3, 3, 4, 5))
  kernel = np.float32(kernel * [1, 10, 0.1, 1, 0])
  found = np.asarray(quantised.round_kernel(kernel, jnp.float32(bits)))
  most = 2 ** (bits - 1) - 1
  for channel in range(5):
    ours, whole = found[..., channel], kernel[..., channel].astype(float)
    scale = np.abs(whole).max() / most or 1.0
    # Where float32 and float64 round a half to either side.
    np.testing.assert_allclose(ours / scale, np.round(whole / scale), atol=1e-4)
    assert np.abs(ours - whole).max() <= 0.5001 * scale
    assert len(np.unique(ours)) <= 2**bits - 1
  np.testing.assert_array_equal(
    quantised.round_kernel(kernel, jnp.float32(32)), kernel
  )


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1.3, 2), (0.5, 2), (0, 0)])
def test_inputs_are_rounded_to_a_range_that_has_zero_in_it(bits, low, high):
  x = np.float32(np.random.default_rng(2).uniform(-2, 4, 200))
  x[0] = 0.0
  found = quantised.round_inputs(x, *map(jnp.float32, (low, high, bits)))
  bottom, top = min(low, 0.0), max(high, 0.0)
  scale = (top - bottom or 1.0) / (2**bits - 1)
  zero = np.round(-bottom / scale)
  codes = np.clip(np.round(x / scale) + zero, 0, 2**bits - 1)
  # A half may be rounded to either side in float32.
  sure = np.abs(x / scale % 1 - 0.5) > 1e-4
  np.testing.assert_allclose(
    np.asarray(found)[sure], (scale * (codes - zero))[sure], atol=1e-5
  )
  assert found[0] == 0.0
  assert len(np.unique(found)) <= 2**bits


def test_the_gradient_passes_straight_through_but_not_outside():
  x = jnp.float32([-2.0, -0.7, 0.3, 1.4, 9.0])
  rounded = lambda x: jnp.sum(
    quantised.round_inputs(x, *map(jnp.float32, (-1, 2, 4))) * jnp.arange(5.0)
  )
  # A product of a number and its inverse.
  np.testing.assert_allclose(jax.grad(rounded)(x), [0, 1, 2, 3, 0], rtol=1e-6)
  kernel = jnp.float32(np.random.default_rng(3).normal(size=(3, 4)))
  own = jax.grad(lambda x: jnp.sum(quantised.round_kernel(x, 4.0) * kernel))
  np.testing.assert_allclose(own(kernel), kernel, rtol=1e-6)


def test_nothing_is_rounded_where_nothing_is_asked():
  network, variables, images = make()
  bare = {**variables, "batch_stats": quantised.strip(variables["batch_stats"])}
  for train in (False, True):
    ask = lambda network, variables, train=train: network.apply(
      variables, images, train=train, mutable=["batch_stats"] if train else []
    )[0]
    np.testing.assert_array_equal(
      ask(network, variables), ask(network.module, bare)
    )
    few = ask(network, in_bits(variables, 4))
    assert np.abs(few - ask(network, variables)).max() > 1e-2


def test_ranges_are_averaged_as_batch_statistics_are():
  network, variables, images = make()
  first = lambda x: x["batch_stats"]["encoder1"]["conv1"]["conv"]
  np.testing.assert_allclose(first(variables)["low"], 0.1 * images.min())
  np.testing.assert_allclose(first(variables)["high"], 0.1 * images.max())
  _, new = network.apply(
    variables, 2 * images, train=True, mutable=["batch_stats"]
  )
  np.testing.assert_allclose(first(new)["high"], 0.29 * images.max(), rtol=1e-6)
  still, kept = network.apply(variables, images, mutable=["intermediates"])
  assert "batch_stats" not in kept and np.isfinite(still).all()


def test_a_batch_that_is_split_has_the_range_of_the_whole():
  network, variables, images = make()
  split = network.clone(norm_axis="batch")
  step = lambda images: split.apply(
    variables, images, train=True, mutable=["batch_stats"]
  )[1]
  whole = network.apply(variables, images, train=True, mutable=["batch_stats"])[
    1
  ]
  apart = jax.vmap(step, axis_name="batch")(images.reshape(2, 2, 16, 16, 1))
  # A variance summed in another order.
  close = lambda x, y: np.testing.assert_allclose(x[0], y, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, apart, whole)


@pytest.mark.parametrize("bits", [4, 8])
def test_folding_changes_nothing_but_rounding(bits):
  network, variables, images = make()
  few = in_bits(variables, bits)
  model, folded = folding.fold(network, few)
  assert isinstance(model, quantised.Quantised) and model.folded
  found = model.apply(folded, images)
  expected = network.apply(few, images)
  # A value near a half may be rounded to either side: a step of one map.
  off = np.abs(found - expected)
  assert np.mean(off > 1e-5) < 0.02
  assert off.max() < 2.0 ** (3 - bits) * np.std(expected)


def test_it_is_used_as_the_module_that_it_holds():
  network, _, _ = make()
  assert network.num_classes == 2
  assert network == quantised.Quantised(network.module)
  assert hash(network) == hash(quantised.Quantised(network.module))
  with pytest.raises(AttributeError, match="nonesuch"):
    _ = network.nonesuch
