"""The grid compiled for TPU v5e costs little more than its students alone.

36 trials at 112 x 112 in bfloat16, with the student of `paper` and a U-Net of
31 million parameters for a teacher, on the sixteen chips of a v5e:4x4.
"""

import collections
import dataclasses
import importlib.util
import json
import re

import jax
import pytest

from configs import paper
from kdjax import cli
from kdjax import configs
from kdjax.engine import stages
from kdjax.plan import compiled
from kdjax.plan import plan
from kdjax.plan import topology
from tests import started

SIDE = 112  # Compiles in less time than 224 x 224, which `results/plan` has.
# Of these is asked what is not about the networks of the paper.
SMALL = started.SMALL | {
  "engine.lowering": "auto",
  "grid.pair": '(("encoder2", "encoder3"),)',
  "grid.pathway": "L,H",
  "grid.loss": "KLD",
}

pytestmark = [
  pytest.mark.slow,
  pytest.mark.timeout(3600),  # Of the fixture: minutes, without other work.
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed: pip install 'kdjax[plan]'",
  ),
]


@pytest.fixture(scope="module", autouse=True)
def optimised():
  """What is tested here is what the compiler makes of a program.

  With the least effort for its speed on the chip, which takes minutes on some
  processors where the default takes half an hour.
  """
  jax.config.update("jax_disable_most_optimizations", False)
  jax.config.update("jax_exec_time_optimization_effort", -1.0)
  yield
  jax.config.update("jax_disable_most_optimizations", True)
  jax.config.update("jax_exec_time_optimization_effort", 0.0)


def make_programs(study, stage, where):
  return stages.Programs(study, stage, len(study.blocks), where.devices)


@dataclasses.dataclass
class Compiled:
  """The grid's step, and what it is made of."""

  programs: stages.Programs
  step: compiled.Cost
  student: compiled.Cost
  teacher: dict
  regressor: float


@pytest.fixture(scope="module")
def grid():
  config = paper.get_config()
  config.teacher = dict(
    name="UNet",
    widths=(64, 128, 256, 512, 1024),
    decoder_widths=(512, 256, 128, 64),
    num_classes=2,
    in_channels=3,
  )
  config.data.image_size = SIDE
  config.engine.dtype = "bfloat16"
  where = topology.make_slice("v5e:4x4")
  one = topology.make_slice("v5e:1x1")
  study = plan.make_study(config.lock(), plan.stand_in(config)[0])
  baseline, *arms = study.arms
  study = dataclasses.replace(study, arms=tuple(arms))
  stage = study.student_stage
  assert len(arms) * len(study.blocks) == 36
  # One of a chip's three arms at once, as `plan` finds at 224 x 224, where
  # three ask for 15.78 of 15.75 GiB.
  study = study.changed({"engine.arms_at_once": 1})
  programs = make_programs(study, stage, where)
  step = compiled.compile_program(programs, "train_epoch")

  alone = dataclasses.replace(study, blocks=study.blocks[:1])
  student = compiled.compile_program(
    make_programs(
      alone, dataclasses.replace(stage, arms=(baseline,), teacher=None), one
    ),
    "train_epoch",
  )
  return Compiled(
    programs,
    step,
    student,
    compile_teacher(study, one),
    regressor_flops(study),
  )


def compile_teacher(study, where):
  """The teacher's forward pass of a batch by itself."""
  model = study.make_model("teacher")
  sharding = jax.sharding.SingleDeviceSharding(where.devices[0])
  place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  size = study.config.student_training.batch_size
  images = jax.ShapeDtypeStruct((size, SIDE, SIDE, 3), "bfloat16")
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  program = (
    jax.jit(model.apply)
    .lower(*jax.tree.map(place, (variables, images)))
    .compile()
  )
  return {
    "flops": program.cost_analysis()["flops"],
    "convolutions": convolutions(program.as_text()),
  }


