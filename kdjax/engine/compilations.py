"""Compiled programs that a later run, or a resume, need not compile again."""

import os
import pathlib
import time
import warnings
import zlib

import jax

_CHECKED = "checked"


def keep(config):
  """Has JAX keep what it compiles, and find it again.

  Where JAX_COMPILATION_CACHE_DIR says, or beside the data. Programs that call
  oneDNN compile anew: XLA cannot write them to a file.

  Args:
    config: the study's; its `data.cache_dir` counts.
  """
  if not jax.config.jax_compilation_cache_dir:
    cache = pathlib.Path(config.data.cache_dir).expanduser() / "compilations"
    jax.config.update("jax_compilation_cache_dir", str(cache))
  if "://" not in jax.config.jax_compilation_cache_dir:
    drop_cut(pathlib.Path(jax.config.jax_compilation_cache_dir))
  warnings.filterwarnings("ignore", "Error writing persistent.*bad_alloc")


def drop_cut(folder):
  """Drops the programs whose writing a kill cut short; returns their names.

  JAX writes a program in place and leaves alone what is there: every later run
  would find it cut, say so and compile anew. Only what was written since the
  last call is read.

  Args:
    folder: JAX's cache of compilations, a `pathlib.Path`; it need not be there.
  """
  mark = folder / _CHECKED
  since = mark.stat().st_mtime if mark.exists() else 0.0
  now = time.time()
  dropped = []
  for path in sorted(folder.glob("*-cache")):
    try:
      if path.stat().st_mtime >= since and _is_cut(path.read_bytes()):
        path.unlink()
        dropped.append(path.name)
    except FileNotFoundError:
      pass  # Another process drops, or JAX evicts.
  if folder.is_dir():
    mark.touch()
    os.utime(mark, (now, now))  # What is written meanwhile is read next time.
  return dropped


def _is_cut(data):
  """Whether a program has no end; False where JAX packs by another library."""
  if data and data[0] & 0x0F != 8:  # Not zlib's header, RFC 1950.
    return False
  unpacking = zlib.decompressobj()
  try:
    unpacking.decompress(data)
  except zlib.error:
    return True
  return not unpacking.eof
