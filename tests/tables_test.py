"""The table's promises, on per-case files written by hand."""

import csv
import io
import math
import re
import shutil
import statistics
import subprocess
import sys

import pytest

from kdjax import errors
from kdjax import files
from kdjax.report import published
from kdjax.report import tables

COLUMNS = (
  "model,cases,dice_mean,dice_std,t_p_teacher,wilcoxon_p_teacher,t_p_student,"
  "wilcoxon_p_student,parameters"
)
HEADER = (
  "model,fold,seed,case,group,dice,iou,hd95,assd,empty_truth,empty_prediction"
)
SIZES = {"Teacher": 83_600_000, "Student": 821_158, "L_MSE": 821_158}


def line(model, case, dice, fold=0, seed=0, truth=0, prediction=0):
  trial = f"{model},{fold},{seed},{case},benign"
  return f"{trial},{dice},{dice},1,1,{truth},{prediction}"


def trial(model, *dices, **keys):
  """One row per Dice: the cases of one trial are named by their place."""
  return [line(model, f"case{i}", x, **keys) for i, x in enumerate(dices)]


STUDY = [
  *trial("L_MSE", 0.7, 0.6, 0.8),
  *trial("Student", 0.6, 0.4, 0.5),
  *trial("Teacher", 0.8, 0.9, 0.7),
]


def write(workdir, lines, parameters=SIZES, references=None, **keys):
  (workdir / "per_case.csv").write_text("\n".join([HEADER, *lines]) + "\n")
  return tables.write(workdir, parameters, references or {}, **keys)


def rows(workdir):
  text = (workdir / "report" / "table.csv").read_text()
  return {row["model"]: row for row in csv.DictReader(io.StringIO(text))}


def t_of_three(first, second):
  """Paired t by its closed form for two degrees of freedom."""
  difference = [a - b for a, b in zip(first, second, strict=True)]
  t = statistics.mean(difference) / statistics.stdev(difference) * math.sqrt(3)
  return 1 - abs(t) / math.sqrt(2 + t**2)


def test_csv_has_exactly_the_promised_columns(tmp_path):
  write(tmp_path, STUDY)
  text = (tmp_path / "report" / "table.csv").read_text()
  assert text.splitlines()[0] == COLUMNS


def test_numbers_equal_the_formulas(tmp_path):
  write(tmp_path, STUDY)
  found = rows(tmp_path)["L_MSE"]
  arm, student, teacher = (0.7, 0.6, 0.8), (0.6, 0.4, 0.5), (0.8, 0.9, 0.7)
  expected = {
    "cases": 3,
    "dice_mean": statistics.mean(arm),
    "dice_std": statistics.stdev(arm),
    "t_p_teacher": t_of_three(arm, teacher),
    "t_p_student": t_of_three(arm, student),
    "wilcoxon_p_student": 2 / 2**3,  # All three positive, no ties.
    "parameters": 821_158,
  }
  for column, value in expected.items():
    assert float(found[column]) == pytest.approx(value), column


def test_rows_are_teacher_student_then_arms_as_they_come(tmp_path):
  study = [*trial("Z", 0.5, 0.6), *trial("A", 0.5, 0.7), *STUDY]
  write(tmp_path, study)
  assert list(rows(tmp_path)) == ["Teacher", "Student", "Z", "A", "L_MSE"]


def test_nobody_is_compared_with_itself(tmp_path):
  write(tmp_path, STUDY)
  found = rows(tmp_path)
  assert found["Teacher"]["t_p_teacher"] == ""
  assert found["Student"]["wilcoxon_p_student"] == ""
  both = found["Teacher"]["t_p_student"], found["Student"]["t_p_teacher"]
  assert float(both[0]) == pytest.approx(float(both[1]))


def test_seeds_are_averaged_before_anything_else(tmp_path):
  student = trial("Student", 0.2, 0.3), trial("Student", 0.4, 0.7, seed=1)
  teacher = trial("Teacher", 0.5, 0.9), trial("Teacher", 0.5, 0.9, seed=1)
  text = write(tmp_path, sum([*student, *teacher], []))
  found = rows(tmp_path)["Student"]
  assert found["cases"] == "2"
  assert float(found["dice_std"]) == pytest.approx(0.2 / math.sqrt(2))
  assert "2 cases, 1 fold, 2 seeds" in text


def test_pairs_are_matched_by_fold_and_case_not_by_place(tmp_path):
  write(tmp_path, STUDY)
  ordered = rows(tmp_path)
  write(tmp_path, [*STUDY[:6], *STUDY[:5:-1]])
  assert rows(tmp_path) == ordered


def test_a_case_tested_in_two_folds_counts_twice_and_the_note_says_so(tmp_path):
  study = [
    row
    for model in ("Teacher", "Student")
    for fold in (0, 1)
    for row in trial(model, 0.5, 0.5 + fold / 10, fold=fold)
  ]
  text = write(tmp_path, study)
  assert rows(tmp_path)["Student"]["cases"] == "4"
  assert "2 cases, 2 folds, 1 seed" in text
  assert "2 cases tested in more than one" in text
  assert "tested in more than one" not in write(tmp_path, STUDY)


