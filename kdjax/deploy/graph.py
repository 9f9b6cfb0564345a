"""From a network's jaxpr to an ONNX graph, one primitive at a time.

JAX holds images as NHWC, ONNX as NCHW: here every array of rank 4 that depends
on the input is NCHW in the graph, so that no convolution needs a transpose.
What does not depend on the input is computed now and stored.
"""

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import onnx

from kdjax.errors import UserError
from kdjax.models import quantised

# Read by onnxruntime from 1.14 (early 2023) on.
_OPSET, _IR = 17, 8

_NCHW = (0, 3, 1, 2)
_NHWC = _PLACE = (0, 2, 3, 1)  # Where each axis of NHWC is in NCHW, too.


def make(function, shape, entry, name):
  """The ONNX model of a network, its batch size open.

  Args:
    function: from uint8 `[B, *shape]` to float32 `[B, S, S]`, or `[B, S, S, R]`
      of several regions, a network without BatchNorm and with plain
      convolutions.
    shape: `(S, S)` or, of colours, `(S, S, 3)`.
    entry: name of the input.
    name: of the output.

  Raises:
    UserError: the network has an operation without a counterpart here.
  """
  traced = jax.make_jaxpr(function)(
    jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
  )
  graph = _Graph()
  images = entry
  if len(shape) == 3:
    images = graph.node("Transpose", entry, perm=_NCHW)
  (result,) = graph.run(traced.jaxpr, traced.consts, [images])
  (margins,) = traced.out_avals
  if margins.ndim == 4:
    result = graph.node("Transpose", result, perm=_NHWC)
  graph.nodes.append(onnx.helper.make_node("Identity", [result], [name]))
  model = onnx.helper.make_model(
    onnx.helper.make_graph(
      graph.nodes,
      "kdjax",
      [_tensor(entry, onnx.TensorProto.UINT8, ["batch", *shape])],
      [_tensor(name, onnx.TensorProto.FLOAT, ["batch", *margins.shape[1:]])],
      graph.constants,
    ),
    opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
    ir_version=_IR,
    producer_name="kdjax",
  )
  onnx.checker.check_model(model, full_check=True)
  return model


def _tensor(name, kind, shape):
  return onnx.helper.make_tensor_value_info(name, kind, shape)


class _Graph:
  """Nodes and constants so far; a value is an array (known) or a name."""

  def __init__(self):
    self.nodes = []
    self.constants = []

  def run(self, jaxpr, consts, arguments):
    """Adds `jaxpr`; returns the values of its results."""
    known = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))
    read = lambda x: (
      np.asarray(x.val) if isinstance(x, core.Literal) else known[x]
    )
    for equation in jaxpr.eqns:
      results = self.add(equation, [read(x) for x in equation.invars])
      known |= dict(zip(equation.outvars, results, strict=True))
    return [read(x) for x in jaxpr.outvars]

  def add(self, equation, values):
    """Adds one equation; returns its results."""
    params, name = equation.params, equation.primitive.name
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    known = not any(isinstance(x, str) for x in values)
    if known and inner is None:
      if name == "reshape":  # Of every bias; JAX would compile each.
        return [values[0].reshape(params["new_sizes"])]
      results = equation.primitive.bind(*values, **params)
      results = results if equation.primitive.multiple_results else [results]
      return [np.asarray(x) for x in results]
    if inner is not None and (known or params.get("name") not in _OPERATIONS):
      return self.run(inner.jaxpr, inner.consts, values)
    operation = _OPERATIONS.get(name if inner is None else params["name"])
    if operation is None:
      raise UserError(
        f"export: no counterpart in ONNX is known for {name!r}; export to "
        "stablehlo, or add one to kdjax/deploy/graph.py."
      )
    return [operation(self, equation, *values)]

  def node(self, kind, *inputs, **attributes):
    """Adds a node; returns the name of its output."""
    name = f"{kind.lower()}{len(self.nodes)}"
    inputs = [x if isinstance(x, str) else self.constant(x) for x in inputs]
    self.nodes.append(
      onnx.helper.make_node(kind, inputs, [name], name, **attributes)
    )
    return name

  def constant(self, array):
    """Stores an array; returns its name."""
    name = f"constant{len(self.constants)}"
    array = np.ascontiguousarray(array)
    self.constants.append(onnx.numpy_helper.from_array(array, name))
    return name


def _integers(*values):
  return np.array(values, np.int64)


def _elementwise(kind):
  def add(graph, equation, *values):
    turn = lambda x: (
      x if isinstance(x, str) or x.ndim != 4 else x.transpose(_NCHW)
    )
    return graph.node(kind, *map(turn, values))

  return add


