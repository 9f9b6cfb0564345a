"""Convolutions of jaxlib's own oneDNN are the plain ones, quicker."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.engine import convolution
from kdjax.engine import loop
from kdjax.engine import onednn
from tests import conftest

pytestmark = pytest.mark.skipif(
  not onednn.is_here(), reason="jaxlib has no oneDNN that kdjax knows"
)

NUMBERS = jax.lax.conv_dimension_numbers(
  (1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")
)
# Each has work enough for a call; those without strides have it backward too.
KINDS = {
  "3x3": dict(),
  "valid": dict(padding="VALID"),
  "thin": dict(channels=(3, 28), size=(64, 64)),
  "odd": dict(channels=(28, 17), size=(24, 40)),
  "lopsided": dict(padding=((0, 2), (1, 0))),
  "narrow": dict(side=(1, 5), padding=((0, 0), (2, 2))),
  "strided": dict(stride=2, channels=(32, 64)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, lowering):
  kind = KINDS[kind]
  return functools.partial(
    lowering,
    window_strides=(kind.get("stride", 1),) * 2,
    padding=kind.get("padding", "SAME"),
    dimension_numbers=NUMBERS,
  )


def operands(kind, trials=2):
  kind = KINDS[kind]
  x, k = jax.random.split(jax.random.key(0))
  inputs, outputs = kind.get("channels", (28, 32))
  shape = (trials, 4, *kind.get("size", (32, 32)), inputs)
  side = kind.get("side", (3, 3))
  return (
    jax.random.normal(x, shape),
    jax.random.normal(k, (trials, *side, inputs, outputs)),
  )


def gradients(convolve):
  energy = lambda x, k: jnp.sum(jnp.sin(convolve(x, k)))
  return lambda x, k: (
    convolve(x, k),
    *jax.grad(energy, argnums=(0, 1))(x, k),
  )


@every_kind
def test_values_and_gradients_equal_those_of_the_plain_lowering(kind):
  x, k = operands(kind)
  ours, theirs = (
    jax.jit(jax.vmap(gradients(make(kind, lowering))))
    for lowering in (convolution.with_onednn, convolution.plain)
  )
  assert "__onednn$convolution" in ours.lower(x, k).as_text()
  for a, b in zip(ours(x, k), theirs(x, k), strict=True):
    # Sums of up to 4096 products in another order, float32.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * np.abs(b).max())


@every_kind
def test_every_row_of_vmap_equals_the_row_alone_to_the_last_bit(kind):
  x, k = operands(kind)
  convolve = gradients(make(kind, convolution.with_onednn))
  together, alone = jax.jit(jax.vmap(convolve)), jax.jit(convolve)
  for i in range(len(x)):
    row = jax.tree.map(lambda found, i=i: found[i], together(x, k))
    jax.tree.map(np.testing.assert_array_equal, row, alone(x[i], k[i]))


def test_another_run_gives_the_same_bits():
  x, k = operands("3x3")
  run = jax.jit(jax.vmap(gradients(make("3x3", convolution.with_onednn))))
  first = run(x, k)
  for _ in range(10):
    jax.tree.map(np.testing.assert_array_equal, first, run(x, k))


def test_every_part_of_a_convolution_is_onednns():
  x, k = (operand[0] for operand in operands("3x3"))
  run = jax.jit(gradients(make("3x3", convolution.with_onednn)))
  text = run.lower(x, k).as_text()
  # Twice forward, once to the images.
  assert text.count("@__onednn$convolution") == 3
  assert text.count("@__onednn$matmul") == 1
  assert "stablehlo.convolution" not in text


@pytest.mark.parametrize("dtype, images", [("float64", 4), ("float32", 1)])
def test_what_it_lacks_or_what_is_small_stays_with_xla(dtype, images):
  with jax.enable_x64(dtype == "float64"):
    x, k = (jnp.asarray(operand[0], dtype) for operand in operands("3x3"))
    x = x[:images]
    run = jax.jit(gradients(make("3x3", convolution.with_onednn)))
    assert "onednn" not in run.lower(x, k).as_text()


def test_its_operations_are_counted_as_xla_counts_its_own():
  x, k = (operand[0] for operand in operands("valid"))
  ours, theirs = (
    jax.jit(make("valid", lowering)).lower(x, k)
    for lowering in (convolution.with_onednn, convolution.plain)
  )
  expected = theirs.compile().cost_analysis()["flops"]
  for text in (ours.as_text(dialect="hlo"), ours.compile().as_text()):
    assert onednn.operations(text) == pytest.approx(expected, rel=1e-3)
  # The kernel's gradient costs as much as the convolution.
  both = jax.jit(
    jax.grad(
      lambda k: jnp.sum(jnp.sin(make("3x3", convolution.with_onednn)(x, k)))
    )
  )
  text = both.lower(k).compile().as_text()
  assert onednn.operations(text) == 2 * 2 * x[..., 0].size * k.size
  assert onednn.operations(theirs.as_text(dialect="hlo")) == 0


# A convolution of oneDNN's, with the compilation cache that the command has.
CACHED = """
import sys
import jax, ml_collections
from kdjax.engine import compilations
from tests import onednn_test
data = dict(cache_dir=sys.argv[1])
compilations.keep(ml_collections.ConfigDict(dict(data=data)))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
x, k = (operand[0] for operand in onednn_test.operands("3x3"))
convolve = onednn_test.make("3x3", onednn_test.convolution.with_onednn)
jax.jit(convolve)(x, k).block_until_ready()
jax.jit(jax.numpy.sin)(x).block_until_ready()
"""


def test_the_compilation_cache_leaves_it_out_without_a_word(tmp_path):
  run = subprocess.run(
    [sys.executable, "-c", CACHED, str(tmp_path)],
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": ""},
    capture_output=True,
    text=True,
    check=True,
  )
  assert run.stderr == ""
  kept = [file.name for file in (tmp_path / "compilations").iterdir()]
  assert any("sin" in name for name in kept)
  assert not any("unroll" in name for name in kept)


@pytest.mark.slow
def test_a_trial_in_the_grid_equals_the_trial_alone(monkeypatch, tmp_path):
  monkeypatch.setattr(onednn, "LEAST", 0)
  config = conftest.make_config("float32")
  config.engine.lowering = "onednn"
  arms = ("Student", "HReg_KLD_WAug", "L_KLD")
  study = conftest.make_study(config, arms, tmp_path / "grid")
  teachers = loop.run_stage(study, study.teacher_stage)
  students = loop.run_stage(study, study.student_stage, teachers)
  alone = conftest.make_study(config, arms[1:2], tmp_path / "alone")
  (student,) = loop.run_stage(alone, alone.student_stage, teachers).values()
  (together,) = students.values()
  jax.tree.map(
    # Every convolution is the same to the last bit; what is between them is
    # compiled for another shape, and Adam magnifies its rounding.
    lambda a, b: np.testing.assert_allclose(a[0], b[1], rtol=1e-3, atol=1e-5),
    student,
    together,
  )
