"""What is refused before anything is compiled, with the field at fault."""

import jax
import numpy as np

from kdjax.distill import mapped
from kdjax.distill import pathways
from kdjax.distill import sense
from kdjax.distill import taps
from kdjax.engine import batches
from kdjax.engine import convolution
from kdjax.engine import levels
from kdjax.engine import memory
from kdjax.engine import networks
from kdjax.engine import pruning
from kdjax.engine import rungs
from kdjax.engine import schedules
from kdjax.errors import UserError

# What may choose the best epoch.
SELECT = ("loss", "dice")


def check_engine(engine):
  """Refuses a lowering or type of numbers that is not there."""
  if engine.lowering not in ("auto", *convolution.LOWERINGS):
    raise UserError(
      f"engine.lowering={engine.lowering!r}: choose from auto, "
      f"{', '.join(convolution.LOWERINGS)}."
    )
  if engine.dtype not in ("float32", "bfloat16", "float64"):
    raise UserError(
      f"engine.dtype={engine.dtype!r}: choose from float32, bfloat16, float64."
    )
  if engine.dtype == "float64" and not jax.config.jax_enable_x64:
    raise UserError("engine.dtype=float64 needs JAX_ENABLE_X64=1 set.")


def check_regressor(regressor):
  """Refuses an activation that is not there."""
  if regressor.activation not in pathways.ACTIVATIONS:
    raise UserError(
      f"regressor.activation={regressor.activation!r}: choose from "
      f"{', '.join(pathways.ACTIVATIONS)}."
    )


def check_compression(config):
  """Refuses what cannot be asked of pruning, or of a teacher's."""
  pruned, smaller = config.pruning, config.teacher_compression
  if smaller.sparsity or smaller.bits:
    networks.refuse_answers(config, "teacher_compression")
  if pruned.scope not in pruning.SCOPES:
    raise UserError(
      f"pruning.scope={pruned.scope!r}: choose from "
      f"{', '.join(pruning.SCOPES)}."
    )
  if pruned.begin >= pruned.end:
    raise UserError(
      f"pruning.begin={pruned.begin} is not before pruning.end={pruned.end}."
    )


def check_training(config, cases):
  """Refuses batches larger than the data set, and schedules that cannot be."""
  for role in ("teacher_training", "student_training"):
    training = config[role]
    if (size := training.batch_size) > cases:
      raise UserError(
        f"{role}.batch_size={size} is more than the data set's {cases} cases."
      )
    for name, known in (("schedule", schedules.SCHEDULES), ("select", SELECT)):
      if training[name] not in known:
        raise UserError(
          f"{role}.{name} has no {training[name]!r}: choose from "
          f"{', '.join(known)}."
        )
    if training.schedule in schedules.DECAYING and training.patience:
      raise UserError(
        f"{role}.patience={training.patience}: a rate that decays has to be "
        "trained to its end, where networks are at their best: set "
        "patience=0, or schedule=constant."
      )


def check_masks(study):
  """Refuses a region that nothing teaches, or a Dice that nothing defines."""
  masks, names = study.dataset.masks, study.dataset.regions
  for fold in dict.fromkeys(block.fold for block in study.blocks):
    taught = set(np.unique(masks[study.folds[fold].train]))
    for number, name in enumerate(names, start=1):
      # One alone may be missing, as in a study of false alarms.
      if len(names) > 1 and number not in taught:
        raise UserError(
          f"data.regions: no training case of fold {fold} shows {name}: leave "
          "it out, or split otherwise."
        )
    for role in ("teacher_training", "student_training"):
      chosen = study.config[role].select
      if chosen == "dice" and not masks[study.folds[fold].val].any():
        raise UserError(
          f"{role}.select=dice: no validation case of fold {fold} has a "
          "lesion: set select=loss."
        )


