"""What every model cost, measured once by `train`.

A report reads it and so needs to compile nothing. No run repeats these times,
so no other table of numbers holds them.
"""

import math
import statistics
import time

from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np

from kdjax import workdirs
from kdjax.distill import trials
from kdjax.engine import course
from kdjax.engine import loop
from kdjax.engine import networks
from kdjax.evaluate import storage
from kdjax.models import quantised


def write(study, trained, deployed=lambda study, kinds: {}):
  """Measures the networks and writes a row for every model of the table.

  What is there is kept: a second `train` in a finished workdir measures
  nothing. `device_seconds` is the mean over a model's trials of
  `loop.device_seconds`; it is empty where they are not known. What the search
  for a tuned arm's numbers took in a fold is `search_seconds`.

  Args:
    study: `Study`.
    trained: by stage the best states by block, as `course.train` returns them.
    deployed: from the study and its networks to the columns `onnx_*` of each,
      see `deploy.latency`.
  """
  if workdirs.has(study.workdir, workdirs.EFFICIENCY):
    return
  costs = {
    # Whoever only answered, here costs nothing.
    role: {}
    if networks.is_answers(study.make_model(role))
    else measure(study, role)
    for role in ("teacher", "student")
  }
  compressed = any(map(_size, (x for y in study.stages for x in y.arms)))
  kinds = {
    (stage.role, _size(arm)): None
    for stage in study.stages
    for arm in stage.arms
    if costs[stage.role]
  }
  onnx = deployed(study, tuple(kinds))
  searched = course.search_seconds(study)
  rows = [
    {
      "model": arm.name,
      **costs[stage.role],
      **onnx.get((stage.role, _size(arm)), {}),
      **(_of_weights(study, stage, arm, trained, costs) if compressed else {}),
      "device_seconds": _known(seconds),
      "search_seconds": _known(searched.get(arm.name, math.nan)),
    }
    for stage in study.stages
    for arm, seconds in zip(stage.arms, _training(study, stage), strict=True)
  ]
  workdirs.write_table(study.workdir, workdirs.EFFICIENCY, rows)


def _training(study, stage):
  """Device-seconds of training by arm, the mean over its trials."""
  seconds = loop.device_seconds(study, stage)
  return [
    # A teacher that came from a file was not trained here.
    statistics.fmean(
      seconds.get((arm.name, block), math.nan) for block in study.blocks
    )
    for arm in stage.arms
  ]


def _size(arm):
  """An arm's numbers that make it smaller."""
  return tuple((name, arm.numbers[name]) for name in trials.smaller(arm))


def _of_weights(study, stage, arm, trained, costs):
  """What an arm's trained weights cost, the mean over its trials."""
  if not costs[stage.role]:
    return {}
  place, plain = stage.arms.index(arm), study.make_model(stage.role)
  layers = quantised.layers(plain, study.blank(stage.role))
  found = []
  for best in trained[stage.name].values():
    own = jax.tree.map(lambda x: np.asarray(x[place], np.float32), best)
    model, own = quantised.take(plain, own, arm.numbers["bits"])
    adds = storage.multiply_adds(layers, own, np.count_nonzero)
    found.append((storage.nonzero(own), storage.stored(model, own), adds))
  # What is rounded in training does not run so in JAX.
  few = arm.numbers["bits"] < quantised.NONE
  unknown = {"latency_ms": ""} if few else {}
  kept, size, adds = (round(x) for x in np.mean(found, axis=0))
  return {
    "nonzero_parameters": kept,
    "stored_bytes": size,
    "sparse_multiply_adds": adds or "",
    **unknown,
  }


def _known(seconds):
  return "" if math.isnan(seconds) else round(seconds, 3)


def measure(study, role, repeats=30):
  """Costs of "teacher" or "student" on one image on the first device.

  Returns:
    `parameters`; `multiply_adds`, see `storage`, empty where a network has no
    layer of linen's; `latency_ms`, the median of `repeats` calls with the image
    on the device; `file_bytes` of parameters and batch statistics in float32.
  """
  model, image = study.make_model(role), study.blank(role)
  variables = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(lambda: model.init(jax.random.key(0), image)),
  )
  compiled = jax.jit(model.apply).lower(variables, image).compile()
  jax.block_until_ready(compiled(variables, image))
  seconds = []
  for _ in range(repeats):
    begun = time.perf_counter()
    jax.block_until_ready(compiled(variables, image))
    seconds.append(time.perf_counter() - begun)
  layers = quantised.layers(model, image)
  single = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), variables)
  return {
    "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
    "multiply_adds": storage.multiply_adds(layers, variables) or "",
    "latency_ms": round(1000 * float(np.median(seconds)), 4),
    "file_bytes": len(serialization.to_bytes(single)),
  }
