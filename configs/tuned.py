"""Does distillation help a student that was tuned as much as the distilled?

Six arms of `busi_cpu` and their Student, each untuned and tuned: every one of
them gets the same draws of learning rate, weight of soft Dice, and weight and
temperature of distillation where it reads them, in every fold anew. The best of
its draws on the fold's validation images is trained anew with each seed. About
eight hours on two cores, by what `busi_cpu` takes.

Run, with the images of `busi_cpu` in DIR:

  kdjax train --config configs/tuned.py --config.data.dir=DIR \\
    --workdir runs/tuned
  kdjax train --config configs/tuned.py:tiny --workdir runs/tuned_tiny
"""

from configs import busi_cpu
from configs import paper


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on the phantom."""
  config = busi_cpu.get_config()
  config.seeds = (0, 1)
  config.grid.tuning = ("untuned", "tuned")
  config.student_training.max_epochs = 20
  # 12 draws for 6 epochs and 4 for 13 are 3.1 times what two seeds take.
  config.search.epochs = (6, 13)
  config.search.space.soft_dice = "0.1 to 10"
  if size == "tiny":
    config.grid.update(pathway=("L", "HReg"), loss=("KLD",))
    paper.shrink(config)
  return config
