"""Distil, prune or round to few bits: which small model is worth its bytes?

A Student and an arm that distils, each as it is, with nine in ten of its
weights zero, in 8 and in 4 bits, and both at once; beside them the Teacher
pruned to 90, 97 and 99 % and in 8 and 4 bits, each trained on from the fold's
own. The arm is the one of `busi_cpu` with the highest Dice on validation cases.

Run, with images in DIR as `busi_cpu` takes them, and kdjax[pretrained,export]:

  kdjax train --config configs/compress.py --config.data.dir=DIR \\
    --workdir runs/compress
  kdjax train --config configs/compress.py:tiny --workdir runs/compress_tiny
"""

from configs import busi_cpu


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on the phantom."""
  config = busi_cpu.get_config(size)
  config.grid.update(
    pathway=("HReg",), loss=("MSE",), sparsity=(0.0, 0.9), bits=(32, 8, 4)
  )
  config.teacher_compression.update(
    sparsity=(0.9, 0.97, 0.99), bits=(8, 4), max_epochs=15, learning_rate=1e-3
  )
  if size == "tiny":
    config.teacher_compression.update(max_epochs=2)
  return config
