"""The U-Net's shapes, names and size."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import paper
from kdjax import configs
from kdjax.distill import taps
from kdjax.engine import networks
from kdjax.models import unet


def shapes(model, side=32):
  images = jnp.zeros((2, side, side, model.in_channels))
  return jax.eval_shape(lambda: model.init(jax.random.key(0), images)), images


def test_the_papers_student_has_0_82_million_parameters():
  count = networks.parameters(paper.get_config())
  assert count["Student"] == 821_158
  assert 100 <= count["Teacher"] / count["Student"] <= 105


def test_every_level_and_stage_is_a_tap():
  model = unet.UNet(widths=(4, 6, 8, 10), decoder_widths=(7, 5, 3))
  variables, images = shapes(model)
  names = [f"encoder{i}" for i in (1, 2, 3, 4)]
  names += [f"decoder{i}" for i in (1, 2, 3)]
  logits, features, _ = jax.eval_shape(
    lambda v, x: taps.apply(model, v, x, taps=names), variables, images
  )
  assert logits.shape == (2, 32, 32, 2)
  assert {name: feature.shape[1:] for name, feature in features.items()} == {
    "encoder1": (32, 32, 4),
    "encoder2": (16, 16, 6),
    "encoder3": (8, 8, 8),
    "encoder4": (4, 4, 10),
    "decoder3": (8, 8, 7),
    "decoder2": (16, 16, 5),
    "decoder1": (32, 32, 3),
  }


def test_a_tap_keeps_what_the_submodule_returned():
  model = unet.UNet(widths=(4, 6), decoder_widths=(4,), in_channels=1)
  images = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
  variables = model.init(jax.random.key(1), images)
  logits, features, stats = taps.apply(
    model, variables, images, taps=("encoder1", "head"), train=True
  )
  np.testing.assert_array_equal(features["head"], logits)
  assert float(features["encoder1"].min()) >= 0.0
  assert jax.tree.structure(stats) == jax.tree.structure(
    variables["batch_stats"]
  )


def test_an_unknown_tap_is_an_error_that_names_it():
  model = unet.UNet(widths=(4, 6), decoder_widths=(4,))
  variables, images = shapes(model, 8)
  with pytest.raises(ValueError, match="encoder9"):
    jax.eval_shape(
      lambda v, x: taps.apply(model, v, x, taps=("encoder9",)),
      variables,
      images,
    )


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 2, 2, 1)])
def test_upsample_is_bilinear_resize(shape):
  x = jax.random.normal(jax.random.key(0), shape)
  b, h, w, c = shape
  expected = jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")
  np.testing.assert_allclose(unet.upsample(x), expected, atol=1e-6)


def test_max_pool_is_flaxs_in_value_and_gradient():
  x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
  theirs = lambda x: nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
  np.testing.assert_array_equal(unet.max_pool(x), theirs(x))
  gradient = lambda pool: jax.grad(lambda x: jnp.sum(pool(x) ** 2))(x)
  np.testing.assert_allclose(
    gradient(unet.max_pool), gradient(theirs), rtol=1e-6
  )


def test_decoder_widths_must_fit():
  with pytest.raises(ValueError, match="decoder width"):
    shapes(unet.UNet(widths=(4, 6), decoder_widths=(4, 4)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_and_logits_stay_float32(dtype):
  model = unet.UNet(widths=(4, 6), decoder_widths=(4,), dtype=jnp.dtype(dtype))
  variables, images = shapes(model, 8)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  logits = jax.eval_shape(model.apply, variables, images)
  assert logits.dtype == jnp.float32


def test_the_papers_networks_fit_its_images():
  config = configs.load("configs/paper.py")
  for role in ("student", "teacher"):
    model = networks.make_model(config[role], config.engine, role)
    assert config.data.image_size % model.stride == 0
