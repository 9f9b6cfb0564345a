"""The encoders, and the U-Nets on them: sizes, taps, pooling."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import taps
from kdjax.models import encoders
from kdjax.models import EncoderUNet
from kdjax.models import layers
from kdjax.models import UNetPlusPlus

every_encoder = pytest.mark.parametrize("name", encoders.ENCODERS)


def shapes(model, side=64):
  """Shapes of the variables, and of the output of each of the first taps."""
  blank = jnp.zeros((1, side, side, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), blank))
  logits, features, _ = jax.eval_shape(
    lambda v: taps.apply(model, v, blank, taps=taps.levels(v)), variables
  )
  return variables, logits.shape, {k: x.shape for k, x in features.items()}


# Of segmentation_models_pytorch with two classes; parity_test compares all.
@pytest.mark.parametrize(
  "model, count",
  (
    (EncoderUNet("resnet18"), 14_328_354),
    (EncoderUNet("resnet50"), 32_521_250),
    (UNetPlusPlus("resnet152"), 83_621_666),
  ),
  ids=lambda x: getattr(x, "encoder", ""),
)
def test_parameters_are_the_references(model, count):
  variables, _, _ = shapes(model)
  assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


@every_encoder
def test_levels_halve_and_stages_double(name):
  _, logits, features = shapes(EncoderUNet(name))
  assert logits == (1, 64, 64, 2)
  widths = encoders.ENCODERS[name].widths
  for i, width in enumerate(widths, start=1):
    assert features[f"encoder{i}"] == (1, 64 >> i, 64 >> i, width)
  for i, width in zip(range(4, -1, -1), (256, 128, 64, 32, 16), strict=True):
    assert features[f"decoder{i}"] == (1, 64 >> i, 64 >> i, width)


def test_nodes_of_unet_plus_plus_have_their_rows_size():
  _, logits, features = shapes(UNetPlusPlus("resnet18"))
  assert logits == (1, 64, 64, 2)
  nodes = [name for name in features if name.startswith("nested")]
  assert len(nodes) == 6
  for name in nodes:
    row = name[len("nested")]
    assert features[name] == features[f"encoder{row}"]


def test_channels_of_the_first_level_do_not_come_from_the_image():
  variables, _, _ = shapes(EncoderUNet("efficientnet-lite0"))
  assert variables["params"]["encoder1"]["conv1"]["conv"]["kernel"].shape == (
    (3, 3, 3, 32)
  )


@pytest.mark.parametrize(
  "attributes", (dict(encoder="resnet19"), dict(decoder_widths=(8, 4)))
)
def test_what_makes_no_network_is_refused(attributes):
  with pytest.raises(ValueError, match=next(iter(attributes))):
    shapes(EncoderUNet(**attributes))


def test_max_pool_and_repeat_equal_the_libraries():
  x = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))
  pooled = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
  np.testing.assert_array_equal(layers.overlapping_max_pool(x), pooled)
  nearest = jax.image.resize(x, (2, 16, 12, 3), "nearest")
  np.testing.assert_array_equal(layers.repeat(x), nearest)
