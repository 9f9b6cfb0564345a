"""Which level of a teacher should a small student learn from, under which loss?

Every encoder level and decoder stage with at least 6 x 6 positions of a teacher
with ImageNet weights, each against the student's level of the same resolution
(its coarsest level against those that it lacks), as it is and behind a
regressor, under three losses; and the logits under the same: 57 arms beside the
Student, of which each computes its own objective alone.

Run, with images in DIR as `busi_cpu` takes them, and kdjax[pretrained]:

  kdjax train --config configs/levels.py --config.data.dir=DIR \\
    --workdir runs/levels
  kdjax train --config configs/levels.py:tiny --workdir runs/levels_tiny
"""

from configs import busi_cpu

# Student's and teacher's level; the student has four levels, the first of full
# resolution, and the teacher five, the first of half of it.
PAIRS = (
  ("encoder2", "encoder1"),
  ("encoder3", "encoder2"),
  ("encoder4", "encoder3"),
  ("encoder4", "encoder4"),
  ("encoder4", "decoder4"),
  ("encoder4", "decoder3"),
  ("decoder3", "decoder2"),
  ("decoder2", "decoder1"),
  ("decoder1", "decoder0"),
)


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on the phantom."""
  config = busi_cpu.get_config(size)
  config.grid.update(
    pathway=("L", "H", "HReg"),
    loss=("MSE", "KLD", "AT"),
    view=("weak",),
    pair=PAIRS,
  )
  if size == "tiny":
    config.grid.update(
      loss=("KLD", "AT"),
      pair=(
        ("encoder2", "encoder2"),
        (("encoder4", "encoder5", 0.5), ("decoder1", "decoder1", 0.5)),
      ),
    )
  return config
