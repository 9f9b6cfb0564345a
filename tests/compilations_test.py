"""What was compiled is found again, and what a kill cut short is made anew."""

import os
import subprocess
import sys

from kdjax.engine import compilations

PROGRAM = """
import sys
import jax, ml_collections
from kdjax.engine import compilations
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
data = dict(cache_dir=sys.argv[1])
compilations.keep(ml_collections.ConfigDict(dict(data=data)))
for function in (jax.numpy.sin, jax.numpy.cos):
  jax.jit(function)(1.0).block_until_ready()
"""


def compile_in(folder, kept=""):
  """Runs `PROGRAM`; returns what it said and what is kept, by name."""
  run = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(folder)],
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(kept)},
    capture_output=True,
    text=True,
    check=True,
  )
  found = sorted((kept or folder / "compilations").glob("*-cache"))
  return run.stderr, {path.name: path for path in found}


def test_a_program_cut_short_is_compiled_anew_without_a_word(tmp_path):
  said, kept = compile_in(tmp_path)
  assert said == ""
  (name,) = [x for x in kept if "sin" in x]
  for size in (kept[name].stat().st_size // 2, 0):
    whole = kept[name].stat().st_size
    kept[name].write_bytes(kept[name].read_bytes()[:size])
    said, again = compile_in(tmp_path)
    assert said == ""
    assert set(again) == set(kept)
    assert again[name].stat().st_size > 0.9 * whole


def test_whole_programs_stay_and_a_folder_that_is_not_there_is_none(tmp_path):
  assert compilations.drop_cut(tmp_path / "none") == []
  assert not (tmp_path / "none").exists()
  _, kept = compile_in(tmp_path)
  before = {name: path.stat().st_mtime_ns for name, path in kept.items()}
  assert compilations.drop_cut(tmp_path / "compilations") == []
  _, kept = compile_in(tmp_path)
  assert before == {name: x.stat().st_mtime_ns for name, x in kept.items()}


def test_where_jax_was_told_to_keep_them_is_where_they_are(tmp_path):
  _, kept = compile_in(tmp_path / "beside", kept=tmp_path / "told")
  assert kept
  assert not (tmp_path / "beside").exists()
