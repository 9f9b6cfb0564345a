# ruff: noqa: E501, for lines that are XLA's.
"""What a GPU's program launches is counted as its text has it."""

import dataclasses
import pathlib

import jax
from jax.experimental.compilation_cache import compilation_cache
import pytest

from kdjax import cli
from kdjax import configs
from kdjax.engine import stages
from kdjax.errors import UserError
from kdjax.plan import compiled
from kdjax.plan import gpus
from kdjax.plan import kernels
from kdjax.plan import plan
from kdjax.plan import topology

# An epoch of two steps; every line is one that XLA writes, shortened.
TEXT = """\
HloModule epoch

%fused_transpose (p: f32[2,4,4,65536]) -> f32[2,65536,4,4] {
  %p = f32[2,4,4,65536]{3,2,1,0} parameter(0)
  ROOT %t = f32[2,65536,4,4]{3,2,1,0} transpose(%p), dimensions={0,3,1,2}
}

%fused_product (a: bf16[8,16], b: bf16[16,4]) -> f32[8,4] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (s: (s32[], f32[2,4,4,65536])) -> (s32[], f32[2,4,4,65536]) {
  %s = (s32[], f32[2,4,4,65536]{3,2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[2,4,4,65536]{3,2,1,0} get-tuple-element(%s), index=1
  %k = bf16[6,3,3,4]{3,2,1,0} constant({...})
  %y = bf16[2,8,8,8]{3,2,1,0} constant({...})
  %cudnn-conv.1 = (bf16[2,8,8,6]{3,2,1,0}, u8[64]{0}) custom-call(%y, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, feature_group_count=2, custom_call_target="__cudnn$convForward"
  %dy = bf16[2,8,8,6]{3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  %cudnn-conv-bw-filter.1 = (bf16[6,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%y, %dy), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, feature_group_count=2, custom_call_target="__cudnn$convBackwardFilter"
  %cudnn-conv-bw-input.1 = (bf16[2,8,8,8]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, feature_group_count=2, custom_call_target="__cudnn$convBackwardInput"
  %cudnn-conv.2 = (bf16[6,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%y, %dy), window={size=8x8 pad=1_1x1_1}, dim_labels=f01b_i01o->01bf, custom_call_target="__cudnn$convForward"
  %input_transpose_fusion = f32[2,65536,4,4]{3,2,1,0} fusion(%x), kind=kInput, calls=%fused_transpose
  %a0 = bf16[8,16]{1,0} constant({...})
  %b0 = bf16[16,4]{1,0} constant({...})
  %product = f32[8,4]{1,0} fusion(%a0, %b0), kind=kCustom, calls=%fused_product
  ROOT %out = (s32[], f32[2,4,4,65536]{3,2,1,0}) tuple(%i, %x)
}

%condition (c: (s32[], f32[2,4,4,65536])) -> pred[] {
  %c = (s32[], f32[2,4,4,65536]{3,2,1,0}) parameter(0)
  %n = s32[] get-tuple-element(%c), index=0
  %two = s32[] constant(2)
  ROOT %less = pred[] compare(%n, %two), direction=LT
}

ENTRY %main (x0: f32[2,4,4,65536]) -> (s32[], f32[2,4,4,65536]) {
  %x0 = f32[2,4,4,65536]{3,2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[2,4,4,65536]{3,2,1,0}) tuple(%zero, %x0)
  ROOT %loop = (s32[], f32[2,4,4,65536]{3,2,1,0}) while(%start), condition=%condition, body=%body
}
"""


def test_kernels_are_counted_by_kind_and_loops_once():
  found = kernels.count(TEXT)
  assert dataclasses.replace(found, flops=0, traffic=0) == kernels.Kernels(
    launched=7,  # Four convolutions, two fusions, the loop's comparison.
    forward=2,
    to_images=1,
    to_kernels=1,
    wide=1,
    transposes=1,
    flops=0,
    traffic=0,
  )


def test_operations_are_those_of_convolutions_and_products():
  pixels, window, inputs, outputs = 2 * 8 * 8, 9, 4, 6
  one = 2 * pixels * window * inputs * outputs
  # All four: a kernel's gradient that runs forward has the same numbers.
  product = 2 * 8 * 4 * 16
  assert kernels.count(TEXT).flops == 4 * one + product


def test_traffic_is_what_kernels_read_and_write():
  big, image, dy = 2 * 16 * 65536 * 4, 2 * 64 * 8 * 2, 2 * 64 * 6 * 2
  kernel, workspace = 6 * 9 * 4 * 2, 64
  product = 8 * 16 * 2 + 16 * 4 * 2 + 8 * 4 * 4
  comparison = 4 + 4 + 1
  assert kernels.count(TEXT).traffic == (
    4 * (image + dy + kernel) + workspace + 2 * big + product + comparison
  )


@pytest.mark.parametrize("name", ["h100:9", "h100:0", "l4:1x2", "a100:x"])
def test_a_machine_that_is_none_is_refused(name):
  with pytest.raises(UserError, match="1 to 8 GPUs, such as"):
    topology.make_slice(name)


def test_without_the_plugin_a_line_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setattr(gpus, "_NEEDS", "jax_plugins.none")
  argv = ["plan", "--config=configs/paper.py:tiny", "--topology=h100"]
  assert cli.main(argv) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert "CUDA plugin" in line and "pip install 'kdjax[plan-gpu]'" in line


has_compiler = pytest.mark.skipif(
  not gpus._is_here(), reason="JAX's CUDA plugin is not installed"
)
CONFIGS = sorted(map(str, pathlib.Path("configs").glob("*.py")))


@pytest.fixture
def _cache_again():
  yield
  jax.config.update("jax_enable_compilation_cache", True)
  compilation_cache.reset_cache()


@pytest.mark.slow
@has_compiler
@pytest.mark.usefixtures("_cache_again")
@pytest.mark.parametrize("config", CONFIGS)
def test_no_kernels_gradient_is_a_wide_forward_convolution(config):
  """On an H100, of every config's students."""
  with jax.enable_x64(False):
    where = topology.make_slice("h100")
    loaded = configs.load(f"{config}:tiny", [])
    study = plan.make_study(loaded, plan.stand_in(loaded)[0], "gpu")
    programs = stages.Programs(study, study.student_stage, 1, where.host)
    found = compiled.compile_program(programs, "train_epoch").launched
  assert found.wide == 0 and found.to_kernels > 0
