"""What a report says of a search, on searches and effects made up."""

import itertools

import numpy as np
import pandas as pd
import pytest

from configs import paper
from kdjax import errors
from kdjax import readers
from kdjax import workdirs
from kdjax.distill import trials
from kdjax.report import build
from kdjax.report import gather
from kdjax.report import tuning
from tests import simulated

GRID = {**simulated.GRID, "view": ("strong",), "tuning": ("untuned", "tuned")}
ARMS = trials.make_arms(GRID)


def write(folder, gain, tuned_gain, tuning_gain, rate=1e-3):
  """A workdir of arms above their Student, and of Students above Student."""
  effects = {"Teacher": 0.15}
  for arm in ARMS:
    own = (tuned_gain if arm.tuned else gain) * bool(arm.objective)
    effects[arm.name] = own + tuning_gain * arm.tuned
  search = paper.get_config().search
  search.epochs = (10, 20)
  settings = simulated.config(grid=GRID, search=search.to_dict())
  frame = simulated.per_case(np.random.default_rng(0), effects)
  simulated.workdir(folder, frame, settings)
  rows = []
  for arm, fold, draw in itertools.product(ARMS, range(3), range(1, 13)):
    numbers = f"learning_rate={rate!r}"
    numbers += f" alpha={draw / 13!r}" if arm.objective else ""
    for rung in (1, 2) if arm.tuned and draw < 5 else (1,) * arm.tuned:
      rows.append(
        {
          "rung": rung,
          "epochs": 10 * rung,
          "arm": arm.name,
          "fold": fold,
          "draw": draw,
          "numbers": numbers,
          "best_epoch": 3,
          "val_loss": 0.3,
          "val_dice": 0.5 + 0.01 * draw + 0.02 * bool(arm.objective),
          "diverged": int(draw == 12),
          "kept": int(draw == 4 if rung == 2 else draw < 5),
        }
      )
  workdirs.write_table(folder, workdirs.SEARCH, rows)
  return gather.results(folder, settings, ARMS)


def test_the_expected_best_is_the_mean_over_all_ways_to_draw():
  values = [0.3, 0.9, 0.5]
  for count in (1, 2, 3):
    every = itertools.product(values, repeat=count)
    mean = np.mean([max(x) for x in every])
    assert tuning.expected_best(values, count) == pytest.approx(mean)
  between = tuning.expected_best(values, 1.5)
  assert tuning.expected_best(values, 1) < between
  assert between < tuning.expected_best(values, 2)


def test_the_answer_is_of_the_arms_that_were_tuned_as_much(tmp_path):
  """What untuned arms gain is no answer, however much it is."""
  found = write(tmp_path / "a", gain=0.08, tuned_gain=0.0, tuning_gain=0.06)
  assert set(found.taught) == {x.name for x in ARMS if x.tuned and x.objective}
  first, second, *_ = found.answer
  assert "a student that was tuned as much" in first
  assert not first.startswith("Distillation lifts")
  assert "over 6 arms" in first and "0 of 6 are shown" in first
  assert second.startswith("What tuning brings, in points: the Student +")
  assert "untuned arms above their Student +" in second
  assert "(not shown)" in second.split(";")[1]  # 0.06 - 0.08 of the arms.

  found = write(tmp_path / "b", gain=0.0, tuned_gain=0.08, tuning_gain=0.06)
  assert found.answer[0].startswith("Distillation lifts a student that was")
  assert found.claims["sentence"][0].startswith("The mean of 6 arms")


def test_tuning_is_an_axis_of_the_grid(tmp_path):
  found = write(tmp_path, 0.0, 0.0, 0.1)
  rows = found.contrasts[found.contrasts["factor"] == "tuning"]
  assert len(rows) == 1
  assert {rows["level"].item(), rows["against"].item()} == {"untuned", "tuned"}
  assert abs(rows["difference"].item()) == pytest.approx(0.1, abs=0.03)
  assert "what tuning brings" in found.questions


