"""The table's promises, on per-case files written by hand."""

import csv
import io
import math
import re
import shutil
import statistics
import subprocess
import sys

import pandas as pd
import pytest

from kdjax import errors
from kdjax import workdirs
from kdjax.report import build
from kdjax.report import gather
from kdjax.report import words
from tests import simulated

COLUMNS = "model,cases,dice_mean,dice_std,dice_ci_low,dice_ci_high,"
HEADER = (
  "model,fold,seed,case,group,dice,iou,hd95,assd,empty_truth,empty_prediction"
)
SIZES = {"Teacher": 83_600_000, "Student": 821_158, "L_MSE": 821_158}


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
  """Tables are read here; build_test and page_test look at figures."""
  monkeypatch.setattr(build.figures, "write", lambda results: [])


def line(model, case, dice, fold=0, seed=0, truth=0, prediction=0):
  trial = f"{model},{fold},{seed},{case},{case}"
  return f"{trial},{dice},{dice},1,1,{truth},{prediction}"


def trial(model, *dices, **keys):
  """One row per Dice: the cases of one trial are named by their place."""
  return [line(model, f"case{i}", x, **keys) for i, x in enumerate(dices)]


STUDY = [
  *trial("L_MSE", 0.7, 0.6, 0.8),
  *trial("Student", 0.6, 0.4, 0.5),
  *trial("Teacher", 0.8, 0.9, 0.7),
]


def write(workdir, lines, parameters=None, published=False):
  (workdir / "per_case.csv").write_text("\n".join([HEADER, *lines]) + "\n")
  settings = simulated.config(published=published)
  found = gather.results(workdir, settings, simulated.ARMS, parameters or {})
  return build.write(found)


def rows(workdir, name="table"):
  text = (workdir / "report" / f"{name}.csv").read_text()
  return {row["model"]: row for row in csv.DictReader(io.StringIO(text))}


def t_of_three(first, second):
  """Paired t by its closed form for two degrees of freedom."""
  difference = [a - b for a, b in zip(first, second, strict=True)]
  t = statistics.mean(difference) / statistics.stdev(difference) * math.sqrt(3)
  return 1 - abs(t) / math.sqrt(2 + t**2)


def test_numbers_equal_the_formulas(tmp_path):
  write(tmp_path, STUDY, SIZES)
  text = (tmp_path / "report" / "table.csv").read_text()
  assert text.startswith(COLUMNS)
  found = rows(tmp_path)["L_MSE"]
  arm, student, teacher = (0.7, 0.6, 0.8), (0.6, 0.4, 0.5), (0.8, 0.9, 0.7)
  expected = {
    "cases": 3,
    "dice_mean": statistics.mean(arm),
    "dice_std": statistics.stdev(arm),
    "dice_median": 0.7,
    "dice_q25": 0.65,
    "dice_q75": 0.75,
    "iou_mean": statistics.mean(arm),
    "hd95_mean": 1,
    "t_p_teacher": t_of_three(arm, teacher),
    "t_p_student": t_of_three(arm, student),
    "wilcoxon_p_student": 2 / 2**3,  # All three positive, no ties.
    "parameters": 821_158,
  }
  for column, value in expected.items():
    assert float(found[column]) == pytest.approx(value), column


def test_times_are_shown_but_are_no_column_of_the_numbers(tmp_path):
  names = "model,parameters,multiply_adds,latency_ms,file_bytes,device_seconds"
  costs = ["Teacher,9000,2e6,31.5,36000,7654", "Student,90,2e4,1.5,360,"]
  costs += ["L_MSE,90,2e4,1.5,360,"]
  content = "\n".join([names, *costs]) + "\n"
  (tmp_path / "efficiency.csv").write_text(content)
  text = re.sub(" +", " ", write(tmp_path, STUDY))
  assert "| 31.5 | 36.0 kB | 7,654 |" in text
  assert text.count("| 360 B |") == 1  # L_MSE cost what its Student cost.
  found = rows(tmp_path)["Teacher"]
  assert found["file_bytes"] == "36000"
  assert not {x for x in found if "latency" in x or "seconds" in x}
  assert "7654" not in found.values()