def test_a_case_without_lesion_is_left_out_and_counted(tmp_path):
  empty = [
    line("Teacher", "none", "", truth=1, prediction=1),
    line("Student", "none", "", truth=1),
    line("L_MSE", "none", "", truth=1, prediction=1),
  ]
  text = write(tmp_path, STUDY)
  assert "without a lesion" not in text
  before = rows(tmp_path)
  text = write(tmp_path, [*STUDY, *empty])
  assert rows(tmp_path) == before
  assert "1 tested case without a lesion" in text
  assert "predicted all the same by: Student 1." in text


def test_a_missed_lesion_scores_zero_and_is_counted(tmp_path):
  study = [*STUDY[:-1], line("Teacher", "case2", 0, prediction=1)]
  text = write(tmp_path, study)
  assert float(rows(tmp_path)["Teacher"]["dice_mean"]) == pytest.approx(1.7 / 3)
  assert "nothing was predicted for: Teacher 1." in text


def test_each_arm_is_compared_with_its_own_student(tmp_path):
  study = [
    *trial("Student_a", 0.1, 0.2, 0.2),
    *trial("Student_b", 0.6, 0.4, 0.5),
    *trial("L_a", 0.7, 0.6, 0.8),
    *trial("L_b", 0.7, 0.6, 0.8),
    *trial("Teacher", 0.8, 0.9, 0.7),
  ]
  references = {"L_a": "Student_a", "L_b": "Student_b"}
  write(tmp_path, study, {}, references)
  found = rows(tmp_path)
  assert list(found) == ["Teacher", "Student_a", "Student_b", "L_a", "L_b"]
  for arm, student in (("L_a", (0.1, 0.2, 0.2)), ("L_b", (0.6, 0.4, 0.5))):
    p = float(found[arm]["t_p_student"])
    assert p == pytest.approx(t_of_three((0.7, 0.6, 0.8), student))
  assert found["Teacher"]["t_p_student"] == ""
  assert found["Student_b"]["t_p_student"] == ""


def test_a_lost_trial_is_compared_on_the_common_cases_and_named(tmp_path):
  more = [
    *trial("Teacher", 0.3, fold=1),
    *trial("Student", 0.9, fold=1),
  ]
  write(tmp_path, STUDY)
  before = rows(tmp_path)["L_MSE"]
  text = write(tmp_path, [*STUDY, *more], SIZES | {"H_MSE": 5})
  assert rows(tmp_path)["L_MSE"] == before
  assert "Incomplete, of 4 results: L_MSE 3, H_MSE 0." in text
  lost = rows(tmp_path)["H_MSE"]
  assert (lost["cases"], lost["dice_mean"], lost["parameters"]) == (
    "0",
    "",
    "5",
  )


def test_equal_models_give_a_p_of_one(tmp_path):
  write(tmp_path, [*trial("Student", 0.2, 0.4), *trial("Teacher", 0.2, 0.4)])
  found = rows(tmp_path)["Student"]
  assert found["t_p_teacher"] == found["wilcoxon_p_teacher"] == "1.0"


def test_one_case_gives_a_table_without_spread_or_p(tmp_path):
  text = write(tmp_path, [*trial("Student", 0.25), *trial("Teacher", 0.5)])
  assert rows(tmp_path)["Student"]["dice_std"] == ""
  assert "| 25.00 |" in text
  assert "nan" not in text


@pytest.mark.parametrize("cases", [("007", "7"), ("NA", "7")])
def test_words_in_the_csv_stay_words(tmp_path, cases):
  models = ("Teacher", "Student")
  study = [line(model, case, 0.5) for model in models for case in cases]
  assert "(2 cases" in write(tmp_path, study)


def test_markdown_is_what_the_command_prints_and_its_columns_align(tmp_path):
  text = write(tmp_path, STUDY)
  assert (tmp_path / "report" / "table.md").read_text() == text
  lines = [x for x in text.splitlines() if x.startswith("|")]
  assert len(lines) == 2 + 3
  assert len({len(x) for x in lines}) == 1
  assert "70.00 ± 10.00" in text
  assert "83,600,000" in text


@pytest.mark.parametrize(
  "p, words",
  [
    (1.0, "1.000"),
    (0.1414, "0.141"),
    (0.0948, "0.0948"),
    (0.0227, "0.0227*"),
    (0.0048, "0.0048**"),
    (1e-9, "<0.001**"),
    (math.nan, "-"),
  ],
)
def test_p_values_carry_the_marks_of_the_paper(p, words):
  assert tables._p(p) == words


