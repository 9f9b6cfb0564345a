"""A workdir: the files through which all stages talk.

Each has its name and columns here, one writer, and one reader in `readers`.
"""

import csv
import io
import json

from etils import epath

from kdjax import files
from kdjax.errors import UserError

CONFIG = "config.json"
DATA = "data.json"
PAIRS = "pairs.json"
TEACHERS = "teachers.json"
ENVIRONMENT = "environment.json"
HISTORY = "history.csv"
PER_CASE = "per_case.csv"
PREDICTIONS = "predictions.npz"
SEARCH = "search.csv"
EFFICIENCY = "efficiency.csv"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
REPORT = "report"
PAGE = "index.html"  # Of a report, as the table is.
TABLE = "table.csv"
TESTS = "tests"

# Of a stage's name, with a number: where draws of a search are trained.
RUNG = "search"
# How a trial weighs distillation, and what share of its gradient that is.
WEIGHED = ("alpha", "distill_share")
# What of a trial is drawn over its epochs.
SCALARS = (
  "train_loss",
  "distill_loss",
  "sup_loss",
  "val_loss",
  "val_dice",
  "learning_rate",
  *WEIGHED,
)
# What a network costs; empty where it was not measured.
COSTS = (
  "parameters",
  "multiply_adds",
  "latency_ms",
  "file_bytes",
  "device_seconds",
  "search_seconds",
  "onnx_ms_one_core",
  "onnx_ms",
  "onnx_images_per_second_one_core",
  "onnx_images_per_second",
  "onnx_peak_bytes",
  "nonzero_parameters",
  "sparse_multiply_adds",
  "stored_bytes",
)
# The files that are tables, by column.
COLUMNS = {
  HISTORY: ("stage", "arm", "fold", "seed", "epoch", *SCALARS, "live"),
  PER_CASE: (
    "model",
    "fold",
    "seed",
    "case",
    "group",
    "dice",
    "iou",
    "hd95",
    "assd",
    "empty_truth",
    "empty_prediction",
    "precision",
    "recall",
    "hd95_mm",
    "assd_mm",
    "brier",
    "ece",
  ),
  EFFICIENCY: ("model", *COSTS),
  # A row for every draw of a rung; `numbers` is "axis=value axis=value".
  SEARCH: (
    "rung",
    "epochs",
    "arm",
    "fold",
    "draw",
    "numbers",
    "best_epoch",
    "val_loss",
    "val_dice",
    "diverged",
    "kept",
  ),
}

# What per_case.csv has of each region, where masks show several.
REGIONAL = ("dice", "empty_prediction")

_AGAIN = "run `kdjax train` again in this workdir to have it written anew"
# The way out of damage.
_MEND = {
  HISTORY: _AGAIN,
  SEARCH: _AGAIN,
  PAIRS: _AGAIN,
  TEACHERS: _AGAIN,
  PER_CASE: "delete it and run `kdjax train` again in this workdir to evaluate "
  "anew",
  EFFICIENCY: "delete it and run `kdjax train` again in this workdir to "
  "measure anew",
  DATA: "restore it, or choose a fresh --workdir",
}


def checkpoints(workdir, stage, block):
  """Where the checkpoints of a block of "teacher" or "student" are kept.

  Args:
    workdir: a folder or gs://...
    stage: its name.
    block: its name, such as "fold0-seed1".
  """
  return epath.Path(workdir) / CHECKPOINTS / stage / block


def figures(workdir):
  """Where a report's figures are."""
  return epath.Path(workdir) / REPORT / "figures"


def pictures(workdir):
  """Where a report's pictures of cases are, which may show patients."""
  return figures(workdir) / "cases"


def tests(workdir):
  """Where tests on other data are, a folder each."""
  return epath.Path(workdir) / TESTS


def of_region(measure, region):
  """The column of per_case.csv that has a measure of one of several regions.

  Args:
    measure: one of `REGIONAL`.
    region: its name.
  """
  return f"{measure}_{region}"


def write_table(workdir, name, rows, regions=()):
  """Writes a file of `COLUMNS`; keys of rows that are no column stay out.

  Args:
    workdir: a folder or gs://...
    name: of the file.
    rows: dicts.
    regions: of which `REGIONAL` measures are columns, too.
  """
  text = io.StringIO()
  more = [of_region(x, region) for region in regions for x in REGIONAL]
  writer = csv.DictWriter(
    text,
    (*COLUMNS[name], *more),
    lineterminator="\n",
    extrasaction="ignore",
  )
  writer.writeheader()
  writer.writerows(rows)
  files.write_text(epath.Path(workdir) / name, text.getvalue())


def write_record(workdir, name, record):
  """Writes a dict as JSON."""
  text = json.dumps(record, indent=2, default=list) + "\n"
  files.write_text(epath.Path(workdir) / name, text)


def rows(workdir, name):
  """The rows of a table as they are written: a list of dicts of strings.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = there(workdir, name)
  try:
    found = list(csv.DictReader(io.StringIO(path.read_text())))
  except (UnicodeError, csv.Error) as error:
    raise damaged(path, error) from error
  for line, row in enumerate(found, start=2):
    if None in (*row, *row.values()):
      raise damaged(path, f"line {line} is not whole")
  return found


def has(workdir, name):
  """Whether the file is there."""
  return (epath.Path(workdir) / name).exists()


def there(workdir, name):
  """The path of a file.

  Raises:
    UserError: it is not there.
  """
  path = epath.Path(workdir) / name
  if not path.exists():
    raise UserError(
      f"{path}: no such file; train there first, with `kdjax train`."
    )
  return path


def damaged(path, why=""):
  """The `UserError` of a file that is damaged, with the way out.

  Args:
    path: of the file.
    why: what is wrong, if it is known; its first line is said.
  """
  why = str(why).strip().splitlines()[:1]
  said = f" ({why[0]})" if why else ""
  return UserError(f"{path}: damaged{said}; {_MEND[path.name]}.")
