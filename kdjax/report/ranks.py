"""Mean ranks of the models and the critical-difference diagram of them."""

import math

import numpy as np
from scipy import stats

from kdjax.report import rows
from kdjax.report import style


def diagram(results):
  """Critical-difference diagram: mean ranks, and who cannot be told apart.

  Ranks of the models on each group of cases (its mean Dice); bars join models
  closer than Nemenyi's critical difference at 5 % (Demsar,
  https://jmlr.org/papers/v7/demsar06a.html).
  """
  mean, critical, p, count = test(results)
  if mean is None:
    return None
  order = mean.sort_values()
  k = len(order)
  half = math.ceil(k / 2)
  bars = _cliques(order.to_numpy(), critical)
  depth = 0.16 * len(bars) + 0.12
  height = 0.95 + depth * 0.9 + 0.17 * half
  with style.canvas(style.TWO_COLUMNS, height) as drawn:
    ax = drawn.subplots()
    low, high = math.floor(order.min()), math.ceil(order.max())
    high = max(high, low + math.ceil(critical))
    wide = high - low
    # Names stand beside the scale, which gets what width they leave.
    left, right = (
      0.065 * (max(map(len, names)) + 6)
      for names in (order.index[:half], order.index[half:])
    )
    inch = wide / max(1.2, style.TWO_COLUMNS - left - right)
    ax.set_xlim(low - left * inch, high + right * inch)
    bottom = -depth - 0.17 * half
    ax.set_ylim(bottom - 0.05, 0.62)
    ax.plot((low, high), (0, 0), color="black", lw=0.8)
    for tick in range(low, high + 1):
      ax.plot((tick, tick), (0, 0.05), color="black", lw=0.8)
      ax.text(tick, 0.08, str(tick), ha="center", va="bottom", fontsize=7)
    for i, (model, rank) in enumerate(order.items()):
      first = i < half
      place = i if first else k - 1 - i
      y = -depth - 0.17 * (place + 0.4)
      end = low - 0.02 * wide if first else high + 0.02 * wide
      hue = style.colour(model)
      ax.plot((rank, rank, end), (0, y, y), color=hue, lw=0.8)
      ax.text(
        end + (-0.01 if first else 0.01) * wide,
        y,
        f"{model}  {rank:.2f}" if first else f"{rank:.2f}  {model}",
        ha="right" if first else "left",
        va="center",
        fontsize=7,
      )
    for i, (a, b) in enumerate(bars):
      y = -0.1 - 0.16 * i
      reach = order.iloc[a] - 0.01 * wide, order.iloc[b] + 0.01 * wide
      ax.plot(reach, (y, y), color="0.25", lw=2.5, solid_capstyle="butt")
    ax.plot((low, low + critical), (0.36, 0.36), color="black", lw=1.2)
    tested = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    ax.text(
      low, 0.42, f"critical difference {critical:.2f}", va="bottom", fontsize=7
    )
    drawn.suptitle(
      f"Mean rank, 1 is best;  Friedman {tested}, {count} groups of cases",
      fontsize=7,
    )
    ax.set_axis_off()
  return drawn


def test(results):
  """Mean ranks, Nemenyi's critical difference, Friedman's p, groups ranked.

  Of all models but the controls.
  """
  scores = results.scores.drop(columns=list(results.controls))
  scores = scores.dropna(axis="columns", how="all").dropna()
  groups = rows.groups(results.per_case, scores.index)
  scores = scores.groupby(groups).mean().round(12)
  n, k = scores.shape
  if n < 2 or k < 3:
    return None, None, None, n
  mean = (-scores).rank(axis=1).mean()
  # Friedman's statistic is 0 / 0 where all models tie on every group.
  tied = (scores.nunique(axis=1) == 1).all()
  p = 1.0 if tied else stats.friedmanchisquare(*scores.to_numpy().T).pvalue
  spread = stats.studentized_range.ppf(0.95, k, np.inf)
  critical = spread / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
  return mean, float(critical), float(p), n


def _cliques(order, critical):
  """Longest runs of sorted ranks that no critical difference parts."""
  found = []
  for a in range(len(order)):
    b = np.flatnonzero(order <= order[a] + critical)[-1]
    if b > a and not (found and found[-1][1] >= b):
      found.append((a, int(b)))
  return found
