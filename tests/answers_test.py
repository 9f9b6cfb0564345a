"""A teacher's answers from disk teach what the teacher itself would."""

import pathlib
import re

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import special

from kdjax import configs
from kdjax import run
from kdjax import workdirs
from kdjax.bench import run as bench
from kdjax.data import pipeline
from kdjax.deploy import export
from kdjax.distill import taps
from kdjax.engine import adoption
from kdjax.engine import course
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.evaluate import cases
from kdjax.models import answers
from kdjax.models import folding
from kdjax.plan import plan
from tests import conftest

TAPS = ("encoder3",)


def make_config(folder=None, **grid):
  config = conftest.make_config()
  config.folds = (0, 1)
  config.grid.update(
    pathway=("L", "HReg"), loss=("KLD",), view=("cached",), **grid
  )
  if folder:
    config.teacher = dict(name="Answers", folder=str(folder), num_classes=2)
  return config


def make_study(config, workdir):
  return studies.make_study(config.lock(), workdir, conftest.make_dataset())


def ask(study, teachers, fold):
  """What the teacher of a fold says of all cases: logits and maps."""
  block = studies.Block(fold, 0)
  variables = jax.tree.map(lambda x: x[0], teachers[block])
  model, folded = folding.fold(study.make_model("teacher"), variables)
  look = study.make_look("teacher")
  every = np.arange(len(study.dataset.cases))
  logits, maps, _ = taps.apply(
    model, folded, look({"images": study.dataset.images}, every), taps=TAPS
  )
  return {
    "logits": np.asarray(logits),
    **{x: np.asarray(maps[x]) for x in maps},
  }


def write(folder, said, names):
  folder.mkdir(parents=True)
  for i, name in enumerate(names):
    np.savez(folder / f"{name}.npz", **{k: x[i] for k, x in said.items()})


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
  """A study with a network for a teacher, and what that said on disk."""
  folder = tmp_path_factory.mktemp("taught")
  study = make_study(make_config(), folder / "run")
  trained = course.train(study)
  cases.write(study, trained)
  for fold in (0, 1):
    said = ask(study, trained["teacher"], fold)
    write(folder / f"answers{fold}", said, study.dataset.cases)
  return folder


def numbers(workdir, name, model):
  rows = [x for x in workdirs.rows(workdir, name) if model in x.values()]
  skip = ("stage", "model", "arm", "case", "group")
  return np.array(
    [[float(v or "nan") for k, v in x.items() if k not in skip] for x in rows]
  )


@pytest.mark.slow
def test_answers_teach_what_their_teacher_teaches(taught, tmp_path):
  study = make_study(make_config(taught / "answers{fold}"), tmp_path / "run")
  cases.write(study, course.train(study))
  for model in ("Student", "L_KLD_Cached", "HReg_KLD_Cached"):
    ours = numbers(study.workdir, workdirs.HISTORY, model)
    theirs = numbers(taught / "run", workdirs.HISTORY, model)
    assert len(ours) == 4
    # Another order of additions: the cache is filled by another program.
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
  # Its row is there, though it is no network.
  ours = numbers(study.workdir, workdirs.PER_CASE, "Teacher")
  theirs = numbers(taught / "run", workdirs.PER_CASE, "Teacher")
  np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
  # Trained on is not told, and the report says so.
  assert not workdirs.files.read_json(study.workdir / workdirs.TEACHERS)[
    "unseen"
  ]
  assert not (study.workdir / "checkpoints" / "search1").exists()
  # And again, from what was kept: the folder is needed no more.
  again = adoption.readers.teachers(study.workdir)
  assert set(again["digests"]) == {"fold0-seed0", "fold1-seed0"}


def test_an_answer_of_another_size_or_of_one_channel_is_made_to_fit(tmp_path):
  dataset = conftest.make_dataset()
  rng = np.random.default_rng(0)
  margin = rng.normal(size=(len(dataset.cases), 8, 8, 1)).astype(np.float16)
  write(tmp_path / "one", {"logits": margin}, dataset.cases)
  config = make_config(tmp_path / "one")
  config.grid.pathway = ("L",)
  study = make_study(config, tmp_path / "run")
  said = adoption._said(study, 0)["logits"]
  assert said.shape == (len(dataset.cases), 16, 16, 2)
  asked = [*study.folds[0].train, *study.folds[0].test]
  assert (said[..., 0] == 0).all()
  np.testing.assert_allclose(
    said[asked, ..., 1].mean(axis=(1, 2)),
    margin[asked, ..., 0].astype(np.float32).mean(axis=(1, 2)),
    atol=1e-3,
  )
  assert not said[study.folds[0].val].any()  # Nobody asks it there.


