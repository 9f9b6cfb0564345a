"""The same study in another framework, as a process that answers by the line.

It starts from the same weights and sees the same rendered batches, so that what
it computes can be held against ours, and what it takes too.
"""

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import flax.traverse_util
import jax
import numpy as np

from kdjax.distill import axes
from kdjax.distill import mapped
from kdjax.engine import cores
from kdjax.engine import networks
from kdjax.engine import streams
from kdjax.errors import UserError

_SCRIPT = pathlib.Path(__file__).parents[2] / "tests/peers/torch_serial.py"

_ERRORS = "errors.txt"  # What it says before it dies.

# What the script has.
_NETWORKS = ("UNet", "EncoderUNet", "UNetPlusPlus")
_ENCODERS = ("resnet50", "resnet101", "resnet152", "efficientnet-lite0")
_LOSSES = ("MSE", "KLD")
_VIEWS = ("strong", "weak")
_PLATFORMS = ("cpu", "gpu")
_DTYPES = ("float32", "bfloat16")


class Peer:
  """A context in which the arms of a study train in PyTorch, one in turn.

  Every arm has a student and an optimizer of its own, and begins at the same
  weights.

  Attributes:
    process: it, while the context is entered.
  """

  def __init__(self, programs, block, teacher, states, batches=4, threads=0):
    """Prepares; nothing runs before the context is entered.

    Args:
      programs: `stages.Programs` of the student stage.
      block: `Block`, whose first batches are seen.
      teacher: `{"params", "batch_stats"}` of the teacher, not folded.
      states: `lanes.States` of one trial, that every arm starts from.
      batches: number of batches, seen again when they run out.
      threads: of its process; 0 is one for every core that it may use.

    Raises:
      UserError: PyTorch or the script is missing, or the study has what the
        script has not.
    """
    _check(programs.study)
    self._programs = programs
    self._block = block
    regressors = {name: x.params for name, x in states.regressors.items()}
    self._weights = (
      {
        "teacher": teacher["params"],
        "student": states.trials.params,
        "regressors": regressors,
      },
      {
        "teacher": teacher["batch_stats"],
        "student": states.trials.batch_stats,
      },
    )
    self._batches = batches
    # As many go without an answer as our own programs do.
    self._steps = programs.steps_per_epoch if programs.layout.scan else 1
    self._threads = threads or cores.cores()

  def __enter__(self):
    with contextlib.ExitStack() as stack:
      self._folder = pathlib.Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="kdjax-peer-"))
      )
      self._write()
      errors = stack.enter_context((self._folder / _ERRORS).open("wb"))
      self.process = subprocess.Popen(
        [sys.executable, str(_SCRIPT), str(self._folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
      )
      # Closes its input, at which it ends.
      stack.callback(self.process.communicate)
      self._read()
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error):
    self._stack.close()

  def step(self, arm):
    """Trains the arm named `arm` on; returns the seconds of a step.

    "Teacher" is a teacher that learns, beside the one that the arms ask.
    """
    return float(self._ask("step", arm, self._steps))

  def answer(self):
    """Asks the teacher about batches; returns the seconds of one."""
    return float(self._ask("answer", self._steps))

  def gradients(self, arm):
    """Losses and gradients of the arm's next step.

    Returns:
      `(losses, gradients)`: scalars by the names of `TrialState.sums`, and
      `{"student", "regressors"}` of the arm's own.
    """
    found = self._arrays("gradients", arm)
    return found.pop("loss"), found

  def parameters(self, arm):
    """Parameters `{"student", "regressors"}`, those of the arm."""
    return self._arrays("parameters", arm)

  def peak_bytes(self):
    """The most memory that the process has held."""
    return int(self._ask("peak"))

  def _write(self):
    study = _describe(self._programs.study) | {"threads": self._threads}
    (self._folder / "study.json").write_text(json.dumps(study))
    weights = {}
    for tree in self._weights:
      weights |= flax.traverse_util.flatten_dict(tree, sep="/")
    np.savez(self._folder / "weights.npz", **weights)
    np.savez(self._folder / "batches.npz", **self._render())

  def _render(self):
    """Batches as arrays `[T, B, ...]`: "image", "mask" and the views."""
    programs = self._programs
    stream = streams.draw(
      programs.study.folds[self._block.fold].train,
      self._block,
      0,
      self._batches,
      programs.stage.training.batch_size,
    )
    rendered = []
    for cases, epochs in zip(stream["cases"], stream["epochs"], strict=True):
      batch, inputs, _ = programs.render_batch(
        {"key": self._block.key}, programs.data, cases, epochs
      )
      rendered.append(jax.device_get({**batch, **inputs}))
    return jax.tree.map(lambda *x: np.stack(x), *rendered)

  def _arrays(self, command, arm):
    file = self._folder / "answer.npz"
    self._ask(command, arm, file)
    with np.load(file) as arrays:
      return flax.traverse_util.unflatten_dict(dict(arrays), sep="/")

  def _ask(self, *words):
    try:
      print(*words, file=self.process.stdin, flush=True)
    except BrokenPipeError:
      pass  # What it died of is read next.
    return self._read()

  def _read(self):
    """The next line that it prints.

    Raises:
      UserError: it ended instead.
    """
    if line := self.process.stdout.readline():
      return line.strip()
    errors = (self._folder / _ERRORS).read_text(errors="replace")
    last = (errors.strip().splitlines() or ["it said nothing"])[-1]
    raise UserError(
      f"--peer torch: {_SCRIPT.name} ended ({last}): put this right, or leave "
      "out --peer."
    )


def _check(study):
  if importlib.util.find_spec("torch") is None:
    raise UserError(
      "--peer torch: PyTorch is not installed: pip install 'kdjax[peer]'."
    )
  if not _SCRIPT.is_file():
    raise UserError(
      f"--peer torch: {_SCRIPT} is not there: run kdjax from a checkout of its "
      "repository (pip install --editable)."
    )
  if (platform := jax.default_backend()) not in _PLATFORMS:
    raise _missing(platform, _PLATFORMS)
  if (dtype := study.config.engine.dtype) not in _DTYPES:
    raise _missing(f"engine.dtype={dtype}", _DTYPES)
  schedule = study.config.student_training.schedule
  if schedule != "constant" or study.config.student_training.warmup:
    raise _missing(f"student_training.schedule={schedule}", ("constant",))
  if any(arm.numbers["soft_dice"] for arm in study.arms):
    raise _missing("grid.soft_dice above 0", ("0",))
  for role in ("teacher", "student"):
    spec = study.config[role]
    if spec.name not in _NETWORKS:
      raise _missing(f"{role}.name={spec.name}", _NETWORKS)
    if spec.get("encoder", _ENCODERS[0]) not in _ENCODERS:
      raise _missing(f"{role}.encoder={spec.encoder}", _ENCODERS)
  for objective in mapped.objectives(study.arms):
    if objective.loss not in _LOSSES:
      raise _missing(f"grid.loss={objective.loss}", _LOSSES)
  for view in mapped.views(study.arms):
    if view not in _VIEWS:
      raise _missing(f"grid.view={view}", _VIEWS)
  for arm in study.arms:
    if arm.control:
      raise _missing(f"grid.source={arm.source}", axes.SOURCES[:1])


def _missing(what, known):
  return UserError(
    f"--peer torch has no {what}: choose from {', '.join(known)}, or leave out "
    "--peer."
  )


def _describe(study):
  """The study's networks and arms, in what JSON has."""
  return {
    "teacher": _spec(study, "teacher"),
    "student": _spec(study, "student"),
    "arms": [_arm(arm, "student") for arm in study.arms],
    "trained_teacher": _trained_teacher(study),
    "dtype": study.config.engine.dtype,
    "platform": jax.default_backend(),
  }


def _spec(study, role):
  """Name and attributes of a network, weights aside."""
  model = study.make_model(role)
  attributes = {
    field.name: getattr(model, field.name)
    for field in dataclasses.fields(model)
    if field.name not in (*networks.NOT_CONFIGURED, "weights")
  }
  return {"name": type(model).__name__, **attributes}


def _trained_teacher(study):
  """A teacher that learns, from the first view that the grid renders."""
  (arm,) = study.teacher_stage.arms
  view = mapped.views(study.arms)[0]
  return _arm(dataclasses.replace(arm, view=view), "teacher")


def _arm(arm, role):
  """An arm, its objective's fields among its own."""
  fields = dataclasses.asdict(arm) | {"role": role}
  objective = fields.pop("objective") or {"pathway": None, "pairs": ()}
  return {**fields, **fields.pop("numbers"), **objective}
