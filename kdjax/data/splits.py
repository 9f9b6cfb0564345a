"""Folds: which cases train, which stop training, which test.

The rule: cases of one group never part, and validation is carved out of
training, never out of the test.
"""

import dataclasses
import warnings

import numpy as np
import sklearn.model_selection

from kdjax.errors import UserError

KINDS = ("holdout", "kfold")


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
  """Indices into a data set's cases, each int64 `[N]` and sorted."""

  train: np.ndarray
  val: np.ndarray
  test: np.ndarray


def make_folds(data, splits):
  """The folds that `splits` asks for, the same for the same cases and seed.

  "kfold" tests every case once, labels spread evenly. "holdout" draws each
  fold's test anew, so tests may overlap: `test_cases` cases, or as near as
  whole groups allow. Either way `val_fraction` of the other cases validate,
  labels spread evenly, and fold i is drawn from (seed, i).

  Args:
    data: a `pipeline.Dataset`, or a tuple of groups and labels, each `[N]`.
    splits: kind ("holdout" or "kfold"), num_folds, test_cases (of a holdout),
      val_fraction (in (0, 1)) and seed (0 to 2**32 - 1).

  Raises:
    UserError: a field out of range, or too few cases or groups for it.
  """
  groups, labels = (
    data if isinstance(data, tuple) else (data.groups, data.labels)
  )
  groups, labels = np.asarray(groups), np.asarray(labels)
  _check_fields(splits, groups)
  tests = {"holdout": _holdout, "kfold": _kfold}[splits.kind]
  return tuple(
    _finish(number, test, groups, labels, splits)
    for number, test in enumerate(tests(groups, labels, splits))
  )


def fold_record(dataset, fold):
  """The fold by case names: {"train": [...], "val": [...], "test": [...]}."""
  return {
    field.name: [dataset.cases[i] for i in getattr(fold, field.name)]
    for field in dataclasses.fields(fold)
  }


def check_disjoint(fold, groups, number):
  """Raises a `UserError` if a group is in two parts of fold `number`."""
  owner = {}
  for part in ("train", "val", "test"):
    for group in np.asarray(groups)[getattr(fold, part)]:
      if owner.setdefault(group, part) != part:
        raise UserError(
          f"fold {number}: group {group} is in {owner[group]} and in {part}; "
          "please report this as a bug of kdjax"
        )


def _check_fields(splits, groups):
  num_cases, num_groups = len(groups), len(np.unique(groups))
  if splits.kind not in KINDS:
    raise UserError(
      f"splits.kind={splits.kind!r} is unknown; choose from {', '.join(KINDS)}"
    )
  least = 2 if splits.kind == "kfold" else 1
  if splits.num_folds < least:
    raise UserError(
      f"splits.num_folds={splits.num_folds}: a {splits.kind} needs at least "
      f"{least}"
    )
  if not 0 < splits.val_fraction < 1:
    raise UserError(
      f"splits.val_fraction={splits.val_fraction} must be between 0 and 1"
    )
  if not 0 <= splits.seed < 2**32:
    raise UserError(f"splits.seed={splits.seed} must be from 0 to 2**32 - 1")
  if splits.kind == "kfold" and num_groups < splits.num_folds:
    raise UserError(
      f"splits.num_folds={splits.num_folds} but there are only {num_groups} "
      "groups of cases; ask for fewer folds"
    )
  if splits.kind == "holdout" and not 0 < splits.test_cases < num_cases - 1:
    raise UserError(
      f"splits.test_cases={splits.test_cases} of {num_cases} cases leaves "
      f"nothing to train, validate or test on; choose 1 to {num_cases - 2}"
    )


def _holdout(groups, labels, splits):
  # scikit-learn's GroupShuffleSplit counts groups, where cases are asked for.
  del labels
  for number in range(splits.num_folds):
    rng = np.random.default_rng([splits.seed, number])
    yield _draw(np.arange(len(groups)), groups, splits.test_cases, rng)


def _kfold(groups, labels, splits):
  _, counts = np.unique(labels, return_counts=True)
  if counts.max() < splits.num_folds:
    labels = np.zeros(len(groups))  # Too rare to spread: it would refuse.
  folds = sklearn.model_selection.StratifiedGroupKFold(
    splits.num_folds, shuffle=True, random_state=splits.seed
  )
  with warnings.catch_warnings():
    # A label rarer than the folds is spread as far as it goes, and described.
    warnings.filterwarnings("ignore", message="The least populated class")
    for _, test in folds.split(labels, labels, groups):
      yield test


def _finish(number, test, groups, labels, splits):
  """Carves validation out of what is not in `test`, and checks the fold."""
  rng = np.random.default_rng([splits.seed, number, 1])
  rest = np.setdiff1d(np.arange(len(groups)), test)
  # A group counts under the label of its first case, so that it stays whole.
  names, first, inverse = np.unique(
    groups, return_index=True, return_inverse=True
  )
  strata = labels[first][inverse]
  val, seen = np.array([], np.int64), 0
  for stratum in np.unique(strata[rest]):
    members = rest[strata[rest] == stratum]
    # Rounding what is due so far, not each label's share, keeps the total.
    seen += len(members)
    due = round(splits.val_fraction * seen) - len(val)
    val = np.append(val, _draw(members, groups, due, rng))
  fold = Fold(np.setdiff1d(rest, val), np.sort(val), np.sort(test))
  for part, indices in vars(fold).items():
    if not len(indices):
      raise UserError(
        f"splits: fold {number} has no {part} cases, since groups stay whole "
        f"({len(names)} groups); change val_fraction="
        f"{splits.val_fraction}, num_folds={splits.num_folds} or test_cases"
      )
  check_disjoint(fold, groups, number)
  return fold


def _draw(indices, groups, goal, rng):
  """Random whole groups out of `indices`, as near to `goal` cases as can be.

  Groups come in random order and are taken whenever the rest can still make
  up the goal, which is a subset sum over the groups' sizes.
  """
  names, sizes = np.unique(groups[indices], return_counts=True)
  order = rng.permutation(len(names))
  names, sizes = names[order], sizes[order].tolist()
  reach = [1]  # Bit s is set when the groups from here on can sum to s.
  for size in reversed(sizes):
    reach.append(reach[-1] | reach[-1] << size)
  reach.reverse()
  sums = [s for s in range(len(indices) + 1) if reach[0] >> s & 1]
  left = min(sums, key=lambda s: abs(s - goal))
  taken = []
  for i, size in enumerate(sizes):
    if size <= left and reach[i + 1] >> (left - size) & 1:
      taken.append(names[i])
      left -= size
  return indices[np.isin(groups[indices], taken)]
