"""Published pages say what the statistics of today make of their cases."""

import io
import pathlib

import pandas as pd
import pytest

from kdjax import run

RESULTS = pathlib.Path(__file__).parents[1] / "results"
RUNS = sorted(x.parent.name for x in RESULTS.glob("*/comparisons.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_published_page_is_what_its_cases_say_today(name):
  found = run.read(RESULTS / name)
  for table, frame in (
    ("comparisons", found.comparisons),
    ("contrasts", found.contrasts),
  ):
    pd.testing.assert_frame_equal(
      # Read as the file is: levels may all be numbers.
      pd.read_csv(io.StringIO(frame.to_csv(index=False))),
      pd.read_csv(RESULTS / name / f"{table}.csv"),
      check_dtype=False,
      rtol=1e-4,  # Another numpy sums in another order.
      atol=1e-6,
    )
  claims = pd.read_csv(RESULTS / name / "claims.csv")
  assert found.claims["verdict"].tolist() == claims["verdict"].tolist()
  assert found.answer[0] in (RESULTS / name / "README.md").read_text()


def test_there_are_published_runs():
  assert {"quickstart", "busi_cpu", "levels", "losses", "compress"} <= set(RUNS)
