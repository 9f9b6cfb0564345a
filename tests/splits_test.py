"""Folds: groups stay whole, whatever their sizes; errors name the field."""

import types

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import ml_collections
import numpy as np
import pytest

from kdjax.data import splits
from kdjax.errors import UserError


def config(**changes):
  return ml_collections.ConfigDict(
    dict(kind="kfold", num_folds=3, test_cases=3, val_fraction=0.2, seed=0)
    | changes
  )


def cases(num_groups, size=1):
  groups = tuple(f"g{i // size:03d}" for i in range(num_groups * size))
  return groups, tuple("ab"[i % 2] for i in range(len(groups)))


@st.composite
def any_cases(draw):
  sizes = draw(st.lists(st.integers(1, 6), min_size=3, max_size=30))
  groups = [f"g{i:02d}" for i, size in enumerate(sizes) for _ in range(size)]
  groups = draw(st.permutations(groups))
  label = st.sampled_from(["benign", "malignant", "normal"])
  labels = draw(st.lists(label, min_size=len(groups), max_size=len(groups)))
  return tuple(groups), tuple(labels)


@settings(max_examples=150, deadline=None)
@given(
  data=any_cases(),
  kind=st.sampled_from(["kfold", "holdout"]),
  num_folds=st.integers(2, 5),
  val_fraction=st.sampled_from([0.1, 0.2, 0.3, 0.5]),
  seed=st.integers(0, 2**32 - 1),
  share=st.floats(0.1, 0.6),
)
def test_folds_are_disjoint_by_group_and_complete(
  data, kind, num_folds, val_fraction, seed, share
):
  groups, _ = data
  wanted = config(
    kind=kind,
    num_folds=num_folds,
    val_fraction=val_fraction,
    seed=seed,
    test_cases=max(1, int(share * len(groups))),
  )
  try:
    folds = splits.make_folds(data, wanted)
  except UserError as error:
    assert "\n" not in str(error) and "splits" in str(error)
    return
  assert len(folds) == num_folds
  for fold in folds:
    parts = [fold.train, fold.val, fold.test]
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    held = [{groups[i] for i in part} for part in parts]
    assert len(set.union(*held)) == sum(map(len, held))
    assert all((np.diff(part) > 0).all() for part in parts)
  if kind == "kfold":
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(range(len(groups)))


@pytest.mark.parametrize("kind", splits.KINDS)
@pytest.mark.parametrize("num_groups", [12, 40, 163])
def test_enough_single_cases_always_split(kind, num_groups):
  splits.make_folds(cases(num_groups), config(kind=kind, test_cases=4))


def test_the_papers_holdout_is_exact_and_may_overlap():
  wanted = config(kind="holdout", test_cases=33)
  folds = splits.make_folds(cases(163), wanted)
  assert [len(fold.test) for fold in folds] == [33] * 3
  assert [len(fold.val) for fold in folds] == [26] * 3
  assert len(set.union(*(set(fold.test) for fold in folds))) < 99


def test_holdout_comes_as_near_as_whole_groups_allow():
  groups = tuple(name for name in "abcdefgh" for _ in range(4))
  data = groups, ("x",) * len(groups)
  for wanted, got in ((7, 8), (9, 8), (12, 12)):
    fold, *_ = splits.make_folds(
      data, config(kind="holdout", test_cases=wanted)
    )
    assert len(fold.test) == got


@pytest.mark.parametrize("seed", range(5))
def test_an_exact_holdout_is_found_among_groups_of_many_sizes(seed):
  groups = tuple("aaa" + "bb" + "cc" + "ddd")
  data = groups, ("x",) * len(groups)
  wanted = config(kind="holdout", test_cases=4, seed=seed, val_fraction=0.5)
  for fold in splits.make_folds(data, wanted):
    assert len(fold.test) == 4


def test_labels_are_spread_evenly():
  groups, _ = cases(300)
  labels = tuple("rare" if i < 60 else "common" for i in range(300))
  for fold in splits.make_folds((groups, labels), config()):
    for part in (fold.train, fold.val, fold.test):
      rare = np.mean([labels[i] == "rare" for i in part])
      assert rare == pytest.approx(0.2, abs=0.02)


def test_labels_too_rare_to_spread_still_split():
  groups, _ = cases(12)
  splits.make_folds((groups, groups), config(num_folds=4))


@pytest.mark.parametrize("kind", splits.KINDS)
def test_seed_and_fold_alone_decide(kind):
  data = cases(50, size=2)
  same = lambda a, b: all(
    np.array_equal(x, y)
    for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
  )
  first, again, other = (
    splits.make_folds(data, config(kind=kind, test_cases=20, seed=seed))
    for seed in (5, 5, 6)
  )
  assert all(map(same, first, again))
  assert not any(map(same, first, other))
  assert not same(first[0], first[1])
  tests = [tuple(fold.test) for fold in (first[0], first[1], other[0])]
  assert len(set(tests)) == 3


def test_a_holdout_does_not_change_when_more_are_asked_for():
  few, many = (
    splits.make_folds(cases(40), config(kind="holdout", num_folds=n))
    for n in (2, 5)
  )
  for a, b in zip(few, many, strict=False):
    np.testing.assert_array_equal(a.train, b.train)


def test_fold_record_names_the_cases():
  dataset = types.SimpleNamespace(cases=("a", "b", "c", "d"))
  fold = splits.Fold(np.array([1, 3]), np.array([0]), np.array([2]))
  assert splits.fold_record(dataset, fold) == {
    "train": ["b", "d"],
    "val": ["a"],
    "test": ["c"],
  }


def test_a_leak_is_refused_by_the_name_of_its_group():
  fold = splits.Fold(np.array([0, 1]), np.array([2]), np.array([3]))
  with pytest.raises(UserError, match="fold 7: group twin is in train and in "):
    splits.check_disjoint(fold, ("a", "twin", "b", "twin"), 7)


@pytest.mark.parametrize(
  "changes, said",
  [
    (dict(kind="random"), "holdout, kfold"),
    (dict(num_folds=1), "num_folds"),
    (dict(num_folds=11), "10 groups"),
    (dict(kind="holdout", num_folds=0), "num_folds"),
    (dict(kind="holdout", test_cases=0), "splits.test_cases=0 of"),
    (dict(kind="holdout", test_cases=19), "splits.test_cases=19 of"),
    (dict(val_fraction=0.0), "val_fraction"),
    (dict(val_fraction=1.0), "val_fraction"),
    (dict(val_fraction=0.01), "no val cases"),
    (dict(val_fraction=0.99), "no train cases"),
    (dict(seed=-1), "seed"),
  ],
)
def test_an_impossible_field_is_named(changes, said):
  with pytest.raises(UserError, match=said) as caught:
    splits.make_folds(cases(10, size=2), config(**changes))
  assert "\n" not in str(caught.value)


def test_two_groups_cannot_be_split_in_three():
  with pytest.raises(UserError, match="2 groups"):
    splits.make_folds(cases(2, size=9), config(num_folds=2))


def test_a_draw_that_parts_a_group_is_caught(monkeypatch):
  monkeypatch.setattr(splits, "_draw", lambda indices, *_: indices[:3])
  with pytest.raises(UserError, match="fold 0: group g001 is in"):
    splits.make_folds(cases(10, size=2), config(kind="holdout"))
