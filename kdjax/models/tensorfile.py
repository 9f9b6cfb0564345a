"""Reads tensors from .safetensors and PyTorch's .pth, without PyTorch.

A .pth holds a pickle, and a pickle may run any code. The reader here knows
the few names that a dict of tensors needs and refuses all others; nothing is
decompressed, and no tensor may be larger than the bytes that the file holds.
"""

import collections
import io
import json
import math
import pathlib
import pickle
import struct
from typing import NamedTuple
import zipfile

import ml_dtypes
import numpy as np

from kdjax.errors import UserError

# PyTorch's and safetensors' names of the dtypes that weights come in.
_STORAGES = {
  "FloatStorage": np.dtype("<f4"),
  "DoubleStorage": np.dtype("<f8"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "LongStorage": np.dtype("<i8"),
  "IntStorage": np.dtype("<i4"),
}
_DTYPES = {
  "F32": np.dtype("<f4"),
  "F64": np.dtype("<f8"),
  "F16": np.dtype("<f2"),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
}

_LARGEST_INDEX = 64 * 2**20  # Bytes of names and shapes; real ones need 0.2 MB.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read(path):
  """The tensors of a file, a dict from name to array.

  Args:
    path: of a .safetensors, or of a .pth in PyTorch's present (zip) or former
      format.

  Raises:
    UserError: there is no such file, it is damaged, or it holds anything but
      a dict of tensors.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"There are no weights {path}.")
  with path.open("rb") as file:
    try:
      if path.suffix == ".safetensors":
        return _read_safetensors(file, path.stat().st_size)
      if zipfile.is_zipfile(file):
        return _read_zip(file, path.stat().st_size)
      file.seek(0)
      return _read_legacy(file)
    except UserError as error:
      raise UserError(f"{path}: {error}") from error
    # Damaged bytes can raise whatever the readers of pickle, zip and JSON do.
    except Exception as error:
      raise UserError(
        f"{path} is not a readable .safetensors or .pth: {error}."
      ) from error


def _read_safetensors(file, size):
  (length,) = struct.unpack("<Q", file.read(8))
  if length > min(size, _LARGEST_INDEX):
    raise UserError(f"its header cannot be {length} bytes long.")
  header = json.loads(file.read(length))
  data = file.read()
  tensors = {}
  for name, entry in header.items():
    if name == "__metadata__":
      continue
    begin, end = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    if not 0 <= begin <= end <= len(data):
      raise UserError(f"{name} lies outside of the file.")
    tensors[name] = np.frombuffer(data[begin:end], dtype).reshape(shape)
  return tensors


def _read_zip(file, size):
  with zipfile.ZipFile(file) as archive:
    entries = archive.infolist()
    # PyTorch stores without compression, so an honest file is no smaller than
    # its entries; a bomb or overlapping entries are.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
      raise UserError("its entries are compressed; PyTorch's are not.")
    if sum(entry.file_size for entry in entries) > size:
      raise UserError("its entries are larger than the file.")
    (index,) = (x for x in entries if x.filename.endswith("/data.pkl"))
    folder = index.filename.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
      if archive.read(f"{folder}byteorder") != b"little":
        raise UserError("it is big-endian.")
    if index.file_size > _LARGEST_INDEX:
      raise UserError("its index of tensors is too large.")
    tree = _Unpickler(io.BytesIO(archive.read(index))).load()
    return _resolve(tree, lambda key: archive.read(f"{folder}data/{key}"))


def _read_legacy(file):
  """Pickles one after another, then raw storages, each after its length."""
  if _Unpickler(file).load() != _LEGACY_MAGIC:
    raise UserError("it is not PyTorch's.")
  _Unpickler(file).load()  # Version of the format, always 1001.
  if not _Unpickler(file).load()["little_endian"]:
    raise UserError("it is big-endian.")
  unpickler = _Unpickler(file)
  tree = unpickler.load()
  storages = {}
  for key in _Unpickler(file).load():
    (count,) = struct.unpack("<q", file.read(8))
    storages[key] = file.read(count * unpickler.storages[key].itemsize)
  return _resolve(tree, storages.__getitem__)


class _Tensor(NamedTuple):
  """A tensor whose bytes are read later."""

  key: str
  dtype: np.dtype
  offset: int
  shape: tuple
  strides: tuple


class _Rebuild:
  """`torch._utils._rebuild_tensor_v2`; slots keep a pickle from altering it."""

  __slots__ = ()

  def __call__(self, storage, offset, shape, strides, *rest):
    del rest  # Gradients and hooks, which weights do not have.
    key, dtype = storage
    return _Tensor(key, dtype, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
  """`torch._utils._rebuild_parameter`: the tensor itself."""

  __slots__ = ()

  def __call__(self, tensor, *rest):
    del rest
    return tensor


_NAMES = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
  ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
  **{("torch", name): name for name in _STORAGES},
}


# Python's own unpickler, since the one in C allots whatever memory a pickle
# asks for.
class _Unpickler(pickle._Unpickler):
  """Builds dicts, lists, numbers, strings and `_Tensor`s; refuses the rest."""

  def __init__(self, file):
    super().__init__(file)
    self.storages = {}

  def find_class(self, module, name):
    if (module, name) not in _NAMES:
      raise UserError(f"it asks for {module}.{name}, which is no tensor.")
    return _NAMES[module, name]

  def persistent_load(self, pid):
    kind, storage, key = pid[:3]
    if kind != "storage" or storage not in _STORAGES:
      raise UserError(f"it has a {kind} of {storage}, which is no tensor.")
    self.storages[key] = _STORAGES[storage]
    return key, _STORAGES[storage]


def _resolve(tree, load):
  """Arrays of a dict of `_Tensor`s, given the bytes of each storage."""
  if isinstance(tree.get("state_dict"), dict):  # As training scripts save it.
    tree = tree["state_dict"]
  tensors, storages = {}, {}
  for name, tensor in tree.items():
    if not isinstance(tensor, _Tensor):
      raise UserError(f"{name} is no tensor; save the model's state_dict().")
    if tensor.key not in storages:
      storages[tensor.key] = np.frombuffer(load(tensor.key), tensor.dtype)
    tensors[name] = _view(storages[tensor.key], tensor, name)
  return tensors


def _view(storage, tensor, name):
  shape, strides = tensor.shape, tensor.strides
  numbers = (tensor.offset, *shape, *strides)
  if (
    storage.dtype != tensor.dtype
    or len(shape) != len(strides)
    or not all(isinstance(x, int) and x >= 0 for x in numbers)
  ):
    raise UserError(f"{name} has no valid shape.")
  last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  # The first bound keeps a stride of zero from making much out of little.
  if math.prod(shape) > storage.size or tensor.offset + last >= storage.size:
    raise UserError(f"{name} lies outside of its storage.")
  return np.lib.stride_tricks.as_strided(
    storage[tensor.offset :], shape, [s * storage.itemsize for s in strides]
  ).copy()
