"""Writes a workdir's report folder from its files alone; needs no JAX."""

from kdjax import files
from kdjax.report import results as computed
from kdjax.report import tables


def write(workdir, config, arms, parameters=None):
  """Writes report/ of a workdir.

  Args:
    workdir: a trained one.
    config: of the run.
    arms: `trials.make_arms(config.grid)`.
    parameters: model to parameter count, for a workdir without efficiency.csv.

  Returns:
    The Markdown: table, answer, claims and notes.

  Raises:
    UserError: per_case.csv is missing or damaged; nothing is written then.
  """
  results = computed.compute(workdir, config, arms, parameters)
  table, notes = tables.summarize(results), tables.notes(results)
  text = tables.markdown(results, table, notes)
  frames = {
    "table": table,
    "comparisons": results.comparisons,
    "factors": results.terms,
    "contrasts": results.contrasts,
    "claims": results.claims,
    "trials": tables.trials(results),
  }
  contents = {f"{x}.csv": frame.to_csv(index=False) for x, frame in frames.items()}
  contents["table.md"] = text
  contents["table.tex"] = tables.latex(results, table, notes)
  report = results.workdir / "report"
  for name, content in contents.items():
    files.write_text(report / name, content)
  return text
