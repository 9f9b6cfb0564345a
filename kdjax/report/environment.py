"""The command, code and machine behind a run's numbers."""

import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

from etils import epath

from kdjax import __version__
from kdjax import files
from kdjax import workdirs
from kdjax.engine import memory
from kdjax.report import words

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "statsmodels")


def write(workdir, devices=()):
  """Writes the file, unless the workdir has one: a resumed run keeps its first.

  Says on stderr which packages have another version now.

  Args:
    workdir: where to.
    devices: `jax.devices()`, or nothing.
  """
  path = epath.Path(workdir) / workdirs.ENVIRONMENT
  packages = [f"{x} {importlib.metadata.version(x)}" for x in _PACKAGES]
  if path.exists():
    _warn(path, packages)
    return
  kinds = [getattr(x, "device_kind", str(x)) for x in devices]
  record = {
    "command": shlex.join(["kdjax", *sys.argv[1:]]),
    "begun": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    "kdjax": __version__,
    "commit": _commit(),
    "devices": ", ".join(
      f"{kinds.count(x)} x {x}" for x in dict.fromkeys(kinds)
    ),
    "processor": _processor(),
    "cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
    "system": platform.platform(),
    "allocator": memory.allocator(),
    "python": platform.python_version(),
    "packages": ", ".join(packages),
  }
  workdirs.write_record(workdir, workdirs.ENVIRONMENT, record)


def read(workdir):
  """What `write` wrote, without folders, or an empty dict."""
  path = epath.Path(workdir) / workdirs.ENVIRONMENT
  if not path.exists():
    return {}
  return json.loads(words.without_folders(path.read_text()))


def _warn(path, packages):
  before = str(files.read_json(path).get("packages", "")).split(", ")
  if others := [x for x in packages if x not in before]:
    names = tuple(x.split()[0] for x in others)
    then = [x for x in before if x.startswith(names)]
    print(
      f"kdjax: {path.parent} was begun with {', '.join(then)}; it goes on with "
      f"{', '.join(others)}, which may round differently.",
      file=sys.stderr,
    )


def _commit():
  """The commit of the code, "+" when it was changed; "" outside a checkout."""
  folder = pathlib.Path(__file__).parent
  run = lambda *words: subprocess.run(
    ["git", "-C", folder, *words],
    capture_output=True,
    text=True,
    check=True,
    timeout=20,
  ).stdout.strip()
  try:
    dirty = run("status", "--porcelain", "--untracked-files=no", "--", ".")
    return run("rev-parse", "--short=12", "HEAD") + ("+" if dirty else "")
  except (OSError, subprocess.SubprocessError):
    return ""


def _processor():
  """The processor's name, where the system tells it."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor() or platform.machine()
  names = [x.split(":", 1)[1].strip() for x in lines if x[:10] == "model name"]
  return names[0] if names else platform.machine()
