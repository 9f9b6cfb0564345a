"""Exported networks say what the trained ones say, with and without JAX."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from kdjax import cli
from kdjax import recorded
from kdjax import workdirs
from kdjax.data import images
from kdjax.data import pipeline
from kdjax.data import regions
from kdjax.data import views
from kdjax.deploy import export
from kdjax.deploy import latency
from kdjax.deploy import predict
from kdjax.deploy import runtime
from kdjax.deploy import trained
from kdjax.engine import checkpoint
from kdjax.engine import inference
from kdjax.engine import studies
from kdjax.errors import UserError
from tests import conftest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# A pixel so near to the border of two decisions may fall to either side.
TIE = 1e-3


def make_workdir(folder, image_size=16, **teacher):
  """A workdir as `train` leaves it, its weights drawn instead of trained."""
  config = conftest.make_config()
  config.data.cache_dir = str(folder / "cache")
  config.data.image_size = image_size
  config.folds = (0, 1)
  config.grid.update(pathway=("L",), view=("strong",))
  if teacher:
    config.teacher = teacher
  study = studies.make_study(config.lock(), folder / "run")
  recorded.claim(config, study.workdir)
  recorded.claim_data(study)
  rows = ["stage,arm,fold,seed,epoch,train_loss,val_loss"]
  for role, arms in (
    ("teacher", ["Teacher"]),
    ("student", [arm.name for arm in study.arms]),
  ):
    model = trained.make_model(config, role)
    shapes = jax.eval_shape(model.init, jax.random.key(0), study.blank(role))
    for block in study.blocks:
      states = [
        draw_weights(shapes, (block.fold, arm)) for arm in range(len(arms))
      ]
      states = jax.tree.map(lambda *x: np.stack(x), *states)
      saved = checkpoint.Checkpoint(
        study.workdir / "checkpoints" / role / block.name
      )
      states = {f"best_{name}": x for name, x in states.items()}
      saved.save(checkpoint.Progress(1, {"trials": states}, finished=True))
      saved.close()
      for i, arm in enumerate(arms):
        loss = 0.5 + abs(i - 1) / 10 - block.fold / 100
        rows.append(f"{role},{arm},{block.fold},{block.seed},1,0.5,{loss}")
  (study.workdir / "history.csv").write_text("\n".join(rows) + "\n")
  return study


def draw_weights(shapes, seed):
  """Weights and statistics such as a trained network may have."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    name = path[-1].key
    if name in ("scale", "var"):
      return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
    spread = 0.1
    if name == "kernel":
      spread = np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return rng.normal(0, spread, leaf.shape).astype(np.float32)

  return jax.tree.map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("deploy"))


@pytest.fixture(scope="module")
def teacher_study(tmp_path_factory):
  return make_workdir(
    tmp_path_factory.mktemp("teacher"),
    image_size=32,
    name="EncoderUNet",
    encoder="efficientnet-lite0",
    decoder_widths=(8, 8, 8, 8, 8),
  )


def evaluated(study, network):
  """Margins as `train` predicts them: BatchNorm apart, not exported."""
  fold = study.folds[network.fold]
  inputs = views.normalise(
    study.dataset.images[fold.test].astype(float) / 255.0,
    network.model.in_channels,
    network.model.normalisation,
  )
  return jax.jit(
    lambda v, x: inference.predict(
      v["params"], v["batch_stats"], x, model=network.model
    )
  )(network.variables, jnp.asarray(inputs, jnp.float32))


