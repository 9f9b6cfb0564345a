"""The ways to train the arms of a study that are timed beside each other."""

from concurrent import futures
import dataclasses
import functools
import time
import typing

import jax
import numpy as np

from kdjax.bench import choices
from kdjax.bench import peer
from kdjax.distill import trials
from kdjax.engine import batches
from kdjax.engine import checkpoint
from kdjax.engine import cores
from kdjax.engine import stages
from kdjax.engine import waves
from kdjax.plan import compiled

# Numbers of trials in one program.
SIZES = (1, 2, 4, 8, 12, 24, 36)
NAMES = ("alone", "serial", "fused", "fused_cached", "fused_alike")


class Program:
  """The train step of some arms in one program, ready to be repeated.

  Attributes:
    trials: number of arms.
    cost: `compiled.Cost` of a step.
    states: theirs.
  """

  def __init__(self, study, arms, shared):
    """Compiles it and makes its states.

    Args:
      study: `Study`; its first block is trained.
      arms: the trials.
      shared: what `share` returned; without its teacher where arms distil
        nothing.
    """
    stage = dataclasses.replace(study.student_stage, arms=tuple(arms))
    if not shared["teacher"]:
      stage = dataclasses.replace(stage, teacher=None)
    programs = _programs(study, stage)
    self.trials = len(arms)
    self.cost = compiled.compile_program(programs, "train_epoch")
    block = study.blocks[0]
    self.states = waves.start_states(
      programs, [block], {block: checkpoint.Progress()}
    )
    self._rest = (
      programs.lanes([block]),
      programs.remember([block], shared),
      programs.data,
    )
    batches = programs.batches([block], {block: 0})
    self._batches = programs.layout.parts(batches)
    # An epoch is one call where steps are scanned.
    self._steps = self._batches[0]["counts"].shape[1]
    self._count = 0

  def step(self):
    """Trains on; returns the seconds of a step."""
    batch = self._batches[self._count % len(self._batches)]
    self._count += 1
    begun = time.perf_counter()
    self.states = jax.block_until_ready(
      self.cost.program(self.states, *self._rest, batch)
    )
    return (time.perf_counter() - begun) / self._steps


@dataclasses.dataclass(frozen=True, eq=False)
class Mode:
  """A way to train: one or more programs in turn.

  Attributes:
    name: as in bench.csv.
    trials: that it trains.
    runs: each trains its share for a step and returns the seconds it took.
    costs: `compiled.Cost` of each; none where another program than ours runs.
    objectives: how many different ones its trials have.
    peak: returns the bytes that are in memory at most.
  """

  name: str
  trials: int
  runs: tuple
  costs: tuple
  objectives: int
  peak: typing.Callable[[], int]

  @property
  def compile_seconds(self):
    """That compiling all of it took."""
    return sum(cost.seconds for cost in self.costs)

  @property
  def flops(self):
    """Operations of a step of all trials, as the compiler counts them."""
    return sum(cost.flops for cost in self.costs)


def make_modes(study, teacher, say, names=NAMES, sizes=SIZES):
  """Compiles kdjax's own modes.

  Args:
    study: `Study` with a grid of distilling arms, both views among them.
    teacher: what `untrained_teacher` returned.
    say: called with a line after each compilation.
    names: those of `NAMES` that are wanted.
    sizes: numbers of trials of the fused programs.

  Returns:
    A list of `Mode`.
  """
  arms = choices.distilling(study)
  taught = share(study, teacher)

  def mode(name, *groups, shared=taught):
    programs = []
    for group in groups:
      program = Program(study, group, shared)
      say(f"{name} {len(group)}: compiled in {program.cost.seconds:.1f} s")
      programs.append(program)
    return Mode(
      name,
      sum(program.trials for program in programs),
      tuple(program.step for program in programs),
      tuple(program.cost for program in programs),
      len(trials.objectives(arm for group in groups for arm in group)),
      # Arguments and temporaries of the largest.
      lambda: max(x.cost.held + x.cost.working for x in programs),
    )

  student = next(arm for arm in study.arms if not arm.objective)
  untaught = {**taught, "teacher": {}}
  makers = {
    "alone": lambda name: [mode(name, [student], shared=untaught)],
    "serial": lambda name: [mode(name, *([arm] for arm in arms))],
    "fused": lambda name: [
      mode(name, choices.enough(arms, size)) for size in sizes
    ],
    "fused_cached": lambda name: [
      mode(name, choices.enough(choices.once_asked(arms), len(arms)))
    ],
    "fused_alike": lambda name: [
      mode(name, choices.enough(choices.alike(arms, count), len(arms)))
      for count in choices.fewer(len(trials.objectives(arms)))
    ],
  }
  return [made for name in names for made in makers[name](name)]


