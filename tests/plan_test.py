"""A plan compiles what `train` runs, and finds the largest that fits."""

import dataclasses
import importlib.util
import json
import types

import jax
import numpy as np
import pytest

from configs import paper
from kdjax import cli
from kdjax.engine import convolution
from kdjax.engine import course
from kdjax.engine import fitting
from kdjax.engine import stages
from kdjax.errors import UserError
from kdjax.plan import chips
from kdjax.plan import compiled
from kdjax.plan import forecast
from kdjax.plan import kernels
from kdjax.plan import plan
from kdjax.plan import shapes
from kdjax.plan import topology
from tests import conftest

GIB = 2**30


@pytest.fixture
def no_libtpu(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name, *rest: None if name == "libtpu" else find(name, *rest),
  )


def test_without_libtpu_a_line_says_what_to_install(no_libtpu, capsys):
  argv = ["plan", "--config=configs/paper.py:tiny", "--topology=v5e:2x4"]
  assert cli.main(argv) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "needs libtpu" in line and "pip install 'kdjax[plan]'" in line


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("v9:2x2", "'v9' is unknown; choose from v4, v5e, v5p, v6e"),
    ("v5e", "a slice of v5e has 2 sides, such as v5e:2x2"),
    ("v5p:2x2", "a slice of v5p has 3 sides, such as v5p:2x2x1"),
    ("v5e:2x0", "a slice of v5e has 2 sides"),
  ],
)
def test_a_slice_that_is_none_is_refused(name, said, monkeypatch):
  monkeypatch.setattr(topology.importlib.util, "find_spec", lambda _: object())
  with pytest.raises(UserError, match=said):
    topology.make_slice(name)


def test_what_the_compiler_wanted_is_read_from_its_error():
  text = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
    "for HLO temporaries (146.49G) exceeds available HBM (15.75G)."
  )
  wanted, there = topology.overflow(text)
  assert wanted == pytest.approx(146.49 * GIB)
  assert there == 15.75 * GIB
  assert topology.overflow("RESOURCE_EXHAUSTED: no") == (None, None)


def test_a_plan_takes_the_lowering_that_a_tpu_would_choose():
  config = paper.get_config("tiny").lock()
  study = plan.make_study(config, plan.stand_in(config)[0])
  chosen = convolution.choose(study.config.engine.lowering)
  assert chosen is convolution.choose("auto", "tpu")


def test_the_shapes_compiled_are_those_that_training_has(tmp_path, monkeypatch):
  """The loop runs with programs that only look at their arguments."""
  look = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  seen = set()

  class Watched(stages.Programs):
    def __init__(self, study, stage, *rest):
      super().__init__(study, stage, *rest)
      planned = shapes.arguments(self)

      def watch(name, result):
        def program(*arguments):
          assert look(arguments) == look(planned[name])
          seen.add((stage.name, name))
          return result(*arguments)

        return program

      trials = planned["finish_epoch"][2].shape
      self.train_epoch = watch("train_epoch", lambda states, *_: states)
      self.evaluate = watch(
        "evaluate",
        lambda *_: dict.fromkeys(
          ("cross_entropy", "soft_dice", "cases", "dice", "lesions"),
          np.ones(trials, np.float32),
        ),
      )
      self.finish_epoch = watch(
        "finish_epoch",
        lambda states, *_: states.replace(live=np.zeros(trials, bool)),
      )

  monkeypatch.setattr(stages, "Programs", Watched)
  config = conftest.make_config()
  config.folds = (0, 1)
  course.train(conftest.make_study(config, ["Student", "HReg_KLD"], tmp_path))
  programs = ("train_epoch", "evaluate", "finish_epoch")
  assert seen == {(s, p) for s in ("teacher", "student") for p in programs}


SLICE = chips.Slice(
  name="v5e:2x2",
  chip=topology.TPUS["v5e"].chip,
  devices=tuple(jax.devices()),
  host=tuple(jax.devices()),
  memory=16 * GIB,
)


def cost(gib=1.0, flops=1e12, traffic=1e9):
  return compiled.Cost(flops, traffic, GIB, int((gib - 1) * GIB), 2.0, "")


WIDTH = {"float32": 4, "bfloat16": 2}


