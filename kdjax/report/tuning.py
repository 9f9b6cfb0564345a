"""What a search found: the numbers chosen, and what a budget of draws buys."""

import collections
import itertools

import numpy as np
import pandas as pd
from scipy import stats

from kdjax.report import style
from kdjax.report import words

BUDGETS = (
  "arm",
  "draws",
  "search_seconds",
  "best_of_1",
  "best_of_all",
  "rank",
)

# Arms of one pathway have one colour.
_LINES = ("-", "--", ":", "-.")


def expected_best(values, count):
  """The expected highest of `count` draws, of the values of all that were made.

  Drawn with replacement (Dodge et al., https://arxiv.org/abs/1909.03004,
  section 3): `sum_i v_i ((i / N)^n - ((i - 1) / N)^n)` over the `N` values,
  ascending.

  Args:
    values: `[N]`.
    count: `n`, at least 1; need not be whole.
  """
  steps = np.arange(len(values) + 1) / len(values)
  return float(np.sort(values) @ np.diff(steps**count))


def chosen(results):
  """What each search chose: arm, fold, draw, validation Dice, and numbers.

  The Dice is of its last rung.
  """
  frame = results.search
  if frame.empty:
    return frame
  last = frame[(frame["rung"] == frame["rung"].max()) & (frame["kept"] == 1)]
  numbers = pd.DataFrame(last["numbers"].tolist(), index=last.index)
  kept = last[["arm", "fold", "draw", "val_dice"]]
  return kept.join(numbers).reset_index(drop=True)


def budgets(results):
  """What each arm's search bought, a frame of `BUDGETS`, the best first.

  Validation Dice, the mean over folds of `expected_best` of the first rung's
  draws: one, and all. Trials of one program share its device-seconds evenly, so
  that as many draws are as many seconds. What diverged counts as 0.
  """
  seconds = results.efficiency["search_seconds"]
  frame = pd.DataFrame(
    [
      {
        "arm": arm,
        "draws": len(folds[0]),
        "search_seconds": seconds.get(arm),
        "best_of_1": _best(folds, 1),
        "best_of_all": _best(folds, len(folds[0])),
      }
      for arm, folds in _first_rung(results).items()
    ],
    columns=BUDGETS,
  )
  order = frame["best_of_all"].rank(ascending=False, method="min")
  frame["rank"] = order.astype(int)
  return frame.sort_values("rank", kind="stable").reset_index(drop=True)


def curves(results):
  """Expected best validation Dice of every arm by the number of draws."""
  values = _first_rung(results)
  if not values:
    return None
  lines = collections.Counter()
  with style.canvas(style.TWO_COLUMNS, 2.6) as drawn:
    ax = drawn.subplots()
    for arm, folds in values.items():
      hue, student = style.colour(arm), arm in results.students
      counts = np.linspace(1, len(folds[0]), 100)
      ax.plot(
        counts,
        [100 * _best(folds, n) for n in counts],
        color=style.BLACK if student else hue,
        ls=_LINES[lines[hue] % len(_LINES)],
        lw=2 if student else 1,
        label=arm,
      )
      lines[hue] += 1
    ax.set_xlabel("draws")
    ax.set_ylabel("expected best validation Dice, %")
    ax.grid(axis="y", lw=0.4, color="0.9")
    drawn.legend(*ax.get_legend_handles_labels(), loc="outside right upper")
  return drawn


def notes(results):
  """How tuned arms came to their numbers, and where a range was too narrow."""
  frame = results.search
  if frame.empty:
    return []
  search = results.config.search
  epochs = frame.groupby("rung")["epochs"].first()
  each = frame.groupby(["rung", "arm", "fold"])["draw"].count().groupby("rung")
  rungs = ", then ".join(
    f"{count} for {words.many(epochs[rung], 'epoch')}"
    for rung, count in each.max().items()
  )
  space = "; ".join(f"{x} {said}" for x, said in search.space.items() if said)
  narrow = "".join(
    f" The {name.replace('_', ' ')} of {words.some(arms)} was chosen in the "
    "outer tenth of its range somewhere, so a wider one may have better."
    for name, arms in edges(results).items()
  )
  agree = agreement(results)
  said = (
    ""
    if agree is None
    else " Of the draws that went on, a rung ranks them as the one before did "
    f"with Spearman's rho {words.signed(agree)} on average (1: alike, 0: not "
    "at all), so much do fewer epochs tell of more."
  )
  return [
    f"Tuned arms had the same draws each, in every fold anew: {rungs}, each "
    f"rung to its schedule's end, chosen on validation cases; {space}. The "
    f"best were trained anew.{said}{narrow}"
  ]


def agreement(results):
  """How alike two rungs rank the draws that both trained, or None.

  The mean of Spearman's rho over arms, folds and rungs; of few draws each, and
  of those alone that the earlier rung preferred, whose ranks are nearer than
  all draws' would be.
  """
  frame = results.search
  dice = frame["val_dice"].where(frame["diverged"] == 0)
  wide = frame.assign(dice=dice).pivot_table(
    index=["arm", "fold", "draw"], columns="rung", values="dice"
  )
  found = [
    stats.spearmanr(both[first], both[second]).statistic
    for first, second in itertools.pairwise(wide.columns)
    for _, group in wide.groupby(level=["arm", "fold"])
    if len(both := group[[first, second]].dropna()) > 2
    and both[first].nunique() > 1 < both[second].nunique()
  ]
  return float(np.mean(found)) if found else None


def edges(results):
  """Arms by axis whose choice lies in the outer tenth of its range somewhere.

  A dict from an axis' name to arms: a wider range may have had better ones.
  """
  frame, found = chosen(results), {}
  for name, (low, high) in results.ranges.items():
    place = np.log(frame[name] / low) / np.log(high / low)
    arms = frame["arm"][(place < 0.1) | (place > 0.9)]
    if len(arms):
      found[name] = list(dict.fromkeys(arms))
  return found


def _best(folds, count):
  return np.mean([expected_best(x, count) for x in folds])


def _first_rung(results):
  """Validation Dice of each arm's draws: from arm to a list by fold."""
  frame = results.search
  if frame.empty:
    return {}
  frame = frame[frame["rung"] == 1]
  dice = frame["val_dice"].where(frame["diverged"] == 0, 0.0).fillna(0.0)
  arms = [x for x in results.models if x in set(frame["arm"])]
  return {
    arm: [x.to_numpy() for _, x in dice[mine].groupby(frame["fold"][mine])]
    for arm in arms
    if (mine := frame["arm"] == arm).any()
  }
