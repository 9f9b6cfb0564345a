"""Controls: arms that no trained teacher teaches about the case they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import trials
from kdjax.engine import batches
from kdjax.engine import course
from kdjax.engine import fitting
from kdjax.engine import layouts
from kdjax.engine import loop
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.report import gather
from tests import conftest
from tests import simulated

SOURCES = ("trained", "untrained", "swapped")
KLD = ("L_KLD", "L_KLD_Untrained", "L_KLD_Swapped")


def test_a_control_is_named_by_its_source_and_stands_beside_its_arm():
  grid = {**simulated.GRID, "source": SOURCES, "loss": ("KLD",)}
  arms = trials.make_arms(grid)
  names = [arm.name for arm in arms]
  assert names[:6] == ["Student", *KLD, "L_KLD_WAug", "L_KLD_WAug_Untrained"]
  beside = trials.controls(arms)
  assert len(beside) == 12
  for name, arm in beside.items():
    assert name in (f"{arm}_Untrained", f"{arm}_Swapped")
  only = trials.make_arms({**grid, "source": ("swapped",)})
  assert set(trials.controls(only).values()) == {None}


def test_a_source_that_is_not_there_is_refused():
  with pytest.raises(UserError, match="grid.source has no 'random'"):
    trials.make_arms({**simulated.GRID, "source": ("random",)})


def test_every_answer_comes_from_who_was_asked(monkeypatch):
  """By images whose grey says which case, and networks that add a number."""
  monkeypatch.setattr(
    batches.taps,
    "apply",
    lambda teacher, variables, images, taps: (images + variables, {}, {}),
  )
  cases = jnp.array([4, 2, 1])
  grey = jnp.arange(5.0)
  data = {
    "images": jnp.broadcast_to(
      grey[:, None, None].astype(jnp.uint8), (5, 8, 8)
    ),
    "masks": jnp.zeros((5, 8, 8), jnp.uint8),
  }
  said = lambda whose: jnp.broadcast_to(
    (grey + whose)[:, None, None, None], (5, 8, 8, 1)
  )
  block = {
    "key": jax.random.key(0),
    "teacher": 0.0,
    "untrained": 100.0,
    "answers": {"teacher": (said(10), {}), "untrained": (said(110), {})},
    "rows": jnp.arange(5),
  }
  asked = tuple((view, x) for view in ("strong", "cached") for x in SOURCES)
  _, found = batches.prepare_batch(
    block,
    data,
    cases,
    jnp.zeros(3, int),
    teacher=None,
    answers=asked,
    teacher_taps=(),
    views=("strong", "cached"),
    render=lambda key, image, mask: ({"strong": image[..., None]}, mask),
    carry=lambda key, maps: maps,
    normalise=lambda x: x,
    teacher_normalise=lambda x: x,
  )
  got = [logits[:, 0, 0, 0].tolist() for logits, _ in found]
  assert dict(zip(asked, got, strict=True)) == {
    ("strong", "trained"): [4, 2, 1],
    ("strong", "untrained"): [104, 102, 101],
    ("strong", "swapped"): [1, 4, 2],
    ("cached", "trained"): [14, 12, 11],
    ("cached", "untrained"): [114, 112, 111],
    ("cached", "swapped"): [11, 14, 12],
  }


def make_study(workdir, names, **grid):
  config = conftest.make_config("float64")
  config.grid.source = SOURCES
  config.grid.update(grid)
  return conftest.make_study(config, names, workdir)


@pytest.mark.slow
def test_every_source_matters_and_a_control_does_not_depend_on_its_neighbours(
  tmp_path, monkeypatch
):
  one = jax.devices()[:1]
  monkeypatch.setattr(layouts.jax, "local_devices", lambda: one)
  names = (*KLD, "HReg_KLD", "HReg_KLD_Untrained", "L_KLD_Cached_Untrained")
  views = {"view": ("strong", "cached")}
  with jax.enable_x64(True):
    study = make_study(tmp_path / "grid", names, **views)
    teachers, together = course.train(study).values()
    (together,) = together.values()
    params = lambda i, of: [
      np.asarray(x)[i] for x in jax.tree.leaves(of["params"])
    ]
    for i, name in enumerate(names):
      for j in range(i):
        assert not all(
          np.allclose(a, b)
          for a, b in zip(params(i, together), params(j, together), strict=True)
        ), (name, names[j])
    few = (names[-1], "L_KLD_Swapped")
    study = make_study(tmp_path / "few", few, **views)
    (apart,) = loop.run_stage(study, study.student_stage, teachers).values()
  for i, name in enumerate(few):
    for a, b in zip(
      params(i, apart), params(names.index(name), together), strict=True
    ):
      # Two epochs of Adam in float64, as in grid_test.
      np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_swapped_needs_another_case_and_a_whole_batch(tmp_path):
  study = make_study(tmp_path, ("L_KLD_Swapped",))
  with pytest.raises(UserError, match="L_KLD_Swapped compares the cases"):
    fitting.make_layout(study, study.student_stage, 1, jax.devices()[:2])
  config = conftest.make_config()
  config.grid.source = ("swapped",)
  config.student_training.batch_size = 1
  with pytest.raises(UserError, match="grid.source=swapped learns"):
    studies.make_study(config, tmp_path)


GRID = {**simulated.GRID, "source": SOURCES}
ARMS = trials.make_arms(GRID)


def report(tmp_path, gain, untrained, swapped):
  """Results of arms that gain so much, in Dice, and their controls."""
  worth = dict(zip(SOURCES, (gain, untrained, swapped), strict=True))
  effects = {"Teacher": 0.1}
  for arm in ARMS:
    effects[arm.name] = worth[arm.source] if arm.objective else 0.0
  rng = np.random.default_rng(0)
  settings = simulated.config(grid=GRID)
  simulated.workdir(tmp_path, simulated.per_case(rng, effects), settings)
  return gather.results(tmp_path, settings, ARMS)


def test_controls_are_families_of_their_own_and_count_nowhere_else(tmp_path):
  found = report(tmp_path, 0.05, 0.0, 0.0)
  frame = found.comparisons
  size = lambda keep: int(keep.sum())
  controls = frame["model"].isin(found.controls)
  against = frame["reference"].isin(found.controls)
  assert size(controls & (frame["reference"] == "Student")) == 24
  assert size(against) == 24
  assert not size(controls & (frame["reference"] == "Teacher"))
  assert len(found.arm_rows()) == 12 == len(found.distilled)
  # Holm's first step multiplies the smallest p by the size of the family.
  for keep, number in (
    (~controls & (frame["reference"] == "Student"), 12),
    (controls, 24),
    (against, 24),
  ):
    first = frame[keep].sort_values("p").iloc[0]
    assert first["holm_p"] == pytest.approx(min(1, number * first["p"]))
  assert "source" not in found.levels
  assert not set(found.levels.index) & set(found.controls)
  assert "whether it is the teacher's knowledge that helps" in found.questions
  assert "| L_KLD_Swapped (control) " in found.text
  assert any("Controls learn from" in x for x in found.notes)


def test_the_answer_names_controls_that_teach_as_much(tmp_path):
  said = report(tmp_path / "a", 0.05, 0.0, 0.0).answer[-1]
  assert said.startswith(
    "Controls: against the teacher's network untrained, what "
  )
  assert said.count("what the teacher learned helps") == 2
  said = report(tmp_path / "b", 0.05, 0.05, 0.0).answer[-1]
  first, second = said.split("; against ")
  assert "the control teaches as much, within 2 points" in first
  assert "what the teacher learned helps" in second
