"""Does distillation help a student that was tuned as much as the distilled?

Five arms of three pathways and two losses, and their Student, each untuned and
tuned: every one of them gets the same draws of learning rate, weight of soft
Dice, and weight and temperature of distillation where it reads them, in every
fold anew. The best of its draws on the fold's validation images is trained anew
with each seed. Small, so that two cores need some two hours: 64 x 64, and
twelve epochs. `--config.data.image_size=96
--config.student_training.max_epochs=30 --config.search.epochs=10,20` is
`busi_cpu`'s size, and takes six times as long.

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
  config.data.image_size = 64
  config.grid.update(
    loss=("KLD", "CWD"),
    pair=(("encoder3", "encoder3"),),  # 8 x 8 positions.
    tuning=("untuned", "tuned"),
  )
  config.teacher_training.max_epochs = 15
  config.student_training.max_epochs = 12
  # 12 draws for 4 epochs and 4 for 8 are 3.3 times what two seeds take.
  config.search.epochs = (4, 8)
  config.search.space.soft_dice = "0.1 to 10"
  if size == "tiny":
    config.grid.update(pathway=("L", "HReg"), loss=("KLD",))
    paper.shrink(config)
  return config
