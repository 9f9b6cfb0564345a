"""A stage's programs, compiled for devices that need not be there.

They are the programs of `stages.Programs`, lowered from shapes alone; the
compiler tells their arithmetic, traffic and memory, for one device.
"""

import dataclasses
import re
import sys
import time

import jax

from kdjax.engine import onednn
from kdjax.engine import parallel
from kdjax.engine import stages
from kdjax.plan import kernels
from kdjax.plan import shapes
from kdjax.plan import topology

# What the loop calls in every epoch, the likeliest not to fit first.
PROGRAMS = ("train_epoch", "evaluate", "finish_epoch")


class DoesNotFit(Exception):
  """A program wants more memory than a device has.

  Attributes:
    program: its name.
    needed: bytes that it wants, None where the compiler did not say.
  """

  def __init__(self, program, needed):
    super().__init__(program, needed)
    self.program = program
    self.needed = needed


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one call of a program costs a device; of an epoch, one step.

  Attributes:
    flops: operations.
    traffic: bytes read and written, as the compiler counts them; what stays in
      the chip's own memory is counted too.
    held: bytes of the arguments.
    working: bytes of temporaries, of results that take no argument's place and
      of the program itself.
    seconds: that compiling took.
    program: what was compiled, to be called or looked at.
    launched: `kernels.Kernels` of a GPU that is not there; else None.
  """

  flops: float
  traffic: float
  held: int
  working: int
  seconds: float
  program: jax.stages.Compiled = dataclasses.field(repr=False)
  launched: kernels.Kernels | None = None

  @property
  def text(self):
    """Optimised HLO."""
    return self.program.as_text()


@dataclasses.dataclass(frozen=True)
class StageCost:
  """A stage on the devices: how it is laid out and what its programs cost.

  Attributes:
    programs: `stages.Programs`.
    waves: rounds of blocks until all have trained.
    costs: `Cost` by name of the program.
    calls: how often an epoch runs each; of the training, its steps.
  """

  programs: stages.Programs
  waves: int
  costs: dict
  calls: dict

  @property
  def memory(self):
    """Bytes a device needs: what training holds stays during evaluation."""
    held = self.costs["train_epoch"].held
    return held + max(cost.working for cost in self.costs.values())

  def check_fits(self, memory):
    """Refuses what asks for more than `memory` bytes.

    TPUs' compiler does so itself; GPUs' leaves it to those who run the program.

    Raises:
      DoesNotFit: naming the program that asks for most.
    """
    if self.memory > memory:
      most = max(self.costs, key=lambda name: self.costs[name].working)
      raise DoesNotFit(f"{self.programs.stage.name}'s {most}", self.memory)


def compile_stage(study, stage, devices):
  """Compiles what `loop.run_stage` would run, and asks what it costs.

  Args:
    study: `Study`.
    stage: `stages.Stage`.
    devices: to compile for.

  Raises:
    DoesNotFit: a program wants more memory than a device has.
  """
  programs = stages.Programs(study, stage, len(study.blocks), devices)
  costs = {}
  for name in PROGRAMS:
    costs[name] = compile_program(programs, name)
    print(
      f"kdjax: {stage.name}'s {name} compiled in {costs[name].seconds:.0f} s.",
      file=sys.stderr,
    )
  wave = list(study.blocks[: programs.layout.wave])
  return StageCost(
    programs=programs,
    waves=-(-len(study.blocks) // programs.layout.wave),
    costs=costs,
    calls={
      "train_epoch": programs.steps_per_epoch,
      "evaluate": sum(1 for _ in programs.chunks(wave, "val")),
      "finish_epoch": 1,
    },
  )


def compile_program(programs, name):
  """The `Cost` of one of `PROGRAMS`.

  Raises:
    DoesNotFit: it wants more memory than a device has.
  """
  try:
    cost = compile_call(
      getattr(programs, name),
      shapes.arguments(programs)[name],
      scan=programs.layout.scan,
    )
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed, _ = topology.overflow(error)
    raise DoesNotFit(f"{programs.stage.name}'s {name}", needed) from error
  if name == "train_epoch":
    return _per_step(programs, cost)
  return _of_all_arms(programs, cost) if name == "evaluate" else cost


def operations(lowered):
  """Operations of a call of a `jax.stages.Lowered` for CPUs, oneDNN's too.

  They are counted before XLA fuses loops: one that makes an arm's part of what
  all arms have is counted as if it made all, once for every arm.
  """
  counted = lowered.cost_analysis()["flops"]
  return counted + onednn.operations(lowered.as_text(dialect="hlo"))


def compile_call(program, arguments, *, scan):
  """The `Cost` of a call.

  Args:
    program: what `jax.jit` or `jax.pmap` returned.
    arguments: its own, or their shapes.
    scan: whether it is for an accelerator, see `layouts.Layout`.
  """
  begun = time.perf_counter()
  lowered = program.lower(*arguments)
  compiled = lowered.compile()
  seconds = time.perf_counter() - begun
  memory = compiled.memory_analysis()
  launched = None
  if analysis := compiled.cost_analysis():
    # What a chip's compiler computes twice to save memory counts there.
    flops = analysis["flops"] if scan else operations(lowered)
    traffic = analysis["bytes accessed"]
  else:
    launched = kernels.count(compiled.as_text())
    flops, traffic = launched.flops, launched.traffic
  return Cost(
    flops=flops,
    traffic=traffic,
    held=memory.argument_size_in_bytes,
    working=memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.generated_code_size_in_bytes,
    seconds=seconds,
    program=compiled,
    launched=launched,
  )


def _per_step(programs, epoch):
  """A step's part of an epoch's `Cost`.

  The compiler counts the body of a loop once, and a loop that it has written
  out as often as it runs.
  """
  layout = programs.layout
  loop = r'while\(.*op_name="jit\(\w*\)(/shard_map)?/while'
  looped = re.search(f'{loop}"', epoch.text)
  repeats = programs.steps_per_epoch if layout.scan and not looped else 1
  flops, traffic = epoch.flops / repeats, epoch.traffic / repeats
  # Arms that take turns are a loop too.
  again = layout.block_ids.shape[1] * (layout.turns - 1)
  if again and re.search(f'{loop}/[^"]*/while"', epoch.text):
    turn = compile_call(
      parallel.make_arms_step(layout, programs.step),
      shapes.turn(programs),
      scan=layout.scan,
    )
    flops += again * turn.flops
    traffic += again * turn.traffic
  return dataclasses.replace(epoch, flops=flops, traffic=traffic)


def _of_all_arms(programs, evaluation):
  """The `Cost` of evaluating all arms.

  They may take turns in a loop, whose body the compiler counts once.
  """
  if "while(" not in evaluation.text:
    return evaluation
  turns = programs.layout.turns
  return dataclasses.replace(
    evaluation,
    flops=turns * evaluation.flops,
    traffic=turns * evaluation.traffic,
  )
