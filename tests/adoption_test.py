"""Teachers taken over from another workdir: the same study, or one line."""

import json
import re
import shutil

import pytest

from kdjax import readers
from kdjax import recorded
from kdjax import workdirs
from kdjax.engine import course
from kdjax.engine import loop
from kdjax.errors import UserError
from kdjax.evaluate import cases
from tests import conftest

pytestmark = pytest.mark.slow


def make(workdir, source="", **training):
  config = conftest.make_config()
  config.folds = (0,)
  config.teacher_training.update(max_epochs=2, checkpoint=str(source))
  config.student_training.update(max_epochs=2, **training)
  study = conftest.make_study(config, ["Student", "L_KLD"], workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  recorded.claim(study.config, workdir)
  recorded.claim_data(study)
  return study


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("teachers")
  study = make(workdir)
  cases.write(study, course.train(study))
  return workdir


def test_it_is_the_study_that_trained_them_to_the_byte(
  source, tmp_path, capsys
):
  study = make(tmp_path, source)
  cases.write(study, course.train(study))
  said = capsys.readouterr().err
  assert f"teacher: taken over from {source}." in said
  assert "teacher: 1 x 1 trials" not in said
  for name in (workdirs.PER_CASE, workdirs.HISTORY):
    assert (tmp_path / name).read_bytes() == (source / name).read_bytes()
  found = readers.teachers(tmp_path)
  assert found["from"] == str(source) and len(found["digests"]) == 1


def test_it_keeps_them_and_goes_on_without_the_other_workdir(source, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(source, other)
  workdir = tmp_path / "run"
  study = make(workdir, other)
  course.train(study)
  shutil.rmtree(other)
  (workdir / workdirs.HISTORY).unlink()
  course.train(study)
  written = (workdir / workdirs.HISTORY).read_bytes()
  assert written == (source / workdirs.HISTORY).read_bytes()


def refused(tmp_path, source, change):
  other = tmp_path / "other"
  shutil.copytree(source, other)
  change(other)
  study = make(tmp_path / "run", other)
  with pytest.raises(UserError) as error:
    course.train(study)
  assert not (tmp_path / "run" / "per_case.csv").exists()
  assert not (tmp_path / "run" / workdirs.TEACHERS).exists()
  return str(error.value)


def edit(name, change):
  def changed(workdir):
    tree = json.loads((workdir / name).read_text())
    change(tree)
    (workdir / name).write_text(json.dumps(tree))

  return changed


@pytest.mark.parametrize(
  "change, said",
  [
    (
      edit("config.json", lambda x: x["teacher"].update(widths=[4, 6, 8])),
      r"teacher.widths is \[4, 6, 8\] and not \[4, 6, 6\]: set them alike",
    ),
    (
      edit("config.json", lambda x: x["data"].update(image_size=32)),
      "data.image_size is 32 and not 16",
    ),
    (
      edit("data.json", lambda x: x["folds"].reverse()),
      "teacher of fold 0 was trained on case case[0-9]+, which is tested here",
    ),
    (
      edit("data.json", lambda x: x["folds"].clear()),
      "data.json: damaged",
    ),
    (lambda x: (x / "config.json").unlink(), "config.json: no such file"),
    (lambda x: shutil.rmtree(x / "checkpoints"), "fold0-seed0 is not there"),
  ],
)
def test_what_cannot_be_taken_over_is_refused(tmp_path, source, change, said):
  assert re.search(said, refused(tmp_path, source, change))


def test_a_teacher_that_is_not_finished_is_refused(tmp_path, source):
  unfinished = tmp_path / "unfinished"
  study = make(unfinished)
  stage = study.teacher_stage
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop.interruption, "hold", lambda: True)
    patch.setattr(loop.interruption, "release", lambda: None)
    loop.run_stage(study, stage)
  with pytest.raises(UserError, match="not trained to its end"):
    course.train(make(tmp_path / "run", unfinished))


def test_another_seed_of_students_has_the_fold_s_teacher(source, tmp_path):
  config = conftest.make_config()
  config.update(folds=(0,), seeds=(7,))
  config.teacher_training.update(max_epochs=2, checkpoint=str(source))
  config.student_training.update(max_epochs=1)
  study = conftest.make_study(config, ["Student"], tmp_path)
  recorded.claim(study.config, tmp_path)
  recorded.claim_data(study)
  course.train(study)
  rows = readers.history(tmp_path)
  assert set(rows["seed"]) == {7}
  assert set(rows["stage"]) == {"teacher", "student"}
