"""How small may the student be?

The paper's future work: the same arms for students of 0.05 to 8 million
parameters, under one teacher. A shape is a run, so a size is a run; the first
trains the teachers, and the others take them over:

  kdjax train --config configs/student_size.py:0.05M \\
    --config.data.dir=DIR --workdir runs/student_size/0.05M
  for size in 0.1M 0.2M 0.5M 1M 2M 4M 8M; do
    kdjax train --config configs/student_size.py:$size \\
      --config.data.dir=DIR --workdir runs/student_size/$size \\
      --config.teacher_training.checkpoint=runs/student_size/0.05M
  done
  kdjax report runs/student_size/*
"""

from configs import busi_cpu

# Parameters to the widths of the four levels; a doubling of the first, as in
# `paper`, whose student of 0.82 M lies between.
WIDTHS = {
  "0.05M": (7, 14, 28, 28),
  "0.1M": (10, 20, 40, 40),
  "0.2M": (14, 28, 56, 56),
  "0.5M": (22, 44, 88, 88),
  "1M": (31, 62, 124, 124),
  "2M": (44, 88, 176, 176),
  "4M": (62, 124, 248, 248),
  "8M": (87, 174, 348, 348),
}


def get_config(size="0.5M"):
  """Returns the study for a student of `size`, a key of `WIDTHS`, or "tiny"."""
  config = busi_cpu.get_config("tiny" if size == "tiny" else "full")
  if size in WIDTHS:
    config.student.widths = WIDTHS[size]
    first = WIDTHS[size][0]
    config.student.decoder_widths = (2 * first, first, first)
  elif size != "tiny":
    raise ValueError(f"size={size!r}: choose from {', '.join(WIDTHS)}, tiny.")
  config.grid.update(pathway=("L", "H"), loss=("KLD",), view=("weak",))
  return config
