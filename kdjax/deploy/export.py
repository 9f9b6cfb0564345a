"""Writes a trained network as ONNX or StableHLO, described and documented.

Beside FILE.onnx or FILE.stablehlo there is FILE.json, which says what goes in
and comes out, and FILE.md, the model card.
"""

import importlib.metadata
import json

from etils import epath
import jax
import jax.numpy as jnp

from kdjax import __version__
from kdjax import files
from kdjax.deploy import card
from kdjax.deploy import runtime
from kdjax.deploy import trained
from kdjax.errors import UserError

FORMATS = ("onnx", "stablehlo")
_PLATFORMS = ("cpu", "cuda", "tpu")


def write(
  workdir, out, *, kind="onnx", arm="best", fold=None, seed=None, quantise=False
):
  """Exports a network of `workdir` to `out` and its companions.

  Args:
    workdir: a trained one; it is only read.
    out: the file to write.
    kind: one of `FORMATS`.
    arm: a row of the table, or "best" of the students on validation.
    fold: 0-based, or None for the best on validation.
    seed: one of the config's, or None for the best on validation.
    quantise: also write FILE.int8.onnx, and measure both on the test cases; of
      an arm in 8 bits with the ranges that it was trained with.

  Returns:
    What to print: which network it is, and what was written.

  Raises:
    UserError: no such network, a package is missing, or the data set that the
      quantised network needs is not that of the workdir.
  """
  out = epath.Path(out)
  if quantise and kind != "onnx":
    raise UserError(f"--quantise goes with --format onnx, not {kind}.")
  _check_out(out, epath.Path(workdir))
  if kind == "onnx":
    need("onnx")
  network = trained.load(workdir, arm, fold, seed)
  if quantise and network.bits < 8:
    raise UserError(
      f"--quantise makes a file in 8 bits, and {network.arm} computes in "
      f"{network.bits}: leave it out."
    )
  about = describe(network, kind)
  if kind == "onnx":
    content = to_onnx(network.inference(), network.shape, about)
  else:
    content = to_stablehlo(network.inference(), network.shape)
  written = {out: content}
  measured = None
  if quantise:
    from kdjax.deploy import quantisation

    function, ranges = network.bare()
    whole = to_onnx(function, network.shape, about) if ranges else content
    small, measured = quantisation.make(network, content, whole, ranges)
    written[out.with_suffix(f".int8{out.suffix}")] = small
  written[out.with_suffix(".json")] = (
    json.dumps(about, indent=2) + "\n"
  ).encode()
  text = card.make(network, about, out.name, measured)
  written[out.with_suffix(".md")] = text.encode()
  for path, content in written.items():
    files.write_bytes(path, content)
  lines = [
    f"{network.arm}, fold {network.fold}, seed {network.seed}: "
    f"{network.validated}"
  ]
  lines += [
    f"{path}: {len(content):,} bytes" for path, content in written.items()
  ]
  if measured:
    lines.append(card.quantised(network, measured))
  return "\n".join(lines)


def _check_out(out, workdir):
  """Refuses what would write over its companions or the workdir's files."""
  if out.suffix in (".json", ".md"):
    raise UserError(
      f"--out={out}: {out.suffix} is written beside it; name .onnx."
    )
  if out.is_dir():
    raise UserError(f"--out={out} is a folder: name a file in it.")
  if (
    out.parent.resolve() == workdir.resolve()
    and out.with_suffix(".json").exists()
    and out.stem in ("config", "data", "environment")
  ):
    raise UserError(
      f"--out={out} would write over the workdir's {out.stem}.json: choose "
      "another name."
    )


def need(package):
  """Imports `package` of the extra `export`.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise UserError(
      f"{package} is not installed: pip install 'kdjax[export]'."
    ) from error


def describe(network, kind):
  """What a reader or another runtime must know of the exported file."""
  colours = len(network.shape) == 3
  regions = network.regions
  mean, deviation = network.model.normalisation
  versions = {
    name: importlib.metadata.version(name)
    for name in ("jax", "flax", *(["onnx"] if kind == "onnx" else []))
  }
  return {
    "kdjax": __version__,
    "format": kind,
    "arm": network.arm,
    "fold": network.fold,
    "seed": network.seed,
    "network": network.config[
      "teacher" if network.arm == trained.TEACHER else "student"
    ].to_dict(),
    "input": {
      "name": runtime.INPUT,
      "dtype": "uint8",
      "shape": ["batch", *network.shape],
      "values": "red, green and blue, 0 to 255"
      if colours
      else "grey, 0 to 255; colour as its luma, 16 bits divided by 257",
      "resize": "bilinear and antialiased to the side, aspect not kept "
      "(Pillow's BILINEAR)",
    },
    "inside": {
      "scale": 1 / 255,
      "channels": network.model.in_channels,
      "mean": list(mean),
      "deviation": list(deviation),
    },
    "output": {
      "name": runtime.OUTPUT,
      "dtype": "float32",
      "shape": ["batch", *network.margins],
      "values": f"logit of {', of '.join(regions)}, minus logit of background",
      "resize": "bilinear, half-pixel centres, to the image's own size "
      "(Pillow's BILINEAR)",
      "threshold": 0.0,
    },
    "classes": ["background", *regions],
    "config_sha256": network.config_hash,
    "versions": versions,
  }


def to_onnx(function, shape, about):
  """An ONNX file's bytes; see `graph.make`."""
  from kdjax.deploy import graph

  model = graph.make(function, shape, runtime.INPUT, runtime.OUTPUT)
  model.metadata_props.add(key=runtime.KEY, value=json.dumps(about))
  return model.SerializeToString()


def to_stablehlo(function, shape):
  """A file's bytes for `jax.export.deserialize`, its batch size open."""
  (batch,) = jax.export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
  exported = jax.export.export(jax.jit(function), platforms=_PLATFORMS)(images)
  return bytes(exported.serialize())