def test_what_networks_cost_as_onnx_is_shown_or_how_to_get_it(tmp_path):
  names = [*workdirs.COSTS]
  costs = pd.DataFrame(
    [[9000.0] * len(names), [90.0] * len(names)],
    pd.Index(["Teacher", "Student"], name="model"),
    names,
  )
  costs["onnx_ms"] = [31.25, 1.5]
  costs.to_csv(tmp_path / "efficiency.csv")
  text = re.sub(" +", " ", write(tmp_path, STUDY))
  assert "| on all, ms |" in text and "| 31.2 |" in text
  assert "kdjax[export]" not in text
  assert not {x for x in rows(tmp_path)["Teacher"] if "onnx" in x}
  costs.filter(regex="^(?!onnx)").to_csv(tmp_path / "efficiency.csv")
  text = write(tmp_path, STUDY)
  assert "on all, ms" not in text and "kdjax[export]" in text


def test_quoted_methods_stand_below_where_the_paper_is_asked_for(tmp_path):
  study = [*STUDY, *trial("L_KLD_WAug", 0.7, 0.8, 0.9)]
  sizes = SIZES | {"L_KLD_WAug": 821_158}
  text = re.sub(" +", " ", write(tmp_path, study, sizes, published=True))
  assert "| Gao | quoted | 85.0 | 2.34 M |" in text
  assert "| L_KLD_WAug | published | 80.0 | 820 k |" in text
  assert "| L_KLD_WAug | here | 80.0 | 821 k |" in text
  assert "| Teacher | here | 80.0 | 83.6 M |" in text
  assert "quoted" not in write(tmp_path, study)


def test_millimetres_stand_where_they_are_known(tmp_path):
  text = write(tmp_path, STUDY)
  assert "HD95, px" in text and "mm" not in text
  assert rows(tmp_path)["Teacher"]["hd95_mm_mean"] == ""
  lines = [f"{x},{i / 10 if i % 3 else ''},0.05" for i, x in enumerate(STUDY)]
  content = "\n".join([f"{HEADER},hd95_mm,assd_mm", *lines]) + "\n"
  (tmp_path / "per_case.csv").write_text(content)
  text = build.write(
    gather.results(tmp_path, simulated.config(), simulated.ARMS)
  )
  assert "HD95, mm" in text
  found = rows(tmp_path)["Teacher"]
  assert float(found["hd95_mm_mean"]) == pytest.approx((0.7 + 0.8) / 2)
  assert float(found["assd_mm_mean"]) == pytest.approx(0.05)


def test_rows_are_teacher_student_then_arms_of_the_grid(tmp_path):
  study = [*trial("Z", 0.5, 0.6), *trial("H_KLD", 0.5, 0.7), *STUDY]
  write(tmp_path, study)
  assert list(rows(tmp_path)) == ["Teacher", "Student", "L_MSE", "H_KLD", "Z"]


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


def test_a_case_in_two_folds_is_two_units_and_one_group(tmp_path):
  study = [
    row
    for model in ("Teacher", "Student")
    for fold in (0, 1)
    for row in trial(model, 0.5, 0.5 + fold / 10, fold=fold)
  ]
  text = write(tmp_path, study)
  assert rows(tmp_path)["Student"]["cases"] == "4"
  assert rows(tmp_path, "comparisons")["Student"]["groups"] == "2"
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
  after = rows(tmp_path)
  assert after["Student"].pop("false_alarms") == "1"
  assert before["Student"].pop("false_alarms") == "0"
  assert after == before
  assert "1 tested case without a lesion" in text
  assert "predicted all the same by: Student 1." in text


def test_a_missed_lesion_scores_zero_and_is_counted(tmp_path):
  study = [*STUDY[:-1], line("Teacher", "case2", 0, prediction=1)]
  text = write(tmp_path, study)
  found = rows(tmp_path)["Teacher"]
  assert float(found["dice_mean"]) == pytest.approx(1.7 / 3)
  assert found["missed"] == "1"
  assert "nothing was predicted for: Teacher 1." in text


