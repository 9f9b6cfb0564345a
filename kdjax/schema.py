"""Every field of a config, and what values it takes.

Models, whose attributes differ, are checked against their class where they are
made; what depends on the data or on another field, where that is known.
"""

from kdjax.distill import axes
from kdjax.fields import Field

_SEED = 2**31 - 1  # The largest that numpy and JAX both take.
_LARGE = 10**6  # More of anything countable is a slip of the finger.

_TRAINING = {
  "batch_size": Field("cases in a step", int, 1, _LARGE),
  "max_epochs": Field("epochs at most", int, 1, _LARGE),
  "patience": Field(
    "epochs without a better one before a trial stops; 0 never stops, which a "
    "decaying schedule asks for",
    int,
    0,
    _LARGE,
  ),
  "schedule": Field(
    "of the learning rate: constant, or cosine, which falls to 0", str
  ),
  "warmup": Field(
    "part of all steps in which the rate rises to its peak", float, 0, 0.9
  ),
  "select": Field(
    "what of the validation cases chooses the best epoch: loss or dice", str
  ),
}

FIELDS = {
  "data": {
    "name": Field(
      "phantom; folder, for images on disk; or tfds:NAME, prepared by TFDS", str
    ),
    "dir": Field("where the folder is, or TFDS' data_dir", str),
    "features": Field(
      "of a data set of TFDS: what it calls image, mask, label and group; "
      "shorter, or empty, where it has none",
      str,
      many=True,
    ),
    "mask_name": Field(
      "of a mask in the folder: its image's name in another, such as {}_mask",
      str,
    ),
    "masks": Field(
      "of another size than their image: same refuses them, resize makes them "
      "fit",
      str,
    ),
    "regions": Field(
      "that masks show beside the background: lesion; or several, in the order "
      "of their numbers, or with their numbers or colours: lesion=1,cyst=4, "
      "lesion=#ff0000,cyst=#00ff00",
      str,
      many=True,
    ),
    "group": Field(
      "regular expression that finds the patient in a case's name; empty: "
      "manifest.csv tells, or nothing",
      str,
    ),
    "channels": Field(
      "of the images: 1, where colours become grey, or 3, in colours", int, 1, 3
    ),
    "classes": Field("labels to keep; () keeps all", str, many=True),
    "image_size": Field(
      "side that images are resized to, pixels", int, 1, 4096
    ),
    "num_cases": Field("phantoms to simulate", int, 1, 10**5),
    "seed": Field("of the phantoms", int, 0, _SEED),
    "cache_dir": Field("where prepared data sets are kept", str),
  },
  "splits": {
    "kind": Field("holdout or kfold", str),
    "num_folds": Field("splits to make", int, 1, 1000),
    "test_cases": Field("test cases of a hold-out", int),
    "val_fraction": Field(
      "part of the training cases held out for validation", float
    ),
    "seed": Field("of the splits", int, 0, 2**32 - 1),
  },
  "folds": Field("0-based splits to run", int, many=True),
  "seeds": Field(
    "random seeds to run, each with teachers of its own", int, 0, _SEED, True
  ),
  "views": {
    "crop": Field("largest part of the side cut away", float, 0, 0.99),
    "shift": Field("largest move, part of the side", float, 0, 1),
    "scale": Field("largest change of size", float, 0, 0.99),
    "rotation": Field("largest angle, degrees", float, 0, 180),
    "noise": Field(
      "largest deviation of Gaussian noise, images in [0, 1]", float, 0, 1
    ),
    "dropout": Field("probability of a pixel to be black", float, 0, 1),
  },
  "teacher": Field(
    "a name in kdjax.models.MODELS, or your own package.module:Class, and its "
    "attributes"
  ),
  "student": Field("the same"),
  "teacher_training": {
    **_TRAINING,
    **{axis.name: axis.field for axis in axes.of_training()},
    "checkpoint": Field(
      "trained teachers to take over: a workdir's; a .pth or .safetensors of "
      "segmentation_models_pytorch; or an Orbax checkpoint of the network's "
      "variables; {fold} in its name where folds have one each; empty trains "
      "them",
      str,
    ),
  },
  "student_training": _TRAINING,
  "teacher_compression": {
    **{
      axis.name: axis.field._replace(many=True) for axis in axes.compressing()
    },
    "max_epochs": _TRAINING["max_epochs"],
    "learning_rate": Field(
      "of Adam, at the schedule's peak", float, 1e-12, 1e3
    ),
  },
  "regressor": {
    "activation": Field(
      "the last one of pathway HReg's: relu, as published, or linear, which "
      "reaches what is negative",
      str,
    ),
  },
  "pruning": {
    "scope": Field(
      "the smallest weights of what go: of each layer, or of the network", str
    ),
    "begin": Field(
      "part of a training's steps before the first weight goes", float, 0, 1
    ),
    "end": Field(
      "part of them after which as many are zero as sparsity says; the best "
      "epoch is one behind it",
      float,
      0,
      1,
    ),
  },
  "quantisation": {
    "begin": Field(
      "part of a training's epochs before those in few bits; the best epoch is "
      "one of these",
      float,
      0,
      1,
    ),
  },
  "grid": {axis.name: axis.field._replace(many=True) for axis in axes.AXES},
  "search": {
    "draws": Field("of each tuned arm's numbers in each fold", int, 2, _LARGE),
    "factor": Field(
      "one of how many draws goes on to the next rung", int, 2, _LARGE
    ),
    "epochs": Field(
      "that each rung trains its draws for, anew and to its schedule's end",
      int,
      1,
      _LARGE,
      True,
    ),
    "seed": Field("of the draws", int, 0, _SEED),
    "space": {
      axis.name: Field(
        f"of grid.{axis.name}: 'LOW to HIGH', drawn evenly in the logarithm, "
        "or a set 'A, B, C'; empty leaves the grid's",
        str,
      )
      for axis in axes.drawn()
    },
  },
  "engine": {
    "dtype": Field("of the arithmetic: float32, bfloat16 or float64", str),
    "lowering": Field(
      "of convolutions: auto, onednn, unrolled, grouped or plain", str
    ),
    "cpu_devices": Field(
      "that a CPU is divided into, over which blocks and arms go; 0 is as many "
      "as share the blocks evenly, one a core at most; 1 leaves it whole",
      int,
      0,
      1024,
    ),
    "blocks_at_once": Field(
      "folds and seeds that train together on one device; 0 is as many as fit "
      "an accelerator, one on a CPU",
      int,
      0,
      _LARGE,
    ),
    "arms_at_once": Field(
      "arms of a block that one device steps together, while what the teacher "
      "said waits for the others; 0 is as many as fit, and on a CPU, of many "
      "that train for the same, at most 24, which compile sooner",
      int,
      0,
      _LARGE,
    ),
    "checkpoint_minutes": Field("between two checkpoints of a stage", float, 0),
    "checkpoint_epochs": Field(
      "the same in epochs; 0 goes by minutes alone", int, 0
    ),
  },
  "report": {
    "equivalence_margin": Field(
      "Dice points within which two models are equals", float, 0, 100
    ),
  },
  "published": Field("set the paper's numbers beside ours", bool),
  "question": Field("the first paragraph of the file's docstring", str),
}
