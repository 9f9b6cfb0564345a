"""The published numbers against what the study says of them."""

import statistics

from kdjax.report import published


def test_published_table_has_the_means_that_the_study_quotes():
  # A slip in a digit would move one of them.
  arms = {x: row for x, row in published.TABLE_4.items() if "_" in x}

  def mean(keep):
    return round(
      statistics.mean(row.dice_mean for x, row in arms.items() if keep(x)), 1
    )

  assert len(arms) == 12
  assert arms == published.arms()
  pathways = [mean(lambda x, y=y: x.startswith(y)) for y in ("L_", "H_", "HR")]
  assert pathways == [78.3, 78.2, 78.5]
  assert [mean(lambda x, y=y: y in x) for y in ("KLD", "MSE")] == [79.0, 77.7]
  weak = [mean(lambda x, y=y: ("WAug" in x) == y) for y in (True, False)]
  assert weak == [78.5, 78.2]
  assert [round(published.mean(x), 1) for x in ("H", "HReg", "WAug")] == [
    78.2,
    78.5,
    78.5,
  ]
  assert round(published.gain("HReg_KLD_WAug"), 4) == 0.0615
  assert sum(row.p_student < 0.05 for row in arms.values()) == 11
