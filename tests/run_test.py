"""What a notebook calls does what the command does."""

import pathlib
import re

import pandas as pd
import pytest

from kdjax import run
from kdjax.errors import UserError


def test_a_workdir_that_was_not_trained_is_refused(tmp_path):
  for call in (run.report, run.read):
    with pytest.raises(UserError, match="train there first"):
      call(tmp_path)


@pytest.mark.slow
def test_the_readmes_example_works_as_written(tmp_path):
  (example,) = [
    x
    for x in re.findall(
      r"```python\n(.*?)```", pathlib.Path("README.md").read_text(), re.DOTALL
    )
    if "run.train" in x
  ]
  for folder in ("runs/tiny", "results/tiny"):
    assert folder in example
    example = example.replace(folder, str(tmp_path / folder))
  seen = {}
  exec(example, seen)
  found = seen["found"]
  for name in ("table", "comparisons", "contrasts", "per_case", "history"):
    assert isinstance(getattr(found, name), pd.DataFrame), name
  assert len(found.table) == 14
  report = tmp_path / "runs/tiny/report"
  assert (report / "table.md").read_text() == found.text
  assert (tmp_path / "results/tiny/table.csv").read_bytes() == (
    report / "table.csv"
  ).read_bytes()
  pd.testing.assert_frame_equal(
    pd.read_csv(report / "comparisons.csv")[["model", "reference"]],
    found.comparisons[["model", "reference"]],
    check_dtype=False,
  )
  again = run.read(tmp_path / "runs/tiny")
  pd.testing.assert_frame_equal(again.per_case, found.per_case)
