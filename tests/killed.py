"""The real command in a process of its own, to be watched and stopped."""

import sys

import PIL.Image

from tests import conftest
from tests import started

# Epochs that take a tenth of a second.
SETTINGS = started.SMALL | {
  "data.name": "folder",
  "data.image_size": 16,
  "splits.num_folds": 2,
  "splits.test_cases": 4,
  "folds": "0,1",
  "teacher_training.max_epochs": 16,
  "teacher_training.learning_rate": 0.02,
  "teacher_training.schedule": "constant",
  "student_training.max_epochs": 16,
  "student_training.schedule": "constant",  # Some tests stop trials early.
  "grid.pathway": "L,HReg",
  "grid.loss": "KLD",
  "grid.view": "weak",
  "grid.pair": '(("encoder2", "encoder3"),)',
  "grid.learning_rate": "0.02,",
  "engine.checkpoint_epochs": 1,
}
CONFIG = "configs/quickstart.py:tiny"
PHASES = ("teacher", "student", "test", "report")


def write_discs(folder, cases=16):
  """A data set on disk that such networks learn."""
  discs = conftest.make_dataset(cases, side=24)
  for part, pixels in (("images", discs.images), ("masks", discs.masks * 255)):
    (folder / part).mkdir(parents=True)
    for name, one in zip(discs.cases, pixels, strict=True):
      PIL.Image.fromarray(one).save(folder / part / f"{name}.png")
  return folder


class Run(started.Process):
  """`kdjax train` under way.

  Attributes:
    workdir: its workdir.
  """

  def __init__(
    self,
    workdir,
    data,
    cache,
    devices=1,
    before=None,
    environment=None,
    **settings,
  ):
    """Starts it.

    Args:
      workdir: its workdir.
      data: folder of images.
      cache: its `data.cache_dir`.
      devices: virtual ones.
      before: called in the new process.
      environment: variables, beside those of `started.environment`.
      **settings: of the config, "__" for ".", beside `SETTINGS`.
    """
    self.workdir = workdir
    dotted = {k.replace("__", "."): v for k, v in settings.items()}
    given = SETTINGS | {"data.dir": data, "data.cache_dir": cache} | dotted
    super().__init__(
      [
        *(sys.executable, "-m", "kdjax.cli", "train"),
        *("--config", CONFIG, "--workdir", workdir),
        *started.flags(given),
      ],
      preexec_fn=before,
      env=started.environment(
        devices,
        JAX_ENABLE_X64=str(int(dotted.get("engine.dtype") == "float64")),
        TF_CPP_MIN_LOG_LEVEL="2",
        **environment or {},
      ),
    )

  @property
  def phase(self):
    """Where it is: one of `PHASES`, or "" before the first."""
    said = self.err
    begun = [x for x in PHASES if f"{x}: " in said]
    return begun[-1] if begun else ""

  def saving(self):
    """The folders of checkpoints that are not whole yet."""
    return list(self.workdir.glob("checkpoints/*/*/*orbax-checkpoint-tmp*"))

  def saved(self):
    """The steps of the checkpoints that are whole, by stage and block."""
    found = self.workdir.glob("checkpoints/*/*/*")
    return {x for x in found if x.name.isdecimal()}


def written(workdir):
  """What no kill may change a byte of: every table but that of times."""
  paths = [
    *(workdir / x for x in ("per_case.csv", "history.csv", "data.json")),
    *(workdir / "report").glob("*.csv"),
    *workdir.glob("search.csv"),
  ]
  assert (workdir / "report" / "table.csv") in paths
  return {str(x.relative_to(workdir)): x.read_bytes() for x in paths}
