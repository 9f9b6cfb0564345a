"""A search gives every arm as many draws, and chooses by validation alone."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from configs import paper
from kdjax import readers
from kdjax import workdirs
from kdjax.distill import spaces
from kdjax.distill import trials
from kdjax.engine import course
from kdjax.engine import dealing
from kdjax.engine import loop
from kdjax.engine import rungs
from kdjax.errors import UserError
from tests import conftest

ARMS = ["Student", "Student_Tuned", "HReg_KLD_Tuned"]


def make_config(dtype="float32", **search):
  config = conftest.make_config(dtype)
  config.grid.tuning = ("untuned", "tuned")
  config.search.update(draws=4, factor=2, epochs=(1, 2), **search)
  config.search.space.learning_rate = "1e-3 to 1e-1"
  return config


def test_tuned_arms_stand_beside_their_own_student():
  grid = paper.get_config().grid
  grid.update(pathway=("L",), loss=("KLD",), view=("strong",))
  grid.tuning = ("untuned", "tuned")
  arms = {arm.name: arm for arm in trials.make_arms(grid)}
  assert list(arms) == ["Student", "Student_Tuned", "L_KLD", "L_KLD_Tuned"]
  assert arms["L_KLD_Tuned"].reference == "Student_Tuned"
  assert arms["L_KLD"].reference == "Student"
  assert not trials.make_teacher(paper.get_config().teacher_training).tuned


def test_every_arm_gets_the_same_draws_of_what_it_reads():
  config = make_config()
  points = spaces.draw(config.search)
  assert len(points) == 4 and len({str(x) for x in points}) == 4
  assert points == spaces.draw(config.search)
  student, arm = (
    x for x in trials.make_arms(config.grid) if x.name in ARMS[1:]
  )
  for point in points:
    ours, theirs = spaces.give(student, point), spaces.give(arm, point)
    assert ours.numbers["learning_rate"] == point["learning_rate"]
    assert theirs.numbers["learning_rate"] == point["learning_rate"]
    assert theirs.numbers["alpha"] == point["alpha"]
    assert ours.numbers["alpha"] == 0.0  # It reads none.
    assert ours.numbers["soft_dice"] == student.numbers["soft_dice"]
    assert 1e-3 <= point["learning_rate"] < 1e-1
    assert point["temperature"] in (1.0, 2.0, 4.0)


def test_draws_fill_a_range_evenly_in_its_logarithm():
  config = make_config()
  config.search.draws = 64
  rates = [x["learning_rate"] for x in spaces.draw(config.search)]
  counts, _ = np.histogram(np.log10(rates), bins=8, range=(-3, -1))
  assert (counts == 8).all()  # As a Sobol sequence has it, and chance has not.
  temperatures = [x["temperature"] for x in spaces.draw(config.search)]
  assert [temperatures.count(x) for x in (1, 2, 4)] != [64, 0, 0]
  assert min(temperatures.count(x) for x in (1, 2, 4)) >= 64 // 3 - 2


def test_another_seed_draws_others():
  one, two = (spaces.draw(make_config(seed=seed).search) for seed in (0, 1))
  assert all(a != b for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("space.learning_rate", "1e-2 to 1e-3", "space.learning_rate='1e-2 to"),
    ("space.learning_rate", "0 to 1", "a range goes from above 0"),
    ("space.learning_rate", "fast", "could not convert"),
    ("space.learning_rate", "1 to 2 to 3", "a range"),
    ("space.learning_rate", "1e-3 to inf", "a range"),
    ("space.learning_rate", "1e-3, 1e-3", "each number once"),
    ("space.learning_rate", "nan", "each number once"),
    ("space.learning_rate", "1e-3 to 1e9", "out of grid.learning_rate's range"),
    ("space.alpha", "0.1 to 2", r"grid.alpha=2.0 is outside \(0, 1\]"),
    ("space.temperature", "0, 1", "must be above 0"),
    ("space.soft_dice", "0, 1", "set student_training.select=dice"),
    ("space.share", "0.1 to 0.9", "a share sets alpha itself"),
    ("epochs", (), "give every rung's epochs"),
    ("epochs", (2, 2), "more than the one before"),
    ("epochs", (3, 1), "more than the one before"),
    ("epochs", (1, 2, 3), "would choose among 1 draw"),
  ],
)
def test_a_search_that_cannot_be_is_one_line(field, value, said):
  config = make_config()
  config.search.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=said) as error:
    rungs.check(config)
  assert "\n" not in str(error.value)
  config.grid.tuning = ("untuned",)
  rungs.check(config)  # Where no arm asks for it nothing is wrong.


def test_what_is_searched_has_one_value_in_the_grid():
  config = make_config()
  config.grid.alpha = (0.1, 0.9)
  with pytest.raises(UserError, match="grid.alpha has 2 values"):
    rungs.check(config)
  config.search.space.alpha = ""
  rungs.check(config)
  for name in config.search.space:
    config.search.space[name] = ""
  with pytest.raises(UserError, match="search.space is empty"):
    rungs.check(config)


def test_the_best_go_on_and_what_diverged_comes_last():
  measured = {0: 0.5, 1: -math.inf, 2: 0.1, 3: math.nan, 4: 0.1, 5: 0.3}
  assert rungs.choose(measured, 1) == (2,)  # Of equals the first.
  assert rungs.choose(measured, 3) == (2, 4, 5)
  assert rungs.choose(measured, 6) == (0, 1, 2, 3, 4, 5)
  row = lambda epoch, loss, dice, train=1.0: {
    "epoch": epoch,
    "val_loss": loss,
    "val_dice": dice,
    "train_loss": train,
  }
  rows = [row(1, 0.3, 0.2), row(2, 0.2, 0.5), row(3, 0.4, 0.5)]
  assert rungs.best_epoch(rows, "loss") == (rows[1], 0.2)
  assert rungs.best_epoch(rows, "dice") == (rows[1], -0.5)
  lost = [*rows, row(4, 0.1, 0.9, math.nan)]
  assert rungs.best_epoch(lost, "dice")[1] == math.inf


class Searched:
  """A study with tuned arms, trained through its whole course."""

  def __init__(self, folder, dtype="float32", change=None, **search):
    config = make_config(dtype, **search)
    config.folds = (0, 1)
    self.study = conftest.make_study(config, ARMS, folder)
    if change:
      self.study = dataclasses.replace(self.study, dataset=change(self.study))
    self.teachers, self.students = course.train(self.study).values()
    self.rows = readers.search(folder)
    self.text = (folder / workdirs.SEARCH).read_text()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
  """Its first rung in two turns, as a CPU has searches that are large."""
  with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
    patch.setattr(dealing, "_ALIKE", 4)
    return Searched(tmp_path_factory.mktemp("searched"), "float64")


@pytest.mark.slow
def test_a_search_says_what_it_did(searched):
  rows = searched.rows
  counts = rows.groupby(["rung", "arm", "fold"])["draw"].count()
  assert set(rows["arm"]) == set(ARMS[1:])
  assert (counts[1] == 4).all() and (counts[2] == 2).all()
  kept = rows[rows["kept"] == 1].groupby(["rung", "arm", "fold"])["draw"]
  assert (kept.count()[1] == 2).all() and (kept.count()[2] == 1).all()
  for key, group in rows[rows["rung"] == 1].groupby(["arm", "fold"]):
    best = group.sort_values("val_loss")["draw"].iloc[:2]
    assert set(best) == set(group[group["kept"] == 1]["draw"])
    second = rows[rows["rung"] == 2].groupby(["arm", "fold"]).get_group(key)
    assert set(second["draw"]) == set(best)
  assert set(searched.study.blocks) == set(searched.students)
  history = readers.history(searched.study.workdir, search=True)
  stages = ["teacher", "search1", "search2", "student"]
  assert list(dict.fromkeys(history["stage"])) == stages
  rates = history[history["stage"] == "search1"].groupby("arm")
  assert rates["learning_rate"].nunique().max() == 1  # The same in all folds.


@pytest.mark.slow
def test_an_untuned_arm_knows_nothing_of_the_search(searched, tmp_path):
  config = make_config("float64")
  config.folds = (0, 1)
  config.grid.tuning = ("untuned",)
  with jax.enable_x64(True):
    study = conftest.make_study(config, ARMS[:1], tmp_path)
    students = course.train(study)["student"]
  for block, alone in students.items():
    beside = searched.students[block]
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y[:1], rtol=1e-9, atol=1e-12),
      alone,
      beside,
    )


@pytest.mark.slow
def test_a_draw_alone_equals_the_draw_in_the_search(searched, tmp_path):
  """And so does the tuned arm, trained anew with what was found."""
  study, rows = searched.study, searched.rows
  arms = {arm.name: arm for arm in study.arms}
  history = readers.history(study.workdir, search=True)
  chosen = rows[(rows["rung"] == 2) & (rows["kept"] == 1)]
  for rung, pick in (("search1", rows.iloc[-9]), ("student", chosen.iloc[-1])):
    arm = dataclasses.replace(
      arms[pick["arm"]],
      numbers={**arms[pick["arm"]].numbers, **pick["numbers"]},
    )
    (block,) = [x for x in study.blocks if x.fold == pick["fold"]]
    alone = dataclasses.replace(study, arms=(arm,), blocks=(block,))
    alone = dataclasses.replace(alone, workdir=tmp_path / rung, numbers={})
    stage = alone.student_stage
    name = arm.name
    if rung != "student":
      name = f"{name}#{pick['draw']}"
      training = stage.training.copy_and_resolve_references().unlock()
      training.max_epochs = int(pick["epochs"])
      stage = dataclasses.replace(stage, training=training.lock())
    with jax.enable_x64(True):
      loop.run_stage(alone, stage, searched.teachers)
    ours = readers.history(alone.workdir, search=True)
    same = (
      (history["stage"] == rung)
      & (history["arm"] == name)
      & (history["fold"] == pick["fold"])
    )
    for column in ("train_loss", "val_loss", "val_dice", "learning_rate"):
      np.testing.assert_allclose(
        ours[column], history[same][column], rtol=1e-9, atol=1e-12
      )


@pytest.mark.slow
def test_what_is_tested_chooses_no_draw(searched, tmp_path):
  """Masks of test cases that say the contrary change nothing."""

  def turned(study):
    # Every case is tested in some fold, so that fold alone is run.
    masks = np.array(study.dataset.masks)
    test = study.folds[0].test
    masks[test] = 1 - masks[test]
    return dataclasses.replace(study.dataset, masks=masks)

  one = tmp_path / "one"
  found = []
  for folder, change in ((one, None), (tmp_path / "two", turned)):
    config = make_config()
    config.folds = (0,)
    study = conftest.make_study(config, ARMS, folder)
    if change:
      study = dataclasses.replace(study, dataset=change(study))
      assert not np.array_equal(
        study.dataset.masks[study.folds[0].test],
        conftest.make_dataset().masks[study.folds[0].test],
      )
    course.train(study)
    found.append((folder / workdirs.SEARCH).read_text())
  assert found[0] == found[1]


@pytest.mark.slow
def test_a_finished_search_is_read_and_not_run(searched):
  study = searched.study
  before = {
    path: path.stat().st_mtime_ns
    for path in (study.workdir / workdirs.CHECKPOINTS).rglob("*")
    if path.is_file()
  }
  with jax.enable_x64(True):
    students = course.train(study)["student"]
  for block, state in searched.students.items():
    jax.tree.map(np.testing.assert_array_equal, students[block], state)
  assert (study.workdir / workdirs.SEARCH).read_text() == searched.text
  after = {path: path.stat().st_mtime_ns for path in before}
  assert after == before


@pytest.mark.slow
def test_what_a_search_takes_is_known(searched):
  seconds = course.search_seconds(searched.study)
  assert set(seconds) == set(ARMS[1:])
  assert all(x > 0 for x in seconds.values())
  said = course.cost(searched.study)
  # Two arms in two folds: four draws for one epoch, and two for two; the
  # Student has two epochs in two folds.
  assert "2 arms x 2 folds, of each 4 for 1 epoch, then 2 for 2 epochs" in said
  assert "32 epochs of a student, 8.0 times the untuned arms'" in said


def test_seeds_of_a_fold_stay_with_the_process_that_searches(tmp_path):
  from kdjax.engine import processes

  config = make_config()
  config.folds, config.seeds = (0, 1), (0, 1)
  study = conftest.make_study(config, ARMS, tmp_path)
  parts = [processes.Share(2, i).of(study) for i in range(2)]
  assert [{x.fold for x in part} for part in parts] == [{0}, {1}]
  assert sorted(map(len, parts)) == [2, 2]
  plain = dataclasses.replace(study, arms=study.arms[:1])
  assert {x.fold for x in processes.Share(2, 0).of(plain)} == {0}


SLOW_START = 0.3  # Of Dice, what the slowest lacks at the first rung.


@pytest.mark.parametrize(
  ("late", "least"),
  [(0.0, 0.95), (SLOW_START, 0.90)],
)
def test_halving_finds_a_good_draw_on_a_simulated_surface(late, least):
  """Without training: Dice of a draw is a bowl in two numbers, and noise.

  A draw's rung shows its Dice less what it lacks so early: for `late` up to
  that at a third of the epochs, half of it at two thirds, and the better a draw
  the slower it is. Noise of 0.01 is what another seed of BUSI's Student shows.
  """
  rng = np.random.default_rng(0)
  search = paper.get_config().search
  search.update(draws=12, factor=3, epochs=(10, 20))
  found = []
  for seed in range(400):
    search.seed = seed
    points = spaces.draw(search)
    at = (
      np.log10([x["learning_rate"] for x in points]),
      [x["alpha"] for x in points],
    )
    best = rng.uniform(-5, -2), rng.uniform(0.1, 0.9)
    truth = 0.7 - 0.1 * (
      ((at[0] - best[0]) / 1.5) ** 2 + ((np.array(at[1]) - best[1]) / 0.5) ** 2
    )
    rank = np.argsort(np.argsort(truth)) / (len(truth) - 1)
    kept = range(len(points))
    for rung, early in zip(rungs.make(search), (1.0, 0.5), strict=True):
      assert len(kept) == rung.draws
      shown = (
        truth - late * early * rank * 0.1 + rng.normal(0, 0.01, len(truth))
      )
      left = 4 if rung.name == "search1" else 1
      kept = rungs.choose({x: -shown[x] for x in kept}, left)
    found.append(rank[kept[0]] >= 0.75)
  assert np.mean(found) >= least
