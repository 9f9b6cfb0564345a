"""Which loss distils best, from one level of a pretrained teacher?

Ten losses on the teacher's encoder output, as it is and behind the student's
regressor; without one CWD, FitNets and PKD are not defined and left out. Every
loss has the same say, half of the student's gradient: at one alpha their shares
differ by orders of magnitude. `--config.grid.weighting=grid,authors` sets the
losses beside them as their authors weigh them.

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
    pathway=("H", "HReg"),
    loss=tuple(x for x, loss in losses.LOSSES.items() if not loss.few),
    view=("weak",),
    share=(0.5,),
  )
  if size == "tiny":
    config.grid.loss = ("KLD", "CWD", "FitNets", "SP", "RAD")
  return config
