"""comparisons.csv recomputed from per_case.csv by a second route."""

import csv
import io
import json
import math

import numpy as np
import pytest
from scipy import integrate
from scipy import special
from scipy import stats

from kdjax.evaluate import statistics
from kdjax.report import build
from kdjax.report import comparisons
from kdjax.report import gather
from kdjax.report import paired
from tests import simulated

COLUMNS = (
  "model,reference,cases,difference,ci_low,ci_high,p,equivalent_p,effect,wins,"
  "ties,losses,t_p,wilcoxon_p,groups,group_p"
)


def t_two_sided(t, degrees):
  """By the incomplete beta function."""
  return special.betainc(degrees / 2, 0.5, degrees / (degrees + t**2))


def t_above(t, degrees):
  half = t_two_sided(t, degrees) / 2
  return half if t > 0 else 1 - half


def wilcoxon(difference):
  """Normal approximation with ties, and the rank-biserial correlation."""
  difference = difference[difference != 0]
  size = np.abs(difference)
  ranks = np.array(
    [
      np.count_nonzero(size < x) + (np.count_nonzero(size == x) + 1) / 2
      for x in size
    ]
  )
  n = len(difference)
  above = ranks[difference > 0].sum()
  _, ties = np.unique(size, return_counts=True)
  variance = n * (n + 1) * (2 * n + 1) / 24 - np.sum(ties**3 - ties) / 48
  z = (above - n * (n + 1) / 4) / math.sqrt(variance)
  return math.erfc(abs(z) / math.sqrt(2)), 4 * above / (n * (n + 1)) - 1


def tost(difference, margin):
  n = len(difference)
  error = np.std(difference, ddof=1) / math.sqrt(n)
  below = t_above((difference.mean() + margin) / error, n - 1)
  above = t_above((margin - difference.mean()) / error, n - 1)
  return max(below, above)


def holm(p):
  """The j-th smallest times what is left, never less than the one before."""
  found, floor = {}, 0
  for j, (name, value) in enumerate(sorted(p.items(), key=lambda x: x[1])):
    floor = max(floor, min(1, (len(p) - j) * value))
    found[name] = floor
  return found


def bca(difference, groups, draws=4999):
  names = sorted(set(groups))
  sums = np.array([difference[groups == x].sum() for x in names])
  counts = np.array([np.count_nonzero(groups == x) for x in names])
  chosen = np.random.default_rng(3).integers(0, len(names), (draws, len(names)))
  means = sums[chosen].sum(1) / counts[chosen].sum(1)
  bias = stats.norm.ppf(np.mean(means < difference.mean()))
  without = (sums.sum() - sums) / (counts.sum() - counts)
  away = without.mean() - without
  skew = np.sum(away**3) / (6 * np.sum(away**2) ** 1.5)
  z = bias + stats.norm.ppf([0.025, 0.975])
  return np.quantile(means, stats.norm.cdf(bias + z / (1 - skew * z)))


def power_of(shift, degrees, level):
  """Of Student's t at a true mean of `shift` standard errors."""
  limit = special.stdtrit(degrees, 1 - level / 2)

  def at(x):  # Given the spread that could have been found.
    far = limit * math.sqrt(x / degrees)
    reached = special.ndtr(shift - far) + special.ndtr(-shift - far)
    return stats.chi2.pdf(x, degrees) * reached

  parts = (0, degrees), (degrees, np.inf)
  return sum(integrate.quad(at, *ends)[0] for ends in parts)


def read(path):
  return list(csv.DictReader(io.StringIO(path.read_text())))


def differences(rows, model, reference):
  """Seeds averaged, then paired: differences, groups and folds of the units."""
  scores, groups = {}, {}
  for row in rows:
    unit = int(row["fold"]), row["case"]
    scores.setdefault((row["model"], unit), []).append(float(row["dice"]))
    groups[unit] = row["group"]
  units = sorted(groups)
  mean = lambda name, unit: (
    math.fsum(scores[name, unit]) / len(scores[name, unit])
  )
  found = [round(mean(model, u) - mean(reference, u), 12) for u in units]
  return np.array(found), np.array([groups[u] for u in units]), units


