"""tensorboard/ in a workdir: the rows of history.csv as scalars.

The files are written by hand, protocol buffers of few fields: libraries that
write them import PyTorch or TensorFlow where they find it, seconds at every
start, and need a thread per file.
"""

import functools
import itertools
import struct
import time

from etils import epath
import numpy as np

from kdjax import files

SCALARS = (
  "train_loss",
  "distill_loss",
  "sup_loss",
  "val_loss",
  "val_dice",
  "learning_rate",
)


def write(folder, rows):
  """Writes every trial's scalars by epoch, one run of TensorBoard per trial.

  A trial's events are written anew when it has new epochs, so that they agree
  with history.csv after a resume, which repeats epochs.

  Args:
    folder: where to.
    rows: dicts with the keys of `loop.HISTORY`, each trial's in order.
  """
  trial = lambda row: (row["arm"], int(row["fold"]), int(row["seed"]))
  ordered = sorted(rows, key=trial)  # Stable: epochs stay in order.
  for (arm, fold, seed), mine in itertools.groupby(ordered, trial):
    _write_trial(
      epath.Path(folder) / arm / f"fold{fold}-seed{seed}", list(mine)
    )


def _write_trial(folder, rows):
  # The name says how many epochs are in it.
  suffix = f".{len(rows)}"
  old = list(folder.glob("events.*")) if folder.exists() else []
  if any(path.name.endswith(suffix) for path in old):
    return
  now = time.time()
  events = [_event(now, 0, 3, b"brain.Event:2")]  # The format's version.
  for row in rows:
    values = b"".join(_field(1, _value(x, row[x])) for x in SCALARS)
    events.append(_event(now, int(row["epoch"]), 5, values))
  path = folder / f"events.out.tfevents.{int(now)}{suffix}"
  files.write_bytes(path, b"".join(map(_record, events)))
  for path in old:
    path.unlink()


def _record(content):
  """A TFRecord: length and content, each with its checksum."""
  size = struct.pack("<Q", len(content))
  return size + _checksum(size) + content + _checksum(content)


def _checksum(content):
  """The masked CRC-32C of TFRecords."""
  crc = 2**32 - 1
  for byte in content:
    crc = _remainders()[(crc ^ byte) & 255] ^ crc >> 8
  crc ^= 2**32 - 1
  return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


@functools.cache
def _remainders():
  """Of every byte by Castagnoli's polynomial, lowest bit first."""
  crcs = range(256)
  for _ in range(8):
    crcs = [x >> 1 ^ 0x82F63B78 * (x & 1) for x in crcs]
  return crcs


def _event(seconds, step, number, content):
  """An `Event`: its time, its step, and field `number`."""
  head = b"\x09" + struct.pack("<d", seconds) + b"\x10" + _varint(step)
  return head + _field(number, content)


def _value(name, number):
  """A `Summary.Value`: its tag and float."""
  with np.errstate(over="ignore"):  # Who diverges may pass float32.
    return _field(1, name.encode()) + b"\x15" + np.float32(number).tobytes()


def _field(number, content):
  return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number):
  """Seven bits a byte, lowest first; the eighth says that more follow."""
  groups = [number & 127]
  while number := number >> 7:
    groups[-1] |= 128
    groups.append(number & 127)
  return bytes(groups)