def _remove(folder):
  (folder / "case03.npz").unlink()


def _double(folder):
  (folder / "case03.safetensors").write_bytes(b"")


def _change(**arrays):
  def change(folder):
    with np.load(folder / "case03.npz") as file:
      old = dict(file)
    new = {**old, **arrays}
    np.savez(
      folder / "case03.npz", **{k: x for k, x in new.items() if x is not None}
    )

  return change


def _bytes(content):
  return lambda folder: (folder / "case03.npz").write_bytes(content)


def _pickled(folder):
  class Evil:
    def __reduce__(self):
      return (print, ("executed",))

  np.savez(folder / "case03.npz", logits=np.array([Evil()], object))


def _cut(folder):
  path = folder / "case03.npz"
  path.write_bytes(path.read_bytes()[:-200])


def _npy(folder):
  with (folder / "case03.npz").open("wb") as file:
    np.save(file, np.zeros((16, 16, 2)))


GOOD = np.zeros((16, 16, 2), np.float32)
MALFORMED = {
  "missing": (_remove, "about case case03 is not there"),
  "twice": (_double, "about case case03 is there twice"),
  "no logits": (_change(logits=None), "has no array 'logits'"),
  "flat": (_change(logits=GOOD[..., 0]), r"logits is \[16, 16\] and not"),
  "batched": (
    _change(logits=GOOD[None]),
    r"logits is \[1, 16, 16, 2\] and not",
  ),
  "empty": (_change(logits=GOOD[:0]), r"logits is \[0, 16, 2\] and not"),
  "three classes": (
    _change(logits=np.zeros((16, 16, 3))),
    r"logits is \[16, 16, 3\] and not \[h, w, 2\]",
  ),
  "channels first": (
    _change(logits=np.zeros((2, 16, 16))),
    r"logits is \[2, 16, 16\] and not",
  ),
  "nan": (_change(logits=GOOD * np.nan), "logits has a number that is not"),
  "inf": (
    _change(encoder3=np.full((4, 4, 6), np.inf)),
    "encoder3 has a number",
  ),
  "overflow": (
    _change(logits=np.full(GOOD.shape, 1e300)),
    "logits has a number that is not",
  ),
  "words": (_change(logits=np.full((16, 16, 2), "a")), "no real numbers"),
  "complex": (_change(logits=GOOD + 1j), "no real numbers"),
  "another size": (
    _change(logits=np.zeros((8, 8, 2))),
    r"has encoder3 \[4, 4, 6\], logits \[8, 8, 2\], where",
  ),
  "another map": (_change(encoder3=np.zeros((2, 2, 6))), "give every case"),
  "a map less": (_change(encoder3=None), "give every case the same"),
  "a map more": (_change(encoder4=GOOD), "give every case the same"),
  "a map's name": (_change(**{"a/b": GOOD}), "'a/b' is no name of a map"),
  "no bytes": (_bytes(b""), "cannot be read"),
  "junk": (_bytes(b"PK\3\4" + bytes(50)), "cannot be read"),
  "a page": (_bytes(b"<html>"), "cannot be read"),
  "cut": (_cut, "cannot be read"),
  "pickled": (_pickled, "cannot be read"),
  "an array": (_npy, "cannot be read"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_answer_is_one_line_and_writes_nothing(
  kind, tmp_path, capsys
):
  spoil, said = MALFORMED[kind]
  dataset = conftest.make_dataset()
  count = len(dataset.cases)
  arrays = {
    "logits": np.zeros((count, 16, 16, 2), np.float16),
    "encoder3": np.zeros((count, 4, 4, 6), np.float16),
  }
  write(tmp_path / "answers", arrays, dataset.cases)
  spoil(tmp_path / "answers")
  with pytest.raises(UserError, match=said) as error:
    make_study(make_config(tmp_path / "answers"), tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()
  assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"grid.view": ("weak",)}, "takes cached alone"),
    ({"grid.source": ("trained", "untrained")}, "untrained asks a network"),
    ({"teacher_training.checkpoint": "x"}, "trains none; empty it"),
    ({"grid.pair": (("encoder2", "encoder9"),)}, "no level 'encoder9'; it has"),
    ({"teacher.folder": "nowhere"}, "teacher.folder"),
    ({"teacher.folder": ""}, "teacher.folder"),
    ({"student.name": "Answers"}, "what answers cannot be trained"),
    ({"teacher.num_classes": 3}, "not \\[h, w, 3\\]|lesion and background"),
  ],
)
def test_what_answers_cannot_do_is_refused(change, said, tmp_path):
  dataset = conftest.make_dataset()
  count = len(dataset.cases)
  arrays = {
    "logits": np.zeros((count, 16, 16, 2)),
    "encoder3": np.zeros((count, 4, 4, 6)),
  }
  write(tmp_path / "answers", arrays, dataset.cases)
  config = make_config(tmp_path / "answers")
  if "student.name" in change:
    config.student = dict(name="Answers", folder="x")
  else:
    config.update_from_flattened_dict(change)
  with pytest.raises(UserError, match=said) as error:
    make_study(config, tmp_path / "run")
  assert "\n" not in str(error.value)


