"""Configs load, refuse what nobody would read, and own their workdir."""

import json
import pathlib

import pytest

from kdjax import configs
from kdjax import recorded
from kdjax.engine import networks
from kdjax.errors import UserError

PATHS = sorted(pathlib.Path("configs").glob("[!_]*.py"))


def write(folder, body):
  path = folder / "mine.py"
  path.write_text(
    "from configs import paper\n\n\ndef get_config(size='full'):\n"
    f"  config = paper.get_config(size)\n  {body}\n  return config\n"
  )
  return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(pathlib.Path.cwd()))
  return tmp_path


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", ["", ":tiny"])
def test_every_config_loads_and_its_networks_can_be_built(path, size):
  config = configs.load(f"{path}{size}")
  assert config.is_locked
  assert networks.parameters(config)["Student"] > 0


def test_the_question_is_kept_and_may_be_put_in_other_words(folder):
  path = write(folder, "pass")
  silent = configs.load(path)
  assert silent.question == ""
  path.write_text(f'"""Which level\nof all?\n\nMore."""\n{path.read_text()}')
  asking = configs.load(path)
  assert asking.question == "Which level of all?"
  recorded.claim(silent, folder / "run")
  recorded.claim(asking, folder / "run")
  assert recorded.read(folder / "run").question == asking.question


@pytest.mark.parametrize(
  ("body", "said"),
  [
    ("config.patiense = 3", "no field patiense"),
    ("config.splits.kinds = 'x'", r"no field splits.kinds \(did you mean kind"),
    ("del config.seeds", "lacks the field seeds"),
    ("import nowhere", "is no config"),
  ],
)
def test_a_config_that_nobody_would_read_is_refused(folder, body, said):
  with pytest.raises(UserError, match=said):
    configs.load(write(folder, body))


@pytest.mark.parametrize(
  ("key", "text", "value"),
  [
    ("student_training.max_epochs", "7", 7),
    ("folds", "0,1", (0, 1)),
    ("folds", "2", (2,)),
    ("data.dir", "../some/dir", "../some/dir"),
    ("data.dir", "123", "123"),
    ("engine.checkpoint_minutes", "1", 1.0),
    ("grid.view", "('weak',)", ("weak",)),
    ("grid.view", "weak", ("weak",)),
    ("grid.loss", "MSE,KLD", ("MSE", "KLD")),
    ("published", "False", False),
    ("data.classes", "benign,malignant", ("benign", "malignant")),
    ("data.classes", "benign,4", ("benign", "4")),
    ("grid.learning_rate", "1e-3,0.01,", (0.001, 0.01)),
  ],
)
def test_an_override_sets_its_field(key, text, value):
  config = configs.load("configs/paper.py", [(key, text)])
  for name in key.split("."):
    config = config[name]
  assert config == value
  assert type(config) is type(value)


@pytest.mark.parametrize(
  ("key", "text", "said"),
  [
    ("student_training.max_epoch", "7", "did you mean max_epochs"),
    ("stdent.widths", "7", "did you mean student"),
    ("splits.kind.x", "7", "no field splits.kind.x"),
    ("student_training.max_epochs", "many", "it takes int"),
    ("student_training.max_epochs", "2.5", "it takes int"),
    ("published", "3", "it takes bool"),
    ("splits", "3", "it is a group"),
    ("folds", "0,a", r"--config.folds=0,a: it takes tuple, such as \(0"),
    ("grid.alpha", "half", "--config.grid.alpha=half: it takes tuple"),
    ("grid.pair", "(encoder1,encoder2)", "--config.grid.pair=.*such as"),
    ("folds", 300 * "(", "folds=.*it takes tuple"),
  ],
)
def test_an_override_that_fits_nothing_is_refused(key, text, said):
  with pytest.raises(UserError, match=said) as caught:
    configs.load("configs/paper.py", [(key, text)])
  assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match="nothing.py"):
    configs.load(tmp_path / "nothing.py")


def test_a_workdir_belongs_to_its_config(tmp_path):
  config = configs.load("configs/paper.py:tiny")
  recorded.claim(config, tmp_path)
  recorded.claim(config, tmp_path)
  other = configs.load(
    "configs/paper.py:tiny", [("seeds", "4"), ("folds", "1")]
  )
  with pytest.raises(UserError, match=r"seeds \(\[0\] there, \[4\] now\)"):
    recorded.claim(other, tmp_path)
  assert json.loads((tmp_path / "config.json").read_text())["seeds"] == [0]


def test_a_config_read_back_is_the_one_written(tmp_path):
  config = configs.load("configs/paper.py:tiny")
  recorded.claim(config, tmp_path)
  assert recorded.read(tmp_path).to_dict() == config.to_dict()


def test_a_damaged_config_is_named(tmp_path):
  (tmp_path / "config.json").write_text("[1")
  with pytest.raises(UserError, match="config.json is damaged"):
    recorded.read(tmp_path)


def test_what_only_a_report_reads_may_change_in_a_workdir(tmp_path):
  source = "configs/quickstart.py:tiny"
  recorded.claim(configs.load(source), tmp_path)
  other = configs.load(source, [("report.equivalence_margin", "1.0")])
  recorded.claim(other, tmp_path)
  assert recorded.read(tmp_path).report.equivalence_margin == 1.0


def test_what_no_arm_asks_for_may_differ_or_be_missing(tmp_path):
  source = "configs/quickstart.py:tiny"
  config = configs.load(source)
  recorded.claim(config, tmp_path)
  path = tmp_path / "config.json"
  older = json.loads(path.read_text())
  for group in ("pruning", "quantisation", "teacher_compression"):
    del older[group]
  for axis in ("sparsity", "bits"):
    del older["grid"][axis]
  path.write_text(json.dumps(older))
  recorded.claim(configs.load(source, [("pruning.end", "0.9")]), tmp_path)
  few = [("grid.bits", "32,8")]
  with pytest.raises(UserError, match="grid.bits"):
    recorded.claim(configs.load(source, few), tmp_path)
  teachers = [("teacher_compression.sparsity", "0.9,")]
  with pytest.raises(UserError, match="teacher_compression.sparsity"):
    recorded.claim(configs.load(source, teachers), tmp_path)
  recorded.claim(configs.load(source, teachers), tmp_path / "other")
  with pytest.raises(UserError, match="pruning.end"):
    recorded.claim(
      configs.load(source, [*teachers, ("pruning.end", "0.9")]),
      tmp_path / "other",
    )
  with pytest.raises(UserError, match="teacher_compression.sparsity"):
    recorded.claim(config, tmp_path / "other")
