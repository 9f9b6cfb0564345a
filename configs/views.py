"""What should the teacher see, and may it be asked only once?

The arms of `busi_cpu` under three views of the teacher: strong and weak, for
which it runs in every step, and cached, for which it said once what it thinks
of every image as it is. Cached is the cheapest and another estimate: a network
is not equivariant to rotation and scale.

Run, with images in DIR as `busi_cpu` takes them, and kdjax[pretrained]:

  kdjax train --config configs/views.py --config.data.dir=DIR \\
    --workdir runs/views
  kdjax train --config configs/views.py:tiny --workdir runs/views_tiny
"""

from configs import busi_cpu


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on the phantom."""
  config = busi_cpu.get_config(size)
  config.grid.view = ("strong", "weak", "cached")
  return config
