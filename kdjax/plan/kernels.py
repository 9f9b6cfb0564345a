"""What a program compiled for a GPU launches, counted in its text.

A GPU that is not there tells no costs, so operations and bytes are counted
here: of every instruction that runs as a kernel, once, loops as they stand.
"""

import dataclasses
import math
import re

_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"^  (?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$"
)
_CALLED = re.compile(
  r"(?:body|condition|to_apply|calls|true_computation|false_computation)="
  r"%([\w.-]+)"
)
_ARRAY = re.compile(r"(pred|bf16|[a-z]\d+)\w*\[([\d,]*)\]")
_CONVOLUTION = re.compile(r'target="__cudnn\$conv(\w+)"')
_WINDOW = re.compile(r"window={size=([\dx]+)")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_CONTRACTED = re.compile(
  r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)[}\]]'
)

# They run nothing, or what they call is counted instead.
_NO_KERNELS = frozenset(
  "parameter constant tuple get-tuple-element bitcast while call conditional "
  "after-all copy-done partition-id replica-id".split()
)

# A convolution as wide as this is a kernel's gradient that XLA took for a
# forward one (jax#13800): no network has such a kernel.
WIDEST = 7

# Bytes from which on a transpose is one of whole maps, not of weights.
_MAP = 2**22


@dataclasses.dataclass(frozen=True)
class Kernels:
  """What a program launches.

  Attributes:
    launched: number of kernels and library calls.
    forward: convolutions, as cuDNN's own three kinds have them.
    to_images: the same, for gradients of images.
    to_kernels: the same, for gradients of kernels.
    wide: forward ones with a window over `WIDEST`.
    transposes: of maps of 4 MiB and more, copies among them.
    flops: operations of convolutions and matrix products, zeros that fill up
      channels included.
    traffic: bytes that kernels read and write.
  """

  launched: int
  forward: int
  to_images: int
  to_kernels: int
  wide: int
  transposes: int
  flops: float
  traffic: float


@dataclasses.dataclass(frozen=True)
class _Line:
  name: str
  type: str
  opcode: str
  rest: str


def count(text):
  """The `Kernels` of a program.

  Args:
    text: optimised HLO of a GPU's program.
  """
  computations, entry = _read(text)
  types = {x.name: x.type for lines in computations.values() for x in lines}
  lines = list(_run(computations, entry))
  calls = [x for x in lines if _CONVOLUTION.search(x.rest)]
  kind = lambda x: _CONVOLUTION.search(x.rest)[1]
  number = lambda name: sum(kind(x).startswith(name) for x in calls)
  kernels = [x for x in lines if x.opcode not in _NO_KERNELS]
  products = [
    x
    for found in computations.values()
    for x in found
    if x.opcode == "dot" or '"__cublas' in x.rest
  ]
  return Kernels(
    launched=len(kernels),
    forward=number("Forward"),
    to_images=number("BackwardInput"),
    to_kernels=number("BackwardFilter"),
    wide=sum(_is_wide(x) for x in calls if kind(x).startswith("Forward")),
    transposes=sum(_size(x.type) >= _MAP for x in kernels if _is_transpose(x)),
    flops=float(
      sum(_of_convolution(x, kind(x), types) for x in calls)
      + sum(_of_product(x, types) for x in products)
    ),
    traffic=float(
      sum(
        _size(x.type) + sum(_size(types[y]) for y in _operands(x, types))
        for x in kernels
      )
    ),
  )


def _read(text):
  """Instructions by computation, and the name of the first to run."""
  computations, entry, lines = {}, "", []
  for line in text.splitlines():
    if found := _COMPUTATION.match(line):
      lines = computations.setdefault(found[2], [])
      entry = found[2] if found[1] else entry
    elif found := _INSTRUCTION.match(line):
      lines.append(_Line(*found.groups()))
  return computations, entry


def _run(computations, name):
  """Yields what `name` runs, and what its loops and calls run, once each."""
  for line in computations.get(name, ()):
    yield line
    if line.opcode in ("while", "call", "conditional"):
      for called in _CALLED.findall(line.rest):
        yield from _run(computations, called)


def _operands(line, types):
  arguments = line.rest.partition("), ")[0]
  return [x for x in re.findall(r"%([\w.-]+)", arguments) if x in types]


def _arrays(text):
  """`(bytes of an element, shape)` of the arrays of a type."""
  for kind, sides in _ARRAY.findall(text):
    bits = 8 if kind == "pred" else int(re.search(r"\d+$", kind)[0])
    yield bits / 8, tuple(int(x) for x in sides.split(",") if x)


def _size(text):
  return sum(size * math.prod(shape) for size, shape in _arrays(text))


def _shape(text):
  return next(_arrays(text))[1]


def _is_wide(line):
  sides = _WINDOW.search(line.rest)
  return bool(sides) and max(map(int, sides[1].split("x"))) > WIDEST


def _is_transpose(line):
  return line.opcode in ("transpose", "copy") or (
    line.opcode == "fusion" and "transpose" in line.name
  )


def _of_convolution(line, kind, types):
  """Twice the pixels and channels that come out, times what goes into one."""
  operands = [_shape(types[x]) for x in _operands(line, types)[:2]]
  out = _shape(line.type)
  if kind.startswith("BackwardFilter"):
    kernel, pixels = out, operands[1]
  elif kind.startswith("BackwardInput"):
    kernel, pixels = operands[1], operands[0]
  else:
    kernel, pixels = operands[1], out
  features = kernel[_LABELS.search(line.rest)[1].index("o")]
  return 2 * math.prod(pixels) * math.prod(kernel) // features


def _of_product(line, types):
  operands = _operands(line, types)
  contracted = _CONTRACTED.search(line.rest)
  if not operands or not contracted:
    return 0
  sides = _shape(types[operands[0]])
  axes = [int(x) for x in re.findall(r"\d+", contracted[1])]
  depth = math.prod(sides[i] for i in axes)
  return 2 * math.prod(_shape(line.type)) * depth