def _maximum(graph, equation, a, b):
  if isinstance(b, np.ndarray) and b.ndim == 0 and b == 0:
    return graph.node("Relu", a)
  return _elementwise("Max")(graph, equation, a, b)


def _cast(graph, equation, x):
  kind = onnx.helper.np_dtype_to_tensor_dtype(equation.params["new_dtype"])
  return graph.node("Cast", x, to=kind)


def _broadcast(graph, equation, x):
  """Adds an axis of channels; ONNX repeats it where that is needed."""
  (before,), (after,) = equation.invars, equation.outvars
  kept = tuple(range(before.aval.ndim))
  if equation.params["broadcast_dimensions"] != kept or after.aval.shape != (
    *before.aval.shape,
    1,
  ):
    raise UserError(f"export: {equation} has no counterpart in ONNX here.")
  return graph.node("Unsqueeze", x, _integers(1))


def _squeeze(graph, equation, x):
  axes = [_PLACE[axis] for axis in equation.params["dimensions"]]
  return graph.node("Squeeze", x, _integers(*axes))


def _slice(graph, equation, x):
  params, shape = equation.params, equation.invars[0].aval.shape
  begins, ends = params["start_indices"], params["limit_indices"]
  steps = params["strides"] or (1,) * len(shape)
  axes = [
    axis
    for axis, cut in enumerate(zip(begins, ends, steps, strict=True))
    if cut != (0, shape[axis], 1)
  ]
  pick = lambda values: _integers(*(values[axis] for axis in axes))
  return graph.node(
    "Slice", x, pick(begins), pick(ends), pick(_PLACE), pick(steps)
  )


def _concatenate(graph, equation, *values):
  return graph.node(
    "Concat", *values, axis=_PLACE[equation.params["dimension"]]
  )


def _convolve(graph, equation, x, kernel):
  params = equation.params
  layout = jax.lax.conv_dimension_numbers(
    *(v.aval.shape for v in equation.invars), ("NHWC", "HWIO", "NHWC")
  )
  if params["dimension_numbers"] != layout or set(params["lhs_dilation"]) != {
    1
  }:
    raise UserError("export: a convolution is transposed or not NHWC.")
  before, after = zip(*params["padding"], strict=True)
  return graph.node(
    "Conv",
    x,
    kernel.transpose(3, 2, 0, 1),
    strides=params["window_strides"],
    pads=[*before, *after],
    dilations=params["rhs_dilation"],
    group=params["feature_group_count"],
  )


def _round_inputs(graph, equation, x, low, high, bits):
  """What `quantised.round_inputs` does; in 8 bits as runtimes know it."""
  bits = int(bits)
  if bits == quantised.NONE:
    return x
  scale, zero = map(np.float32, quantised.grid(low, high, np.float32(bits)))
  if bits == 8:
    codes = graph.node("QuantizeLinear", x, scale, np.uint8(zero))
    return graph.node("DequantizeLinear", codes, scale, np.uint8(zero))
  ends = -zero * scale, (np.float32(2**bits - 1) - zero) * scale
  inside = graph.node("Clip", x, *ends)
  rounded = graph.node("Round", graph.node("Div", inside, scale))
  return graph.node("Mul", rounded, scale)


def _resize(mode, **attributes):
  def add(graph, equation, x):
    scales = np.array([1, 1, 2, 2], np.float32)
    return graph.node("Resize", x, "", scales, mode=mode, **attributes)

  return add


def _pool(kernel, margin):
  return lambda graph, equation, x: graph.node(
    "MaxPool", x, kernel_shape=[kernel] * 2, strides=[2, 2], pads=[margin] * 4
  )


# By the name of a primitive, or of a function of `models` that is jitted so
# that it keeps its name.
_OPERATIONS = {
  "add": _elementwise("Add"),
  "sub": _elementwise("Sub"),
  "mul": _elementwise("Mul"),
  "div": _elementwise("Div"),
  "min": _elementwise("Min"),
  "max": _maximum,
  "convert_element_type": _cast,
  "broadcast_in_dim": _broadcast,
  "squeeze": _squeeze,
  "slice": _slice,
  "concatenate": _concatenate,
  "conv_general_dilated": _convolve,
  "max_pool": _pool(2, 0),
  "overlapping_max_pool": _pool(3, 1),
  "upsample": _resize("linear", coordinate_transformation_mode="half_pixel"),
  "round_inputs": _round_inputs,
  "repeat": _resize(
    "nearest",
    coordinate_transformation_mode="asymmetric",
    nearest_mode="floor",
  ),
}
