"""An exported network, run by onnxruntime; needs no JAX."""

import json
import pathlib

import numpy as np

from kdjax.errors import UserError

# Where an ONNX file of ours keeps its description, among its metadata.
KEY = "kdjax"
INPUT, OUTPUT = "image", "margin"


class Network:
  """An ONNX file that `kdjax export` wrote.

  Attributes:
    about: its description, as in the JSON beside it.
    shape: of the images that go in, `(S, S)` or, of colours, `(S, S, 3)`.
    regions: names of the classes from 1 on.
  """

  def __init__(self, path, threads=0):
    """Opens `path`.

    Args:
      path: an ONNX file.
      threads: to use; 0 is one per core.

    Raises:
      UserError: onnxruntime is missing, or this is no file of ours.
    """
    self._path = path
    onnxruntime = load()
    if not pathlib.Path(path).is_file():
      raise UserError(f"{path}: no such file; write one with kdjax export.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # Errors.
    try:
      self._session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
      )
    except Exception as error:  # Its exceptions have no base of their own.
      raise UserError(
        f"{path}: not an ONNX file that onnxruntime {onnxruntime.__version__} "
        "reads; export it again."
      ) from error
    found = self._session.get_modelmeta().custom_metadata_map.get(KEY)
    if found is None:
      raise UserError(
        f"{path}: not written by kdjax export, so nothing says what goes in."
      )
    try:
      self.about = json.loads(found)
      self.shape = tuple(self.about["input"]["shape"][1:])
      self.side, self.channels = self.shape[0], (*self.shape, 1)[2]
      self.regions = tuple(map(str, self.about["classes"][1:]))
    except (ValueError, RecursionError, LookupError, TypeError) as error:
      raise UserError(
        f"{path}: its description is damaged; export it again."
      ) from error
    self._check(path)

  def _check(self, path):
    """Holds what goes in and out against what `kdjax export` writes."""
    found = [
      (x.name, x.type, x.shape[1:])
      for x in (*self._session.get_inputs(), *self._session.get_outputs())
    ]
    several = [len(self.regions)] if len(self.regions) > 1 else []
    wanted = [
      (INPUT, "tensor(uint8)", list(self.shape)),
      (OUTPUT, "tensor(float)", [self.side, self.side, *several]),
    ]
    if found != wanted:
      raise UserError(
        f"{path}: it does not take the images that its description says; "
        "export it again."
      )

  def margins(self, images):
    """uint8 `[B, *shape]` to float32 `[B, S, S]`, lesion where above 0.

    Of several regions `[B, S, S, R]`, see `images.decide`.
    """
    try:
      (found,) = self._session.run([OUTPUT], {INPUT: np.asarray(images)})
    except Exception as error:  # Its exceptions have no base of their own.
      raise UserError(
        f"{self._path}: onnxruntime cannot run it on {len(images)} image(s) of "
        f"side {self.side}; export it again, or lower --batch."
      ) from error
    return found


def load():
  """The package onnxruntime.

  Raises:
    UserError: it is not installed.
  """
  try:
    import onnxruntime
  except ImportError as error:
    raise UserError(
      "onnxruntime is not installed: pip install 'kdjax[deploy]', or "
      "pip install onnxruntime."
    ) from error
  return onnxruntime
