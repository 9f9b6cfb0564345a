"""README.md of a published run: its numbers, and what they were made with."""

from kdjax import workdirs
from kdjax.report import environment
from kdjax.report import page
from kdjax.report import words


def make(results, text, plots, files):
  """The file as text.

  Args:
    results: `results.Results`.
    text: of table.md.
    plots: `(path, title)` of pictures, relative to the file.
    files: names of the files beside it.
  """
  title = results.config.get("question") or page.question(results)
  lines = [f"# {title}", "", page.question(results), "", "| | |", "|---|---|"]
  lines += [f"| {x} | {y} |" for x, y in _facts(results).items()]
  lines += ["", text.rstrip(), ""]
  for path, about in plots:
    lines += [f"![{about}]({path})", "", f"{about}.", ""]
  listed = ", ".join(f"[{x}]({x})" for x in files)
  return "\n".join([*lines, f"Files: {listed}."]) + "\n"


def _facts(results):
  """What was run, on what, and how long it took: name to Markdown."""
  known = environment.read(results.workdir)
  data, frame = results.data, results.per_case
  models = frame[["model", "fold", "seed"]].drop_duplicates()
  ran = (
    f"{words.many(frame['fold'].nunique(), 'fold')} of "
    f"{len(data.get('folds', [])) or '?'}, "
    f"{words.many(frame['seed'].nunique(), 'seed')}, "
    f"{words.many(len(models), 'network')} trained"
  )
  machine = [known.get("processor"), f"{known.get('cores', '?')} cores"]
  machine += [known.get("devices"), known.get("system")]
  return {
    "command": f"`{known.get('command', 'unknown')}`",
    "config": f"[{workdirs.CONFIG}]({workdirs.CONFIG}), with every field as it "
    "was",
    "commit": f"`{known.get('commit') or 'unknown'}`",
    "data": f"{page.data_name(results)} {data.get('version', '')}, fingerprint "
    f"`{data.get('fingerprint', 'unknown')[:16]}`",
    "run": ran,
    "hardware": ", ".join(x for x in machine if x),
    "begun": known.get("begun", "unknown"),
    "training": _time(results, models),
    "packages": f"Python {known.get('python', '?')}, "
    f"{known.get('packages', 'unknown')}",
  }


def _time(results, models):
  """What all training took, without compiling, in words."""
  mean = results.efficiency["device_seconds"].reindex(models["model"])
  if mean.isna().any():
    return "time not kept"
  teachers = mean[mean.index == "Teacher"].sum() / 60
  students = mean[mean.index != "Teacher"].sum() / 60
  folds = models["fold"].nunique()
  search = results.efficiency["search_seconds"].sum() * folds / 60
  return (
    f"{teachers + students + search:.1f} device-minutes without compiling, "
    f"{teachers:.1f} of them for teachers"
    + (f", {search:.1f} for the search" if search else "")
  )
