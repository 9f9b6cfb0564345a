"""What a bench found, as bench.csv, a table to print and a plot."""

import csv
import io
import statistics

from kdjax import files
from kdjax.report import style

COLUMNS = (
  "name",
  "trials",
  "objectives",
  "step_seconds_median",
  "step_seconds_min",
  "step_seconds_max",
  "compile_seconds",
  "peak_bytes",
  "flops",
)


def row(mode, seconds):
  """A row of bench.csv: of all trials of `mode`, a step of each.

  Args:
    mode: `modes.Mode`.
    seconds: of every round.
  """
  return {
    "name": mode.name,
    "trials": mode.trials,
    "objectives": mode.objectives,
    "step_seconds_median": statistics.median(seconds),
    "step_seconds_min": min(seconds),
    "step_seconds_max": max(seconds),
    "compile_seconds": mode.compile_seconds,
    "peak_bytes": mode.peak(),
    "flops": mode.flops,
  }


def table(measured):
  """The rows and what follows from them, as text.

  Args:
    measured: `run.Measured`.
  """
  header = (
    f"{'':14}{'trials':>7}{'objectives':>12}{'s/step':>9}{'min':>8}{'max':>8}{'s/trial':>9}"
    f"{'compiled s':>12}{'peak GB':>9}{'GFLOP':>9}{'of best rate':>14}"
  )
  lines = [header]
  for x in measured.rows:
    median = x["step_seconds_median"]
    rate = x["flops"] / median / measured.best_rate
    ours = x["flops"] > 0  # PyTorch counts none, and compiles nothing.
    compiled = f"{x['compile_seconds']:.1f}" if ours else ""
    counted = f"{x['flops'] / 1e9:>9.1f}{rate:>13.0%}" if ours else ""
    lines.append(
      f"{x['name']:14}{x['trials']:>7}{x['objectives']:>12}{median:>9.4f}"
      f"{x['step_seconds_min']:>8.4f}{x['step_seconds_max']:>8.4f}"
      f"{median / x['trials']:>9.4f}{compiled:>12}"
      f"{x['peak_bytes'] / 1e9:>9.2f}{counted}"
    )
  return "\n".join([*lines, "", *_sentences(measured)])


def _sentences(measured):
  """What follows from the rows that there are."""
  by_name = {x["name"]: x for x in measured.rows}
  yield (
    f"This machine's best convolution: {measured.best_rate / 1e9:.0f} GFLOP/s."
  )
  for fused in measured.rows:
    if fused["name"] == "fused":
      yield from _of_fused(fused, by_name, measured)
  for name, said in {"teacher": "step", "answer": "answer"}.items():
    if name in by_name and f"torch_{name}" in by_name:
      ours, theirs = (_a_trial(by_name[x]) for x in (name, f"torch_{name}"))
      yield (
        f"The teacher's {said}: {theirs / ours:.2f} times as fast as PyTorch's."
      )
  cached, (how, torch) = by_name.get("fused_cached"), _torch(by_name)
  if cached and torch:
    times = _a_trial(torch) / _a_trial(cached)
    yield (
      f"Fused with the cached teacher, {cached['trials']} trials: "
      f"{times:.2f} times as fast as PyTorch {how}."
    )


def _of_fused(fused, by_name, measured):
  """Of a program that fuses at least the arms of the grid."""
  alone, serial = (by_name.get(x) for x in ("alone", "serial"))
  how, torch = _torch(by_name)
  count, says = fused["trials"], []
  if any(x and count < x["trials"] for x in (serial, torch)):
    return
  if serial:
    times = _a_trial(serial) / _a_trial(fused)
    says.append(f"{times:.2f} times as fast as kdjax's trials in turn")
  if torch:
    times = _a_trial(torch) / _a_trial(fused)
    says.append(f"{times:.2f} times as fast as PyTorch {how}")
  if alone:
    times = _a_trial(fused) / _a_trial(alone)
    says.append(f"{times:.2f} times the time of {count} students alone")
  if says:
    yield f"Fused, {count} trials: {'; '.join(says)}."
  if measured.parts and serial["trials"] == count:
    times = fused["flops"] / measured.parts
    yield (
      f"Its operations are {times:.3f} times those of its {count} arms by "
      "themselves and the teacher's answers, asked once."
    )


