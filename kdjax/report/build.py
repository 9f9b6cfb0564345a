"""Writes a workdir's report folder from its files alone; needs no JAX."""

import sys

from etils import epath

from kdjax import files
from kdjax import workdirs
from kdjax.errors import UserError
from kdjax.evaluate import predictions
from kdjax.report import environment
from kdjax.report import figures
from kdjax.report import latex
from kdjax.report import page
from kdjax.report import readme
from kdjax.report import segmentations
from kdjax.report import tables
from kdjax.report import words


def write(results, cases=()):
  """Writes report/ of a workdir.

  Args:
    results: `results.Results` of a trained one.
    cases: test cases to show; chosen by the numbers when empty.

  Returns:
    The Markdown: table, answer, claims and notes.

  Raises:
    UserError: a file is damaged, or a case is unknown; nothing is written then.
  """
  segmentations.named(results, cases)
  _check(results)
  print("report: tables, figures and page.", file=sys.stderr)
  _write_tables(results)
  plots = figures.write(results)
  pictures = segmentations.write(results, cases)
  content = page.make(results, results.table, results.notes, plots, pictures)
  files.write_text(results.workdir / workdirs.REPORT / workdirs.PAGE, content)
  return results.text


def publish(results, out):
  """Copies the report that was written of `results` to `out`.

  Images of patients never, only the phantom's go along: everything that shows
  a case is left out of any other data set's copy, and the page is made anew
  without it. The config decides, since a folder of patients may be called
  "phantom". README.md tells what was run where, and no file names the machine's
  folders.
  """
  out = epath.Path(out)
  workdir = results.workdir
  if out.resolve().is_relative_to(workdir.resolve()):
    raise UserError(f"--out={out} is in the workdir: choose another folder.")
  report = workdir / workdirs.REPORT
  public = results.config.data.name == "phantom"
  for name in (workdirs.CONFIG, workdirs.ENVIRONMENT):
    _copy(workdir / name, out / name, words.without_folders)
  teachers = workdirs.TEACHERS
  _copy(workdir / teachers, out / teachers, words.without_folders)
  for name in (workdirs.DATA, workdirs.PAIRS, *workdirs.COLUMNS):
    _copy(workdir / name, out / name)
  for path in sorted(report.glob("*.*")):
    if path.name != workdirs.PAGE:
      _copy(path, out / path.name)
  names = sorted(x.name for x in out.glob("*.*") if x.name != "README.md")
  plots = []
  for name, (_, title) in figures.ALL.items():
    for kind in ("png", "pdf"):
      path = report / "figures" / f"{name}.{kind}"
      _copy(path, out / "figures" / path.name)
    if (report / "figures" / f"{name}.png").exists():
      png = (report / "figures" / f"{name}.png").read_bytes()
      plots.append((name, title, png))
  shown = [(f"figures/{name}.png", title) for name, title, _ in plots]
  if (out / "figures" / "cases").exists():
    (out / "figures" / "cases").rmtree()
  if public:
    for path in sorted((report / "figures" / "cases").glob("*.*")):
      _copy(path, out / "figures" / "cases" / path.name)
      if path.suffix == ".png":
        about = f"A simulated test case ({path.stem}): truth and predictions"
        shown.append((f"figures/cases/{path.name}", about))
    _copy(report / workdirs.PAGE, out / workdirs.PAGE)
  else:
    content = page.make(results, results.table, results.notes, plots, None)
    files.write_text(out / workdirs.PAGE, content)
  text = (report / "table.md").read_text()
  content = readme.make(results, text, shown, sorted({*names, workdirs.PAGE}))
  files.write_text(out / "README.md", content)


def _check(results):
  """Reads all that the tables do not need, before anything is written.

  Raises:
    UserError: a file is damaged.
  """
  _ = results.data, results.pairs, results.teachers, results.search
  environment.read(results.workdir)
  predictions.read(results.workdir)


def _write_tables(results):
  frames = {
    workdirs.TABLE: results.table,
    "comparisons.csv": results.comparisons,
    "factors.csv": results.terms,
    "contrasts.csv": results.contrasts,
    "claims.csv": results.claims,
    "trials.csv": tables.trials(results),
  }
  if results.regions:
    frames["regions.csv"] = results.by_region
  contents = {x: frame.to_csv(index=False) for x, frame in frames.items()}
  contents["table.md"] = results.text
  contents["table.tex"] = latex.table(results, results.table, results.notes)
  for name, content in contents.items():
    files.write_text(results.workdir / workdirs.REPORT / name, content)


def _copy(source, target, change=None):
  """Copies a file if it is there, its text changed by `change`."""
  if source.exists() and change:
    files.write_text(target, change(source.read_text()))
  elif source.exists():
    files.write_bytes(target, source.read_bytes())