def test_a_trial_that_never_predicts_is_named(tmp_path):
  silent = [line("L_MSE", f"case{i}", 0, prediction=1) for i in range(3)]
  text = write(tmp_path, [*STUDY[3:], *silent])
  assert "1 trial of 3 predicted nothing on every test case" in text
  assert "collapsed: L_MSE (fold 0, seed 0)." in text
  assert "collapsed" not in write(tmp_path, STUDY)


def test_a_lost_trial_is_compared_on_the_common_cases_and_named(tmp_path):
  more = [*trial("Teacher", 0.3, fold=1), *trial("Student", 0.9, fold=1)]
  write(tmp_path, STUDY, SIZES)
  before = rows(tmp_path)["L_MSE"]
  text = write(tmp_path, [*STUDY, *more], SIZES | {"H_MSE": 5})
  assert rows(tmp_path)["L_MSE"] == before
  assert "Incomplete, of 4 results: L_MSE 3, H_MSE 0." in text
  lost = rows(tmp_path)["H_MSE"]
  found = lost["cases"], lost["dice_mean"], lost["parameters"]
  assert found == ("0", "", "5")


def test_a_diverged_trial_is_left_out_and_named(tmp_path):
  (tmp_path / "history.csv").write_text(
    "stage,arm,fold,seed,epoch,train_loss,val_dice\n"
    "student,L_MSE,0,0,1,0.5,0.1\nstudent,L_MSE,0,0,2,nan,0.1\n"
  )
  text = write(tmp_path, STUDY)
  assert "loss became infinite: L_MSE (fold 0, seed 0)." in text
  assert rows(tmp_path)["L_MSE"]["cases"] == "0"
  lost = rows(tmp_path, "trials")["L_MSE"]
  assert (lost["diverged"], lost["epochs"]) == ("1", "2")


def test_trials_have_a_mean_each(tmp_path):
  study = [*trial("Student", 0.2, 0.4), *trial("Student", 0.5, 0.6, seed=1)]
  write(tmp_path, study)
  text = (tmp_path / "report" / "trials.csv").read_text().splitlines()
  assert text[0] == "model,fold,seed,cases,dice_mean,epochs,diverged"
  assert [x.split(",")[2] for x in text[1:]] == ["0", "1"]
  means = [float(x.split(",")[4]) for x in text[1:]]
  assert means == pytest.approx([0.3, 0.55])


def test_one_case_gives_a_table_without_spread_or_p(tmp_path):
  text = write(tmp_path, [*trial("Student", 0.25), *trial("Teacher", 0.5)])
  assert rows(tmp_path)["Student"]["dice_std"] == ""
  assert re.search(r"\| +25\.00 \|", text)
  assert "nan" not in text
  assert "no verdict is given" in text


def test_markdown_is_what_the_command_prints_and_its_columns_align(tmp_path):
  text = write(tmp_path, STUDY, SIZES)
  assert (tmp_path / "report" / "table.md").read_text() == text
  for block in text.split("\n\n")[:2]:
    assert len(block.splitlines()) == 2 + 3
    assert len({len(x) for x in block.splitlines()}) == 1
  assert "70.00 ± 10.00" in text
  assert "83.6 M" in text


