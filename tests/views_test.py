"""Views share their geometry, and depend on the image's key alone."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import paper
from kdjax.data import views
from kdjax.models import layers

STILL = dict(
  crop=0.0, shift=0.0, scale=0.0, rotation=0.0, noise=0.0, dropout=0.0
)


def settings(**changes):
  return ml_collections.ConfigDict({**STILL, **changes})


def picture(side=24):
  line = np.linspace(-1, 1, side)
  image = 127 + 60 * np.sin(3 * line)[:, None] + 60 * line[None, :]
  mask = (line[:, None] ** 2 + (line[None, :] - 0.2) ** 2) < 0.15
  return jnp.asarray(image, jnp.uint8), jnp.asarray(mask, jnp.uint8)


def test_without_magnitudes_nothing_changes():
  image, mask = picture()
  rendered, moved = views.render(jax.random.key(0), image, mask, settings())
  for view in rendered.values():
    np.testing.assert_allclose(view * 255.0, image, atol=1e-3)
  np.testing.assert_array_equal(moved, mask)


@pytest.mark.parametrize("name", ["crop", "shift", "scale", "rotation"])
def test_every_geometric_magnitude_moves_image_and_mask_together(name):
  image, mask = picture()
  # An image that is its mask must stay its mask.
  rendered, moved = views.render(
    jax.random.key(1),
    (255 * mask).astype(jnp.uint8),
    mask,
    settings(**{name: 20.0 if name == "rotation" else 0.3}),
  )
  assert not np.array_equal(moved, mask)
  np.testing.assert_array_equal(rendered["weak"] > 0.5, moved)
  np.testing.assert_array_equal(rendered["strong"], rendered["weak"])


def test_strong_is_weak_plus_noise_and_dropout():
  image, mask = picture(64)
  noisy, _ = views.render(
    jax.random.key(2), image, mask, settings(noise=0.2, rotation=10.0)
  )
  plain, _ = views.render(
    jax.random.key(2), image, mask, settings(rotation=10.0)
  )
  np.testing.assert_array_equal(noisy["weak"], plain["weak"])
  assert 0.001 < float(jnp.std(noisy["strong"] - noisy["weak"])) < 0.2
  dropped, _ = views.render(
    jax.random.key(2), image, mask, settings(dropout=0.25)
  )
  lost = (dropped["strong"] == 0) & (dropped["weak"] > 0)
  # 4096 pixels: three standard deviations are 0.02.
  np.testing.assert_allclose(jnp.mean(lost), 0.25, atol=0.02)
  np.testing.assert_array_equal(
    jnp.where(lost, 0, dropped["strong"]),
    jnp.where(lost, 0, dropped["weak"]),
  )


def test_outside_the_image_is_black_and_no_lesion():
  image, mask = jnp.full((16, 16), 255, jnp.uint8), jnp.ones((16, 16))
  geometry = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])  # Half a side.
  moved = views.warp(image.astype(float) / 255.0, geometry)
  np.testing.assert_allclose(moved[:8], 1.0)
  np.testing.assert_allclose(moved[8:], 0.0)
  del mask


def test_rotation_turns_about_the_centre():
  image = jnp.zeros((9, 9)).at[4, 7].set(1.0)
  quarter = jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
  turned = views.warp(image, quarter)
  row, column = np.unravel_index(np.argmax(turned), (9, 9))
  assert (row, column) in ((1, 4), (7, 4))
  np.testing.assert_allclose(turned[row, column], 1.0, atol=1e-5)


def test_a_tpu_reads_where_a_cpu_reads():
  warp = jax.jit(jax.vmap(views.warp))
  operands = jnp.zeros((2, 16, 16)), jnp.zeros((2, 2, 3))
  text = warp.trace(*operands).lower(lowering_platforms=("tpu",)).as_text()
  products = [x for x in text.splitlines() if "stablehlo.dot_general" in x]
  # The default would multiply positions in bfloat16, off by a part of a pixel.
  assert products and all("[HIGHEST, HIGHEST]" in x for x in products)


def test_a_view_depends_on_its_key_alone():
  image, mask = picture()
  render = functools.partial(views.render, settings=paper.get_config().views)
  keys = jax.random.split(jax.random.key(3), 4)
  batch = lambda x: jnp.broadcast_to(x, (4, *x.shape))
  together, _ = jax.vmap(render)(keys, batch(image), batch(mask))
  for i in (0, 3):
    alone, _ = render(keys[i], image, mask)
    np.testing.assert_allclose(
      together["strong"][i], alone["strong"], atol=1e-6
    )
  assert not np.allclose(together["strong"][0], together["strong"][1])
  assert 0.0 <= float(together["strong"].min())
  assert float(together["strong"].max()) <= 1.0


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_images_have_imagenets_mean_and_deviation(channels):
  mean = np.array([0.485, 0.456, 0.406])
  std = np.array([0.229, 0.224, 0.225])
  if channels == 1:
    mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
  image = jax.random.uniform(jax.random.key(0), (2, 4, 4))
  expected = (np.asarray(image)[..., None] - mean) / std
  np.testing.assert_allclose(
    views.normalise(image, channels, layers.IMAGENET),
    expected,
    rtol=1e-5,
    atol=1e-6,
  )


def test_other_numbers_of_channels_are_refused():
  with pytest.raises(ValueError, match="1 or 3"):
    views.normalise(jnp.zeros((2, 4, 4)), 4, layers.IMAGENET)


def test_what_was_said_of_the_image_is_carried_with_it():
  image, mask = picture()
  chosen = settings(rotation=15.0, scale=0.1, crop=0.2, shift=0.1)
  rendered, _ = views.render(jax.random.key(4), image, mask, chosen)
  grey = image.astype(float) / 255.0
  maps = {"twice": jnp.stack([grey, -2.0 * grey], axis=-1)}
  carried = views.carry(jax.random.key(4), maps, chosen)["twice"]
  # Where nothing from outside the image mixes in, a network that says what it
  # sees has seen the view.
  inside, _ = views.render(
    jax.random.key(4), jnp.full_like(image, 255), mask, chosen
  )
  inside = inside["weak"] > 0.9999
  assert 0.3 < float(jnp.mean(inside)) < 1.0
  np.testing.assert_allclose(
    carried[inside],
    jnp.stack([rendered["weak"], -2.0 * rendered["weak"]], -1)[inside],
    atol=1e-5,
  )
  # Outside, its last word is repeated, where a view is black.
  outside = rendered["weak"] == 0
  assert outside.any()
  assert float(carried[..., 0][outside].min()) >= float(grey.min()) > 0


def test_a_coarse_map_is_carried_at_its_own_resolution():
  chosen = settings(shift=0.1, rotation=10.0)
  line = jnp.linspace(-0.75, 0.75, 4)  # Pixel centres.
  plane = jnp.broadcast_to(line[:, None, None], (4, 4, 1))
  carried = views.carry(jax.random.key(5), plane, chosen)
  key, *_ = jax.random.split(jax.random.key(5), 4)
  geometry = views.sample_geometry(key, chosen)
  rows, columns = jnp.meshgrid(line, line, indexing="ij")
  expected = geometry[0, 0] * rows + geometry[0, 1] * columns + geometry[0, 2]
  np.testing.assert_allclose(
    carried[..., 0], jnp.clip(expected, -0.75, 0.75), atol=1e-5
  )
