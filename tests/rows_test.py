"""What a report reads: whole files or a line that says what is wrong."""

import re

import pandas as pd
import pytest

from kdjax import errors
from kdjax import readers
from kdjax.report import rows

HEADER = (
  "model,fold,seed,case,group,dice,iou,hd95,assd,empty_truth,empty_prediction"
)


def line(model, case, dice, fold=0, seed=0, truth=0, prediction=0):
  trial = f"{model},{fold},{seed},{case},benign"
  return f"{trial},{dice},{dice},1,1,{truth},{prediction}"


STUDY = [
  line(model, f"case{i}", dice)
  for model in ("L_MSE", "Student", "Teacher")
  for i, dice in enumerate((0.7, 0.6, 0.8))
]


def write(workdir, lines):
  (workdir / "per_case.csv").write_text("\n".join([HEADER, *lines]) + "\n")
  return readers.per_case(workdir)


def test_a_missing_file_is_one_line_with_the_way_out(tmp_path):
  with pytest.raises(errors.UserError) as error:
    readers.per_case(tmp_path)
  message = str(error.value)
  assert str(tmp_path / "per_case.csv") in message
  assert "no such file" in message
  assert "damaged" not in message
  assert "kdjax train" in message
  assert "\n" not in message


@pytest.mark.parametrize(
  "text, damage",
  [
    ("", "No columns"),
    (HEADER + "\n", "no rows"),
    ("model,fold\nTeacher,0\n", "no column case"),
    (f"{HEADER}\n{line('Student', 'a', 0.5)[:-8]}", "line 2"),
    (f"{HEADER}\nTeacher,0", "line 2"),
    (f"{HEADER}\n{line('Teacher', 'a', 'high')}", "high"),
    (f"{HEADER}\n{line('Teacher', 'a', 75.5)}", "line 2, dice"),
    (f"{HEADER}\n{line('Teacher', 'a', '')}", "line 2, dice"),
    (f"{HEADER}\n{line('Teacher', 'a', 0.5, truth=1)}", "line 2, dice"),
    (f"{HEADER}\n{line('Teacher', 'a', 0.5, truth=2)}", "empty_truth"),
    (f"{HEADER}\n{line('Teacher', 'a', 0.5, fold='x')}", "line 2, fold"),
    ("\n".join([HEADER, *STUDY, STUDY[4]]), "line 11 is there twice"),
    (f"{HEADER}\n{line('Teacher', 'a', 0.5)},1,2,3", "longer"),
    (b"\xff\xfe\x00\x01", "utf-8"),
  ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(tmp_path, text, damage):
  content = text if isinstance(text, bytes) else text.encode()
  (tmp_path / "per_case.csv").write_bytes(content)
  with pytest.raises(errors.UserError, match=re.escape(damage)) as error:
    readers.per_case(tmp_path)
  assert str(tmp_path / "per_case.csv") in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("cases", [("007", "7"), ("NA", "7")])
def test_words_in_the_csv_stay_words(tmp_path, cases):
  models = ("Teacher", "Student")
  study = [line(model, case, 0.5) for model in models for case in cases]
  assert list(write(tmp_path, study)["case"]) == [*cases, *cases]


def test_seeds_are_averaged_into_units(tmp_path):
  frame = write(
    tmp_path,
    [line("Student", "a", 0.2), line("Student", "a", 0.6, seed=1)]
    + [line("Student", "a", 0.9, fold=1)],
  )
  assert rows.units(frame)["Student"].to_dict() == pytest.approx(
    {(0, "a"): 0.4, (1, "a"): 0.9}
  )


def test_a_trial_with_an_infinite_loss_is_diverged_and_left_out():
  curves = pd.DataFrame(
    {
      "stage": "student",
      "arm": ["L_MSE", "L_MSE", "Student"],
      "fold": [0, 1, 1],
      "seed": 0,
      "epoch": 3,
      "train_loss": [0.5, float("nan"), 0.4],
    }
  )
  lost = rows.diverged(curves)
  assert lost.values.tolist() == [["L_MSE", 1, 0]]
  frame = pd.DataFrame(
    {
      "model": ["L_MSE", "L_MSE", "Student"],
      "fold": [0, 1, 1],
      "seed": 0,
    }
  )
  assert rows.without(frame, lost).index.tolist() == [0, 2]
  assert rows.without(frame, lost.iloc[:0]).index.tolist() == [0, 1, 2]
