"""Programs of a study that a bench repeats: a step of some arms, an answer."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.distill import mapped
from kdjax.engine import batches
from kdjax.engine import checkpoint
from kdjax.engine import stages
from kdjax.engine import waves
from kdjax.plan import compiled


class Program:
  """The train step of some arms in one program, ready to be repeated.

  Attributes:
    trials: number of arms.
    cost: `compiled.Cost` of a step.
    states: theirs.
  """

  def __init__(self, study, stage, shared):
    """Compiles it and makes its states.

    Args:
      study: `Study`; its first block is trained.
      stage: `stages.Stage` with the trials.
      shared: what `share` returned; without its teacher where arms distil
        nothing.
    """
    if not shared["teacher"]:
      stage = dataclasses.replace(stage, teacher=None)
    programs = make(study, stage)
    self.trials = len(stage.arms)
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


class Answer:
  """The teacher's answer to a batch, ready to be repeated.

  Attributes:
    trials: 1, as of a `Program`.
    cost: `compiled.Cost` of an answer.
  """

  trials = 1

  def __init__(self, study, shared):
    """Compiles it.

    Args:
      study: `Study`.
      shared: what `share` returned.
    """
    stage, device = study.student_stage, jax.local_devices()[0]
    teacher = jax.tree.map(lambda x: jnp.asarray(x)[0, 0], shared["teacher"])
    cases = np.arange(stage.training.batch_size)
    self._given = jax.device_put(
      ({"teacher": teacher}, {"images": study.dataset.images}, cases), device
    )
    self.cost = compiled.compile_call(
      jax.jit(answering(study, ())), self._given, scan=device.platform != "cpu"
    )

  def step(self):
    """Asks; returns the seconds that it took."""
    begun = time.perf_counter()
    jax.block_until_ready(self.cost.program(*self._given))
    return time.perf_counter() - begun


def answering(study, objectives):
  """`batches.answer` of what `objectives` read; of none, the logits."""
  logits_read = not objectives or not all(x.pairs for x in objectives)

  def answer(*given):
    logits, features = batches.answer(
      *given,
      teacher=study.student_stage.teacher,
      teacher_taps=mapped.taps(objectives, 1),
      look=study.make_look("teacher"),
    )
    return logits if logits_read else None, features

  return answer


def untrained_teacher(study):
  """Random weights in the place of a teacher's best: they cost the same."""
  programs = make(study, study.teacher_stage)
  state = initial(programs).trials
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
  programs = make(study, study.student_stage)
  return waves.share(programs, [study.blocks[0]], teacher)


def make(study, stage):
  """A stage's `stages.Programs` of the first block, on one device."""
  study = dataclasses.replace(study, arms=stage.arms, blocks=study.blocks[:1])
  device = jax.local_devices()[0]
  if device.platform == "cpu":  # Where turns are no one program.
    study = study.changed({"engine.arms_at_once": len(stage.arms)})
  return stages.Programs(study, stage, 1, [device])


def initial(programs):
  """The first block's fresh trial, on the host."""
  return jax.device_get(programs.init(programs.study.blocks[0].key, {}))
