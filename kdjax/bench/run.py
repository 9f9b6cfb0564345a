"""One run of the bench: a step of every mode in turn, round after round."""

import contextlib
import dataclasses
import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from tqdm import tqdm

from kdjax import files
from kdjax import recorded
from kdjax.bench import modes
from kdjax.bench import programs
from kdjax.bench import record
from kdjax.engine import convolution
from kdjax.engine import memory
from kdjax.engine import networks
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.report import environment


@dataclasses.dataclass(frozen=True)
class Measured:
  """What a bench found.

  Attributes:
    rows: dicts with the columns of bench.csv.
    best_rate: operations a second of this machine's quickest convolution.
    parts: operations of the arms by themselves and of the teacher's answers to
      every view, see `modes.parts`; None where they were not counted.
  """

  rows: list
  best_rate: float
  parts: float | None


def write(config, workdir, rounds, with_torch, names, sizes):
  """Runs a bench and writes what it found; returns its table.

  Args:
    config: `ConfigDict`, whose grid is timed.
    workdir: where to.
    rounds: as `run` takes it.
    with_torch: the same.
    names: the same.
    sizes: the same.

  Raises:
    UserError: a flag is out of range, or what `run` and `make_study` refuse.
  """
  if rounds < 1:
    raise UserError(f"--rounds={rounds}: at least 1.")
  if unknown := set(names) - set(modes.NAMES):
    raise UserError(
      f"--modes={','.join(sorted(unknown))}: choose from "
      f"{', '.join(modes.NAMES)}."
    )
  if min(sizes) < 1:
    raise UserError(f"--trials={min(sizes)}: at least 1.")
  networks.refuse_answers(config, "bench")
  study = studies.make_study(config, workdir)
  with files.lock(workdir):
    recorded.claim(config, workdir)
    environment.write(workdir, jax.devices())
    measured = run(study, rounds, with_torch, names, sizes)
    record.write(measured, workdir)
  return record.table(measured)


def run(study, rounds, with_torch, names=modes.NAMES, sizes=modes.SIZES):
  """Times every mode `rounds` times, interleaved, after a round to warm up.

  Args:
    study: `Study`.
    rounds: that count.
    with_torch: whether PyTorch trains the same arms too: in turn with all
      cores, and in a process for every core.
    names: kdjax's own modes, of `modes.NAMES`.
    sizes: numbers of trials of the fused programs.

  Returns:
    `Measured`.

  Raises:
    UserError: the grid distils nothing, or PyTorch is not there.
  """
  with contextlib.ExitStack() as stack:
    # It refuses what it cannot train before minutes of compiling.
    teacher, peers = programs.untrained_teacher(study), []
    if with_torch:
      started = modes.make_peers(study, teacher, names)
      peers = [*map(stack.enter_context, started)]
    say = lambda x: print(x, file=sys.stderr)
    every = modes.make_modes(study, teacher, say, names, sizes)
    if peers:
      every += modes.torch_modes(study, peers, names)
    memory.release()
    # What a step frees the allocator keeps. The next one takes it again only
    # where it asks for no more, so that the largest goes first.
    turns = sorted(every, key=lambda mode: mode.peak(), reverse=True)
    seconds = {mode: [] for mode in every}
    rates = []
    bar = stack.enter_context(
      tqdm(total=(1 + rounds) * len(every), unit="mode", file=sys.stderr)
    )
    for _ in range(1 + rounds):
      rates.append(best_rate(study.config.engine))
      for mode in turns:
        bar.set_postfix_str(f"{mode.name} {mode.trials}")
        seconds[mode].append(sum(step() for step in mode.runs))
        bar.update()
    serial = next((x for x in every if x.name == "serial"), None)
    rows = [record.row(mode, seconds[mode][1:]) for mode in every]
  return Measured(
    rows=rows,
    best_rate=max(rates),
    parts=modes.parts(study, serial) if serial else None,
  )


def best_rate(engine):
  """Operations a second of the quickest of some 3x3 convolutions, forward.

  Args:
    engine: of a config: the lowering that is tried beside XLA's, and the type
      of numbers.
  """
  rates = []
  lowerings = {convolution.plain, convolution.choose(engine.lowering)}
  for side, width in ((64, 64), (32, 128), (16, 256)):
    images = jnp.ones((16, side, side, width), engine.dtype)
    kernel = jnp.ones((3, 3, width, width), engine.dtype)
    for lowering in lowerings:
      _convolve(images, kernel, lowering).block_until_ready()
      times = []
      for _ in range(3):
        begun = time.perf_counter()
        _convolve(images, kernel, lowering).block_until_ready()
        times.append(time.perf_counter() - begun)
      flops = 2 * 16 * side**2 * 9 * width**2
      rates.append(flops / statistics.median(times))
  return max(rates)


@functools.partial(jax.jit, static_argnums=2)
def _convolve(images, kernel, lowering):
  numbers = jax.lax.conv_dimension_numbers(
    images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC")
  )
  return lowering(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
