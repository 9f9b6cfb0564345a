"""Does distillation lift a small student on a simulated ultrasound data set?

The study of `paper`, its twelve arms and three splits, on the embedded
phantom, with networks that two cores train in minutes.

Run:

  kdjax train --config configs/quickstart.py --workdir runs/quickstart
  kdjax train --config configs/quickstart.py:tiny --workdir runs/tiny
"""

from configs import paper


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on a CPU."""
  config = paper.get_config()
  config.published = False
  config.data.image_size = 48
  config.teacher = dict(
    name="UNet",
    widths=(16, 32, 64, 128, 256),
    decoder_widths=(128, 64, 32, 16),
    num_classes=2,
    in_channels=1,
  )
  config.student.update(widths=(8, 8, 16, 16), decoder_widths=(8, 8, 8))
  config.student.in_channels = 1
  config.teacher_training.update(
    batch_size=8, max_epochs=30, patience=10, learning_rate=2e-3
  )
  config.student_training.update(batch_size=8, max_epochs=30, patience=10)
  config.grid.learning_rate = (5e-3,)
  return paper.shrink(config) if size == "tiny" else config
