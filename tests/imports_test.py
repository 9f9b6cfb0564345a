"""Imports flow one way, and losses know nothing but arrays."""

import ast
import pathlib

import pytest

ORDER = """
errors platforms
lease
files fields
workdirs
readers
data models
distill
schema
configs recorded
engine
evaluate
report deploy plan
bench
run
commands
flags
cli
""".strip().splitlines()
LEVEL = {name: i for i, line in enumerate(ORDER) for name in line.split()}
ROOT = pathlib.Path("kdjax")


def imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        yield f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name


@pytest.mark.parametrize(
  "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path)
)
def test_imports_flow_one_way(path):
  own = path.relative_to(ROOT).with_suffix("").parts[0]
  for name in imported(path):
    parts = name.split(".")
    if parts[0] != "kdjax" or own == "__init__" or parts[1] == "__version__":
      continue
    assert parts[1] == own or LEVEL[parts[1]] < LEVEL[own], f"{path}: {name}"


def test_a_loss_sees_neither_module_nor_config():
  files = ("losses", "relations", "classwise", "maps")
  known = {f"kdjax.distill.{file}" for file in files}
  allowed = {"collections", "dataclasses", "jax", "numpy", "typing"}
  for file in files:
    names = set(imported(ROOT / f"distill/{file}.py")) - known
    assert {name.split(".")[0] for name in names} <= allowed


def test_only_parallel_maps_over_devices_and_blocks():
  for path in ROOT.rglob("*.py"):
    if path.name != "parallel.py":
      assert "pmap(" not in path.read_text(), path