@pytest.mark.parametrize(
  "arm", ["best", pytest.param("Teacher", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", export.FORMATS)
def test_an_exported_network_agrees_with_the_trained_one(
  request, kind, arm, tmp_path
):
  study = request.getfixturevalue("study" if arm == "best" else "teacher_study")
  out = tmp_path / f"network.{kind}"
  export.write(study.workdir, out, kind=kind, arm=arm)
  network = trained.load(study.workdir, arm)
  test = study.folds[network.fold].test
  expected = np.asarray(evaluated(study, network))
  if kind == "onnx":
    exported = runtime.Network(out).margins
  else:
    exported = jax.export.deserialize(bytearray(out.read_bytes())).call
  # All at once and one alone: the batch is open.
  found = np.asarray(exported(study.dataset.images[test]))
  np.testing.assert_allclose(found, expected, atol=1e-4)
  alone = np.asarray(exported(study.dataset.images[test][:1]))
  np.testing.assert_allclose(alone, expected[:1], atol=1e-4)
  assert expected.std() > 0.01  # There is something to agree on.
  for case, one, other in zip(test, found, expected, strict=True):
    size = study.dataset.full_masks[case].shape
    margin = images.upsample(other, size)
    differs = (images.upsample(one, size) > 0) != (margin > 0)
    assert np.all(np.abs(margin[differs]) < TIE)


def test_no_batch_norm_and_no_transpose_is_left(study, tmp_path):
  export.write(study.workdir, tmp_path / "x.onnx")
  kinds = {x.op_type for x in onnx.load(tmp_path / "x.onnx").graph.node}
  assert kinds >= {"Conv", "Relu", "MaxPool", "Resize", "Concat"}
  assert not kinds & {"BatchNormalization", "Transpose", "Mul"}


def test_validation_chooses_and_a_diverged_trial_is_no_choice(study, tmp_path):
  best = trained.load(study.workdir)
  assert (best.arm, best.fold) == ("L_MSE", 1)
  assert trained.load(study.workdir, "Student", fold=0).fold == 0
  assert trained.load(study.workdir, fold=0).arm == "L_MSE"
  # Each arm's weights are its own.
  one, other = (trained.load(study.workdir, x) for x in ("Student", "L_MSE"))
  head = lambda x: x.variables["params"]["head"]["kernel"]
  assert not np.allclose(head(one), head(other))
  path = study.workdir / "history.csv"
  before = path.read_text()
  try:
    lost = before.replace("L_MSE,1,0,1,0.5", "L_MSE,1,0,1,nan")
    assert lost != before
    path.write_text(lost)
    assert trained.load(study.workdir).fold == 0
  finally:
    path.write_text(before)


@pytest.mark.parametrize(
  "flags, said",
  [
    (["--arm=L_KDL"], "L_KDL"),
    (["--fold=7"], "--fold=7"),
    (["--quantise", "--format=stablehlo"], "--quantise"),
  ],
)
def test_a_network_that_is_not_there_is_one_line(
  study, flags, said, tmp_path, capsys
):
  out = tmp_path / "x"
  argv = ["export", f"--workdir={study.workdir}", f"--out={out}", *flags]
  assert cli.main(argv) == 1
  error = capsys.readouterr().err
  assert said in error and error.count("\n") == 1
  assert list(tmp_path.iterdir()) == []


def test_an_unfinished_workdir_is_refused_and_left_as_it_is(study, tmp_path):
  (tmp_path / "run").mkdir()
  argv = ["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'x'}"]
  assert cli.main(argv) == 1
  assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_the_description_and_the_card_say_what_was_exported(study, tmp_path):
  export.write(study.workdir, tmp_path / "x.onnx", quantise=True)
  about = json.loads((tmp_path / "x.json").read_text())
  assert (about["arm"], about["fold"], about["seed"]) == ("L_MSE", 1, 0)
  assert about["input"]["shape"] == ["batch", 16, 16]
  assert about["output"]["threshold"] == 0
  # The file alone says it too, as it may be all that a device gets.
  assert runtime.Network(tmp_path / "x.onnx").about == about
  card = (tmp_path / "x.md").read_text()
  for said in ("Not a medical device", "`L_MSE`", "Limits", "In 8 bits"):
    assert said in card
  small = runtime.Network(tmp_path / "x.int8.onnx")
  assert small.about == about
  kinds = {x.op_type for x in onnx.load(tmp_path / "x.int8.onnx").graph.node}
  assert "QuantizeLinear" in kinds or "QLinearConv" in kinds
  image = study.dataset.images[:1]
  exact = runtime.Network(tmp_path / "x.onnx").margins(image)
  # 8 bits of a range of a few units, through a handful of layers; a single
  # pixel may be off by a quarter of it.
  rounded = small.margins(image)
  assert 0 < np.abs(rounded - exact).mean() < 0.1 * np.ptp(exact)


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "student.onnx"
  export.write(study.workdir, path)
  return path


def draw(path, mode="L", size=(50, 37), **options):
  rng = np.random.default_rng(0)
  width, height = size
  if mode == "I;16":
    pixels = rng.integers(0, 2**16, (height, width)).astype(np.uint16)
    image = PIL.Image.fromarray(pixels)
  else:
    image = PIL.Image.fromarray(
      rng.integers(0, 256, (height, width, 3), np.uint8)
    )
    image = image.convert(mode)
  image.save(path, **options)
  return path


def read(path):
  with PIL.Image.open(path) as image:
    return np.asarray(image)


def test_any_format_and_size_is_predicted_and_a_bad_file_named(
  exported, tmp_path, capsys
):
  inside = tmp_path / "in"
  inside.mkdir()
  draw(inside / "grey.png")
  draw(inside / "deep.png", "I;16", (64, 20))
  draw(inside / "colour.jpg", "RGB", (41, 53))
  draw(inside / "bitmap.bmp", "RGB")
  draw(inside / "scan.tif", size=(8, 8))
  whole = (inside / "grey.png").read_bytes()
  (inside / "corrupt.png").write_bytes(whole[: len(whole) // 2])
  bomb = tmp_path / "bomb.png"
  PIL.Image.new("1", (20_000, 20_000)).save(bomb)
  out = tmp_path / "out"
  argv = ["predict", f"--model={exported}", f"--out={out}", "--batch=2"]
  assert cli.main([*argv, str(inside), str(bomb)]) == 1
  captured = capsys.readouterr()
  errors = captured.err.splitlines()
  assert len(errors) == 3
  assert "corrupt.png" in errors[0] and "bomb.png" in errors[1]
  assert "2 not predicted" in errors[2]
  assert "5 predicted" in captured.out and "ms an image" in captured.out
  names = ("grey", "deep", "colour", "bitmap", "scan")
  made = {x.name for x in out.iterdir()}
  assert made == {f"{x}_{y}.png" for x in names for y in ("mask", "overlay")}
  for path in inside.iterdir():
    if path.stem in names:
      size = read(path).shape[:2]
      mask = read(out / f"{path.stem}_mask.png")
      assert mask.shape == size and set(np.unique(mask)) <= {0, 255}
      assert read(out / f"{path.stem}_overlay.png").shape == (*size, 3)


def test_masks_are_those_that_the_study_tested(study, exported, tmp_path):
  """From the files of a data set, not from its prepared arrays."""
  network = trained.load(study.workdir)
  test = study.folds[network.fold].test
  expected = np.asarray(evaluated(study, network))
  for image, case in zip(full_images(study), study.dataset.cases, strict=True):
    PIL.Image.fromarray(image).save(tmp_path / f"{case}.png")
  files = [tmp_path / f"{study.dataset.cases[case]}.png" for case in test]
  _, failures = predict.run(exported, files, tmp_path / "out", batch=2)
  assert failures == 0
  for case, margin in zip(test, expected, strict=True):
    name = f"{study.dataset.cases[case]}_mask.png"
    mask = read(tmp_path / "out" / name) > 0
    margin = images.upsample(margin, study.dataset.full_masks[case].shape)
    differs = mask != (margin > 0)
    assert np.all(np.abs(margin[differs]) < TIE)


def full_images(study):
  """The data set's images as on disk, in the order of its cases."""
  data = study.config.data
  cache = pipeline.pathlib.Path(data.cache_dir)
  _, make = pipeline._choose(data, cache, regions.LESION)
  source = make().as_data_source(split="all")
  rows = sorted(source, key=lambda row: row["name"])
  return [row["image"][..., 0] for row in rows]


def test_an_overlay_shows_the_border_and_leaves_the_rest():
  image = np.full((5, 5), 9, np.uint8)
  mask = np.zeros((5, 5), bool)
  mask[1:4, 1:4] = True
  shown = predict.overlay(image, mask)
  red = (shown != 9).any(axis=-1)
  mask[2, 2] = False
  np.testing.assert_array_equal(red, mask)
  np.testing.assert_array_equal(image, 9)


def test_a_file_that_is_no_network_is_one_line(tmp_path, capsys):
  image = draw(tmp_path / "x.png")
  for name, content in (("none", None), ("text", b"text")):
    if content:
      (tmp_path / name).write_bytes(content)
    argv = [
      "predict",
      f"--model={tmp_path / name}",
      f"--out={tmp_path / 'out'}",
    ]
    assert cli.main([*argv, str(image)]) == 1
    assert str(tmp_path / name) in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


def test_predict_needs_neither_jax_nor_what_trains(exported, tmp_path):
  """Whatever is not numpy, Pillow or onnxruntime is out of reach."""
  image = draw(tmp_path / "x.png")
  code = f"""
import sys
class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {{
      "jax", "jaxlib", "flax", "optax", "orbax", "etils", "scipy", "pandas",
      "tensorflow_datasets", "ml_collections", "absl", "grain", "onnx", "tqdm",
    }}:
      raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from kdjax import cli
sys.exit(cli.main(["predict", "--model={exported}", "--out={tmp_path / "out"}",
  "{image}"]))
"""
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "out/x_mask.png").exists()


def test_latency_is_measured_where_onnxruntime_is(study, monkeypatch):
  (found,) = latency.measure(study, [("student", ())]).values()
  assert set(found) <= set(workdirs.COSTS) and len(found) == 5
  assert all(value > 0 for value in found.values())
  # Python, numpy and onnxruntime take 60 MB before any network is opened.
  assert found["onnx_peak_bytes"] < 30e6

  def missing():
    raise UserError("onnxruntime is not installed")

  monkeypatch.setattr(runtime, "load", missing)
  assert latency.measure(study, [("student", ())]) == {}


def test_networks_that_are_compared_are_measured_in_turn(
  study, monkeypatch, capsys
):
  networks = [("student", (("sparsity", x),)) for x in (0.5, 0.9)]
  networks += [("teacher", ()), ("teacher", (("bits", 4),))]
  asked = []

  def ask(path, threads):
    asked.append((path.name, threads))
    if path.name == "1.onnx" and len(asked) > 6:
      raise UserError("it does not run")
    took = 10.0 * len(asked)
    return {"milliseconds": took, "images_per_second": 1.0, "peak_bytes": ""}

  monkeypatch.setattr(latency, "_content", lambda *_, **__: b"")
  monkeypatch.setattr(latency, "_ask", ask)
  found = latency.measure(study, networks)
  names = [name for name, threads in asked if threads == 1]
  assert names == ["0.onnx", "1.onnx", "2.onnx"] * 3
  # One fails in a later round, one has a number of bits that nothing runs.
  assert list(found) == [networks[0], networks[2]]
  assert found[networks[0]]["onnx_ms_one_core"] == 70.0  # Of 10, 70 and 120.
  assert found[networks[0]]["onnx_peak_bytes"] == ""
  said = capsys.readouterr().err
  assert said.count("student not measured as ONNX: it does not run") == 2
