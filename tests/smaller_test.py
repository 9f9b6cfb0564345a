"""What a report says of networks that were made smaller."""

import numpy as np
import pytest

from kdjax import readers
from kdjax import workdirs
from kdjax.distill import trials
from kdjax.report import claims
from kdjax.report import compression
from kdjax.report import front
from kdjax.report import gather
from kdjax.report import verdicts
from tests import simulated

GRID = {
  **simulated.GRID,
  "pathway": ("L",),
  "loss": ("KLD",),
  "view": ("strong",),
  "sparsity": (0.0, 0.9),
  "bits": (32, 8),
}
ARMS = trials.make_arms(GRID)
# Dice above 0.7, bytes, milliseconds.
MODELS = {
  "Teacher": (0.08, 20e6, 10.0),
  "Teacher_sparse0.9": (0.08, 3e6, 10.1),
  "Teacher_8bit": (0.03, 5e6, 5.0),
  "Student": (0.0, 2e5, 1.0),
  "Student_8bit": (0.0, 5e4, 0.9),
  "Student_sparse0.9": (-0.1, 3e4, 1.0),
  "Student_sparse0.9_8bit": (-0.1, 1e4, 0.9),
  "L_KLD": (0.05, 2e5, 1.0),
  "L_KLD_8bit": (0.05, 5e4, 0.9),
  "L_KLD_sparse0.9": (-0.1, 3e4, 1.0),
  "L_KLD_sparse0.9_8bit": (-0.1, 1e4, 0.9),
}


def make(path, models=MODELS, costs=True):
  """The results of a study with three folds, known effects and costs."""
  frame = simulated.per_case(
    np.random.default_rng(0), {x: y[0] for x, y in models.items()}, own=0.005
  )
  settings = simulated.config(
    grid=GRID,
    published=False,
    teacher_training={},
    teacher_compression={
      "sparsity": (0.9,),
      "bits": (8,),
      "max_epochs": 3,
      "learning_rate": 0.1,
    },
  )
  simulated.workdir(path, frame, settings)
  if costs:
    workdirs.write_table(
      path,
      workdirs.EFFICIENCY,
      [
        {
          "model": name,
          "parameters": 1000,
          "stored_bytes": size,
          "onnx_ms_one_core": time,
        }
        for name, (_, size, time) in models.items()
      ],
    )
  return gather.results(path, settings, ARMS)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  return make(tmp_path_factory.mktemp("smaller"))


def test_smaller_teachers_follow_teacher_and_are_compared_with_it(results):
  assert list(results.models[:3]) == list(MODELS)[:3]
  for name in results.compressed:
    frame = results.comparisons
    assert list(frame[frame["model"] == name]["reference"]) == ["Teacher"]
  # Their correction is their own: of two, and not of the arms'.
  (one,) = results.comparisons.query("model == 'Teacher_8bit'").to_dict(
    "records"
  )
  assert one["holm_p"] <= 2 * one["p"] + 1e-12
  assert verdicts.shown(one) < 0
  assert set(results.taught) == {x for x in MODELS if x.startswith("L_")}


def test_each_is_set_beside_what_it_was(results):
  assert compression.wholes(results, "sparsity") == {
    "Teacher_sparse0.9": "Teacher",
    "Student_sparse0.9": "Student",
    "L_KLD_sparse0.9": "L_KLD",
  }
  assert compression.wholes(results, "bits") == {
    "Teacher_8bit": "Teacher",
    "Student_8bit": "Student",
    "L_KLD_8bit": "L_KLD",
  }


def test_the_front_is_what_no_other_beats(results):
  found = front.points(results)
  kept = set(found.index[found["front"]])
  for model, row in found.iterrows():
    beaten = (found["bytes"] <= row["bytes"]) & (found["dice"] > row["dice"])
    assert (model in kept) == (not beaten.any()), model
  assert found["bytes"].is_monotonic_increasing
  assert front.draw(results) is not None


def said(results, text):
  (row,) = [x for x in results.claims.to_dict("records") if text in x["claim"]]
  return row


def test_the_introductions_statements_have_verdicts(results):
  pruning = said(results, "Pruning")
  assert pruning["verdict"] == verdicts.SUPPORTED
  assert "6.7 times fewer bytes and takes 1.01" in pruning["sentence"]
  bits = said(results, "Quantisation")
  assert bits["verdict"] == verdicts.SUPPORTED
  assert "4.0 times fewer bytes" in bits["sentence"]
  # Faster, but three points below Teacher.
  assert said(results, "faster")["verdict"] != verdicts.SUPPORTED


def test_what_costs_say_is_no_matter_of_chance(tmp_path):
  quick = {**MODELS, "Teacher_sparse0.9": (0.08, 3e6, 2.0)}
  found = said(make(tmp_path / "quick", quick), "Pruning")
  assert found["verdict"] == verdicts.NOT_SUPPORTED
  slow = {**MODELS, "L_KLD": (0.08, 2e5, 11.0)}
  found = said(make(tmp_path / "slow", slow), "faster")
  assert found["verdict"] == verdicts.NOT_SUPPORTED
  level = {**MODELS, "L_KLD": (0.08, 2e5, 1.0)}
  found = said(make(tmp_path / "level", level), "faster")
  assert found["verdict"] == verdicts.SUPPORTED


def test_at_equal_bytes_validation_chooses_the_student(results):
  pairs = dict(compression._equal_bytes(results))
  history = readers.history(results.workdir)
  best = history.groupby(["arm", "fold", "seed"])["val_dice"].max()
  best = best.groupby("arm").mean()
  for mine, theirs in pairs.items():
    rivals = [
      x
      for x, (_, size, _) in MODELS.items()
      if size <= MODELS[mine][1] and not x.startswith("Teacher")
    ]
    assert theirs == best[rivals].idxmax()
  sentence = compression.answer(results)
  assert sentence in results.answer and "At equal bytes" in sentence


def test_without_costs_nothing_is_said_of_bytes(tmp_path):
  results = make(tmp_path, costs=False)
  assert compression.claims(results) == []
  assert compression.answer(results) == "" and compression.note(results) == []
  assert front.draw(results) is None
  assert len(claims.make(results)) == 7
