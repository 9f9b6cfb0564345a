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
from kdjax.bench import programs
from kdjax.distill import mapped
from kdjax.engine import cores
from kdjax.plan import compiled
from kdjax.plan import shapes

# Numbers of trials in one program.
SIZES = (1, 2, 4, 8, 12, 24, 36)
NAMES = (
  "alone",
  "serial",
  "fused",
  "fused_cached",
  "fused_alike",
  "teacher",
  "answer",
)


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
  taught = programs.share(study, teacher)

  def join(name, made, objectives):
    ready = []
    for program in made:
      say(f"{name} {program.trials}: compiled in {program.cost.seconds:.1f} s")
      ready.append(program)
    return Mode(
      name,
      sum(program.trials for program in ready),
      tuple(program.step for program in ready),
      tuple(program.cost for program in ready),
      objectives,
      # Arguments and temporaries of the largest.
      lambda: max(x.cost.held + x.cost.working for x in ready),
    )

  def mode(name, *groups, stage=study.student_stage, shared=taught):
    made = (
      programs.Program(
        study, dataclasses.replace(stage, arms=tuple(group)), shared
      )
      for group in groups
    )
    every = [arm for group in groups for arm in group]
    return join(name, made, len(mapped.objectives(every)))

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
      for count in choices.fewer(len(mapped.objectives(arms)))
    ],
    "teacher": lambda name: [
      mode(
        name,
        study.teacher_stage.arms,
        stage=study.teacher_stage,
        shared=untaught,
      )
    ],
    "answer": lambda name: [join(name, [programs.Answer(study, taught)], 0)],
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
  read = lambda some: answer(mapped.objectives(some))
  return (
    serial.flops
    - sum(read([arm]) for arm in arms)
    + sum(read(some) for some in views.values())
  )


def _answer_flops(study, objectives):
  """Operations of one answer of the teacher to a batch, as these read it."""
  block = {"teacher": shapes.teacher(study)}
  data = {"images": jax.typeof(study.dataset.images)}
  cases = np.arange(study.student_stage.training.batch_size)
  answer = jax.jit(programs.answering(study, objectives))
  return compiled.operations(answer.lower(block, data, cases))


def make_peers(study, teacher, names=NAMES):
  """The same in PyTorch, from the same weights and batches.

  Args:
    study: `Study`.
    teacher: what `untrained_teacher` returned.
    names: those of `NAMES` that are timed.

  Returns:
    `peer.Peer`s, to be entered as contexts: one that has all cores, and on a
    CPU of several cores, for the arms, one more for each, with a thread each.

  Raises:
    UserError: PyTorch is missing, or it lacks something that the study has.
  """
  study = dataclasses.replace(study, arms=tuple(choices.distilling(study)))
  made = programs.make(study, study.student_stage)
  block = study.blocks[0]
  start = functools.partial(
    peer.Peer,
    made,
    block,
    jax.tree.map(lambda x: x[0], teacher[block]),
    programs.initial(made),
  )
  several = jax.default_backend() == "cpu" and cores.cores() > 1
  processes = cores.cores() if several and _of_arms(names) else 0
  return [start(), *(start(threads=1) for _ in range(processes))]


def torch_modes(study, entered, names=NAMES):
  """The `Mode`s of what `make_peers` returned, once entered.

  The arms in turn, and shared by processes if there are several; a teacher that
  learns, and its answer.
  """
  arms = [arm.name for arm in choices.distilling(study)]
  objectives = len(mapped.objectives(choices.distilling(study)))
  whole, *alone = entered
  peak = whole.peak_bytes
  found = []
  if _of_arms(names):
    in_turn = tuple(functools.partial(whole.step, arm) for arm in arms)
    found += [Mode("torch_serial", len(arms), in_turn, (), objectives, peak)]
  if alone:
    at_once = functools.partial(_at_once, alone, arms)
    sum_of = lambda: sum(x.peak_bytes() for x in alone)
    found += [
      Mode("torch_by_core", len(arms), (at_once,), (), objectives, sum_of)
    ]
  runs = {
    "teacher": functools.partial(whole.step, "Teacher"),
    "answer": whole.answer,
  }
  return found + [
    Mode(f"torch_{name}", 1, (run,), (), 0, peak)
    for name, run in runs.items()
    if name in names
  ]


def _of_arms(names):
  """Whether some of the modes train arms."""
  return bool(set(names) - {"teacher", "answer"})


def _at_once(processes, arms):
  """Seconds of a step of all arms, which the processes share."""

  def turn(number):
    for arm in arms[number :: len(processes)]:
      processes[number].step(arm)

  begun = time.perf_counter()
  with futures.ThreadPoolExecutor(len(processes)) as pool:
    list(pool.map(turn, range(len(processes))))
  return time.perf_counter() - begun
