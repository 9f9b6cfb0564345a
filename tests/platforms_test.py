"""libtpu is left alone where there is no TPU, and only there."""

import importlib.metadata
import importlib.util

import pytest

from kdjax import platforms


@pytest.fixture
def settled(monkeypatch, tmp_path):
  """From the machine's PCI vendors and what is installed to JAX_PLATFORMS."""

  def settle(vendors, libtpu=True, plugins=(), given=None):
    for i, vendor in enumerate(vendors):
      (tmp_path / f"{i}").mkdir()
      (tmp_path / f"{i}" / "vendor").write_text(vendor + "\n")
    found = object() if libtpu else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(
      importlib.metadata, "entry_points", lambda group: plugins
    )
    monkeypatch.setenv("JAX_PLATFORMS", given or "")  # To be undone after it.
    if given is None:
      monkeypatch.delenv("JAX_PLATFORMS")
    platforms.settle(tmp_path)
    return platforms.os.environ.get("JAX_PLATFORMS")

  return settle


def test_without_a_tpu_only_cpus_are_looked_for(settled):
  assert settled(["0x8086", "0x10de"]) == "cpu"


def test_a_tpu_is_looked_for_where_there_is_one(settled):
  assert settled(["0x8086", "0x1ae0"]) is None


def test_what_is_not_installed_needs_no_setting(settled):
  assert settled(["0x8086"], libtpu=False) is None


def test_gpus_and_the_like_are_looked_for_still(settled):
  assert settled(["0x10de"], plugins=("xla_cuda13",)) is None


@pytest.mark.parametrize("given", ["tpu", "", "cpu,tpu"])
def test_a_choice_of_ones_own_stands(settled, given):
  assert settled(["0x8086"], given=given) == given
