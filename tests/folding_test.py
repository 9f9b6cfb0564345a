"""The inference form says what the network says, and has no BatchNorm left."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import taps
from kdjax.models import encoders
from kdjax.models import EncoderUNet
from kdjax.models import folding
from kdjax.models import UNet
from kdjax.models import UNetPlusPlus

NARROW = dict(decoder_widths=(8, 8, 6, 6, 4), dtype=jnp.float64)
MODELS = {
  "UNet": (
    UNet(widths=(4, 6, 8), decoder_widths=(5, 3), dtype=jnp.float64),
    ("encoder1", "encoder3", "decoder1/conv1", "head"),
  ),
  "EncoderUNet": (
    EncoderUNet("tiny-lite", **NARROW),
    ("encoder2/block1/depthwise", "encoder5", "decoder1"),
  ),
  "UNetPlusPlus": (
    UNetPlusPlus("tiny-resnet", **NARROW),
    ("encoder3/block1/shortcut", "nested1_2", "decoder3"),
  ),
}


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch):
  """Every kind of block once: the whole encoders take long to compile."""
  for name, encoder in {
    "tiny-resnet": encoders.ResNet(encoders.Bottleneck, (1, 1, 1, 1)),
    "tiny-lite": encoders.EfficientNetLite(0.1, 0.1),
  }.items():
    monkeypatch.setitem(encoders.ENCODERS, name, encoder)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_taps_stay_and_batch_norm_goes(name):
  model, at = MODELS[name]
  rng = np.random.default_rng(0)

  @jax.jit
  def both(variables, images):
    inference, folded = folding.fold(model, variables)
    assert set(folded) == {"params"}
    paths = flax.traverse_util.flatten_dict(folded["params"])
    assert not [path for path in paths if "norm" in path]
    return (
      taps.apply(inference, folded, images, taps=at)[:2],
      taps.apply(model, variables, images, taps=at)[:2],
    )

  with jax.enable_x64(True):
    images = rng.normal(size=(2, 32, 32, 3))
    got, expected = both(trained(model, images, rng), images)
  # float64: rounding through up to fifty layers of maps of size about 1.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
    got,
    expected,
  )


def trained(model, images, rng):
  """Variables whose scales, biases and statistics are not those of a start."""

  def draw(x):
    if x.ndim > 1:
      return rng.normal(size=x.shape) / np.sqrt(np.prod(x.shape[:-1]))
    return rng.uniform(0.5, 1.5, x.shape)

  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  return jax.tree.map(draw, shapes)
