"""How the trials of a stage fit the devices, and what to do if they do not."""

import sys

import jax

from kdjax.distill import losses
from kdjax.engine import laying
from kdjax.errors import UserError
from kdjax.models import own


def make_layout(study, stage, num_blocks, devices=None):
  """Where the trials of `num_blocks` blocks of `stage` go on `devices`.

  Raises:
    UserError: they have to split their batches over the devices, which do not
      divide, or which a loss compares the cases of.
  """
  devices = tuple(devices or jax.local_devices())
  if own.lacks(study.make_model(stage.role), "norm_axis"):
    # Its batches cannot be split, so that some devices may have to rest.
    devices = devices[: len(stage.arms) * num_blocks]
  layout = laying.lay_out(
    [arm.objective for arm in stage.arms],
    num_blocks,
    stage.training.batch_size,
    blocks_at_once=study.config.engine.blocks_at_once,
    arms_at_once=study.config.engine.arms_at_once,
    devices=devices,
  )
  for arm in stage.arms if layout.split_batch else ():
    over = arm.objective and losses.LOSSES[arm.objective.loss].over
    if over == "cases" or arm.source == "swapped":
      raise UserError(
        f"{arm.name} compares the cases of a batch, which is split over "
        "devices here: use fewer devices, or more arms, folds or seeds."
      )
  return layout


def with_fewer(study, stage, error):
  """The study with fewer trials in memory at once, which changes no result.

  Args:
    study: `Study`.
    stage: `Stage` that a device had no memory for.
    error: what JAX raised.

  Raises:
    JaxRuntimeError: `error`, where it says something else.
    UserError: one trial is too much.
  """
  if "RESOURCE_EXHAUSTED" not in str(error):
    raise error
  fewer = make_layout(study, stage, len(study.blocks)).fewer()
  if not fewer:
    raise UserError(
      f"{stage.name}: a device has no memory for one trial "
      f"({str(error).splitlines()[0]}): lower {stage.role}_training.batch_size "
      "or data.image_size, or set engine.dtype=bfloat16; `kdjax plan` tells "
      "what fits a TPU."
    ) from error
  said = ", ".join(f"{name}={value}" for name, value in fewer.items())
  print(
    f"{stage.name}: out of memory; going on with {said}, which changes no "
    "result (set it to save this attempt).",
    file=sys.stderr,
  )
  return study.changed(fewer)
