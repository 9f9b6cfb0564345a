"""Do ImageNet weights make a better teacher in equal epochs?

The teacher of `busi_cpu` from ImageNet or from scratch, everything else equal;
its students are as few as can be.

Run, with images in DIR as `busi_cpu` takes them, and kdjax[pretrained]:

  for start in pretrained scratch; do
    kdjax train --config configs/teachers.py:$start \\
      --config.data.dir=DIR --workdir runs/teachers/$start
  done
"""

from configs import busi_cpu


def get_config(size="pretrained"):
  """Returns the study; `size` is "pretrained", "scratch" or "tiny"."""
  config = busi_cpu.get_config("tiny" if size == "tiny" else "full")
  if size == "scratch":
    config.teacher.weights = ""
  config.student_training.max_epochs = 1
  config.grid.update(pathway=("L",), loss=("KLD",), view=("weak",))
  return config