def fits(student, teacher=1):
  """Stands in for the compiler: GiB of a trial, in float32, by stage."""

  def compile_stage(study, stage, devices):
    layout = fitting.make_layout(study, stage, len(study.blocks), devices)
    trials = layout.block_ids.shape[1] * layout.together
    each = teacher if stage.name == "teacher" else student
    needed = each * trials * WIDTH[study.config.engine.dtype] / 4
    needed *= stage.training.batch_size / 4
    if needed > 16:
      raise compiled.DoesNotFit(f"{stage.name}'s train_epoch", needed * GIB)
    return compiled.StageCost(
      programs=types.SimpleNamespace(study=study, stage=stage, layout=layout),
      waves=2,
      costs={
        "train_epoch": cost(10, 197e12, 0),
        "evaluate": cost(2, 0, 819e9),
        "finish_epoch": cost(1, 0, 0),
      },
      calls={"train_epoch": 3, "evaluate": 2, "finish_epoch": 1},
    )

  return compile_stage


def make_plan(monkeypatch, *gib, **engine):
  monkeypatch.setattr(compiled, "compile_stage", fits(*gib))
  config = paper.get_config("tiny")
  config.folds, config.seeds = (0, 1), (0, 1, 2, 3)
  config.engine.update(engine)
  return plan.make_plan(config.lock(), SLICE)


def test_what_fits_is_left_as_it_is(monkeypatch):
  planned = make_plan(monkeypatch, 1)
  assert planned.settings == {} and planned.refused == ()


def test_fewer_blocks_then_fewer_arms_are_in_memory_at_once(monkeypatch):
  """Thirteen arms of two blocks on each of four devices."""
  planned = make_plan(monkeypatch, 1.0, blocks_at_once=2)
  assert planned.settings == {"engine.blocks_at_once": 1}
  assert planned.study.config.engine.blocks_at_once == 1
  assert planned.refused == (
    "the config as it is does not fit v5e:2x2: student's train_epoch asks for "
    "26.00 of 16.00 GiB.",
  )
  assert "The largest setting that fits: --config.engine.blocks_at_once=1" in (
    forecast.table(planned)
  )
  planned = make_plan(monkeypatch, 2.5, blocks_at_once=2)
  assert planned.settings == {
    "engine.blocks_at_once": 1,
    "engine.arms_at_once": 6,
  }
  # Not compiled: clear from 65 GiB for twenty-six.
  assert planned.refused[1:] == (
    "engine.blocks_at_once=1 does not fit v5e:2x2: student's train_epoch asks "
    "for at least 32.50 of 16.00 GiB.",
  )
  assert planned.study.config.engine.dtype == "float32"
  assert "trials of a chip in memory" in forecast.table(planned)


def test_bfloat16_comes_after_trials_and_batches_last(monkeypatch):
  assert make_plan(monkeypatch, 17.0).settings == {
    "engine.dtype": "bfloat16",
    "engine.arms_at_once": 1,
  }
  assert make_plan(monkeypatch, 1.0, 17.0).settings == {
    "engine.dtype": "bfloat16"
  }
  with pytest.raises(UserError, match="34.00 of 16.00 GiB. Nothing smaller"):
    make_plan(monkeypatch, 68.0)  # Four chips do not divide a batch of 2.


def test_teachers_that_are_made_smaller_are_planned_too(monkeypatch):
  compile_one = fits(1.0)

  def compile_stage(study, stage, devices):
    if stage.name == "compressed" and not study.config.engine.arms_at_once == 1:
      raise compiled.DoesNotFit("compressed's train_epoch", 17 * GIB)
    return compile_one(study, stage, devices)

  monkeypatch.setattr(compiled, "compile_stage", compile_stage)
  config = paper.get_config("tiny")
  config.teacher_compression.update(sparsity=(0.9,), bits=(8, 4), max_epochs=5)
  planned = plan.make_plan(config.lock(), SLICE)
  # For all of them, though the others would have fitted.
  assert planned.settings["engine.arms_at_once"] == 1
  stages = forecast.numbers(planned)["stages"]
  assert list(stages) == ["teacher", "compressed", "student"]
  assert stages["compressed"]["arms"] == 3
  assert stages["compressed"]["max_epochs"] == 5


