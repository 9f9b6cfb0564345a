"""A workdir: the files through which all stages talk.

Each has its name and columns here, one writer and one reader. What a reader
refuses, it refuses in a line that names the file and the way out.
"""

import csv
import io
import json
import math

from etils import epath
import pandas as pd

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
TESTS = "tests"

# Of a stage's name, with a number: where draws of a search are trained.
RUNG = "search"
# How a trial weighs distillation, and what share of its gradient that is.
_WEIGHED = ("alpha", "distill_share")
# What of a trial is drawn over its epochs.
SCALARS = (
  "train_loss",
  "distill_loss",
  "sup_loss",
  "val_loss",
  "val_dice",
  "learning_rate",
  *_WEIGHED,
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


def write_table(workdir, name, rows):
  """Writes a file of `COLUMNS`; keys of rows that are no column stay out.

  Args:
    workdir: a folder or gs://...
    name: of the file.
    rows: dicts.
  """
  text = io.StringIO()
  writer = csv.DictWriter(
    text, COLUMNS[name], lineterminator="\n", extrasaction="ignore"
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
    raise _damaged(path, error) from error
  for line, row in enumerate(found, start=2):
    if None in (*row, *row.values()):
      raise _damaged(path, f"line {line} is not whole")
  return found


_TRIAL = ("fold", "seed")
_WORDS = ("model", "case", "group")
_COUNTS = (*_TRIAL, "empty_truth", "empty_prediction")
_LIMITS = {"dice": 1, "iou": 1, "hd95": math.inf, "assd": math.inf}
# Empty where the spacing of the pixels is not known, or kdjax was an older one.
_OPTIONAL = {"hd95_mm": math.inf, "assd_mm": math.inf, "brier": 1, "ece": 1}


def per_case(workdir):
  """per_case.csv as a frame, one row per model, trial and case.

  `dice` and `iou` are in [0, 1], NaN where `empty_truth`, as in
  `evaluate.metrics`; `_OPTIONAL` may not be there.

  Raises:
    UserError: the file is missing or damaged.
  """
  numbers = (*_LIMITS, *_OPTIONAL)
  path = there(workdir, PER_CASE)
  try:
    # A case may be called "007" or "NA", so words stay words.
    frame = _frame(
      path,
      dict.fromkeys(numbers, ["", "nan", "NaN"]),
      dtype=dict.fromkeys(_WORDS, str) | dict.fromkeys(numbers, float),
    )
    damage = _damage(frame)
  except (OSError, ValueError) as error:
    damage = error
  if damage:
    raise _damaged(path, damage)
  return frame


def _damage(frame):
  """What is wrong with a per-case frame, in a few words; empty if nothing."""
  columns = (*_WORDS, *_COUNTS, *_LIMITS)
  if missing := [name for name in columns if name not in frame]:
    return f"no column {', '.join(missing)}"
  if frame.empty:
    return "no rows"
  if not isinstance(frame.index, pd.RangeIndex):
    return "rows are longer than the header"
  bad = {name: frame[name].isna() for name in _WORDS}
  for name in _COUNTS:
    count = pd.to_numeric(frame[name], errors="coerce")
    bad[name] = count.isna() | (count % 1 != 0)
  for name in ("empty_truth", "empty_prediction"):
    bad[name] |= ~frame[name].isin((0, 1))
  # A number that is lost must not pass for one that is undefined.
  lesion = frame["empty_truth"] == 0
  for name, limit in _LIMITS.items():
    bad[name] = lesion & ~frame[name].between(0, limit)
  for name in ("dice", "iou"):
    bad[name] |= ~lesion & frame[name].notna()
  for name in set(_OPTIONAL) & set(frame):
    fits = frame[name].between(0, _OPTIONAL[name])
    bad[name] = frame[name].notna() & ~fits
  for name, lines in bad.items():
    if lines.any():
      return f"line {lines.idxmax() + 2}, {name}"
  twice = frame.duplicated(["model", "fold", "seed", "case"])
  return f"line {twice.idxmax() + 2} is there twice" if twice.any() else ""


def history(workdir, search=False):
  """history.csv as a frame: words, whole numbers, and numbers that may be inf.

  Args:
    workdir: a folder or gs://...
    search: whether the draws of a search are in it, too.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = there(workdir, HISTORY)
  try:
    frame = _frame(
      path,
      # Rows of an older kdjax may lack some.
      dict.fromkeys(SCALARS, ["nan"]) | dict.fromkeys(_WEIGHED, ["nan", ""]),
      dtype={"stage": str, "arm": str}
      | dict.fromkeys((*_TRIAL, "epoch"), int)
      | dict.fromkeys(SCALARS, float),
    )
    frame[["stage", "arm", *_TRIAL, "epoch"]]
    if "live" in frame and not frame["live"].isin((0, 1)).all():
      raise ValueError("rows are cut")
  except (ValueError, LookupError) as error:
    raise _damaged(path, error) from error
  if not search:
    frame = frame[~frame["stage"].str.startswith(RUNG)]
  return frame.reset_index(drop=True)


def search(workdir):
  """search.csv as a frame, `numbers` a dict from axis to number.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = there(workdir, SEARCH)
  try:
    frame = _frame(
      path,
      dict.fromkeys(("val_loss", "val_dice"), ["nan"]),
      dtype={"arm": str, "numbers": str, "val_loss": float, "val_dice": float},
    )[list(COLUMNS[SEARCH])]
    words = ("arm", "numbers", "val_loss", "val_dice")
    frame = frame.astype({x: int for x in frame if x not in words})
    frame["numbers"] = [
      {name: float(x) for name, x in (y.split("=") for y in said.split())}
      for said in frame["numbers"]
    ]
  except (ValueError, LookupError) as error:
    raise _damaged(path, error) from error
  return frame


def efficiency(workdir):
  """efficiency.csv as a frame of `COSTS` by model, NaN where not measured.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = there(workdir, EFFICIENCY)
  try:
    frame = _frame(path, dict.fromkeys(COSTS, [""]), index_col="model")
    return frame.reindex(columns=list(COSTS)).astype(float)
  except (ValueError, LookupError, TypeError) as error:
    raise _damaged(path, error) from error


def data(workdir):
  """data.json as a dict: the data set, and the cases of each fold.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = there(workdir, DATA)
  found = files.read_json(path)
  folds = found.get("folds")
  whole = isinstance(folds, list) and len(folds) > 0
  for fold in folds if whole else ():
    parts = [
      isinstance(fold, dict) and fold.get(x) for x in ("train", "val", "test")
    ]
    whole &= all(isinstance(x, list) and bool(x) for x in parts)
  said = ("name", "version", "fingerprint")
  if not whole or not all(isinstance(found.get(x), str) for x in said):
    raise _damaged(path)
  return found


def pairs(workdir):
  """pairs.json as a dict, see `engine.levels.compared`.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = there(workdir, PAIRS)
  counts = lambda x: (
    isinstance(x, list) and len(x) == 2 and all(isinstance(y, int) for y in x)
  )
  found = files.read_json(path)
  for what in found.values():
    if (
      not isinstance(what, dict)
      or set(what) != {"positions", "channels", "signed"}
      or not counts(what["positions"])
      or not counts(what["channels"])
      or not isinstance(what["signed"], bool)
    ):
      raise _damaged(path)
  return found


def teachers(workdir):
  """teachers.json as a dict: "from", and "digests" by block.

  Raises:
    UserError: the file is missing or damaged.
  """
  path = there(workdir, TEACHERS)
  found = files.read_json(path)
  digests = found.get("digests")
  if not isinstance(found.get("from"), str) or not isinstance(digests, dict):
    raise _damaged(path)
  if not all(isinstance(x, str) for x in digests.values()):
    raise _damaged(path)
  return found


def _frame(path, blanks, **options):
  """A table as pandas reads it, where nothing is NaN but `blanks` by column."""
  return pd.read_csv(
    io.BytesIO(path.read_bytes()),
    keep_default_na=False,
    na_values=blanks,
    **options,
  )


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


def _damaged(path, why=""):
  why = str(why).strip().splitlines()[:1]
  said = f" ({why[0]})" if why else ""
  return UserError(f"{path}: damaged{said}; {_MEND[path.name]}.")
