"""The unrolled lowering is the plain convolution, row by row."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.engine import convolution
from kdjax.engine import onednn
from kdjax.errors import UserError

NUMBERS = jax.lax.conv_dimension_numbers(
  (1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")
)
KINDS = {
  "3x3": dict(stride=1, side=3, groups=1),
  "strided": dict(stride=2, side=3, groups=1),
  "1x1": dict(stride=1, side=1, groups=1),
  "thin 1x1": dict(stride=1, side=1, groups=1, channels=(3, 2)),
  "strided 1x1": dict(stride=2, side=1, groups=1),
  "thin": dict(stride=1, side=3, groups=1, channels=(3, 7)),
  "thin strided": dict(stride=2, side=3, groups=1, channels=(1, 2)),
  "depthwise": dict(stride=1, side=3, groups=4),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, lowering):
  kind = KINDS[kind]
  return functools.partial(
    lowering,
    window_strides=(kind["stride"],) * 2,
    padding="SAME",
    dimension_numbers=NUMBERS,
    feature_group_count=kind["groups"],
  )


def operands(kind, trials=3):
  kind = KINDS[kind]
  x, k = jax.random.split(jax.random.key(0))
  side = kind["side"]
  inputs, outputs = kind.get("channels", (4, 8))
  inside = inputs // kind["groups"]
  return (
    jax.random.normal(x, (trials, 2, 8, 8, inputs)),
    jax.random.normal(k, (trials, side, side, inside, outputs)),
  )


def total(convolve):
  return lambda x, k: jnp.sum(jnp.sin(convolve(x, k)))


def no_grouped_convolution(function, *args):
  text = jax.jit(function).lower(*args).as_text()
  assert "convolution" in text
  counts = {
    line.split("feature_group_count = ")[1].split()[0]
    for line in text.splitlines()
    if "feature_group_count" in line
  }
  counts |= {
    line.split("batch_group_count = ")[1].split()[0]
    for line in text.splitlines()
    if "batch_group_count" in line
  }
  return counts == {"1"}


@every_kind
def test_every_row_of_vmap_equals_the_row_alone(kind):
  x, k = operands(kind)
  unrolled = make(kind, convolution.unrolled)
  together = jax.jit(jax.vmap(unrolled))(x, k)
  alone = jax.jit(unrolled)
  for row, xi, ki in zip(together, x, k, strict=True):
    np.testing.assert_array_equal(row, alone(xi, ki))


@every_kind
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
@pytest.mark.parametrize(
  "ours",
  [convolution.unrolled, convolution.into_groups, convolution.one_by_one],
  ids=["unrolled", "grouped", "one by one"],
)
def test_values_and_gradients_equal_those_of_the_plain_lowering(
  kind, axes, ours
):
  with jax.enable_x64(True):
    x, k = (jnp.float64(x) for x in operands(kind))
    x = x if axes[0] == 0 else x[0]
    k = k if axes[1] == 0 else k[0]
    for grad_of_vmap in (False, True):
      results = []
      for lowering in (ours, convolution.plain):
        convolve = make(kind, lowering)
        if grad_of_vmap:
          f = jax.value_and_grad(
            total(jax.vmap(convolve, in_axes=axes)), argnums=(0, 1)
          )
        else:
          f = jax.vmap(
            jax.value_and_grad(total(convolve), argnums=(0, 1)), in_axes=axes
          )
        results.append(f(x, k))
      # Sums over up to 128 products in another order, float64.
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
        *results,
      )


@pytest.mark.parametrize("kind", ["3x3", "strided", "strided 1x1"])
def test_no_grouped_convolution_is_left_under_vmap(kind):
  x, k = operands(kind)
  gradient = lambda lowering: jax.vmap(
    jax.grad(total(make(kind, lowering)), argnums=(0, 1))
  )
  assert no_grouped_convolution(gradient(convolution.unrolled), x, k)
  assert not no_grouped_convolution(gradient(convolution.plain), x, k)


# A convolution's axes, its groups of features and its kernel's shape.
CONVOLUTION = re.compile(
  r"x\[([^]]*)\]->.*feature_group_count = (\d+)"
  r".*: \(tensor<[^>]*>, tensor<([\dx]+)x[a-z]"
)


def widest_window_of_groups(function, *args):
  """The longest side of a kernel that is convolved in groups of features."""
  sides = [0]
  for line in jax.jit(function).lower(*args).as_text().splitlines():
    if "stablehlo.convolution" in line:
      axes, groups, shape = CONVOLUTION.search(line).groups()
      if int(groups) > 1:
        by_axis = dict(zip(axes.split(", "), shape.split("x"), strict=True))
        sides += [int(by_axis["0"]), int(by_axis["1"])]
  return max(sides)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["3x3", "strided"])
def test_a_grouped_kernels_gradient_is_no_convolution_as_wide_as_the_image(
  kind, nested
):
  """XLA:GPU would take it for a forward one, see `grouped`."""
  x, k = operands(kind, trials=4)
  lift = jax.vmap
  if nested:
    x, k = (a.reshape(2, 2, *a.shape[1:]) for a in (x, k))
    lift = lambda f: jax.vmap(jax.vmap(f))
  gradient = lambda lowering: lift(
    jax.grad(total(make(kind, lowering)), argnums=(0, 1))
  )
  assert widest_window_of_groups(gradient(convolution.plain), x, k) > 3
  assert widest_window_of_groups(gradient(convolution.into_groups), x, k) == 3


def test_a_1x1_convolution_is_a_matrix_product_forward_and_backward():
  x, k = operands("1x1")
  gradient = jax.vmap(
    jax.value_and_grad(total(make("1x1", convolution.unrolled)), argnums=(0, 1))
  )
  text = jax.jit(gradient).lower(x, k).as_text()
  assert "dot_general" in text and "convolution" not in text


def test_nested_maps_unroll_too():
  x, k = operands("3x3", trials=4)
  nest = lambda a: a.reshape(2, 2, *a.shape[1:])
  unrolled = make("3x3", convolution.unrolled)
  nested = jax.vmap(jax.vmap(unrolled))
  np.testing.assert_array_equal(
    nested(nest(x), nest(k)), nest(jax.vmap(unrolled)(x, k))
  )
  assert no_grouped_convolution(nested, nest(x), nest(k))


@pytest.mark.parametrize(
  "has_onednn, on_cpu",
  [(True, convolution.with_onednn), (False, convolution.unrolled)],
)
def test_the_lowering_follows_the_platform(monkeypatch, has_onednn, on_cpu):
  monkeypatch.setattr(onednn, "is_here", lambda: has_onednn)
  assert convolution.choose("auto", "cpu") is on_cpu
  assert convolution.choose("auto", "tpu") is convolution.plain
  assert convolution.choose("auto", "gpu") is convolution.into_groups
  assert convolution.choose("unrolled", "gpu") is convolution.one_by_one
  assert convolution.choose("plain", "cpu") is convolution.plain


def test_a_missing_onednn_is_said_once(monkeypatch, capsys):
  monkeypatch.setattr(onednn, "is_here", lambda: False)
  convolution._say_what_is_missing.cache_clear()
  for _ in range(2):
    convolution.choose("auto", "cpu")
  assert capsys.readouterr().err.count("oneDNN") == 1
  convolution.choose("auto", "tpu")
  convolution.choose("unrolled", "cpu")
  assert not capsys.readouterr().err


@pytest.mark.parametrize(
  "has_onednn, platform", [(False, "cpu"), (True, "tpu")]
)
def test_onednn_is_refused_where_it_is_not(monkeypatch, has_onednn, platform):
  monkeypatch.setattr(onednn, "is_here", lambda: has_onednn)
  with pytest.raises(UserError, match="engine.lowering='onednn'.*x86-64"):
    convolution.choose("onednn", platform)