@pytest.mark.parametrize(
  "p, said",
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
def test_p_values_carry_the_marks_of_the_paper(p, said):
  assert words.p(p) == said


@pytest.mark.parametrize(
  "value, said",
  [
    (821_158, "821 k"),
    (83_600_000, "83.6 M"),
    (5_500_000, "5.50 M"),
    (12, "12"),
    (math.nan, "-"),
  ],
)
def test_counts_have_three_digits(value, said):
  assert words.si(value) == said


def test_differences_have_a_sign_and_never_minus_zero():
  assert words.points(0.0123) == "+1.2"
  assert words.points(-0.0123) == "\N{MINUS SIGN}1.2"
  assert words.points(-1e-6) == "+0.0"


def test_published_values_and_claims_stand_there_only_when_asked(tmp_path):
  text = write(tmp_path, STUDY, published=True)
  found = rows(tmp_path)
  assert found["L_MSE"]["published_dice_mean"] == "0.7775"
  assert found["L_MSE"]["published_p_student"] == "0.0227"
  assert found["Teacher"]["published_dice_std"] == "0.184"
  assert "73.16 ± 23.78" in text
  assert r"73.16 $\pm$ 23.78" in (tmp_path / "report/table.tex").read_text()
  assert "7. The trend" in text
  text = write(tmp_path, STUDY)
  assert "73.16" not in text
  assert "published" not in rows(tmp_path)["L_MSE"]
  assert "The trend" not in text


def test_an_arm_that_was_not_published_has_no_published_value(tmp_path):
  write(tmp_path, [*STUDY, *trial("L_MSE_lr0.1", 0.5, 0.6)], published=True)
  assert rows(tmp_path)["L_MSE_lr0.1"]["published_dice_mean"] == ""


@pytest.mark.parametrize("published", [False, True])
def test_tex_is_balanced_and_its_rows_are_full(tmp_path, published):
  study = [*STUDY, *trial(r"odd_{%&$#~^\x", 0.5, 0.6)]
  write(tmp_path, study, SIZES, published)
  text = (tmp_path / "report" / "table.tex").read_text()
  assert text.isascii()
  assert r"odd\_\{\%\&\$\#\textasciitilde{}\textasciicircum{}" in text
  bare = re.sub(r"\\[{}&%$#_]", "", text)
  assert bare.count("{") == bare.count("}")
  assert bare.count("$") % 2 == 0
  (columns,) = re.findall(r"\\begin{tabular}{@{}(\w+)@{}}", text)
  body = bare.split(r"\midrule")[1].split(r"\bottomrule")[0].split("\\\\\n")
  assert [x.count("&") for x in body[:-1]] == [len(columns) - 1] * 4
  (groups,) = [x for x in bare.splitlines() if "multicolumn" in x]
  spans = sum(int(x) - 1 for x in re.findall(r"multicolumn{(\d)}", groups))
  assert groups.count("&") + spans == len(columns) - 1


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
@pytest.mark.parametrize("layout", ["", "twocolumn"])
def test_tex_compiles_and_fits_the_page(tmp_path, layout):
  effects = {x: y * 10 for x, y in simulated.effects().items()}  # Wide cells.
  study = [
    row
    for model, effect in effects.items()
    for row in trial(model, *(max(0, x - effect / 2) for x in (0.6, 0.7, 0.9)))
  ]
  write(tmp_path, study, SIZES, published=True)
  (tmp_path / "page.tex").write_text(
    rf"\documentclass[{layout}]{{article}}\usepackage[margin=20mm]{{geometry}}"
    r"\usepackage{booktabs}\begin{document}\input{report/table.tex}"
    r"\end{document}"
  )
  command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page"]
  done = subprocess.run(
    command, cwd=tmp_path, capture_output=True, timeout=120, check=False
  )
  log = done.stdout.decode(errors="replace")
  assert done.returncode == 0, log
  assert "Overfull" not in log, log


def test_a_damaged_file_leaves_no_report(tmp_path):
  with pytest.raises(errors.UserError, match="damaged"):
    write(tmp_path, [line("Teacher", "a", 75.5)])
  assert not (tmp_path / "report").exists()


def test_cases_without_any_lesion_make_no_table(tmp_path):
  empty = [line(x, "none", "", truth=1) for x in ("Teacher", "Student")]
  with pytest.raises(errors.UserError, match="no tested case has a lesion"):
    write(tmp_path, empty)
  assert not (tmp_path / "report").exists()


def test_a_report_needs_no_jax():
  code = "import sys, kdjax.report.build; sys.exit('jax' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
