"""Depthwise by shifts equals XLA's, and does not depend on a map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.engine import convolution

NHWC = nn.linear._conv_dimension_numbers((1, 1, 1, 1))


@pytest.fixture(autouse=True)
def _exact():
  with jax.enable_x64(True):
    yield


def make(shape, kernel, groups):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
  return draw(*shape), draw(*kernel, shape[-1] // groups, shape[-1])


def gradients(convolve, x, kernel, **settings):
  """Output, and cotangents of image and kernel for a cotangent of sines."""
  y, back = jax.vjp(lambda a, b: convolve(a, b, **settings), x, kernel)
  return y, *back(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


@pytest.mark.parametrize("groups", (1, 6), ids=("dense", "depthwise"))
@pytest.mark.parametrize("kernel", ((3, 3), (5, 3)), ids=str)
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("padding", ("SAME", ((1, 1), (0, 2))), ids=str)
def test_equals_xla(groups, kernel, stride, padding):
  x, kernel = make((2, 9, 8, 6), kernel, groups)
  settings = dict(
    window_strides=(stride, stride),
    padding=padding,
    dimension_numbers=NHWC,
    feature_group_count=groups,
  )
  ours = gradients(convolution.unrolled, x, kernel, **settings)
  theirs = gradients(convolution.plain, x, kernel, **settings)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", (1, 6), ids=("dense", "depthwise"))
def test_a_mapped_row_is_the_same_alone(groups):
  x, kernel = make((3, 2, 8, 8, 6), (3, 3), groups)
  kernels = jnp.stack([kernel, 2.0 * kernel, kernel + 1.0])
  run = lambda x, kernel: gradients(
    convolution.unrolled,
    x,
    kernel,
    window_strides=(2, 2),
    padding="SAME",
    dimension_numbers=NHWC,
    feature_group_count=groups,
  )
  mapped = jax.jit(jax.vmap(run))(x, kernels)
  for i in range(3):
    for rows, alone in zip(mapped, jax.jit(run)(x[i], kernels[i]), strict=True):
      np.testing.assert_array_equal(rows[i], alone)


def test_depthwise_is_no_convolution_of_xla():
  x, kernel = make((2, 8, 8, 6), (3, 3), 6)
  program = jax.make_jaxpr(
    lambda x, kernel: gradients(
      convolution.unrolled,
      x,
      kernel,
      window_strides=(1, 1),
      padding="SAME",
      dimension_numbers=NHWC,
      feature_group_count=6,
    )
  )(x, kernel)
  assert "conv_general_dilated" not in str(program)