def test_a_teacher_that_saw_a_tested_case_is_refused(tmp_path):
  dataset = conftest.make_dataset()
  arrays = {"logits": np.zeros((len(dataset.cases), 16, 16, 2))}
  write(tmp_path / "answers", arrays, dataset.cases)
  config = make_config(tmp_path / "answers")
  config.grid.pathway = ("L",)
  config.folds = (0,)
  study = make_study(config, tmp_path / "run")
  name = lambda part: dataset.cases[getattr(study.folds[0], part)[0]]
  told = tmp_path / "answers" / "trained_on.txt"
  told.write_text(f"{name('train')}\n{name('val')}\n")
  assert adoption._told_unseen(study)
  told.write_text(f"{name('train')}\n{name('test')}\n")
  with pytest.raises(UserError, match=f"trained on case {name('test')}, which"):
    make_study(config, tmp_path / "run")


def test_several_teachers_probabilities_are_averaged(tmp_path):
  """Of any sizes and channels; far-off logits keep their mean finite."""
  dataset, rng = conftest.make_dataset(), np.random.default_rng(0)
  count = len(dataset.cases)
  first = rng.normal(0, 3, (count, 16, 16, 2)).astype(np.float32)
  second = rng.normal(0, 3, (count, 16, 16, 1)).astype(np.float32)
  write(tmp_path / "a", {"logits": first}, dataset.cases)
  maps = {"logits": second, "encoder3": np.zeros((count, 4, 4, 6))}
  write(tmp_path / "b", maps, dataset.cases)
  config = make_config(tmp_path / "a")
  config.teacher.others = (str(tmp_path / "b"),)
  config.grid.pathway = ("L",)
  study = make_study(config, tmp_path / "run")
  said = adoption._said(study, 0)
  assert list(said) == ["logits"]
  asked = study.folds[0].train
  found = np.exp(said["logits"][asked])
  np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
  margins = first[..., 1] - first[..., 0], second[..., 0]
  wanted = sum(special.expit(x[asked]) for x in margins) / 2
  np.testing.assert_allclose(found[..., 1], wanted, rtol=1e-4)
  far = answers.mean(np.array([[[400.0, -400.0]], [[0.0, -800.0]]]))
  np.testing.assert_allclose(far, [[0.0, -800.0]])


