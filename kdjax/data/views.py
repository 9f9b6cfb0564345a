"""Weak and strong views of a batch, rendered on the device.

One geometric sample per image is shared by both views and the mask, so that
losses pixel by pixel make sense. Strong adds noise and pixel dropout to it.
What a network said of the image as it is can be carried into the same frame.
All randomness comes from the image's own key.
"""

import jax
import jax.numpy as jnp


def sample_geometry(key, settings):
  """Crop, shift, scale and rotation as one affine map, `[2, 3]`.

  It maps a position of the output, (row, column, 1) with both in [-1, 1], to
  where the input is read.

  Args:
    key: of the image, epoch, seed and fold.
    settings: `crop`, the largest part of the side cut away; `shift`, the
      largest move as a part of the side; `scale`, the largest change of size;
      `rotation`, the largest angle in degrees, to both sides.
  """
  crop, corner, shift, scale, angle = jax.random.split(key, 5)
  uniform = lambda key, limit, shape=(): jax.random.uniform(
    key, shape, minval=-limit, maxval=limit
  )
  kept = 1.0 - jax.random.uniform(crop) * settings.crop
  zoom = kept / (1.0 + uniform(scale, settings.scale))
  theta = jnp.deg2rad(uniform(angle, settings.rotation))
  rotation = jnp.array(
    [
      [jnp.cos(theta), -jnp.sin(theta)],
      [jnp.sin(theta), jnp.cos(theta)],
    ]
  )
  offset = uniform(corner, 1.0, (2,)) * (1.0 - kept)
  offset += 2.0 * uniform(shift, settings.shift, (2,))  # The side is 2 long.
  return jnp.concatenate([zoom * rotation, offset[:, None]], axis=1)


def warp(image, geometry, outside="constant"):
  """Reads `image`, `[S, S]` or `[S, S, C]` float, through `geometry`.

  Args:
    image: of any resolution; of several channels each is read alike.
    geometry: as `sample_geometry` returns it.
    outside: "constant" is black, "nearest" repeats the border.
  """
  if image.ndim == 3:
    one = lambda channel: warp(channel, geometry, outside)
    return jax.vmap(one, in_axes=-1, out_axes=-1)(image)
  side = image.shape[0]
  line = (2.0 * jnp.arange(side) + 1.0) / side - 1.0  # Pixel centres.
  rows, columns = jnp.meshgrid(line, line, indexing="ij")
  positions = jnp.stack([rows, columns, jnp.ones_like(rows)])
  # A TPU would multiply in bfloat16: off by up to 0.4 pixels of 224.
  read = jnp.einsum("ij,jhw->ihw", geometry, positions, precision="highest")
  pixels = (read + 1.0) * side / 2.0 - 0.5
  return jax.scipy.ndimage.map_coordinates(
    image, tuple(pixels), order=1, mode=outside
  )


def normalise(image, channels, statistics, colours=False):
  """Images in [0, 1] to `[..., S, S, channels]`, as a network's.

  Args:
    image: grey `[..., S, S]`, or `[..., S, S, 3]` of colours.
    channels: with three grey is repeated; with one, the means of the three
      channels' statistics are used.
    statistics: mean and deviation of three channels, of images in [0, 1].
    colours: whether it has them.

  Raises:
    ValueError: `channels` is neither 1 nor 3, or 1 of colours.
  """
  if channels != 3 and (channels != 1 or colours):
    raise ValueError(f"Images have 1 or 3 channels, not {channels}.")
  mean, std = map(jnp.array, statistics)
  if channels == 1:
    mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
  if not colours:
    image = image[..., None]
  shape = (1,) * (image.ndim - 1) + (channels,)
  return (image - mean.reshape(shape)) / std.reshape(shape)


def render(key, image, mask, settings, classes=2):
  """The views of one image, before normalisation.

  Args:
    key: of the image, epoch, seed and fold.
    image: `[S, S]` or `[S, S, 3]` uint8.
    mask: `[S, S]`, classes by number; 0 is the background.
    settings: what `sample_geometry` takes; `noise`, the largest deviation of
      Gaussian noise, of images in [0, 1]; `dropout`, the probability of a
      pixel to be black.
    classes: of the mask; a moved pixel is of the one that has most of it.

  Returns:
    `({"strong", "weak"}, [S, S] int32)`: views as `image`, in [0, 1], and the
    mask.
  """
  geometry_key, level, noise, dropout = jax.random.split(key, 4)
  geometry = sample_geometry(geometry_key, settings)
  weak = warp(image.astype(float) / 255.0, geometry)
  regions = jax.nn.one_hot(mask - 1, classes - 1, dtype=float)
  regions = warp(regions, geometry)  # [S, S, R]
  rest = 1.0 - jnp.sum(regions, axis=-1, keepdims=True)
  mask = jnp.argmax(jnp.concatenate([rest, regions], axis=-1), axis=-1)
  deviation = settings.noise * jax.random.uniform(level)
  strong = weak + deviation * jax.random.normal(noise, weak.shape)
  kept = jax.random.bernoulli(dropout, 1.0 - settings.dropout, mask.shape)
  kept = kept.reshape(kept.shape + (1,) * (weak.ndim - 2))  # All its colours.
  strong = jnp.clip(strong, 0.0, 1.0) * kept
  return {"strong": strong, "weak": weak}, mask.astype(jnp.int32)


def carry(key, maps, settings):
  """Carries maps of an image as it is into the frame of its views.

  Every map is read through the geometry that `render` samples from the same
  key, at its own resolution; beyond the image its border is repeated. A
  network is not equivariant to rotation and scale, so this estimates what it
  would say of the moved image.

  Args:
    key: of the image, epoch, seed and fold.
    maps: tree of `[h, h, C]`.
    settings: what `sample_geometry` takes.
  """
  geometry_key, *_ = jax.random.split(key, 4)
  geometry = sample_geometry(geometry_key, settings)
  return jax.tree.map(lambda x: warp(x, geometry, outside="nearest"), maps)
