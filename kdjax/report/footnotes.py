"""What is said below the table: what its numbers are and what they support."""

import numpy as np

from kdjax import workdirs
from kdjax.distill import pairs
from kdjax.distill import trials
from kdjax.report import compression
from kdjax.report import paired
from kdjax.report import rows
from kdjax.report import tuning
from kdjax.report import verdicts
from kdjax.report import weighing
from kdjax.report import words

# What intervals and p of differences count, and so speak of.
_REPEATED = {
  paired.NETWORKS: "One fold and one seed were run: differences speak of these "
  "networks alone, and another seed may turn them. Their intervals are 95 %, "
  "BCa bootstrap over groups of cases; p by Wilcoxon's signed-rank test on "
  "groups.",
  paired.ONE_FOLD: "One fold was run: differences speak of networks trained on "
  "its cases, and nothing is known of others. Their intervals are 95 %, "
  "Student's t over seeds and groups of cases; p the larger of that and of "
  "Wilcoxon's signed-rank test on groups.",
  paired.METHODS: "Differences count folds and their seeds, and so speak of "
  "networks trained on other cases: intervals are 95 %, Student's t over "
  "folds, where all arms share their Student's luck and the noise of training "
  "is learned from all of them (Smyth, as in limma); p the larger of that and "
  "of Wilcoxon's signed-rank test on groups of cases. Folds share training "
  "cases, which no such test knows.",
}


def make(results):
  """What the numbers are and what they support: a list of sentences."""
  per_case = results.per_case
  cases, folds, seeds = (
    words.many(per_case[name].nunique(), name)
    for name in ("case", "fold", "seed")
  )
  found = [
    f"Dice in percent, mean ± standard deviation over tested cases ({cases}, "
    f"{folds}, {seeds}; a case's seeds are averaged first), its 95 % interval "
    "by BCa bootstrap over groups of cases; differences in Dice points. "
    + _REPEATED[results.paired.scope]
    + " Holm's correction is over all arms against their Student, and over "
    "all against Teacher; equal p: of two one-sided tests with a margin of "
    f"{100 * results.margin:g} points, not corrected. "
    f"{_marks(results)} where all else agrees: the intervals, the sign in "
    "every fold; for equal p Holm's correction and every fold within the "
    "margin."
  ]
  if results.regions:
    found.append(
      "Dice of a case, as the other overlaps and distances, is the mean over "
      f"the regions that its mask shows, of {words.listed(results.regions)}; "
      "the background is no region and has no part in it. A region that is "
      "predicted where there is none counts as a false alarm, not in Dice."
    )
  known = results.scores.dropna(how="all").index
  count = rows.groups(per_case, known)
  alone = len(set(count)) == len(count)
  if not alone:
    found.append(
      f"{len(count)} tested cases, counted once a fold, fall into "
      f"{words.many(len(set(count)), 'group')} (same patient, near-duplicate, "
      "or one case in several folds), each of which counts once in tests."
    )
  twice = int((results.scores.groupby("case").size() > 1).sum())
  if twice:
    found.append(
      f"Folds overlap: {words.many(twice, 'case')} tested in more than one."
    )
  if results.ratio is not None and results.paired.scope == paired.METHODS:
    found.append(
      "The folds are repeated hold-outs, whose training cases overlap: "
      "intervals and p have Nadeau and Bengio's corrected variance."
    )
  if len(set(count)) < verdicts.FEWEST:
    found.append(
      f"Fewer than {verdicts.FEWEST} independent cases: no verdict is given."
    )
  found += _note_elsewhere(results)
  found += _note_controls(results)
  found += weighing.notes(results)
  found += tuning.notes(results)
  found += _note_left_out(results)
  found += _note_selection(results)
  found += _note_teachers(results)
  found += _note_pairs(results)
  found += _note_deployed(results)
  found += compression.note(results)
  found += _note_power(results)
  found += _note_empty(per_case)
  found += _note_missing(results)
  found += _note_silent(per_case)
  if len(results.terms) and not results.terms["converged"].all():
    why = results.terms["note"].iloc[0] or "no reason given"
    found.append(f"The mixed model of factors.csv did not converge: {why}")
  return found


def _note_elsewhere(results):
  """Where networks come from that were tested on other data."""
  home = results.data.get("trained_on")
  if not home:
    return []
  return [
    f"The networks were trained on {home['name']} (fingerprint "
    f"{home['fingerprint'][:12]}), which has none of these cases; every fold's "
    "were tested on all of them."
  ]


def _note_controls(results):
  """What controls are, and where they count."""
  if not results.controls:
    return []
  there = {arm.source for arm in results.arms}
  kinds = [said for source, said in words.CONTROLS.items() if source in there]
  return [
    f"Controls learn from {words.listed(kinds)}. They are left out of the mean "
    "of the arms, of contrasts, ranks and claims; controls against Student and "
    "arms against their controls are families of their own."
  ]


def _note_left_out(results):
  """What of the grid's product is no arm."""
  found = trials.left_out(results.config.grid)
  said = [f"{what} ({why})" for what, why in found.items()]
  return [f"Left out of the grid: {'; '.join(said)}."] if said else []


