"""Losses against torchdistill's and mmrazor's, where those are installed.

Neither is a dependency: `pip install --no-deps torchdistill mmrazor` beside
torch. Where definitions differ, they differ by the factor that the test names.
IFVD, RAD and SKD are in neither; `losses_test` holds their formulas.
"""

import importlib.util
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.distill import losses
from kdjax.distill import relations

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # Of their code.

B, H, W, C = 3, 4, 5, 6
N = H * W
TAU = 4.0


def maps(seed):
  """The same float64 map as `[B, H, W, C]` for us and `[B, C, H, W]`."""
  x = np.random.default_rng(seed).normal(size=(B, H, W, C))
  return jnp.asarray(x), torch.tensor(np.moveaxis(x, -1, 1).copy())


def ours(name, tau=TAU):
  """The mean over the batch, in float64."""
  with jax.enable_x64(True):
    (s, _), (t, _) = maps(0), maps(1)
    classes = jnp.full((B, H, W, 2), 0.5)
    return float(jnp.mean(losses.LOSSES[name].function(s, t, tau, classes)))


def torchdistill(name, **settings):
  """A loss of torchdistill on the same maps, taken from module "x"."""
  library = pytest.importorskip("torchdistill.losses.mid_level")
  (_, s), (_, t) = maps(0), maps(1)
  loss = getattr(library, name)(**settings)
  return float(loss({"x": {"output": s}}, {"x": {"output": t}}))


def mmrazor(file, name, monkeypatch, **settings):
  """A loss of mmrazor; its file alone, as the rest needs all of OpenMMLab."""
  package = importlib.util.find_spec("mmrazor")
  if package is None:
    pytest.skip("mmrazor is not installed")
  registry = types.ModuleType("mmrazor.registry")
  registry.MODELS = types.SimpleNamespace(register_module=lambda: lambda x: x)
  monkeypatch.setitem(sys.modules, "mmrazor", types.ModuleType("mmrazor"))
  monkeypatch.setitem(sys.modules, "mmrazor.registry", registry)
  root = pathlib.Path(package.submodule_search_locations[0])
  spec = importlib.util.spec_from_file_location(
    file, root / "models" / "losses" / f"{file}.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  (_, s), (_, t) = maps(0), maps(1)
  return float(getattr(module, name)(**settings)(s, t))


def same(a, b):
  print(f"ours {a:.9g}, theirs {b:.9g}: apart by {abs(a / b - 1):.1e}")
  # Float64 on both sides; theirs add 1e-6 or so where ours add 1e-12.
  assert a == pytest.approx(b, rel=1e-5)


def test_mse_is_torchs():
  same(ours("MSE"), torch.nn.functional.mse_loss(maps(0)[1], maps(1)[1]).item())


def test_fitnets_is_half_the_squared_length_of_feature_vectors():
  """torchdistill distils hints by torch's MSE, a mean over channels too."""
  mse = torch.nn.functional.mse_loss(maps(0)[1], maps(1)[1]).item()
  same(ours("FitNets"), mse * C / 2)


def test_kld_is_torchdistills_but_for_positions_and_temperature():
  """Its `batchmean` sums over positions, and tau squared comes with labels."""
  module = {"student_module_path": "x", "teacher_module_path": "x"}
  theirs = torchdistill(
    "KDLoss",
    **module,
    student_module_io="output",
    teacher_module_io="output",
    temperature=TAU,
    alpha=0,
  )
  same(ours("KLD"), theirs / N * TAU**2)


def test_at_is_torchdistills_but_for_positions():
  """The authors' code takes the mean over positions, the paper their length.

  Ours is that length squared: the code's number times the positions.
  """
  pair = {x: {"path": "x", "io": "output"} for x in ("student", "teacher")}
  code = torchdistill("ATLoss", at_pairs={"x": pair}, mode="code")
  same(ours("AT"), code * N)
  paper = torchdistill("ATLoss", at_pairs={"x": pair}, mode="paper")
  with jax.enable_x64(True):
    (s, _), (t, _) = maps(0), maps(1)
    lengths = jnp.sqrt(relations.attention(s, t, 1.0, None))
  same(float(jnp.mean(lengths)), paper)


def test_sp_is_torchdistills_but_for_the_norm_of_a_row(monkeypatch):
  """Its 1, meant as the axis, is `normalize`'s order; the paper's is 2."""
  library = pytest.importorskip("torchdistill.losses.mid_level")
  monkeypatch.setattr(
    library, "normalize", lambda x, _: torch.nn.functional.normalize(x)
  )
  theirs = torchdistill(
    "SPKDLoss",
    student_output_path="x",
    teacher_output_path="x",
    reduction="batchmean",
  )
  same(ours("SP"), theirs)


def test_cwd_is_mmrazors(monkeypatch):
  theirs = mmrazor("cwd", "ChannelWiseDivergence", monkeypatch, tau=TAU)
  same(ours("CWD"), theirs)


def test_pkd_is_mmrazors_but_for_bessels_correction(monkeypatch):
  """Torch's deviation divides by one number fewer than there are."""
  theirs = mmrazor("pkd_loss", "PKDLoss", monkeypatch)
  numbers = B * N
  same(ours("PKD"), theirs * numbers / (numbers - 1))
