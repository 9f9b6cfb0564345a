"""Which loss distils best, from one level of a pretrained teacher?

Ten losses on the teacher's encoder output behind the student's regressor.
(Without a regressor, pathway H, those that compare within a network work too:
--config.grid.pathway=H --config.grid.loss=MSE,KLD,AT,SP,SKD,IFVD,RAD.)

Run, with images in DIR as `busi_cpu` takes them, and kdjax[pretrained]:

  kdjax train --config configs/losses.py --config.data.dir=DIR \\
    --workdir runs/losses
  kdjax train --config configs/losses.py:tiny --workdir runs/losses_tiny
"""

from configs import busi_cpu
from kdjax.distill import losses


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on the phantom."""
  config = busi_cpu.get_config(size)
  config.grid.update(
    pathway=("HReg",), loss=tuple(losses.LOSSES), view=("weak",)
  )
  return config