def test_note_says_what_the_data_support(tmp_path):
  # Three values with a deviation of 0.1: t(0.975, 2) = 4.303.
  text = write(tmp_path, STUDY)
  assert "within ± 24.8 to 24.8 points (95 %" in text
  assert "paired t-test and Wilcoxon signed-rank test" in text
  assert "not corrected" in text


def test_published_values_stand_beside_ours_only_when_asked(tmp_path):
  text = write(tmp_path, STUDY, published=True)
  found = rows(tmp_path)
  columns = f"{COLUMNS},published_dice_mean,published_dice_std"
  assert ",".join(found["L_MSE"]) == columns
  assert found["L_MSE"]["published_dice_mean"] == "0.7775"
  assert found["Teacher"]["published_dice_std"] == "0.184"
  assert "73.16 ± 23.78" in text
  assert r"73.16 $\pm$ 23.78" in (tmp_path / "report/table.tex").read_text()
  assert "73.16" not in write(tmp_path, STUDY)


def test_an_arm_that_was_not_published_has_no_published_value(tmp_path):
  write(tmp_path, [*STUDY, *trial("L_MSE_lr0.1", 0.5, 0.6)], published=True)
  assert rows(tmp_path)["L_MSE_lr0.1"]["published_dice_mean"] == ""


def test_published_table_has_the_means_that_the_study_quotes():
  # A slip in a digit would move one of them.
  arms = {x: row for x, row in published.TABLE_4.items() if "_" in x}

  def mean(keep):
    return round(
      statistics.mean(row.dice_mean for x, row in arms.items() if keep(x)), 1
    )

  assert len(arms) == 12
  pathways = [mean(lambda x, y=y: x.startswith(y)) for y in ("L_", "H_", "HR")]
  assert pathways == [78.3, 78.2, 78.5]
  assert [mean(lambda x, y=y: y in x) for y in ("KLD", "MSE")] == [79.0, 77.7]
  weak = [mean(lambda x, y=y: ("WAug" in x) == y) for y in (True, False)]
  assert weak == [78.5, 78.2]
  assert sum(row.p_student < 0.05 for row in arms.values()) == 11


@pytest.mark.parametrize("extra", [{}, {"published": True}])
def test_tex_is_balanced_and_its_rows_are_full(tmp_path, extra):
  study = [*STUDY, *trial(r"odd_{%&$#~^\x", 0.5, 0.6)]
  write(tmp_path, study, SIZES, **extra)
  text = (tmp_path / "report" / "table.tex").read_text()
  assert text.isascii()
  assert r"odd\_\{\%\&\$\#\textasciitilde{}\textasciicircum{}" in text
  bare = re.sub(r"\\[{}&%$#_]", "", text)
  assert bare.count("{") == bare.count("}")
  assert bare.count("$") % 2 == 0
  for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
    assert text.count(rule) == 1
  environment = re.findall(r"\\(begin|end){([a-z*]+)}", text)
  opened = []
  for what, name in environment:
    if what == "begin":
      opened.append(name)
    else:
      assert opened.pop() == name
  assert opened == []
  (columns,) = re.findall(r"\\begin{tabular}{(\w+)}", text)
  body = bare.split(r"\midrule")[1].split(r"\bottomrule")[0].split("\\\\\n")
  assert [x.count("&") for x in body[:-1]] == [len(columns) - 1] * 4
  spans = text.count(r"\multicolumn{2}")
  (groups,) = [x for x in bare.splitlines() if "multicolumn" in x]
  assert groups.count("&") + spans == len(columns) - 1


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_tex_compiles(tmp_path):
  write(tmp_path, STUDY, published=True)
  (tmp_path / "page.tex").write_text(
    r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    r"\input{report/table.tex}\end{document}"
  )
  command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page"]
  subprocess.run(command, cwd=tmp_path, check=True, timeout=120)


def test_a_missing_file_is_one_line_with_the_way_out(tmp_path):
  with pytest.raises(errors.UserError) as error:
    tables.write(tmp_path, {}, {})
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
    tables.write(tmp_path, {}, {})
  assert str(tmp_path / "per_case.csv") in str(error.value)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "report").exists()


def test_files_appear_whole_or_not_at_all(tmp_path):
  path = tmp_path / "new" / "table.csv"
  files.write_text(path, "old ±\n")
  assert path.read_bytes() == "old ±\n".encode()
  with pytest.raises(UnicodeEncodeError):
    files.write_text(path, "\ud800")  # Has no UTF-8.
  assert path.read_text(encoding="utf-8") == "old ±\n"
  assert [x.name for x in path.parent.iterdir()] == ["table.csv"]


def test_a_failed_rename_leaves_nothing_beside(tmp_path):
  (tmp_path / "table.csv").mkdir()
  with pytest.raises(OSError):
    files.write_text(tmp_path / "table.csv", "text")
  assert [x.name for x in tmp_path.iterdir()] == ["table.csv"]


def test_tables_need_no_jax():
  code = "import sys, kdjax.report.tables; sys.exit('jax' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