def parts(study, serial):
  """Operations of what no grid of these arms can do without.

  Of a step of every arm by itself without what its teacher says, and of an
  answer of the teacher to every view, as far as the arms read it.

  Args:
    study: `Study`.
    serial: the `Mode` of its arms in turn.
  """
  arms = choices.distilling(study)
  views = {arm.view: [] for arm in arms}
  for arm in arms:
    views[arm.view].append(arm)
  answer = functools.cache(functools.partial(_answer_flops, study))
  read = lambda some: answer(trials.objectives(some))
  return (
    serial.flops
    - sum(read([arm]) for arm in arms)
    + sum(read(some) for some in views.values())
  )


def _answer_flops(study, objectives):
  """Operations of one answer of the teacher to a batch, as these read it."""
  stage = study.student_stage

  def answer(*given):
    logits, features = batches.answer(
      *given,
      teacher=stage.teacher,
      teacher_taps=trials.taps(objectives, 1),
      look=study.make_look("teacher"),
    )
    return None if all(x.pairs for x in objectives) else logits, features

  shapes = functools.partial(jax.tree.map, jax.typeof)
  block = {"teacher": compiled.teacher_shapes(study)}
  data = {"images": shapes(study.dataset.images)}
  cases = np.arange(stage.training.batch_size)
  return compiled.operations(jax.jit(answer).lower(block, data, cases))


def untrained_teacher(study):
  """Random weights in the place of a teacher's best: they cost the same."""
  programs = _programs(study, study.teacher_stage)
  state = _initial(programs).trials
  return {
    study.blocks[0]: jax.tree.map(
      lambda x: np.asarray(x)[None],
      {"params": state.best_params, "batch_stats": state.best_batch_stats},
    )
  }


def share(study, teacher):
  """What the first block's trials share in every program, on the device.

  Args:
    study: `Study`.
    teacher: what `untrained_teacher` returned.
  """
  programs = _programs(study, study.student_stage)
  return waves.share(programs, [study.blocks[0]], teacher)


def make_peers(study, teacher):
  """The distilling arms in PyTorch, from the same weights and batches.

  Args:
    study: `Study`.
    teacher: what `untrained_teacher` returned.

  Returns:
    `peer.Peer`s, to be entered as contexts: one that has all cores, and on a
    CPU of several cores one more for each of them, with a thread each.

  Raises:
    UserError: PyTorch is missing, or it lacks something that the study has.
  """
  study = dataclasses.replace(study, arms=tuple(choices.distilling(study)))
  programs = _programs(study, study.student_stage)
  block = study.blocks[0]
  start = functools.partial(
    peer.Peer,
    programs,
    block,
    jax.tree.map(lambda x: x[0], teacher[block]),
    _initial(programs),
  )
  several = jax.default_backend() == "cpu" and cores.cores() > 1
  alone = [start(threads=1) for _ in range(cores.cores() if several else 0)]
  return [start(), *alone]


def torch_modes(study, entered):
  """The `Mode`s of what `make_peers` returned, once entered."""
  arms = [arm.name for arm in choices.distilling(study)]
  whole, *alone = entered
  in_turn = tuple(functools.partial(whole.step, arm) for arm in arms)
  count = len(trials.objectives(choices.distilling(study)))
  found = [
    Mode("torch_serial", len(arms), in_turn, (), count, whole.peak_bytes)
  ]
  if alone:
    at_once = functools.partial(_at_once, alone, arms)
    peak = lambda: sum(x.peak_bytes() for x in alone)
    found.append(Mode("torch_by_core", len(arms), (at_once,), (), count, peak))
  return found


def _at_once(processes, arms):
  """Seconds of a step of all arms, which the processes share."""

  def turn(number):
    for arm in arms[number :: len(processes)]:
      processes[number].step(arm)

  begun = time.perf_counter()
  with futures.ThreadPoolExecutor(len(processes)) as pool:
    list(pool.map(turn, range(len(processes))))
  return time.perf_counter() - begun


def _programs(study, stage):
  """Those of the first block on one device."""
  study = dataclasses.replace(study, arms=stage.arms, blocks=study.blocks[:1])
  device = jax.local_devices()[0]
  if device.platform == "cpu":  # Where turns are no one program.
    study = study.changed({"engine.arms_at_once": len(stage.arms)})
  return stages.Programs(study, stage, 1, [device])


def _initial(programs):
  """The first block's fresh trial, on the host."""
  return jax.device_get(programs.init(programs.study.blocks[0].key, {}))