def regressor_flops(study):
  """Of the 3x3 and 1x1 convolutions, forward and twice backward."""
  positions = study.config.student_training.batch_size * (SIDE // 16) ** 2
  return 3 * 2 * positions * (9 * 112 * 1024 + 1024 * 1024)


def convolutions(text):
  """Name in the model to number of convolutions, from optimised HLO."""
  lines = [x for x in text.splitlines() if re.search(r" convolution\(", x)]
  names = [re.search(r'op_name="([^"]*)"', x) for x in lines]
  return collections.Counter(x[1] if x else "" for x in names)


def test_the_whole_grid_is_one_program(grid):
  layout = grid.programs.layout
  assert layout.wave * layout.arms == 36


def test_the_step_costs_little_more_than_students_and_teacher(grid, capsys):
  layout = grid.programs.layout
  trials = layout.arm_ids.shape[1]
  regressing = 4 / 12  # Of the arms; a regressor is the student's own.
  ideal = (
    trials * (grid.student.flops + regressing * grid.regressor)
    + 2 * grid.teacher["flops"]
  )
  with capsys.disabled():
    print(
      f"\n{trials} trials on each of {len(layout.devices)} chips, "
      f"{layout.together} at once: {grid.step.flops / 1e12:.3f} TFLOP a step, "
      f"{grid.step.flops / ideal:.3f} of the ideal; HBM "
      f"{(grid.step.held + grid.step.working) / 2**30:.2f} of 15.75 GiB; "
      f"compiled in {grid.step.seconds:.0f} s, a student alone in "
      f"{grid.student.seconds:.0f} s"
    )
  assert grid.step.flops < 1.1 * ideal


def test_the_teacher_runs_once_for_each_view(grid):
  # Students' convolutions are differentiated, a teacher's never; products of
  # matrices, which move images, are convolutions to a TPU.
  teacher = {
    name: count
    for name, count in convolutions(grid.step.text).items()
    if "jvp(" not in name and not name.endswith("dot_general")
  }
  assert set(teacher.values()) == {2}
  assert len(teacher) == len(grid.teacher["convolutions"])
  # In the loop over steps, not in that over arms.
  assert {name.count("while/body") for name in teacher} == {1}


def test_no_convolution_but_the_students_is_grouped(grid):
  grouped = [
    line
    for line in grid.step.text.splitlines()
    if re.search("(feature|batch)_group_count=", line)
  ]
  assert all("jvp(" in line for line in grouped)


def test_the_command_prints_a_plan(tmp_path, capsys):
  argv = ["plan", "--config=configs/paper.py:tiny", "--topology=v5e:2x2"]
  argv += started.flags(SMALL | {"data.image_size": 32})
  assert cli.main([*argv, f"--json={tmp_path / 'plan.json'}"]) == 0
  text = capsys.readouterr().out
  assert "v5e:2x2: 4 chips on 1 host(s)" in text and "memory used" in text
  plan_ = json.loads((tmp_path / "plan.json").read_text())
  teacher, student = (plan_["stages"][x] for x in ("teacher", "student"))
  # One teacher and four chips: they share its batch.
  assert (teacher["chips_at_work"], teacher["batch_on_a_chip"]) == (4, 1)
  assert (student["trials_on_a_chip"], student["waves"]) == (2, 1)
  assert 0 < student["hbm_bytes"] < plan_["hbm_bytes"] == 15.75 * 2**30


def test_arms_in_groups_take_less_memory_and_are_counted_whole():
  where = topology.make_slice("v5e:1x1")
  settings = SMALL | {
    # So many steps that the compiler leaves them a loop.
    "data.num_cases": 400,
    "student_training.batch_size": 16,
  }
  costs = []
  for together in (0, 2):
    settings["engine.arms_at_once"] = together
    config = configs.load("configs/paper.py:tiny", settings.items())
    study = plan.make_study(config, plan.stand_in(config)[0])
    programs = make_programs(study, study.student_stage, where)
    assert programs.layout.together == (together or 5)
    costs.append(compiled.compile_program(programs, "train_epoch"))
  whole, grouped = costs
  # Little, since networks of this size are not what fills the memory.
  assert grouped.working < 0.95 * whole.working
  # Three turns of two, of which the compiler counts one; an arm is there twice.
  assert grouped.flops == pytest.approx(whole.flops * 6 / 5, rel=0.1)