def test_the_page_tells_what_was_chosen_and_what_it_cost(tmp_path):
  found = write(tmp_path, 0.0, 0.0, 0.05, rate=1.5e-5)
  chosen = tuning.chosen(found)
  assert len(chosen) == 7 * 3 and set(chosen["draw"]) == {4}
  assert set(chosen["learning_rate"]) == {1.5e-5}
  student = chosen[chosen["arm"] == "Student_Tuned"]
  assert student["alpha"].isna().all()
  budgets = tuning.budgets(found)
  assert budgets["arm"].iloc[-1] == "Student_Tuned"
  assert budgets["rank"].tolist() == [1] * 6 + [7]
  dice = [0.5 + 0.01 * x for x in range(1, 12)] + [0.0]  # One diverged.
  last = budgets.iloc[-1]
  assert last["best_of_1"] == pytest.approx(np.mean(dice))
  assert last["best_of_all"] == pytest.approx(tuning.expected_best(dice, 12))
  (note,) = [x for x in found.notes if x.startswith("Tuned arms had")]
  assert "12 for 10 epochs, then 4 for 20 epochs" in note
  assert "alpha 0.05 to 0.95" in note
  # 1.5e-5 of 1e-5 to 1e-2 is the outer tenth.
  assert "learning rate of Student_Tuned, L_MSE_Tuned" in note
  assert "The alpha of" not in note
  build.write(found)
  page = (tmp_path / "report" / "index.html").read_text()
  assert "What the search chose" in page and "figure-search" in page
  build.publish(found, tmp_path.parent / "out")
  for name in ("search.csv", "figures/search.png"):
    assert (tmp_path.parent / "out" / name).exists()


@pytest.mark.parametrize(
  ("second", "rho"),
  [((1, 2, 3, 4), 1.0), ((4, 3, 2, 1), -1.0), ((2, 1, 4, 3), 0.6)],
)
def test_the_page_says_how_alike_rungs_rank_draws(tmp_path, second, rho):
  """By Spearman's rho; where all draws are equal nothing is said."""
  found = write(tmp_path, 0.0, 0.0, 0.0)
  frame = found.search
  for draw, place in enumerate(second, 1):
    chosen = (frame["rung"] == 2) & (frame["draw"] == draw)
    frame.loc[chosen, "val_dice"] = 0.5 + 0.01 * place
  assert tuning.agreement(found) == pytest.approx(rho)
  (note,) = [x for x in tuning.notes(found) if x.startswith("Tuned arms had")]
  assert f"rho {'+' if rho > 0 else '−'}{abs(rho):.1f} on average" in note
  frame.loc[frame["rung"] == 2, "val_dice"] = 0.5
  assert tuning.agreement(found) is None
  (note,) = [x for x in tuning.notes(found) if x.startswith("Tuned arms had")]
  assert "rho" not in note


@pytest.mark.parametrize(
  "junk", ["", "rung,epochs\n1,2\n", "numbers=x", "rung\n\0", b"\xff\xfe"]
)
def test_a_damaged_search_is_one_line(tmp_path, junk):
  found = write(tmp_path, 0.0, 0.0, 0.0)
  path = tmp_path / workdirs.SEARCH
  if junk == "numbers=x":
    junk = path.read_text().replace("learning_rate=0.001", "learning_rate=x")
  path.write_bytes(junk if isinstance(junk, bytes) else junk.encode())
  with pytest.raises(errors.UserError, match="search.csv: damaged") as error:
    readers.search(tmp_path)
  assert "\n" not in str(error.value)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(errors.UserError, match="search.csv: damaged"):
    build.write(gather.results(tmp_path, found.config, ARMS))
  assert sorted(tmp_path.rglob("*")) == before


def test_draws_are_no_models_of_the_report(tmp_path):
  found = write(tmp_path, 0.0, 0.0, 0.0)
  history = pd.read_csv(tmp_path / workdirs.HISTORY)
  draw = history[history["arm"] == "L_KLD_Tuned"].assign(
    stage="search1", arm="L_KLD_Tuned#3", train_loss=np.nan
  )
  pd.concat([history, draw]).to_csv(
    tmp_path / workdirs.HISTORY, index=False, na_rep="nan"
  )
  again = gather.results(tmp_path, found.config, ARMS)
  assert again.models == found.models and again.diverged.empty
  assert len(readers.history(tmp_path, search=True)) > len(again.history)
