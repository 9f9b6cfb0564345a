"""8-bit static quantisation by onnxruntime, and what it costs in Dice."""

import contextlib
import logging
import pathlib
import tempfile
import warnings

import numpy as np
import onnx

from kdjax import readers
from kdjax.deploy import runtime
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.evaluate import intervals
from kdjax.evaluate import metrics

_CALIBRATION = 128  # Cases at most: more do not move the ranges.
_BATCH = 16


def make(network, content, whole, ranges=()):
  """Quantises an ONNX file of `network`, and tests both on its test cases.

  Weights per channel, activations per tensor, their ranges from training
  cases; test cases are used to measure and for nothing else.

  Args:
    network: `trained.Trained`.
    content: the ONNX file's bytes.
    whole: those of the file to quantise, in which nothing is rounded but
      weights.
    ranges: see `quantise`.

  Returns:
    `(bytes, measured)`: the quantised file; Dice by "float" and "int8", each
    `(mean, low, high)`, their mean difference `(mean, low, high)`, all in
    [0, 1], and the number of "cases" with a lesion.

  Raises:
    UserError: the data set is not the one that the network was trained on.
  """
  dataset, fold = _data(network)
  calibration = dataset.images[fold.train[:_CALIBRATION]]
  small = quantise(whole, calibration, ranges)
  groups = [dataset.groups[case] for case in fold.test]
  dice = {
    "float": _dice(content, dataset, fold.test),
    "int8": _dice(small, dataset, fold.test),
  }
  interval = lambda x: (float(np.nanmean(x)), *intervals.of_mean(x, groups))
  return small, {
    **{name: interval(values) for name, values in dice.items()},
    "difference": interval(dice["int8"] - dice["float"]),
    "cases": int(np.isfinite(dice["float"]).sum()),
  }


def quantise(content, calibration, ranges=()):
  """An ONNX file's bytes in 8 bits.

  Args:
    content: the file's bytes.
    calibration: uint8 `[N, ...]`, of which ranges are taken.
    ranges: what they were in training, `(low, high)` of the inputs of each
      convolution in the order of the file; or empty.
  """
  from onnxruntime import quantization
  from onnxruntime.quantization import shape_inference

  class Reader(quantization.CalibrationDataReader):
    def __init__(self):
      self._rows = iter(calibration)

    def get_next(self):
      row = next(self._rows, None)
      return None if row is None else {runtime.INPUT: row[None]}

  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / "float.onnx").write_bytes(content)
    with _quiet():
      # Joins what runs as one, so that it is rounded once.
      shape_inference.quant_pre_process(
        folder / "float.onnx", folder / "joined.onnx", skip_symbolic_shape=True
      )
      joined = onnx.load(folder / "joined.onnx").graph.node
      called = [x.input[0] for x in joined if x.op_type == "Conv"]
      trained = {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        # A dense layer has a range, and is no convolution.
        for name, (low, high) in zip(called, ranges, strict=False)
        if len(called) == len(ranges)
      }
      quantization.quantize_static(
        folder / "joined.onnx",
        folder / "int8.onnx",
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"TensorQuantOverrides": trained} if trained else {},
      )
    small = onnx.load(folder / "int8.onnx")
  del small.metadata_props[:]
  small.metadata_props.extend(onnx.load_from_string(content).metadata_props)
  return small.SerializeToString()


@contextlib.contextmanager
def _quiet():
  """Keeps the quantiser's advice to itself: what it advises is done."""
  logging.disable(logging.WARNING)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    logging.disable(logging.NOTSET)


def _data(network):
  """The data set and the fold that `network` was trained on."""
  dataset, folds = studies.load_data(network.config)
  record = readers.data(network.workdir)
  if record["fingerprint"] != dataset.fingerprint:
    raise UserError(
      f"{network.workdir}: the data set changed since this workdir was begun: "
      "restore it, or export without --quantise."
    )
  return dataset, folds[network.fold]


def _dice(content, dataset, cases):
  """Dice of the test cases as in the table, at masks' resolution, `[N]`."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "network.onnx"
    path.write_bytes(content)
    network = runtime.Network(path)
    margins = np.concatenate(
      [
        network.margins(dataset.images[cases[i : i + _BATCH]])
        for i in range(0, len(cases), _BATCH)
      ]
    )
  truths = [dataset.full_masks[case] for case in cases]
  return np.array(
    [
      metrics.case_row(margin, truth, regions=dataset.regions)["dice"]
      for margin, truth in zip(margins, truths, strict=True)
    ]
  )