def test_each_of_several_teachers_is_checked(tmp_path):
  dataset = conftest.make_dataset()
  arrays = {"logits": np.zeros((len(dataset.cases), 16, 16, 2))}
  for name in "ab":
    write(tmp_path / name, arrays, dataset.cases)
  config = make_config(tmp_path / "a")
  config.folds, config.teacher.others = (0,), (str(tmp_path / "b"),)
  with pytest.raises(UserError, match="no level 'encoder3'; it has"):
    make_study(config, tmp_path / "run")  # They share none.
  config.grid.pathway = ("L",)
  study = make_study(config, tmp_path / "run")
  assert not adoption._told_unseen(study)
  name = lambda part: dataset.cases[getattr(study.folds[0], part)[0]]
  (tmp_path / "a" / "trained_on.txt").write_text(name("train"))
  assert not adoption._told_unseen(study)
  (tmp_path / "b" / "trained_on.txt").write_text(name("test"))
  with pytest.raises(UserError, match=f"b/trained_on.txt: .*{name('test')}"):
    make_study(config, tmp_path / "run")
  (tmp_path / "b" / "trained_on.txt").write_text(name("val"))
  assert adoption._told_unseen(study)
  (tmp_path / "b" / f"{name('train')}.npz").unlink()
  with pytest.raises(
    UserError, match=f"b: the answer about case {name('train')}"
  ):
    make_study(config, tmp_path / "run")
  config.teacher.others = (str(tmp_path / "a"),)
  with pytest.raises(UserError, match="name each teacher once"):
    make_study(config, tmp_path / "run")


@pytest.mark.slow
def test_the_readmes_lines_write_answers_from_pytorch(tmp_path, monkeypatch):
  torch = pytest.importorskip("torch")
  (lines,) = [
    x
    for x in re.findall(
      r"```python\n(.*?)```", pathlib.Path("README.md").read_text(), re.DOTALL
    )
    if "np.savez" in x
  ]
  dataset = conftest.make_dataset()
  scaled = (
    torch.tensor(dataset.images, dtype=torch.float32)[:, None, None] / 255
  )
  network = torch.nn.Conv2d(1, 1, 3, padding=1)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "answers").mkdir()
  images = dict(zip(dataset.cases, scaled, strict=True))
  exec(lines, {"np": np, **locals()})
  config = make_config(tmp_path / "answers")
  config.grid.pathway = ("L",)
  config.folds = (0,)
  study = make_study(config, tmp_path / "run")
  course.train(study)
  said = adoption._said(study, 0)["logits"]
  with torch.no_grad():
    whole = network(scaled[:, 0])[:, 0].numpy()
  test = study.folds[0].test
  np.testing.assert_allclose(said[test, ..., 1], whole[test], atol=1e-3)
  history = workdirs.rows(study.workdir, workdirs.HISTORY)
  assert {x["arm"] for x in history} == {"Student", "L_KLD_Cached"}


@pytest.mark.slow
def test_a_study_of_answers_is_reported_exported_and_tested(tmp_path):
  """By what a user calls; what needs the teacher itself says so."""
  cache = ("data.cache_dir", str(tmp_path / "cache"))
  config = configs.load(
    "configs/paper.py:tiny", [cache, ("engine.lowering", "plain")]
  )
  dataset = pipeline.load(config.data)
  margins = np.where(dataset.masks, 4.0, -4.0).astype(np.float16)[..., None]
  write(tmp_path / "answers", {"logits": margins}, dataset.cases)
  with config.unlocked():
    config.teacher = dict(name="Answers", folder=str(tmp_path / "answers"))
    config.grid.update(pathway=("L",), loss=("KLD",), view=("cached",))
  found = run.train(config, tmp_path / "run")
  assert list(found.models) == ["Teacher", "Student", "L_KLD_Cached"]
  row = found.table.set_index("model").loc["Teacher"]
  assert row["dice_mean"] > 0.8  # It said what the masks say, 32 x 32.
  assert pd.isna(row["parameters"])
  assert any("is not known" in x and "answers" in x for x in found.notes)
  with pytest.raises(UserError, match="--arm=Teacher: .* has arms L_KLD"):
    export.write(tmp_path / "run", tmp_path / "x.onnx", arm="Teacher")
  other = run.test(
    tmp_path / "run", (("data.seed", "7"), ("data.num_cases", "9"))
  )
  assert set(other.per_case["model"]) == {"Student", "L_KLD_Cached"}
  for refuse in (
    lambda: plan.make_study(config, dataset),
    lambda: bench.write(config, tmp_path / "b", 1, False, ("alone",), (1,)),
  ):
    with pytest.raises(UserError, match="runs the teacher, of which"):
      refuse()