@pytest.mark.slow
@pytest.mark.parametrize("holdout", [False, True])
def test_every_number_equals_a_second_route(tmp_path, monkeypatch, holdout):
  monkeypatch.setattr(build.figures, "write", lambda results: [])
  rng = np.random.default_rng(11)
  frame = simulated.per_case(
    rng,
    simulated.effects(lift=0.02, teacher=0.03),
    cases=120,
    seeds=2,
    group_size=2,
    tests=40 if holdout else None,
  )
  kind = {"kind": "holdout" if holdout else "kfold"}
  config = simulated.workdir(tmp_path, frame, simulated.config(splits=kind))
  build.write(gather.results(tmp_path, config, simulated.ARMS))
  found = read(tmp_path / "report" / "comparisons.csv")
  assert ",".join(found[0]).startswith(COLUMNS)
  assert [x["reference"] for x in found] == ["Student"] * 12 + ["Teacher"] * 13
  rows = read(tmp_path / "per_case.csv")
  sizes = json.loads((tmp_path / "data.json").read_text())["folds"]
  ratio = np.mean(
    [len(x["test"]) / (len(x["train"]) + len(x["val"])) for x in sizes]
  )
  families, luck, errors = {}, {}, {}
  family = lambda row: (row["reference"], row["model"] == "Student")
  for row in found:
    number = {
      k: float(x)
      for k, x in row.items()
      if x and k not in ("model", "reference")
    }
    d, groups, units = differences(rows, row["model"], row["reference"])
    t = d.mean() / np.std(d, ddof=1) * math.sqrt(len(d))
    means = np.array([d[groups == x].mean() for x in sorted(set(groups))])
    p, effect = wilcoxon(d)
    size = 1 if row["model"] == "Student" else 12
    error, freedom = number["error"], number["freedom"]
    shift = number["detectable"] / error
    power = power_of(shift, freedom, 0.05 / size)
    below = t_above((d.mean() + 0.02) / error, freedom)
    above = t_above((0.02 - d.mean()) / error, freedom)
    reach = special.stdtrit(freedom, 0.975) * error
    expected = {
      "cases": len(d),
      "difference": d.mean(),
      "t_p": t_two_sided(t, len(d) - 1),
      "wilcoxon_p": p,
      "effect": effect,
      "wins": sum(d > 0),
      "ties": sum(d == 0),
      "losses": sum(d < 0),
      "groups": len(means),
      "group_p": wilcoxon(np.round(means, 12))[0],
      "group_equivalent_p": tost(means, 0.02),
      "repeats": 3,
      "anew_p": t_two_sided(d.mean() / error, freedom),
      "anew_equivalent_p": max(below, above),
      # Around that of these networks alone, whose second route is below.
      "ci_low": min(d.mean() - reach, number["networks_low"]),
      "ci_high": max(d.mean() + reach, number["networks_high"]),
    }
    for name in ("p", "equivalent_p"):
      parts = [expected[f"{x}_{name}"] for x in ("group", "anew")]
      expected[name] = max(parts)
    families.setdefault(family(row), {})[row["model"]] = expected["p"]
    for name, value in expected.items():
      assert number[name] == pytest.approx(value, rel=1e-6), (row, name)
    assert power == pytest.approx(0.8, abs=1e-3)
    interval = bca(d, groups)
    # Two bootstraps of 4999 draws differ by a few percent of their width.
    np.testing.assert_allclose(
      [number["networks_low"], number["networks_high"]],
      interval,
      atol=0.07 * np.ptp(interval),
    )
    folds = np.array([u[0] for u in units])
    m = np.array([d[folds == x].mean() for x in (0, 1, 2)])
    assert number["fold_low"] == pytest.approx(m.min())
    assert number["fold_high"] == pytest.approx(m.max())
    luck.setdefault(row["reference"], []).append(m)
    errors.setdefault(row["reference"], []).append(error)
  for row in found:
    corrected = holm(families[family(row)])[row["model"]]
    assert float(row["holm_p"]) == pytest.approx(corrected, rel=1e-6)
  for name, means in luck.items():
    # Whatever is drawn to what: all variances together are those of the folds,
    # as the analysis of variance parts them.
    means = np.array(means)  # [arms, folds]
    total = np.var(means, axis=1, ddof=1).mean()
    widened = 1 / 3 + (ratio if holdout else 0)
    found = np.mean(np.square(errors[name])) / widened
    assert found == pytest.approx(total, rel=0.3), name


def test_pairs_are_matched_by_fold_and_case_not_by_place():
  frame = simulated.per_case(
    np.random.default_rng(0), {"Student": 0, "L_MSE": 0.1}, cases=30
  )
  pairs = [("L_MSE", "Student")]
  mixed = frame.sample(frac=1, random_state=0)
  first, second = (
    comparisons.make(paired.make(x), pairs) for x in (frame, mixed)
  )
  assert first.equals(second)


def test_each_arm_has_its_own_student_and_students_meet_the_teacher():
  models = ["Teacher", "Student_a", "Student_b", "L_a", "L_b", "X"]
  references = {"L_a": "Student_a", "L_b": "Student_b"}
  found = comparisons.pairs(models, references)
  assert found == [
    ("L_a", "Student_a"),
    ("L_b", "Student_b"),
    *((x, "Teacher") for x in ("Student_a", "Student_b", "L_a", "L_b", "X")),
  ]
  only = comparisons.pairs(["Student", "L_MSE"], {"Student": "Student"})
  assert only == [("L_MSE", "Student")]


def test_a_missing_fold_is_compared_on_the_cases_in_common():
  rng = np.random.default_rng(0)
  frame = simulated.per_case(rng, {"Student": 0, "L_MSE": 0.1}, cases=60)
  lost = frame[(frame["model"] != "L_MSE") | (frame["fold"] != 1)]
  found = comparisons.make(paired.make(lost), [("L_MSE", "Student")])
  assert found["cases"].tolist() == [40]


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [1, 3])
def test_without_effects_an_arm_is_called_better_in_5_percent_at_most(
  group_size,
):
  # Twelve arms that share Student's errors, so correlated; 400 studies of 90
  # cases. The standard error of 5 % is 1.1 %.
  number, wrong, naive = 400, 0, 0
  rng = np.random.default_rng(1)
  groups = np.arange(90) // group_size
  for _ in range(number):
    scores = rng.normal(0.7, 0.05, (90, 13))  # Student first.
    scores += rng.normal(0, 0.05, (90, 13))[groups]
    difference = scores[:, 1:] - scores[:, :1]  # [cases, arms]
    means = difference.reshape(-1, group_size, 12).mean(1)  # [groups, arms]
    least = lambda x: min(
      statistics.holm([statistics.wilcoxon(d, 0 * d) for d in x.T])
    )
    wrong += least(means) < 0.05
    naive += least(difference) < 0.05
  limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / number)
  assert wrong / number <= limit
  if group_size > 1:
    assert naive / number > limit  # Why groups count once.
