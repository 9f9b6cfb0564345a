"""What a network costs on a device: onnxruntime in a process of its own.

The process has no JAX in it, as on the device, so that its memory is the
network's. `python -m kdjax.deploy.latency FILE THREADS` prints one object.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from kdjax.deploy import runtime
from kdjax.errors import UserError

BATCH = 8
_SECONDS = 0.2  # For each measurement.
# Of which there are so many where there is more to compare than a student with
# its teacher: of networks that do the same arithmetic one took 0.75 to 1.00 of
# the other's time when each was measured once.
_ROUNDS = 3


def measure(study, networks):
  """Costs of networks on CPU, on one core and on all.

  Of weights that are drawn, which take as long as any. A sparse network runs as
  a dense one whose weights are zero, one in 8 bits as `quantisation` makes it;
  in other bits onnxruntime runs none.

  Args:
    study: `Study`.
    networks: pairs of "teacher" or "student" and the numbers of the axes that
      compress it, `((axis, number), ...)`.

  Returns:
    From such a pair to `onnx_ms_one_core`, `onnx_ms`: the median of one image
    alone; `onnx_images_per_second_one_core`, `onnx_images_per_second`: in
    batches of `BATCH`; `onnx_peak_bytes`: what opening the network and running
    it on one image on one core adds to the memory of the process. Empty where
    the packages of the extra `export` are not installed.
  """
  from kdjax.deploy import export

  try:
    export.need("onnx")
    runtime.load()
  except UserError:  # The table says how to get them.
    return {}
  with tempfile.TemporaryDirectory() as folder:
    paths = {}
    for role, numbers in networks:
      if dict(numbers).get("bits", 8) == 8:
        path = pathlib.Path(folder) / f"{len(paths)}.onnx"
        if _tried(role, _write, path, study, role, numbers):
          paths[role, numbers] = path
    rounds = {network: [] for network in paths}
    # In turn, so that what else a machine does meets all that are compared.
    for _ in range(_ROUNDS if len(paths) > 2 else 1):
      for (role, numbers), found in rounds.items():
        found.append(_tried(role, _run, paths[role, numbers]))
  return {x: _medians(found) for x, found in rounds.items() if all(found)}


def _tried(role, function, *arguments):
  """What a function returns; None, and a line, where a network does not run.

  A run that has trained for days does not fail here.
  """
  try:
    return function(*arguments)
  except (UserError, subprocess.SubprocessError) as error:
    print(f"kdjax: {role} not measured as ONNX: {error}", file=sys.stderr)
    return None


def _write(path, study, role, numbers):
  path.write_bytes(_content(study, role, **dict(numbers)))
  return path


def _run(path):
  """The columns of a file, measured once."""
  one, every = (_ask(path, threads) for threads in (1, 0))
  return {
    "onnx_ms_one_core": one["milliseconds"],
    "onnx_ms": every["milliseconds"],
    "onnx_images_per_second_one_core": one["images_per_second"],
    "onnx_images_per_second": every["images_per_second"],
    "onnx_peak_bytes": one["peak_bytes"],
  }


def _medians(rounds):
  """Of each column; empty where a round has none."""
  columns = {name: [x[name] for x in rounds] for name in rounds[0]}
  return {
    name: statistics.median(values) if all(values) else ""
    for name, values in columns.items()
  }


def _content(study, role, sparsity=0.0, bits=None):
  """The network as an ONNX file."""
  import jax

  from kdjax.deploy import export
  from kdjax.deploy import trained

  model = trained.make_model(study.config, role)
  draw = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: np.where(
      draw.random(x.shape) < sparsity, 0, draw.uniform(0.1, 0.2, x.shape)
    ).astype(x.dtype),
    jax.eval_shape(model.init, jax.random.key(0), study.blank(role)),
  )
  shape = trained.shape(study.config)
  about = {
    "input": {"shape": ["batch", *shape]},
    "classes": ["background", *study.dataset.regions],
  }
  function = trained.make_inference(model, variables)
  content = export.to_onnx(function, shape, about)
  if bits:
    from kdjax.deploy import quantisation

    noise = draw.integers(0, 256, (4, *shape), np.uint8)
    content = quantisation.quantise(content, noise)
  return content


def _ask(path, threads):
  run = subprocess.run(
    [sys.executable, "-m", __name__, str(path), str(threads)],
    capture_output=True,
    check=True,
    text=True,
    # So that the package is found wherever the command was called.
    cwd=pathlib.Path(__file__).parents[2],
    env={x: y for x, y in os.environ.items() if x != "LD_PRELOAD"},
  )
  return json.loads(run.stdout)


def main(path, threads):
  """Measures an ONNX file in this process; returns a dict."""
  runtime.load()  # Not the network's memory.
  before = _resident()
  network = runtime.Network(path, threads)
  image = np.zeros((1, *network.shape), np.uint8)
  network.margins(image)
  peak = _resident(peak=True)
  alone = _median(network, image)
  together = _median(network, np.repeat(image, BATCH, axis=0))
  return {
    "milliseconds": round(1000 * alone, 4),
    "images_per_second": round(BATCH / together, 2),
    "peak_bytes": peak - before if peak else "",
  }


def _median(network, images):
  """Seconds of a call; of the first one, if it takes all the time there is."""
  seconds = []
  begun = last = time.perf_counter()
  while not seconds or last - begun < _SECONDS:
    network.margins(images)
    seconds.append(time.perf_counter() - last)
    last = time.perf_counter()
  return statistics.median(seconds)


def _resident(peak=False):
  """Memory of this process in bytes, now or at its peak; 0 if not known."""
  try:
    status = pathlib.Path("/proc/self/status").read_text()
  except OSError:
    return 0
  name = "VmHWM:" if peak else "VmRSS:"
  (line,) = (x for x in status.splitlines() if x.startswith(name))
  return 1024 * int(line.split()[1])


if __name__ == "__main__":
  print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