def _note_selection(results):
  """What chose the epoch that was tested, and on how many cases."""
  config = results.config
  chosen = {
    # An older kdjax had no other.
    role: config.get(f"{role}_training", {}).get("select", "loss")
    for role in ("teacher", "student")
  }
  criteria = {"loss": "the lowest validation loss", "dice": "the highest Dice"}
  said = {role: criteria[x] for role, x in chosen.items()}
  by = (
    f"{said['teacher']} (Teacher) and {said['student']} (students)"
    if len(set(said.values())) > 1
    else said["student"]
  )
  folds = results.data.get("folds", [])
  counts = [len(folds[i]["val"]) for i in config.folds if i < len(folds)]
  where = f" ({words.span(counts)} validation cases a fold)" if counts else ""
  return [
    f"Tested is the epoch with {by} on cases held out of training{where}; no "
    "test case chose anything."
  ]


def _note_teachers(results):
  """Where teachers come from that were not trained here."""
  if not results.teachers:
    return []
  source = words.without_folders(results.teachers["from"])
  digests = ", ".join(
    f"{block} {digest[:12]}"
    for block, digest in results.teachers["digests"].items()
  )
  unknown = (
    ""
    if results.teachers.get("unseen", True)
    else "; whether they saw cases that are tested here is not known"
  )
  return [
    f"Teachers were taken over from {source} (sha256: {digests}){unknown}."
  ]


def _note_pairs(results):
  """At how many positions levels were compared."""
  found = [pairs.describe(x, **what) for x, what in results.pairs.items()]
  return [f"Compared are: {'; '.join(found)}."] if found else []


def _note_deployed(results):
  """What the columns on onnxruntime are, or how to get them."""
  frame = results.efficiency
  if frame["latency_ms"].isna().all():
    return []
  if frame["onnx_ms"].isna().all():
    return [
      "What the networks cost through onnxruntime was not measured: pip "
      f"install 'kdjax[export]', delete {workdirs.EFFICIENCY} and run kdjax "
      "train again, which trains nothing anew."
    ]
  return [
    "ONNX: float32 through onnxruntime on CPU, one image at a time, then in "
    "batches of 8; memory is what opening the network and running it on one "
    "image adds to a process, on 1 core."
  ]


def _note_power(results):
  frame = results.comparisons
  limits = frame["detectable"].astype(float).to_numpy()
  limits = 100 * limits[~np.isnan(limits)]
  if not len(limits):
    return []
  return [
    "The smallest difference that this design would show (80 % power, at "
    "the level of Holm's first step) is "
    f"{_limit(limits.min())} to {_limit(limits.max())} points, depending on "
    "the pair."
  ]


def _limit(points):
  return "more than 100" if points > 100 else f"{points:.1f}"


def _marks(results):
  if results.paired.scope == paired.NETWORKS:
    return f"{words.ALONE} marks p < 0.05"
  return "* p < 0.05, ** p < 0.01,"


def _note_empty(per_case):
  """How empty masks were counted, and whose they are."""
  lesion = per_case["empty_truth"] == 0
  silent = per_case["empty_prediction"] == 1
  notes = [
    "A missed lesion scores 0; nothing was predicted for: "
    + _tally(per_case[lesion & silent])
  ]
  if not lesion.all():
    without = per_case[~lesion].groupby(["fold", "case"]).ngroups
    notes.append(
      f"{words.many(without, 'tested case')} without a lesion: Dice is "
      "undefined there and left out; a lesion was predicted all the same by: "
      + _tally(per_case[~lesion & ~silent])
    )
  return notes


def _note_silent(per_case):
  """Which trials never predicted anything: training failed, not the idea."""
  lesion = per_case[per_case["empty_truth"] == 0]
  silent = lesion.groupby(["model", "fold", "seed"], sort=False)[
    "empty_prediction"
  ].min()
  trials = [
    f"{model} (fold {fold}, seed {seed})"
    for (model, fold, seed), empty in silent.items()
    if empty
  ]
  if not trials:
    return []
  return [
    f"{words.many(len(trials), 'trial')} of {len(silent)} predicted nothing on "
    f"every test case, so their training collapsed: {', '.join(trials)}."
  ]


def _note_missing(results):
  """Which models have fewer results than the rest, and which diverged."""
  per_case, found = results.per_case, []
  total = per_case.groupby(["fold", "seed", "case"]).ngroups
  counts = per_case["model"].value_counts()
  lacking = [
    f"{model} {counts.get(model, 0)}"
    for model in results.models
    if counts.get(model, 0) < total
  ]
  if lacking:
    found.append(
      f"Incomplete, of {total} results: {', '.join(lacking)}. They are "
      "compared on the cases in common."
    )
  if len(results.diverged):
    trials = ", ".join(
      f"{row.model} (fold {row.fold}, seed {row.seed})"
      for row in results.diverged.itertuples()
    )
    found.append(f"Left out, since their loss became infinite: {trials}.")
  return found


def _tally(found):
  """Rows per model, in words."""
  counts = found["model"].value_counts(sort=False)
  text = ", ".join(f"{model} {count}" for model, count in counts.items())
  return (text or "none") + "."
