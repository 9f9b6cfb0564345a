"""Three ways to a small model: what is claimed of them, and at equal bytes.

What the study's introduction says of pruning, quantisation and distillation are
claims here, and the answer says which was best at equal bytes.
"""

import numpy as np

from kdjax.distill import axes
from kdjax.distill import trials
from kdjax.evaluate import statistics
from kdjax.report import claim
from kdjax.report import front
from kdjax.report import verdicts
from kdjax.report import words

# Of another network's time, below which one is faster than chance has it.
FASTER = 0.9


def claims(results):
  """What the study's introduction says of the three, as `claim.Claim`s.

  None where no model's bytes are known. Of several pairs that a claim could
  rest on one is enough, of which the test is corrected for their number.
  """
  if results.efficiency["stored_bytes"].isna().all():
    return []
  taught = {
    x: "Teacher"
    for x in results.distilled
    if not results.ways(x) and "Teacher" in results.scores
  }
  slow = lambda times: times >= FASTER
  return [
    _claim(
      results,
      "Pruning can help with storage, and rarely with time.",
      wholes(results, "sparsity"),
      slow,
      "a pruned network beside the whole one",
    ),
    _claim(
      results,
      "Quantisation helps with storage.",
      wholes(results, "bits"),
      lambda times: True,
      "a network in few bits beside the whole one",
    ),
    _claim(
      results,
      "Distillation makes a network faster directly.",
      taught,
      lambda times: times < FASTER,
      "a distilled arm beside Teacher",
    ),
  ]


def _claim(results, text, wholes, timely, lacks):
  """That one of some models equals what it is set beside, in fewer bytes.

  Args:
    results: `results.Results`.
    text: the claim.
    wholes: model to what it is set beside.
    timely: of the part of the other's time that it takes, whether that is as
      claimed; of all pairs.
    lacks: what the run has not where there are none.
  """
  costs = results.efficiency[["stored_bytes", "onnx_ms_one_core"]]
  known = costs.index[costs["stored_bytes"].notna()]
  wholes = {x: y for x, y in wholes.items() if {x, y} <= set(known)}
  pairs = []
  for mine, theirs in wholes.items():
    sides = {mine: 1.0}, {theirs: 1.0}
    (row,) = results.paired.compare([sides])
    pairs.append(claim.Pair(f"{mine} against {theirs}", sides, row, 0.0))
  parts = [costs.loc[x] / costs.loc[y] for x, y in wholes.items()]
  p, best, remark, holds = float("nan"), (), "", True
  if pairs:
    first = min(
      range(len(pairs)), key=lambda i: (pairs[i].row["equivalent_p"], i)
    )
    p = min(1.0, len(pairs) * pairs[first].row["equivalent_p"])
    best, (size, time) = (pairs[first],), parts[first]
    remark = f"It is stored in {1 / size:.1f} times fewer bytes"
    if not np.isnan(time):
      remark += f" and takes {time:.2f} of the time on one core"
    times = [x["onnx_ms_one_core"] for x in parts]
    holds = size < 1 and all(timely(x) for x in times if not np.isnan(x))
  return claim.Claim(
    text,
    best,
    p,
    alike=True,
    published="said in the introduction, not measured",
    lacks=lacks,
    remark=remark,
    holds=holds,
  )


def wholes(results, way):
  """Each model that one axis alone has made smaller, to what it was before."""
  ways = [axis.name for axis in axes.compressing()]
  found = dict.fromkeys(results.compressed, "Teacher")
  found |= trials.counterparts(results.arms, trials.smaller, ways)
  scores = results.scores
  return {
    x: y
    for x, y in found.items()
    if results.ways(x) == (way,) and x in scores and y in scores
  }


def answer(results):
  """Which way was best at equal bytes, a sentence; "" where none is known."""
  pairs = _equal_bytes(results)
  if not pairs:
    return ""
  sides = [({mine: 1.0}, {theirs: 1.0}) for mine, theirs in pairs]
  rows = results.paired.compare(sides)
  found = front.points(results)
  size = lambda x: words.si(found["bytes"][x], "B")
  said = []
  for (mine, theirs), row, p in zip(
    pairs, rows, statistics.holm([x["p"] for x in rows]), strict=True
  ):
    sure = verdicts.shown({**row, "holm_p": p})
    said.append(
      f"{mine} ({size(mine)}) against {theirs} ({size(theirs)}) "
      f"{words.difference(row)}" + ("" if sure else ", not decided")
    )
  return (
    "At equal bytes, a Teacher made smaller against the best on validation of "
    f"the students that take no more: {'; '.join(said)}."
  )


def note(results):
  """What the costs of trained weights are."""
  if results.efficiency["stored_bytes"].isna().all():
    return []
  return [
    "Stored: what was trained, BatchNorm in its convolutions, each tensor as "
    "it is or as its non-zero numbers and where they are, whichever takes "
    "least behind zlib, few bits packed; multiply-adds without zeros: what an "
    "engine would do that skips them. A pruned network runs as a dense one, "
    "one in 8 bits as onnxruntime quantises it, one in fewer not at all. First "
    "and last layer are not pruned and have 8 bits at the least, depthwise "
    "ones are not pruned. Parameters count zeros."
  ]


def _equal_bytes(results):
  """Each smaller Teacher, and the student of no more bytes it is held against.

  Of these the one with the highest validation Dice on average over trials.
  """
  found, history = front.points(results), results.history
  if found.empty or history.empty:
    return []
  trial = ["arm", "fold", "seed"]
  best = history.groupby(trial)["val_dice"].max().groupby("arm").mean()
  pairs = []
  for mine in results.compressed:
    if mine not in found.index:
      continue
    small = found.index[found["bytes"] <= found["bytes"][mine]]
    others = [
      x
      for x in small
      if x not in ("Teacher", *results.compressed, *results.controls)
    ]
    if known := best.reindex(others).dropna().to_dict():
      pairs.append((mine, max(known, key=known.get)))
  return pairs
