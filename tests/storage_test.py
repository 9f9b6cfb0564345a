"""Stored bytes are those of a file that could be read again."""

import functools
import math
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import models
from kdjax.evaluate import storage
from kdjax.models import quantised


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_packed_numbers_take_their_bits_and_come_out_as_they_went_in(bits):
  most = 2 ** (bits - 1) - 1
  codes = np.random.default_rng(bits).integers(-most, most + 1, 101)
  content = storage.packed(codes, bits)
  assert len(content) == -(-101 * bits // 8)
  planes = np.unpackbits(np.frombuffer(content, np.uint8), count=101 * bits)
  found = planes.reshape(101, bits) @ (2 ** np.arange(bits))
  np.testing.assert_array_equal(found - 2 ** (bits - 1), codes)


def noise(size=4000, zeros=0.0, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=size).astype(np.float32)
  x[rng.permutation(size)[: round(zeros * size)]] = 0
  return x


def test_the_least_of_three_ways_is_taken():
  whole = storage.tensor_bytes(noise())
  assert whole == len(zlib.compress(noise().tobytes(), 6))
  # A number takes four bytes; a place a bit of all, or a gap of a few.
  half, few, fewer = (
    storage.tensor_bytes(noise(zeros=x)) for x in (0.5, 0.97, 0.999)
  )
  assert half <= 4000 * 4 / 2 + 4000 / 8 + 50
  assert few <= 120 * (4 + 1) + 50
  assert fewer < 50
  assert storage.tensor_bytes(np.zeros(5, np.float32)) < 20
  assert storage.tensor_bytes(np.zeros((0, 3), np.float32)) < 20


@pytest.fixture
def network():
  model = models.UNet(widths=(8, 16), decoder_widths=(8,), in_channels=1)
  images = jnp.zeros((1, 16, 16, 1))
  draw = np.random.default_rng(0)
  few = quantised.Quantised(model)
  variables = jax.tree.map(
    lambda x: draw.uniform(0.5, 1.5, x.shape).astype(np.float32),
    few.init(jax.random.key(0), images),
  )
  return model, few, variables, images


def test_multiply_adds_are_those_that_are_published():
  model = models.EncoderUNet(encoder="resnet50", num_classes=2, in_channels=3)
  images = jnp.zeros((1, 224, 224, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)

  def count(path, x):
    known = path[0].key.startswith("encoder")  # The decoder is our own.
    return math.prod(x.shape) if known else 0

  params = jax.tree.map_with_path(count, variables["params"])
  layers = quantised.layers(model, images)
  found = storage.multiply_adds(layers, {"params": params}, int)
  # By torchvision's table of weights, with 1000 classes of 2048 features.
  assert round((found + 1000 * 2048) / 1e9, 2) == 4.09


def test_a_layer_that_is_shared_computes_every_time():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
      del train
      layer = nn.Conv(4, (3, 3))
      return layer(layer(x))

  images = jnp.zeros((1, 8, 8, 4))
  variables = Twice().init(jax.random.key(0), images)
  layers = quantised.layers(Twice(), images)
  found = storage.multiply_adds(layers, variables)
  assert found == 2 * 64 * 9 * 4 * 4


def in_bits(variables, bits):
  return {
    **variables,
    "batch_stats": jax.tree.map_with_path(
      lambda path, x: np.full_like(x, bits) if path[-1].key == "bits" else x,
      variables["batch_stats"],
    ),
  }


def test_fewer_bits_take_as_much_less(network):
  model, few, variables, _ = network
  bare = {**variables, "batch_stats": quantised.strip(variables["batch_stats"])}
  whole = storage.stored(model, bare)
  sizes = {x: storage.stored(few, in_bits(variables, x)) for x in (4, 8, 16)}
  kernels = [
    x.size
    for path, x in jax.tree.leaves_with_path(variables["params"])
    if path[-1].key == "kernel"
  ]
  for bits, size in sizes.items():
    # Scales, biases, ranges and zlib's headers are the rest.
    assert 0.5 * sum(kernels) * bits / 8 < size
    assert size < sum(kernels) * bits / 8 + 1100
  assert 0.85 * 4 * sum(kernels) < whole < 4.4 * sum(kernels)


def test_zeros_are_counted_where_they_save_something(network):
  model, _, variables, images = network
  layers = quantised.layers(model, images)
  adds = functools.partial(storage.multiply_adds, layers)
  sparse = functools.partial(adds, weights=np.count_nonzero)
  assert sparse(variables) == adds(variables)
  params = jax.tree.map(np.copy, variables["params"])
  params["encoder2"]["conv1"]["conv"]["kernel"][0] = 0  # 3 x 8 x 16 of them.
  params["head"]["kernel"][..., 0] = 0  # 8, at each of 256 pixels.
  params["encoder1"]["conv1"]["norm"]["bias"][0] = 0  # No multiplication.
  thin = {**variables, "params": params}
  saved = 3 * 8 * 16 * 64 + 8 * 256
  assert adds(thin) - sparse(thin) == saved
  assert adds(thin) == adds(variables)
  lost = storage.nonzero(variables) - storage.nonzero(thin)
  assert lost == 3 * 8 * 16 + 8 + 1
