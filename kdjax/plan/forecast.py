"""What a plan means: memory, roofline times, the length of the whole grid."""

import dataclasses

from kdjax.engine import course
from kdjax.engine import rungs

# Programs of an epoch, as a reader calls them.
_NAMES = {
  "train_epoch": "training step",
  "evaluate": "evaluation",
  "finish_epoch": "end of epoch",
}
_GIB = 2**30
_LANES = 128  # Of a TPU's vector registers.


def roofline(cost, chip, dtype):
  """Seconds that a chip needs at least: the slower of arithmetic and memory."""
  return max(cost.flops / chip.rate(dtype), cost.traffic / chip.bandwidth)


def numbers(plan):
  """All that the report says, as a tree for JSON; in bytes, seconds, counts.

  What a program costs is one call's on one chip; the training step's call is a
  step. A stage's chips at work, waves and times are those of the first host.
  """
  stages = {name: _stage(plan, plan.costs[name]) for name in plan.costs}
  total = lambda key: sum(stage[key] for stage in stages.values())
  return {
    "topology": plan.slice.name,
    "chips": len(plan.slice.devices),
    "hosts": plan.slice.hosts,
    "hosts_at_work": min(plan.slice.hosts, len(plan.study.blocks)),
    "hbm_bytes": plan.slice.memory,
    "settings": plan.settings,
    "refused": list(plan.refused),
    "assumed": list(plan.assumed),
    "stages": stages,
    "seconds_at_least": total("seconds_at_least"),
    "seconds_at_most": total("seconds_at_most"),
  }


def _stage(plan, cost):
  chip, training = plan.slice.chip, cost.programs.stage.training
  layout = cost.programs.layout
  programs = {
    name: {
      "calls_in_an_epoch": cost.calls[name],
      "flops": one.flops,
      "bytes": one.traffic,
      "roofline_seconds": roofline(one, chip, plan.study.config.engine.dtype),
      "compile_seconds": one.seconds,
      **_launched(one),
    }
    for name, one in cost.costs.items()
  }
  epoch = sum(
    one["calls_in_an_epoch"] * one["roofline_seconds"]
    for one in programs.values()
  )
  stage_seconds = lambda epochs: cost.waves * epochs * epoch
  split = len(layout.devices) if layout.split_batch else 1
  trials_on_a_chip = layout.block_ids.shape[1] * layout.arm_ids.shape[1]
  return {
    "arms": len(cost.programs.stage.arms),
    "blocks": len(plan.study.blocks),
    "blocks_on_a_host": len(cost.programs.study.blocks),
    "chips_at_work": len(layout.devices),
    "trials_on_a_chip": trials_on_a_chip,
    "trials_in_memory": layout.block_ids.shape[1] * layout.together,
    "batch_on_a_chip": training.batch_size // split,
    "waves": cost.waves,
    "hbm_bytes": cost.memory,
    "bytes_of_an_arm": programs["train_epoch"]["bytes"] / trials_on_a_chip,
    "programs": programs,
    "epoch_seconds": epoch,
    "max_epochs": training.max_epochs,
    "seconds_at_least": stage_seconds(
      min(training.patience + 1, training.max_epochs)
      if training.patience
      else training.max_epochs
    ),
    "seconds_at_most": stage_seconds(training.max_epochs),
  }


def _launched(cost):
  return {"kernels": dataclasses.asdict(cost.launched)} if cost.launched else {}


def table(plan):
  """The report as text."""
  n, chip = numbers(plan), plan.slice.chip
  dtype = plan.study.config.engine.dtype
  rate = chip.rate(dtype)
  flags = " ".join(f"--config.{k}={v}" for k, v in plan.settings.items())
  lines = [
    f"{n['topology']}: {n['chips']} chips on {n['hosts']} host(s), each of "
    f"{rate / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:.0f} GB/s and "
    f"{n['hbm_bytes'] / _GIB:.2f} GiB of memory.",
    *plan.refused,
    *([f"The largest setting that fits: {flags}"] if flags else []),
    "",
    *_columns(n),
    "",
    f"Whole grid at the roofline: {_time(n['seconds_at_least'])} (all stop "
    f"after their patience) to {_time(n['seconds_at_most'])} (none stops).",
    "",
    "Costs are one chip's, counted in the compiled program; at the roofline",
    "either its arithmetic or its memory never waits, so real steps take",
    "longer, and what chips send each other, compiling, checkpoints and the",
    "host come on top.",
    *_searched(plan.study),
    f"Rates: {chip.source}, of {_numbers(chip, dtype)}.",
    *(_ON_GPUS if plan.slice.platform == "gpu" else _on_tpus(n)),
    *plan.assumed,
  ]
  return "\n".join(lines)


