"""Images in colour are read, rendered, learnt from, exported and predicted."""

import jax
import numpy as np
import PIL.Image
import pytest

from kdjax import cli
from kdjax import readers
from kdjax import run
from kdjax.data import images
from kdjax.data import pipeline
from kdjax.data import views
from kdjax.errors import UserError
from kdjax.evaluate import predictions
from kdjax.models import layers
from tests import conftest

# Red that green takes back in luma, by the weights of ITU-R BT.601.
_GREEN_OF_RED = 0.299 / 0.587


def write(folder, cases=24, side=32):
  """Cases whose lesion has its surroundings' luma, and another hue."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:side, :side]
  for part in ("images", "masks"):
    (folder / part).mkdir(parents=True)
  for case in range(cases):
    row, column = rng.uniform(10, side - 10, 2)
    inside = np.hypot(y - row, x - column) < rng.uniform(5, 9)
    grey = 110 + 20 * rng.standard_normal((side, side))
    red = 80 * inside
    pixels = np.stack([grey + red, grey - _GREEN_OF_RED * red, grey], axis=-1)
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    name = f"case{case:02d}.png"
    PIL.Image.fromarray(pixels).save(folder / "images" / name)
    PIL.Image.fromarray(np.uint8(255 * inside)).save(folder / "masks" / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("hues")
  write(folder)
  return folder


def make_config(folder, channels=3, epochs=2):
  config = conftest.make_config()
  config.data.update(
    name="folder", dir=str(folder), channels=channels, image_size=32
  )
  config.splits.update(kind="holdout", num_folds=1, test_cases=6)
  config.folds = (0,)
  for role in ("teacher", "student"):
    config[role].in_channels = 3
    config[f"{role}_training"].update(max_epochs=epochs, patience=0)
  config.teacher_training.learning_rate = 1e-2
  config.grid.update(
    pathway=("L",), loss=("KLD",), view=("weak",), learning_rate=(1e-2,)
  )
  return config


@pytest.mark.parametrize(
  ("mode", "colour"),
  [
    ("RGB", (10, 200, 30)),
    ("RGBA", (10, 200, 30, 255)),
    ("P", None),
    ("L", 77),
    ("CMYK", (0, 0, 0, 0)),
  ],
)
def test_a_file_of_any_mode_becomes_three_channels(tmp_path, mode, colour):
  path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
  if mode == "P":
    image = PIL.Image.new("RGB", (5, 4), (255, 0, 0)).convert("P")
  else:
    image = PIL.Image.new(mode, (5, 4), colour)
  image.save(path)
  wanted = {"P": (255, 0, 0), "L": (77,) * 3, "CMYK": (255,) * 3}
  read = images.read_image(path, 3)
  assert read.shape == (4, 5, 3) and read.dtype == np.uint8
  np.testing.assert_array_equal(read[0, 0], wanted.get(mode, (10, 200, 30)))
  assert images.read_image(path).shape == (4, 5)


def test_sixteen_bits_of_grey_are_three_equal_channels(tmp_path):
  deep = np.full((3, 2), 257 * 9, np.uint16)
  PIL.Image.fromarray(deep).save(tmp_path / "x.png")
  read = images.read_image(tmp_path / "x.png", 3)
  np.testing.assert_array_equal(read, np.full((3, 2, 3), 9))


def test_colours_are_kept_where_they_are_asked_for(folder):
  colour = pipeline.load(make_config(folder).data)
  grey = pipeline.load(make_config(folder, channels=1).data)
  assert colour.images.shape == (24, 32, 32, 3)
  assert grey.images.shape == (24, 32, 32)
  assert colour.fingerprint != grey.fingerprint
  np.testing.assert_array_equal(colour.masks, grey.masks)
  inside = colour.masks.astype(bool)
  apart = colour.images[..., 0].astype(int) - colour.images[..., 2]
  assert apart[inside].mean() > 60 > 5 > abs(apart[~inside].mean())
  # Its luma says nothing of where it is.
  assert abs(grey.images[inside].mean() - grey.images[~inside].mean()) < 3


def test_a_phantom_in_colour_is_grey_three_times():
  config = conftest.make_config()
  grey = pipeline.load(config.data).images
  config.data.channels = 3
  thrice = pipeline.load(config.data).images
  np.testing.assert_array_equal(thrice, np.repeat(grey[..., None], 3, axis=-1))


def test_every_channel_is_rendered_as_grey_is():
  """One geometry for all; a pixel that drops out is black in all."""
  settings = conftest.make_config().views
  grey = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
  mask = (grey > 128).astype(np.uint8)
  key = jax.random.key(3)
  alone, moved = views.render(key, grey, mask, settings)
  found, same = views.render(
    key, np.stack([grey, 255 - grey, grey], axis=-1), mask, settings
  )
  np.testing.assert_array_equal(moved, same)
  for channel in (0, 2):
    np.testing.assert_allclose(
      found["weak"][..., channel], alone["weak"], atol=1e-6
    )
  dropped = (alone["weak"] > 0.1) & (alone["strong"] == 0)
  assert dropped.any()
  assert not found["strong"][dropped].any()


def test_colours_are_normalised_channel_by_channel():
  image = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)
  mean, deviation = map(np.array, layers.IMAGENET)
  np.testing.assert_allclose(
    views.normalise(image, 3, layers.IMAGENET, colours=True),
    (image - mean) / deviation,
    atol=1e-6,  # Of numbers of the order of one, in float32.
  )
  with pytest.raises(ValueError, match="1 or 3 channels"):
    views.normalise(image, 1, layers.IMAGENET, colours=True)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"data.channels": 2}, "data.channels=2: 1 for grey or 3"),
    ({"student.in_channels": 1}, "student.in_channels=1, but data.channels=3"),
    ({"teacher.in_channels": 1}, "teacher.in_channels=1, but data.channels=3"),
  ],
)
def test_what_colours_cannot_go_into_is_refused(
  folder, tmp_path, changes, said
):
  config = make_config(folder)
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=said) as error:
    run.train(config.lock(), tmp_path / "run")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_lesion_of_another_hue_is_learnt_in_colour_alone(folder, tmp_path):
  """And exported and predicted: masks are those that the study tested."""
  dice = {}
  for channels in (1, 3):
    config = make_config(folder, channels, epochs=25)
    found = run.train(config.lock(), tmp_path / f"run{channels}")
    mean = found.per_case.groupby("model")["dice"].mean()
    dice[channels] = mean["Student"]
  assert dice[3] > 0.7
  assert dice[1] < dice[3] - 0.2
  workdir = tmp_path / "run3"
  assert (workdir / "report" / "index.html").exists()
  stored = predictions.read(workdir)
  assert stored.images.shape == (6, 32, 32, 3)

  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  model = tmp_path / "student.onnx"
  asked = ["--workdir", str(workdir), "--out", str(model), "--arm", "Student"]
  assert not cli.main(["export", *asked, "--quantise"])
  cases = readers.per_case(workdir)["case"].unique()
  paths = [str(folder / "images" / f"{case}.png") for case in cases]
  out = tmp_path / "masks"
  assert not cli.main(
    ["predict", "--model", str(model), "--out", str(out), *paths]
  )
  for case in cases:
    with PIL.Image.open(out / f"{case}_mask.png") as mask:
      predicted = np.asarray(mask) > 0
    tested = stored.mask("Student", 0, 0, case)
    assert np.mean(predicted != tested) < 0.01  # Ties at the border.
    with PIL.Image.open(out / f"{case}_overlay.png") as overlay:
      assert overlay.mode == "RGB"