def check_models(study):
  """Refuses networks that cannot be, be held, or be distilled as asked."""
  config = study.config
  for role in ("teacher", "student"):
    model = study.make_model(role)
    names = study.dataset.regions
    if model.num_classes != len(names) + 1:
      raise UserError(
        f"{role}.num_classes={model.num_classes}: background and "
        f"{', '.join(names)} are {len(names) + 1}."
      )
    if model.in_channels not in (1, 3):
      raise UserError(
        f"{role}.in_channels={model.in_channels}: images have 1 or 3 channels."
      )
    colours = config.data.channels == 3 and not networks.is_answers(model)
    if colours and model.in_channels == 1:
      raise UserError(
        f"{role}.in_channels=1, but data.channels=3: set 3, or data.channels=1 "
        "for grey."
      )
    if config.data.image_size % model.stride:
      raise UserError(
        f"data.image_size={config.data.image_size} is not a multiple of "
        f"{model.stride}, which {role} needs."
      )
    try:
      variables = networks.shapes(model, study.blank(role))
    # Tracing raises whatever a network that cannot be provokes.
    except Exception as error:
      raise UserError(f"{role} makes no network: {error}") from error
    study.load_weights(role)
    side = ("student", "teacher").index(role)
    wanted = mapped.taps(mapped.objectives(study.arms), side)
    try:
      networks.features(model, study.blank(role), wanted)
    except ValueError as error:
      raise UserError(
        f"grid.pair: the {role} {error}; it has "
        f"{', '.join(taps.levels(variables))}."
      ) from error
  _check_objectives(study)
  _check_cache(study)
  for role in ("teacher", "student"):
    _check_memory(study, role)


def _check_memory(study, role):
  """Refuses a network whose trials no device could hold."""
  arms = rungs.most(study) if role == "student" else 1
  variables = networks.shapes(study.make_model(role), study.blank(role))
  # Parameters, Adam's two moments, and the best epoch's parameters.
  held = 4 * arms * sum(x.size * 4 for x in jax.tree.leaves(variables))
  there = memory.of_device(jax.local_devices()[0])
  devices = jax.local_device_count()
  if there and held > there * devices:
    raise UserError(
      f"{role}: its {arms} trial(s) of a block would hold {held:,} bytes on "
      f"{devices} device(s) of {there:,}: make it smaller."
    )


def _check_cache(study):
  """Refuses a cache of the teacher's maps that no device could hold."""
  answers = [x for x in mapped.answers(study.arms) if x[0] == "cached"]
  if not answers:
    return
  model = study.make_model("teacher")
  side = study.config.data.image_size
  features = networks.features(
    model,
    study.blank("teacher"),
    mapped.taps(mapped.objectives(study.arms), 1),
  )
  an_image = 4 * side**2 * model.num_classes + sum(
    x.size * x.dtype.itemsize for x in features.values()
  )
  images = max(len(fold.train) for fold in study.folds)
  held = an_image * images * len(batches.networks(answers))
  there = memory.of_device(jax.local_devices()[0])
  if there and held > there:
    raise UserError(
      f"grid.view=cached would hold {held:,} bytes of the teacher's maps "
      f"({images} images) on a device of {there:,}: tap coarser levels in "
      "grid.pair, or choose strong or weak."
    )


def _check_objectives(study):
  """Refuses what would train and distil nothing."""
  swapped = any(arm.source == "swapped" for arm in study.arms)
  if swapped and study.config.student_training.batch_size < 2:
    raise UserError(
      "grid.source=swapped learns from another case of the batch: set "
      "student_training.batch_size above 1."
    )
  objectives = mapped.objectives(study.arms)
  shapes = levels.shapes(study)
  relu = study.config.regressor.activation == "relu"
  for objective in objectives:
    for ours, theirs, _ in objective.pairs or ((None, None, 1.0),):
      if reason := sense.objection(
        objective,
        shapes[0][ours],
        shapes[1][theirs],
        study.config.student_training.batch_size,
        beyond_reach=relu and levels.is_signed(study, theirs),
      ):
        at = f" at {ours}-{theirs}" if ours else ""
        raise UserError(
          f"grid: {objective.pathway}_{objective.loss}{at} would distil "
          f"nothing: {reason}."
        )
