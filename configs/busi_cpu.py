"""Which level of a teacher should a student learn from, on real ultrasound?

The twelve arms of `paper` on all 647 lesion images of BUSI, in three folds by
near-duplicate group, so that every case is tested once: a study that two cores
finish in about two hours. Stop it whenever you like; the same command goes on.

Run, with the images in DIR (as published, or images/ and masks/ with a
manifest.csv whose `group` keeps near-duplicates together):

  kdjax train --config configs/busi_cpu.py --config.data.dir=DIR \\
    --workdir runs/busi_cpu
  kdjax train --config configs/busi_cpu.py:tiny --workdir runs/busi_tiny
"""

from configs import paper


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on the phantom."""
  config = paper.get_config()
  config.published = False
  config.data.update(
    name="folder", classes=("benign", "malignant"), image_size=64
  )
  config.splits.update(kind="kfold", num_folds=3)
  config.teacher.update(
    widths=(24, 48, 96, 192, 384), decoder_widths=(192, 96, 48, 24)
  )
  config.teacher.in_channels = 1
  config.student.update(widths=(8, 16, 24, 24), decoder_widths=(24, 16, 8))
  config.student.in_channels = 1
  config.teacher_training.update(
    batch_size=16, max_epochs=40, patience=10, learning_rate=1e-3
  )
  config.student_training.update(batch_size=16, max_epochs=40, patience=10)
  config.grid.learning_rate = (3e-3,)
  return paper.shrink(config) if size == "tiny" else config