def _searched(study):
  """What of the run is not in the figures, where arms are tuned."""
  if not rungs.tuned(study):
    return []
  return [f"The search of tuned arms is not in it: {course.cost(study)}."]


# What a GPU launches, as a reader calls it.
_KERNELS = {
  "launched": "  kernels",
  "forward": "  convolutions, forward",
  "to_images": "  to images",
  "to_kernels": "  to kernels",
  "wide": "  forward and wider than 7",
  "transposes": "  transposes of 4 MiB and more",
}
_ON_GPUS = (
  "Operations are those of convolutions and products, zeros that fill up",
  "channels included. No kernel was timed: which of cuDNN's is taken, and what",
  "room it works in, shows on the GPU alone.",
)


def _on_tpus(n):
  """What a TPU's layout does to small batches, if they are."""
  least = min(s["batch_on_a_chip"] for s in n["stages"].values())
  if least >= _LANES:
    return ()
  return (
    "In layers of up to 32 channels the batch lies along a register's "
    f"{_LANES} lanes:",
    f"{least} cases fill {100 * least / _LANES:.0f} % of them, and move as "
    "much as a full batch.",
  )


def _numbers(chip, dtype):
  if dtype == "bfloat16":
    return "bfloat16"
  if chip.float32 == chip.flops:
    return "bfloat16, in which float32 convolutions are multiplied too"
  return "TF32, in which float32 convolutions are multiplied"


def _columns(n):
  """A column a stage, aligned."""
  stages = n["stages"].values()
  rows = [("", *n["stages"])]

  def row(label, say):
    rows.append((label, *(say(stage) for stage in stages)))

  row("arms x blocks", lambda s: f"{s['arms']} x {s['blocks']}")
  row("hosts at work", lambda s: f"{n['hosts_at_work']} of {n['hosts']}")
  row("blocks on a host", lambda s: f"{s['blocks_on_a_host']}")
  row(
    "chips of a host at work",
    lambda s: f"{s['chips_at_work']} of {n['chips'] // n['hosts']}",
  )
  row("trials on a chip", lambda s: f"{s['trials_on_a_chip']}")
  row("trials of a chip in memory", lambda s: f"{s['trials_in_memory']}")
  row("cases of a batch on a chip", lambda s: f"{s['batch_on_a_chip']}")
  row("waves", lambda s: f"{s['waves']}")
  row(
    "memory used, GiB",
    lambda s: (
      f"{s['hbm_bytes'] / _GIB:.2f}"
      f" ({100 * s['hbm_bytes'] / n['hbm_bytes']:.0f} %)"
    ),
  )
  first = next(iter(stages))
  for name, label in _NAMES.items():
    ours = lambda say, name=name: lambda s: say(s["programs"][name])
    row(f"{label}: TFLOP", ours(lambda p: f"{p['flops'] / 1e12:.3f}"))
    row("  GB moved", ours(lambda p: f"{p['bytes'] / 1e9:.2f}"))
    if name == "train_epoch":
      row("  GB an arm", lambda s: f"{s['bytes_of_an_arm'] / 1e9:.2f}")
    row("  roofline, ms", ours(lambda p: f"{1e3 * p['roofline_seconds']:.2f}"))
    row("  calls in an epoch", ours(lambda p: f"{p['calls_in_an_epoch']}"))
    row("  compiled in, s", ours(lambda p: f"{p['compile_seconds']:.0f}"))
    if name != "train_epoch" or "kernels" not in first["programs"][name]:
      continue
    for field, said in _KERNELS.items():
      row(said, ours(lambda p, field=field: f"{p['kernels'][field]}"))
  row("epoch at the roofline, s", lambda s: f"{s['epoch_seconds']:.3f}")
  row("epochs at most", lambda s: f"{s['max_epochs']}")
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows]


def _time(seconds):
  for unit, size in (("h", 3600), ("min", 60)):
    if seconds >= 2 * size:
      return f"{seconds / size:.1f} {unit}"
  return f"{seconds:.3g} s"
