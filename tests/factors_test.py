"""Contrasts of the grid's axes and the mixed model, by a second route."""

import numpy as np
import pytest
from scipy import stats

from kdjax.distill import trials
from kdjax.report import factors
from kdjax.report import paired
from tests import simulated

LEVELS = factors.of_arms(simulated.ARMS)


@pytest.fixture(scope="module")
def frame():
  return simulated.per_case(np.random.default_rng(5), simulated.effects())


def table(frame):
  scores = frame.pivot(index="case", columns="model", values="dice")
  return scores[list(simulated.DISTILLED)]


def test_only_axes_that_vary_are_factors():
  assert list(LEVELS) == ["pathway", "loss", "view"]
  assert LEVELS.loc["HReg_KLD_WAug"].tolist() == ["HReg", "KLD", "weak"]
  assert "Student" not in LEVELS.index


def test_contrasts_are_differences_of_marginal_means(frame):
  found = factors.contrasts(paired.make(frame), LEVELS).set_index(
    ["level", "against"]
  )
  scores = table(frame)
  mean = lambda part: scores[[x for x in scores if part(x)]].mean(axis=1)
  kld = mean(lambda x: "KLD" in x) - mean(lambda x: "MSE" in x)
  row = found.loc[("KLD", "MSE")]
  assert row["difference"] == pytest.approx(kld.mean())
  assert row["group_p"] == pytest.approx(stats.wilcoxon(kld.round(12)).pvalue)
  assert row["arms"] == 12
  hidden = mean(lambda x: x.startswith("H_")) - mean(lambda x: x[:2] == "L_")
  assert found.loc[("H", "L"), "difference"] == pytest.approx(hidden.mean())
  assert len(found) == 3 + 1 + 1
  assert row["p"] == max(row["group_p"], row["anew_p"])
  np.testing.assert_array_less(found["p"] - 1e-15, found["holm_p"])
  assert row["holm_p"] == pytest.approx(5 * row["p"])  # The smallest.


def test_levels_are_compared_among_arms_alike_in_the_rest():
  # H_KLD has no counterpart in L and must not count for its pathway.
  frame = simulated.per_case(
    np.random.default_rng(0), {"L_MSE": 0.0, "H_MSE": 0.1, "H_KLD": 0.5}
  )
  found = factors.contrasts(paired.make(frame), LEVELS)
  found = found.set_index(["level", "against"])
  assert found.loc[("H", "L"), "arms"] == 2
  assert found.loc[("H", "L"), "difference"] == pytest.approx(0.1, abs=0.03)


def test_an_axis_that_a_pathway_does_not_read_does_not_part_it():
  grid = simulated.GRID | {
    "pair": (("encoder3", "encoder4"), ("encoder4", "encoder5")),
    "view": ("strong",),
  }
  arms = trials.make_arms(grid)
  levels = factors.of_arms(arms)
  assert levels.loc["L_MSE", "pair"] == ""
  rng = np.random.default_rng(0)
  frame = simulated.per_case(rng, {arm.name: 0.0 for arm in arms})
  found = factors.contrasts(paired.make(frame), levels)
  counts = found.set_index(["level", "against"])["arms"].to_dict()
  assert counts == {
    ("H", "L"): 6,  # A pathway's two losses, at both pairs for H.
    ("HReg", "L"): 6,
    ("HReg", "H"): 8,
    ("KLD", "MSE"): 10,
    ("encoder4-encoder5", "encoder3-encoder4"): 8,
  }
  terms = factors.mixed_model(frame, levels)
  assert terms["term"].tolist()[:2] == ["pathway", "loss"]


def test_a_loss_without_temperature_meets_the_other_at_all_of_its():
  grid = simulated.GRID | {"temperature": (1.0, 4.0), "view": ("strong",)}
  arms = trials.make_arms(grid)
  levels = factors.of_arms(arms)
  assert levels.loc["L_MSE", "temperature"] == ""
  assert levels.loc["L_KLD_tau4", "temperature"] == "4"
  effects = {x.name: 0.1 * (x.numbers["temperature"] == 4) for x in arms}
  frame = simulated.per_case(np.random.default_rng(0), effects)
  found = factors.contrasts(paired.make(frame), levels).set_index(
    ["level", "against"]
  )
  # Each pathway's MSE against its KLD at both temperatures.
  assert found.loc[("KLD", "MSE"), "arms"] == 9
  assert found.loc[("KLD", "MSE"), "difference"] == pytest.approx(
    0.05, abs=0.02
  )
  assert found.loc[("4", "1"), "arms"] == 6
  assert found.loc[("4", "1"), "difference"] == pytest.approx(0.1, abs=0.03)


def test_one_temperature_is_no_factor():
  """Not even beside a loss that has none."""
  arms = trials.make_arms(simulated.GRID | {"temperature": (4.0,)})
  assert "temperature" not in factors.of_arms(arms)


def test_mixed_model_equals_analysis_of_variance_on_balanced_data(frame):
  # With every arm on every case, REML's residual is the interaction of case
  # and arm, and a term's chi-squared is its sum of squares over that.
  found = factors.mixed_model(frame, LEVELS).set_index("term")
  assert found["converged"].all()
  values = table(frame).to_numpy()
  n, arms = values.shape
  residual = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
  variance = np.sum(residual**2) / ((n - 1) * (arms - 1))
  cells = values.mean(0).reshape(3, 2, 2)  # Pathway, loss, view.
  sums = {}
  for term, axes in (("pathway", 0), ("loss", 1), ("view", 2)):
    margin = cells.mean(tuple({0, 1, 2} - {axes})) - cells.mean()
    sums[term] = n * arms / len(margin) * np.sum(margin**2)
  both = cells.mean(0)
  both = both - both.mean(0) - both.mean(1)[:, None] + both.mean()
  sums["loss x view"] = n * 3 * np.sum(both**2)
  for term, value in sums.items():
    chi2 = value / variance
    assert found.loc[term, "chi2"] == pytest.approx(chi2, rel=1e-3), term
    df = 2 if term == "pathway" else 1
    assert found.loc[term, "df"] == df
    p = stats.chi2.sf(chi2, df)
    assert found.loc[term, "p"] == pytest.approx(p, rel=0.05), term
  assert "pathway x loss x view" in found.index


def test_a_model_that_cannot_be_fitted_says_so(frame):
  found = factors.mixed_model(frame.assign(dice=0.5), LEVELS)
  assert not found["converged"].any()
  assert found["note"].iloc[0]


def test_one_arm_has_no_factors():
  frame = simulated.per_case(np.random.default_rng(0), {"L_MSE": 0.0})
  levels = factors.of_arms([x for x in simulated.ARMS if x.name == "L_MSE"])
  assert factors.contrasts(paired.make(frame), levels).empty
  assert factors.mixed_model(frame, levels).empty