def _torch(by_name):
  """How PyTorch is quickest, in words, and the row; None without one."""
  ways = {"torch_serial": "in turn", "torch_by_core": "in a process a core"}
  found = [(x, by_name[name]) for name, x in ways.items() if name in by_name]
  return min(found, key=lambda x: _a_trial(x[1]), default=("", None))


def _a_trial(row):
  """Its part of the median of a step's seconds."""
  return _each(row, "median")


def write(measured, workdir):
  """Writes bench.csv, bench.png and bench.pdf, each whole or not at all.

  There is no plot where no arm was timed.

  Args:
    measured: `run.Measured`.
    workdir: folder.
  """
  text = io.StringIO()
  writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(measured.rows)
  files.write_text(workdir / "bench.csv", text.getvalue())
  if drawn := [x for x in measured.rows if x["name"] in _DRAWN]:
    style.save(_plot(drawn), workdir, "bench")


# Label, line and colour of what the fused grid is compared with.
_OTHERS = {
  "alone": ("student alone", ":", style.GREY),
  "serial": ("in turn", "--", style.ORANGE),
  "fused_cached": ("fused, cached teacher", "-.", style.GREEN),
  "torch_serial": ("PyTorch in turn", (0, (1, 1)), style.RED),
  "torch_by_core": ("PyTorch, a process a core", (0, (3, 1)), style.RED),
}


_DRAWN = ("fused", "fused_alike", *_OTHERS)


def _plot(rows):
  """Seconds per trial against the number of trials, and of objectives."""
  fused = [x for x in rows if x["name"] == "fused"]
  alike = [x for x in rows if x["name"] == "fused_alike"]
  # Of as many trials, with all objectives.
  alike += [x for x in fused if alike and x["trials"] == alike[0]["trials"]]
  width = style.TWO_COLUMNS if alike else style.ONE_COLUMN
  with style.canvas(width, 2.4) as figure:
    axes = figure.subplots(ncols=2 if alike else 1, sharey=True, squeeze=False)
    by_trials, *by_objectives = axes[0]
    _draw(by_trials, fused, "trials", "fused")
    for x in rows:
      if x["name"] in _OTHERS:
        label, line, colour = _OTHERS[x["name"]]
        level = _each(x, "median")
        by_trials.axhline(level, linestyle=line, color=colour, label=label)
    # Room for the legend above all lines.
    by_trials.set_ylim(0, 1.5 * max(_each(x, "max") for x in rows))
    by_trials.set_xlabel("trials in one program")
    by_trials.set_ylabel("seconds per trial and step")
    by_trials.legend(ncols=2, loc="upper left")
    for right in by_objectives:
      _draw(right, alike, "objectives", f"{alike[0]['trials']} trials, fused")
      right.set_xlabel("different objectives among them")
      right.legend(loc="upper left")
  return figure


def _draw(axes, rows, column, label):
  """A line of seconds per trial against a column, with its range."""
  rows = sorted(rows, key=lambda x: x[column])
  counts = [x[column] for x in rows]
  low, high = ([_each(x, which) for x in rows] for which in ("min", "max"))
  axes.fill_between(counts, low, high, color=style.BLUE, alpha=0.2, linewidth=0)
  median = [_each(x, "median") for x in rows]
  axes.plot(
    counts, median, color=style.BLUE, marker="o", markersize=3, label=label
  )
  axes.set_xscale("log")
  axes.set_xticks(counts, [str(x) for x in counts])
  axes.minorticks_off()


def _each(row, which):
  """A trial's part of the median, min or max of a step's seconds."""
  return row[f"step_seconds_{which}"] / row["trials"]
