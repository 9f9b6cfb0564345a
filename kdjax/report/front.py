"""Dice against stored bytes, and which models no other beats in both."""

from matplotlib import ticker
import numpy as np
import pandas as pd

from kdjax.report import style
from kdjax.report import words

_MARKS = {(): "o", ("sparsity",): "v", ("bits",): "s"}  # Both: a diamond.


def points(results):
  """A row for each model whose bytes are known, least bytes first.

  Returns:
    A frame by model: `bytes`, `dice`, `low` and `high` in percent, `ways` (the
    axes that made it smaller) and `front`, whether no other model has as much
    Dice in as few bytes.
  """
  table = results.table.set_index("model")
  frame = pd.DataFrame(
    {
      "bytes": results.efficiency["stored_bytes"],
      "dice": 100 * table["dice_mean"],
      "low": 100 * table["dice_ci_low"],
      "high": 100 * table["dice_ci_high"],
    }
  ).dropna(subset=["bytes", "dice"])
  frame["ways"] = [results.ways(model) for model in frame.index]
  frame = frame.sort_values(["bytes", "dice"], ascending=[True, False])
  before = frame["dice"].cummax().shift(fill_value=-np.inf)
  return frame.assign(front=frame["dice"] > before)


def draw(results):
  """Dice against stored bytes on a logarithmic axis, and the Pareto front."""
  found = points(results)
  if found.empty:
    return None
  with style.canvas(style.TWO_COLUMNS, 3.4) as drawn:
    ax = drawn.subplots()
    front = found[found["front"]]
    ax.step(front["bytes"], front["dice"], where="post", color="0.8", zorder=0)
    for model, row in found.iterrows():
      hue = style.colour(model)
      ax.plot([row["bytes"]] * 2, [row["low"], row["high"]], color=hue, lw=0.7)
      ax.plot(
        row["bytes"],
        row["dice"],
        _MARKS.get(row["ways"], "D"),
        ms=5,
        mec=hue,
        mfc=hue if row["front"] else "white",
      )
    # Numbers, since names would lie on each other; with a key beside them.
    key = []
    for number, (model, row) in enumerate(front.iterrows(), start=1):
      ax.annotate(
        number,
        (row["bytes"], row["dice"]),
        xytext=(-4, 4),  # Where no other model can be.
        textcoords="offset points",
        ha="right",
        fontsize=6,
      )
      key += ax.plot([], [], " ", label=f"{number}  {model}")
    place = "outside right upper"
    drawn.legend(handles=key, loc=place, handlelength=0, fontsize=6)
    ax.set_xscale("log")
    ax.set_xlabel("as stored")
    said = lambda x, _: words.si(x, "B")
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(said)
    ax.xaxis.set_minor_formatter("")
    ax.set_ylabel("mean Dice, %, and its 95 % interval")
    marks = [
      ("o", "whole"),
      ("v", "pruned"),
      ("s", "in few bits"),
      ("D", "both"),
    ]
    shown = []
    for mark, said in marks:
      shown += ax.plot([], [], mark, color="0.4", mfc="white", label=said)
    drawn.legend(handles=shown, loc="outside upper center", ncols=4)
    drawn.supxlabel(
      "filled: no other has as much Dice in as few bytes; black: Teacher, "
      "grey: Student, coloured: distilled",
      fontsize=7,
      color="0.35",
    )
  return drawn
