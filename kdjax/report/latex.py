"""The study's table in LaTeX."""

from kdjax.report import cells
from kdjax.report import words

_LATEX = str.maketrans(
  {character: "\\" + character for character in "&%$#_{}"}
  | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
  | {"^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$"}
  | {words.MINUS: "$-$", "–": "--", words.ALONE: r"$^{\circ}$"}
)


def table(results, frame, notes):
  """The table as a LaTeX float over both columns; it needs booktabs."""
  header, body = cells.main(results, frame)
  # "model" and Dice stand alone; two groups share a head each.
  student = [i for i, x in enumerate(header) if x.endswith("Student")]
  teacher = [i for i, x in enumerate(header) if x.endswith("Teacher")]
  escape = lambda text: text.translate(_LATEX)
  line = lambda row: " & ".join(map(escape, row)) + r" \\"
  groups, rules = [""] * student[0], []
  for name, members in (("Student", student), ("Teacher", teacher)):
    groups.append(rf"\multicolumn{{{len(members)}}}{{c}}{{against {name}}}")
    rules.append(rf"\cmidrule(lr){{{members[0] + 1}-{members[-1] + 1}}}")
  groups += [""] * (len(header) - teacher[-1] - 1)
  short = [x.split(" vs ")[0] for x in header]
  lines = [
    r"% \usepackage{booktabs}",
    r"\begin{table*}",
    r"\centering",
    rf"\caption{{{escape(notes[0])}}}",
    r"\label{tab:kdjax}",
    r"\scriptsize",
    r"\setlength{\tabcolsep}{2pt}",
    rf"\begin{{tabular}}{{@{{}}l{'r' * (len(header) - 1)}@{{}}}}",
    r"\toprule",
    " & ".join(groups) + r" \\",
    "".join(rules),
    line(short),
    r"\midrule",
    *map(line, body),
    r"\bottomrule",
    r"\end{tabular}",
    r"\par\smallskip",
    r"\begin{minipage}{\linewidth}",
    r"\raggedright",
    *map(escape, notes[1:]),
    r"\end{minipage}",
    r"\end{table*}",
  ]
  return "\n".join(lines) + "\n"
