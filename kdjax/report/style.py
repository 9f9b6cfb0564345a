"""How figures look: colours that the colour-blind tell apart, few lines of ink.

Text is 8 points at the figure's own size, which is one or two columns of a
journal, so that nothing needs scaling.
"""

import contextlib
import io
import re

import matplotlib
from matplotlib import figure

from kdjax import files

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # Inches.

# Okabe and Ito, https://jfly.uni-koeln.de/color/.
BLACK, GREY = "#000000", "#999999"
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

# Of regions of a mask, in their order; then again from the first.
_HUES = (SKY, ORANGE, PURPLE, GREEN, RED, BLUE)

_SETTINGS = {
  "font.family": "DejaVu Sans",
  "font.size": 8,
  "axes.titlesize": 8,
  "axes.labelsize": 8,
  "xtick.labelsize": 7,
  "ytick.labelsize": 7,
  "legend.fontsize": 7,
  "legend.frameon": False,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.6,
  "xtick.major.width": 0.6,
  "ytick.major.width": 0.6,
  "lines.linewidth": 1.2,
  "pdf.fonttype": 42,  # Text stays text.
  "savefig.facecolor": "white",
}


def colour(model):
  """Of a model's marks: one per pathway, dark for Teacher, grey for Student."""
  if model.split("_")[0] == "Teacher":
    return BLACK
  pathway = model.split("_")[0]
  return {"L": BLUE, "H": RED, "HReg": GREEN}.get(pathway, GREY)


def of_regions(count):
  """The colours of each region's truth and prediction, a pair for each.

  One region's differ; of several both have the region's own, and dashes tell
  them apart.
  """
  if count == 1:
    return [(GREEN, RED)]
  return [(_HUES[i % len(_HUES)],) * 2 for i in range(count)]


def wrapped(name, width):
  """A name over lines of `width` characters, parted after "_" or "+"."""
  first, *rest = re.split("(?<=[_+])", name)
  lines = [first]
  for piece in rest:
    if len(lines[-1] + piece) > width:
      lines.append(piece)
    else:
      lines[-1] += piece
  return "\n".join(lines)


@contextlib.contextmanager
def canvas(width, height):
  """A `figure.Figure` of `width` x `height` inches in this style."""
  with matplotlib.rc_context(_SETTINGS):
    yield figure.Figure((width, height), layout="constrained")


def save(drawn, folder, name):
  """Writes `name`.png (300 dots an inch) and `name`.pdf; returns the PNG."""
  contents = {}
  with matplotlib.rc_context(_SETTINGS):
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")  # Laid out once, not for every file.
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
      content = io.BytesIO()
      drawn.savefig(content, format=kind, dpi=300, metadata=metadata)
      contents[kind] = content.getvalue()
  for kind, content in contents.items():
    files.write_bytes(folder / f"{name}.{kind}", content)
  return contents["png"]