def test_a_host_of_many_is_planned_with_its_share(monkeypatch):
  devices = tuple(types.SimpleNamespace(process_index=i // 2) for i in range(8))
  host = tuple(types.SimpleNamespace(platform="tpu") for _ in range(2))
  where = dataclasses.replace(SLICE, devices=devices, host=host)
  compile_one, seen = fits(1), set()

  def compile_stage(study, stage, given):
    assert given == host
    seen.add((stage.name, study.blocks))
    return compile_one(study, stage, given)

  monkeypatch.setattr(compiled, "compile_stage", compile_stage)
  config = paper.get_config("tiny")
  config.folds, config.seeds = (0, 1), (0, 1, 2)
  planned = plan.make_plan(config.lock(), where)
  every = planned.study.blocks
  assert len(every) == 6
  share = (every[0], every[4])
  assert seen == {("student", share), ("teacher", share)}
  n = forecast.numbers(planned)
  assert (n["hosts"], n["hosts_at_work"]) == (4, 4)
  assert n["stages"]["student"]["blocks_on_a_host"] == 2
  assert n["stages"]["student"]["blocks"] == 6


def test_a_smaller_batch_that_the_chips_divide_is_the_last_resort():
  as_it_is, narrow, *smaller = plan.studies_to_try(paper.get_config(), 4)
  assert (as_it_is, narrow) == ({}, {"engine.dtype": "bfloat16"})
  sizes = [x["student_training.batch_size"] for x in smaller]
  assert sizes == [x["teacher_training.batch_size"] for x in smaller]
  assert sizes == [32, 16, 8, 4]


def test_times_are_the_slower_of_arithmetic_and_memory(monkeypatch):
  planned = make_plan(monkeypatch, 1)
  n = forecast.numbers(planned)
  json.dumps(n)
  for stage in n["stages"].values():
    # Three steps of a second of arithmetic, two evaluations of a second of
    # memory.
    assert stage["epoch_seconds"] == pytest.approx(5.0)
    assert stage["seconds_at_most"] == pytest.approx(2 * 2 * 5.0)
    assert stage["hbm_bytes"] == 10 * GIB
  assert n["seconds_at_most"] == pytest.approx(40.0)
  text = forecast.table(planned)
  assert "10.00 (62 %)" in text and "197 TFLOP/s" in text


def test_what_a_compiler_compiles_though_it_does_not_fit_is_refused():
  """As those of GPUs do."""
  stage = compiled.StageCost(
    programs=types.SimpleNamespace(stage=types.SimpleNamespace(name="student")),
    waves=1,
    costs={"evaluate": cost(2), "train_epoch": cost(10)},
    calls={},
  )
  stage.check_fits(10 * GIB)
  with pytest.raises(compiled.DoesNotFit) as error:
    stage.check_fits(10 * GIB - 1)
  assert error.value.program == "student's train_epoch"
  assert error.value.needed == 10 * GIB


def test_what_a_gpu_launches_stands_in_the_table(monkeypatch):
  planned = make_plan(monkeypatch, 1)
  assert "kernels" not in forecast.table(planned)
  launched = kernels.Kernels(500, 30, 10, 20, 3, 7, 1e12, 1e9)
  for stage in planned.costs.values():
    step = stage.costs["train_epoch"]
    stage.costs["train_epoch"] = dataclasses.replace(step, launched=launched)
  row = lambda name: next(
    line.split()[-1]
    for line in forecast.table(planned).splitlines()
    if line.strip().startswith(name)
  )
  assert row("kernels") == "500"
  assert row("forward and wider than 7") == "3"
  assert row("transposes of 4 MiB") == "7"
  n = forecast.numbers(planned)
  json.dumps(n)
  step = n["stages"]["student"]["programs"]["train_epoch"]
  assert step["kernels"]["to_kernels"] == 20


def test_a_folder_that_is_elsewhere_is_assumed():
  config = paper.get_config("tiny")
  config.data.update(name="folder", dir="nowhere", num_cases=40)
  dataset, assumed = plan.stand_in(config)
  assert len(dataset.cases) == 40
  assert assumed[0].startswith("data.dir='nowhere' is not on this machine: 40")
