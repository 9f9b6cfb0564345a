"""The study's tables in GitHub's Markdown."""

from kdjax.report import cells
from kdjax.report import regional


def table(results, frame, notes):
  """Table, answer, claims and notes in GitHub's Markdown, columns aligned."""
  header, body = cells.main(results, frame)
  lines = cells.grid(header, body)
  others = (
    regional.cells(results),
    cells.measures(frame),
    cells.efficiency(results),
    cells.quoted(results),
  )
  for head, values in filter(None, others):
    said = [[text for text, _ in row] for row in values]
    lines += ["", *cells.grid(head, said)]
  lines += ["", *results.answer]
  if results.config.published:
    lines += ["", "The published claims, on these numbers:", ""]
    lines += [
      f"{number}. {row['claim']} **{row['verdict'].capitalize()}.** "
      f"{row['sentence']}"
      for number, row in enumerate(results.claims.to_dict("records"), start=1)
    ]
  return "\n".join([*lines, "", *(f"- {x}" for x in notes)]) + "\n"
