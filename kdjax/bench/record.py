"""What a bench found, as bench.csv, a table to print and a plot."""

import csv
import io
import statistics

from kdjax import files
from kdjax.report import style

COLUMNS = (
  "name",
  "trials",
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
    f"{'':14}{'trials':>7}{'s/step':>9}{'min':>8}{'max':>8}{'s/trial':>9}"
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
      f"{x['name']:14}{x['trials']:>7}{median:>9.3f}"
      f"{x['step_seconds_min']:>8.3f}{x['step_seconds_max']:>8.3f}"
      f"{median / x['trials']:>9.3f}{compiled:>12}"
      f"{x['peak_bytes'] / 1e9:>9.2f}{counted}"
    )
  return "\n".join([*lines, "", *_sentences(measured)])


def _sentences(measured):
  found = {(x["name"], x["trials"]): x for x in measured.rows}
  by_name = {x["name"]: x for x in measured.rows}
  serial, cached = by_name["serial"], by_name["fused_cached"]
  fused = found["fused", serial["trials"]]
  alone = by_name["alone"]
  seconds = lambda x: x["step_seconds_median"]
  yield (
    f"This machine's best convolution: {measured.best_rate / 1e9:.0f} GFLOP/s."
  )
  yield (
    f"Fused, {fused['trials']} trials: {seconds(serial) / seconds(fused):.2f} "
    "times as fast as kdjax's trials in turn; "
    f"{seconds(fused) / (fused['trials'] * seconds(alone)):.2f} times the "
    f"time of {fused['trials']} students alone."
  )
  ideal = (
    fused["trials"] * alone["flops"] + measured.views * measured.teacher_flops
  )
  yield (
    f"Its operations are {fused['flops'] / ideal:.3f} times those of "
    f"{fused['trials']} students and {measured.views} answers of the teacher."
  )
  if torch := by_name.get("torch_serial"):
    yield (
      f"PyTorch in turn takes {seconds(torch) / seconds(fused):.2f} times as "
      f"long as fused, {seconds(torch) / seconds(cached):.2f} times as long as "
      "fused with the cached teacher."
    )


def write(measured, workdir):
  """Writes bench.csv, bench.png and bench.pdf, each whole or not at all.

  Args:
    measured: `run.Measured`.
    workdir: folder.
  """
  text = io.StringIO()
  writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
  writer.writeheader()
  writer.writerows(measured.rows)
  files.write_text(workdir / "bench.csv", text.getvalue())
  style.save(_plot(measured.rows), workdir, "bench")


# Label, line and colour of what the fused grid is compared with.
_OTHERS = {
  "alone": ("student alone", ":", style.GREY),
  "serial": ("in turn", "--", style.ORANGE),
  "fused_cached": ("fused, cached teacher", "-.", style.GREEN),
  "torch_serial": ("PyTorch in turn", (0, (1, 1)), style.RED),
}


def _plot(rows):
  """Seconds per trial against the number of trials."""
  with style.canvas(style.ONE_COLUMN, 2.4) as figure:
    axes = figure.subplots()
    each = lambda x, which: x[f"step_seconds_{which}"] / x["trials"]
    fused = [x for x in rows if x["name"] == "fused"]
    sizes = [x["trials"] for x in fused]
    lowest, highest = (
      [each(x, which) for x in fused] for which in ("min", "max")
    )
    axes.fill_between(
      sizes, lowest, highest, color=style.BLUE, alpha=0.2, linewidth=0
    )
    axes.plot(
      sizes,
      [each(x, "median") for x in fused],
      color=style.BLUE,
      marker="o",
      markersize=3,
      label="fused",
    )
    for x in rows:
      if x["name"] in _OTHERS:
        label, line, colour = _OTHERS[x["name"]]
        level = each(x, "median")
        axes.axhline(level, linestyle=line, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(x) for x in sizes])
    axes.minorticks_off()
    # Room for the legend above all lines.
    axes.set_ylim(0, 1.5 * max(each(x, "max") for x in rows))
    axes.set_xlabel("trials in one program")
    axes.set_ylabel("seconds per trial and step")
    axes.legend(ncols=2, loc="upper left")
  return figure
