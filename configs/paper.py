"""Which level of a large teacher should a 100 times smaller student learn from?

The published set-up (Behboodi, Brooks and Rivaz, Artificial Intelligence in
Health 2(2), 2025, doi 10.36922/aih.3509): 163 images in three random splits of
130 and 33, 224 x 224, batch 64, Adam at 1e-4, at most 500 epochs, stopping
after 50 without a better validation loss; twelve arms over pathway, loss and
the teacher's view. What the paper leaves open is listed in the README. The
teacher is a U-Net++ on a ResNet-152, 83.6 M parameters, 102 times the student;
--config.teacher.weights=FILE starts its encoder from ImageNet.

Run (with the images of Yap et al., "Dataset B", in DIR; an accelerator, or
days of patience):

  kdjax train --config configs/paper.py --config.data.name=folder \\
    --config.data.dir=DIR --workdir runs/paper
  kdjax train --config configs/paper.py:tiny --workdir runs/paper_tiny
"""

import ml_collections


def get_config(size="full"):
  """Returns the study; size "tiny" trains in seconds on a CPU."""
  config = ml_collections.ConfigDict()

  # Data. The phantom stands in for images that may not be redistributed.
  config.data = dict(
    name="phantom",  # Or "folder", for images on disk, or "tfds:NAME".
    dir="",
    features=("image", "mask"),  # Of TFDS; then perhaps label and group.
    mask_name="{}",  # Of a mask's file, by its image's: "{}_mask".
    masks="same",  # Or "resize": fit masks of another size.
    regions=("lesion",),  # Of masks; several make classes: ("lesion", "cyst").
    group="",  # What of a case's name is the patient: r"p\d+".
    channels=1,  # Or 3: in colours.
    classes=(),  # Labels to keep; () keeps all.
    image_size=224,
    num_cases=163,
    seed=0,
    cache_dir="~/.cache/kdjax",
  )
  config.splits = dict(
    kind="holdout", num_folds=3, test_cases=33, val_fraction=0.2, seed=0
  )
  config.folds = (0, 1, 2)
  config.seeds = (0,)

  # Views. Strong is all of it; weak is the geometry alone.
  config.views = dict(
    crop=0.2,
    shift=0.1,
    scale=0.1,
    rotation=15.0,
    noise=0.05,
    dropout=0.05,
  )

  # Networks: a name in kdjax.models.MODELS and its attributes.
  config.teacher = dict(
    name="UNetPlusPlus",
    encoder="resnet152",
    weights="",  # A file with torchvision's or timm's ImageNet weights.
    num_classes=2,
    in_channels=3,
  )
  config.student = dict(
    name="UNet",
    widths=(28, 56, 112, 112),
    decoder_widths=(56, 28, 28),
    num_classes=2,
    in_channels=3,
  )

  # Training.
  training = dict(
    batch_size=64,
    max_epochs=500,
    patience=50,
    schedule="constant",  # Or "cosine", behind a warmup: a part of all steps.
    warmup=0.0,
    select="loss",  # Or "dice": what chooses the best epoch.
  )
  config.student_training = training
  config.teacher_training = dict(
    **training,
    learning_rate=1e-4,
    weight_decay=0.0,
    soft_dice=0.0,
    checkpoint="",  # A workdir or a file: take its teachers, train none.
  )

  # What brings a student's map to the teacher's width, pathway HReg.
  config.regressor = dict(activation="relu")  # Or "linear".

  # The grid: every combination trains at once, beside a Student without
  # distillation. Only what leaves shapes alone belongs here.
  config.grid = dict(
    pathway=("L", "H", "HReg"),
    loss=("MSE", "KLD"),
    view=("strong", "weak"),  # The teacher's; or "cached".
    source=("trained",),  # Controls: "untrained", "swapped".
    pair=(("encoder4", "encoder5"),),  # Student's and teacher's tap.
    alpha=(0.5,),
    share=(0.0,),  # Of the gradient, which alpha then follows.
    temperature=(1.0,),
    weighting=("grid",),  # Or "authors": what a loss's authors published.
    learning_rate=(1e-4,),
    weight_decay=(0.0,),
    soft_dice=(0.0,),  # Weight, added to cross-entropy.
    sparsity=(0.0,),  # Of the student's kernels, by gradual pruning.
    bits=(32,),  # Of the student's weights and maps, by training in them.
    tuning=("untuned",),  # Or "tuned": the numbers that a search finds.
  )

  # Pruning: the part of a training's steps between which weights go.
  config.pruning = dict(scope="layer", begin=0.1, end=0.6)  # Or "network".

  # Few bits: the part of a training's epochs before those in them.
  config.quantisation = dict(begin=0.5)

  # Rows of trained Teachers, each made smaller in one way as it trains on.
  config.teacher_compression = dict(
    sparsity=(),  # Such as 0.9, 0.99.
    bits=(),  # Such as 8, 4.
    max_epochs=100,
    learning_rate=1e-4,
  )

  # The search: each rung trains the draws that are left, anew and to its end.
  config.search = dict(
    draws=12,  # Of every arm, the Student too, in every fold.
    factor=3,  # The best of three go on to the next rung.
    epochs=(100, 300),  # Of the rungs.
    seed=0,
    space=dict(  # "LOW to HIGH" by the logarithm, or "A, B, C".
      alpha="0.05 to 0.95",
      share="",
      temperature="1, 2, 4",
      learning_rate="1e-5 to 1e-2",
      weight_decay="",  # Not searched.
      soft_dice="",
    ),
  )

  config.engine = dict(
    dtype="float32",
    lowering="auto",
    cpu_devices=0,  # As many cores as share the blocks evenly.
    blocks_at_once=0,  # As many as fit, like arms.
    arms_at_once=0,
    checkpoint_minutes=5.0,
    checkpoint_epochs=0,
  )
  config.report = dict(equivalence_margin=2.0)  # Dice points.
  config.published = True  # Set the paper's numbers beside ours.
  return shrink(config) if size == "tiny" else config


def use_recipe(config, **training):
  """Trains as its authors did not: a rate that decays, soft Dice, best Dice.

  Args:
    config: of this shape, which is changed.
    **training: fields that teacher and students share.
  """
  training |= dict(patience=0, schedule="cosine", warmup=0.05, select="dice")
  epochs = training["max_epochs"]
  config.student_training.update(training)
  config.teacher_training.update(training, soft_dice=1.0)
  config.grid.soft_dice = (1.0,)
  config.search.epochs = (epochs // 3, 2 * epochs // 3)
  config.search.space.learning_rate = "3e-4 to 3e-2"


def shrink(config):
  """Makes any config of this shape train in seconds: the tiny size."""
  config.data.update(name="phantom", num_cases=24, image_size=32, classes=())
  config.splits.update(kind="holdout", num_folds=2, test_cases=6)
  config.folds = (0,)
  config.seeds = (0,)
  config.teacher = dict(
    name="UNet",
    widths=(4, 4, 8, 8, 8),
    decoder_widths=(8, 8, 4, 4),
    num_classes=2,
    in_channels=config.teacher.in_channels,
  )
  config.student.update(widths=(4, 4, 4, 4), decoder_widths=(4, 4, 4))
  config.teacher_training.update(batch_size=4, max_epochs=2)
  config.student_training.update(batch_size=4, max_epochs=2)
  config.search.update(draws=3, factor=2, epochs=(1, 2))
  return config
