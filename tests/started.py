"""Commands in processes of their own: watched, waited for, never left behind.

How long one takes is the machine's affair, so nothing here has a deadline: a
command counts as hanging when it has said nothing for `SILENCE`.
"""

import importlib.metadata
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time

SILENCE = 600  # Seconds; the longest without a word is a compilation.

_started = []


# Networks of two levels, which trace and compile in a third of the time.
SMALL = {
  "teacher.widths": "4,6,8",
  "teacher.decoder_widths": "6,4",
  "student.widths": "3,5",
  "student.decoder_widths": "3,",
  # Unlike oneDNN's calls these programs can be kept, so that a run that is
  # started for the twentieth time compiles nothing.
  "engine.lowering": "plain",
}

# In the environment: compile as a user's process does, in twice the time.
AS_SHIPPED = "TESTS_COMPILE_AS_SHIPPED"


def xla_flags(devices):
  """Has XLA see so many CPUs, and compile for them in half the time.

  By its older emitters of loops, which the next one no longer has; unless the
  environment says `AS_SHIPPED`.
  """
  flags = f"--xla_force_host_platform_device_count={devices}"
  quick = importlib.metadata.version("jaxlib") < "0.11"
  if quick and AS_SHIPPED not in os.environ:
    flags += " --xla_cpu_use_fusion_emitters=false"
  return flags


def environment(devices=1, **more):
  """Where a command runs: a CPU of `devices`, quickly compiled for.

  With a cache of compilations that all of them share, and the tests' own
  process does not: they are killed while they write it.
  """
  kept = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"], "commands")
  return {
    **os.environ,
    "JAX_COMPILATION_CACHE_DIR": str(kept),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": xla_flags(devices),
    **more,
  }


def flags(settings):
  """Of a command: fields of a config by their dotted names."""
  return [f"--config.{name}={value}" for name, value in settings.items()]


class Process:
  """A command under way, the leader of a group of processes.

  Attributes:
    pid: its number, and its group's.
  """

  def __init__(self, command, **options):
    """Starts `command`; `options` are `Popen`'s."""
    # Files, since a pipe that nobody reads fills up, and then stops it.
    self._files = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    stdout, stderr = self._files
    options = {"stdout": stdout, "stderr": stderr} | options
    # Has an end when all of the group have closed theirs, which is to be dead.
    self._life, held = os.pipe()
    self._process = subprocess.Popen(
      [str(word) for word in command],
      start_new_session=True,
      pass_fds=[held],
      **options,
    )
    os.close(held)
    self.pid = self._process.pid
    _started.append(self)

  @property
  def out(self):
    """What it has written on stdout."""
    return self._read(self._files[0])

  @property
  def err(self):
    """What it has written on stderr."""
    return self._read(self._files[1])

  @property
  def status(self):
    """Its exit status; None while it lives."""
    return self._process.poll()

  def wait_for(self, seen):
    """Waits until `seen()`; False if the command ends without."""
    said, since = None, time.monotonic()
    while self.status is None:
      if seen():
        return True
      now = [os.fstat(x.fileno()).st_size for x in self._files]
      if now != said:
        said, since = now, time.monotonic()
      assert time.monotonic() - since < SILENCE, self.err
      time.sleep(0.005)
    return seen()

  def ended(self):
    """Waits for its end; returns its exit status."""
    self.wait_for(lambda: False)
    return self.status

  def finish(self):
    """Waits for its end, which has to be a good one; returns its stdout."""
    assert self.ended() == 0, self.err
    return self.out

  def send(self, number):
    """Sends a signal to it alone."""
    self._process.send_signal(number)

  def stop(self, number=signal.SIGKILL):
    """Sends a signal to it, SIGKILL to its group; waits for the end."""
    if number != signal.SIGKILL:
      self.send(number)
    elif not select.select([self._life], [], [], 0)[0]:
      os.killpg(self.pid, number)
      os.read(self._life, 1)
    return self.ended()

  def close(self):
    """Kills what lives of its group; forgets what it said."""
    self.stop()
    os.close(self._life)
    for file in self._files:
      file.close()

  @staticmethod
  def _read(file):
    # Not `read`: the place in the file is the command's, too.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def end_all():
  """Kills what still runs, for the end of a test."""
  while _started:
    _started.pop().close()
