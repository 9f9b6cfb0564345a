"""Masks of several regions: read, rendered, learnt, measured, exported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from kdjax import cli
from kdjax import run
from kdjax.data import description
from kdjax.data import images
from kdjax.data import masks
from kdjax.data import phantom
from kdjax.data import pipeline
from kdjax.data import regions
from kdjax.data import splits
from kdjax.data import views
from kdjax.engine import inference
from kdjax.engine import studies
from kdjax.errors import UserError
from kdjax.evaluate import metrics
from kdjax.evaluate import predictions
from tests import conftest

NAMES = ("lesion", "cyst")
HUES = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)


def classes(seed=0, shape=(9, 7)):
  return np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)


@pytest.mark.parametrize(
  ("entries", "names", "table"),
  [
    (("lesion",), ("lesion",), ()),
    (("tumour",), ("tumour",), ()),
    (("a", "b"), ("a", "b"), ((0, 0), (1, 1), (2, 2))),
    (("a=7",), ("a",), ((0, 0), (7, 1))),
    (
      ("a=4", "b=2", "a=9", "background=255", "background=0"),
      ("a", "b"),
      ((4, 1), (2, 2), (9, 1), (255, 0), (0, 0)),
    ),
    (
      ("a=#ff0000", "b=#00FF00"),
      ("a", "b"),
      (((0, 0, 0), 0), ((255, 0, 0), 1), ((0, 255, 0), 2)),
    ),
  ],
)
def test_what_entries_mean(entries, names, table):
  found = regions.make(entries)
  assert found.names == names and found.table == table
  assert found.classes == len(names) + 1


@pytest.mark.parametrize(
  "entries",
  [
    (),
    ("",),
    ("a b",),
    ("a=",),
    ("=3",),
    ("a=x",),
    ("a=-1",),
    ("a=1.5",),
    ("a=999999",),
    ("a=#ff00",),
    ("a=#gg0000",),
    ("a", "a"),
    ("a=1", "b=1"),
    ("a=#ff0000", "b=#FF0000"),
    ("a=1", "b=#ff0000"),
    ("a", "b=2"),
    ("a=0",),
    ("a=#000000", "b=#ffffff"),
    ("background",),
    ("background=3",),
    ("a\nb",),
    tuple(f"r{i}" for i in range(256)),
  ],
)
def test_a_table_that_means_nothing_is_one_line(entries):
  with pytest.raises(UserError, match=r"^data\.regions") as error:
    regions.make(entries)
  assert "\n" not in str(error.value)


def write(path, pixels, palette=False):
  image = PIL.Image.fromarray(pixels, "P" if palette else None)
  if palette:
    image.putpalette(HUES.ravel().tolist())
  image.save(path)
  return path


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bits", "grey as RGB"])
def test_numbers_are_read_as_they_are_stored(tmp_path, kind):
  """Of a palette the places, whatever its colours are."""
  wanted = classes()
  pixels = {
    "16 bits": wanted.astype(np.uint16),
    "grey as RGB": np.repeat(wanted[..., None], 3, axis=-1),
  }.get(kind, wanted)
  path = write(tmp_path / "x.png", pixels, kind == "palette")
  read = masks.read([path], wanted.shape, regions=regions.make(NAMES))
  assert read.dtype == np.uint8
  np.testing.assert_array_equal(read, wanted)


def test_colours_are_looked_up(tmp_path):
  wanted = classes()
  shown = regions.make(("lesion=#ff0000", "cyst=#00ff00"))
  for name, palette in (("a.png", False), ("b.png", True)):
    pixels = wanted if palette else HUES[wanted]
    path = write(tmp_path / name, pixels, palette)
    read = masks.read([path], wanted.shape, regions=shown)
    np.testing.assert_array_equal(read, wanted)


@pytest.mark.parametrize(
  ("pixels", "entries", "said"),
  [
    (classes() * 2, NAMES, "of its pixels have values .* such as 4"),
    (classes() * 127, NAMES, "such as 254: name them, as background=254"),
    (HUES[classes()], NAMES, "colours, where data.regions has numbers"),
    (
      HUES[classes()],
      ("lesion=#ff0000",),
      "such as #00ff00: name them, as background=#00ff00",
    ),
  ],
)
def test_values_without_a_meaning_are_refused(tmp_path, pixels, entries, said):
  path = write(tmp_path / "x.png", pixels)
  with pytest.raises(UserError, match=said) as error:
    masks.read([path], pixels.shape[:2], regions=regions.make(entries))
  assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_masks_of_a_case_join_where_they_do_not_contradict(tmp_path):
  both = classes()
  paths = [
    write(tmp_path / f"{i}.png", np.where(both == i, i, 0).astype(np.uint8))
    for i in (1, 2)
  ]
  shown = regions.make(NAMES)
  read = masks.read(paths, both.shape, regions=shown)
  np.testing.assert_array_equal(read, both)
  paths.append(write(tmp_path / "3.png", np.ones_like(both)))
  with pytest.raises(UserError, match="two classes of one pixel"):
    masks.read(paths, both.shape, regions=shown)


def test_a_smaller_pixel_is_of_the_class_with_most_of_it():
  fine = np.array([[1, 1, 2, 2], [1, 0, 2, 0], [0, 1, 2, 1], [2, 0, 2, 1]])
  np.testing.assert_array_equal(
    regions.resize(fine.astype(np.uint8), 3, (2, 2)),
    [[1, 2], [0, 1]],  # Of equal parts the lower.
  )
  two = (np.random.default_rng(0).random((40, 30)) < 0.5).astype(np.uint8)
  area = PIL.Image.fromarray(two.astype(np.float32))
  area = area.resize((7, 11), PIL.Image.Resampling.BOX)
  np.testing.assert_array_equal(
    regions.resize(two, 2, (11, 7)), np.asarray(area) > 0.5
  )


def test_classes_move_as_each_of_them_alone():
  settings = conftest.make_config().views
  image = np.zeros((24, 24), np.uint8)
  y, x = np.mgrid[:24, :24]
  mask = np.uint8(np.hypot(y - 8, x - 8) < 5) + 2 * np.uint8(
    np.hypot(y - 16, x - 17) < 4
  )
  moved = 0
  for i in range(8):
    key = jax.random.key(i)
    _, found = views.render(key, image, mask, settings, 3)
    for number in (1, 2):
      alone = (mask == number).astype(np.uint8)
      _, wanted = views.render(key, image, alone, settings)
      np.testing.assert_array_equal(found == number, wanted == 1)
    moved += np.any(found != mask)
  assert moved > 4


def test_validation_dice_is_the_mean_over_what_a_case_shows():
  logits = np.random.default_rng(1).normal(size=(5, 6, 6, 3))
  truth = classes(2, (5, 6, 6)).astype(np.int32)
  truth[0] = 0
  truth[1][truth[1] == 2] = 0

  class Fixed:
    def apply(self, variables, images):
      return jnp.asarray(logits)

  sums = inference.evaluate(
    {}, {}, None, jnp.asarray(truth), jnp.ones(5), model=Fixed()
  )
  said = logits.argmax(-1)
  per_case = [
    np.mean([metrics.dice(a == k, b == k) for k in (1, 2) if (b == k).any()])
    for a, b in zip(said[1:], truth[1:], strict=True)
  ]
  assert sums["lesions"] == 4
  np.testing.assert_allclose(sums["dice"], np.sum(per_case), rtol=1e-6)


def test_a_case_is_measured_region_by_region():
  truth = np.zeros((12, 10), np.uint8)
  truth[1:5, 1:5], truth[7:11, 4:9] = 1, 2
  margins = np.random.default_rng(3).normal(size=(12, 10, 2)) - 1
  margins[2:6, 1:5, 0] += 4
  margins[7:10, 4:8, 1] += 4
  said = images.decide(margins)
  row = metrics.case_row(margins, truth, (0.5, 0.25), NAMES)
  alone = [
    metrics.case_row(np.where(said == k, 1.0, -1.0), truth == k, (0.5, 0.25))
    for k in (1, 2)
  ]
  for name in ("dice", "iou", "hd95", "assd", "precision", "recall", "assd_mm"):
    wanted = np.mean([x[name] for x in alone])
    assert row[name] == pytest.approx(wanted), name
  for name, own in zip(NAMES, alone, strict=True):
    assert row[f"dice_{name}"] == own["dice"]
    assert row[f"empty_prediction_{name}"] == own["empty_prediction"]
  e = np.exp(np.concatenate([np.zeros((12, 10, 1)), margins], axis=-1))
  p = e / e.sum(-1, keepdims=True)
  wanted = ((p - np.eye(3)[truth]) ** 2).sum(-1).mean() / 2
  assert row["brier"] == pytest.approx(wanted)


def test_a_region_that_is_not_there_is_left_out_and_its_alarm_is_kept():
  truth = np.zeros((8, 8), np.uint8)
  truth[:4] = 1
  margins = np.stack([np.where(truth, 2.0, -1.0), np.full((8, 8), 1.0)], -1)
  row = metrics.case_row(margins, truth, regions=NAMES)
  assert row["dice"] == row["dice_lesion"] == 1
  assert np.isnan(row["dice_cyst"])
  assert row["empty_prediction_cyst"] == 0  # It is said of the lower half.
  nothing = metrics.case_row(np.full((8, 8, 2), np.nan), truth, regions=NAMES)
  assert nothing["dice"] == 0 and nothing["empty_prediction"] == 1
  assert 0 <= nothing["brier"] <= 1 and 0 <= nothing["ece"] <= 1


def test_the_largest_logit_decides_and_the_first_of_equals():
  margins = np.array([[0, 0], [1, 1], [1, 2], [-1, -2], [np.nan, 3], [0, 1]])
  np.testing.assert_array_equal(
    images.decide(margins[None]), [[0, 1, 2, 0, 2, 2]]
  )


def test_stored_predictions_keep_their_classes(tmp_path):
  data = conftest.make_dataset(cases=4, side=9)
  data = pipeline.dataclasses.replace(
    data, regions=NAMES, masks=classes(0, (4, 9, 9))
  )
  rows = [
    {"model": "Student", "fold": 0, "seed": s, "case": case}
    for s in (0, 1)
    for case in data.cases
  ]
  said = list(classes(5, (8, 9, 9)))
  predictions.write(tmp_path, data, rows, said)
  found = predictions.read(tmp_path)
  np.testing.assert_array_equal(found.truths, data.masks)
  for row, mask in zip(rows, said, strict=True):
    stored = found.mask(row["model"], 0, row["seed"], row["case"])
    np.testing.assert_array_equal(stored, mask)


def test_a_phantom_s_cysts_leave_the_rest_of_it_alone():
  seen = set()
  for index in range(6):
    image, mask, kind = phantom.simulate(0, index)
    found, told, same = phantom.simulate(0, index, cysts=True)
    assert kind == same and mask.max() == 1
    own = 2 if kind == "cyst" else 1
    np.testing.assert_array_equal(told[mask == 1], own)
    seen |= set(np.unique(told))
    if not (told[mask == 0] == 2).any():
      np.testing.assert_array_equal(found, image)
  assert seen == {0, 1, 2}


def three(tmp_path, cases=24, side=32, coloured=True):
  """Bright discs and dark ones, in masks of colours or of other numbers."""
  rng = np.random.default_rng(int(coloured))
  y, x = np.mgrid[:side, :side]
  for part in ("images", "masks"):
    (tmp_path / part).mkdir(parents=True)
  for case in range(cases):
    mask = np.zeros((side, side), np.uint8)
    places = rng.permutation(
      [(9, 9), (9, side - 9), (side - 9, 9), (side - 9, side - 9)]
    )
    for number in (1, 2) if case % 3 else (1 + case % 2,):
      row, column = places[number] + rng.uniform(-2, 2, 2)
      mask[np.hypot(y - row, x - column) < rng.uniform(4, 7)] = number
    grey = 110 + 15 * rng.standard_normal((side, side))
    grey = grey + np.array([0, 90, -90])[mask]
    name = f"case{case:02d}.png"
    pixels = np.clip(grey, 0, 255).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "images" / name)
    stored = HUES[mask] if coloured else np.uint8([0, 9, 4])[mask]
    PIL.Image.fromarray(stored).save(tmp_path / "masks" / name)
  return tmp_path


def make_config(folder, epochs=2):
  config = conftest.make_config()
  config.data.update(
    name="folder",
    dir=str(folder),
    regions=("lesion=#ff0000", "cyst=#00ff00"),
    image_size=32,
  )
  config.splits.update(kind="holdout", num_folds=1, test_cases=6)
  config.folds = (0,)
  for role in ("teacher", "student"):
    config[role].num_classes = 3
    config[f"{role}_training"].update(
      max_epochs=epochs, patience=0, select="dice"
    )
  config.teacher_training.learning_rate = 1e-2
  config.grid.update(
    pathway=("L",),
    loss=("KLD", "DKD", "DIST", "LSKD"),
    view=("weak",),
    learning_rate=(1e-2,),
    soft_dice=(1.0,),
  )
  return config


def test_what_is_there_is_told_by_region(tmp_path):
  data = pipeline.load(make_config(three(tmp_path / "set")).data)
  assert data.regions == NAMES and set(np.unique(data.masks)) == {0, 1, 2}
  folds = splits.make_folds(data, make_config(tmp_path).splits)
  text = description.make(data, folds)
  assert "lesion       in 20 cases, quartiles" in text
  assert "cyst         in 20 cases, quartiles" in text
  assert "median lesion + cyst" in text


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"student.num_classes": 2}, r"student.num_classes=2: .* cyst are 3\."),
    ({"teacher.num_classes": 4}, r"teacher.num_classes=4: .* cyst are 3\."),
    (
      {
        "data.regions": ("lesion=#ff0000", "cyst=#00ff00", "vessel=#0000ff"),
        "teacher.num_classes": 4,
        "student.num_classes": 4,
      },
      "no training case of fold 0 shows vessel",
    ),
    ({"data.name": "phantom", "data.regions": ("a", "b")}, "a phantom shows"),
  ],
)
def test_what_does_not_go_with_the_masks_is_refused(tmp_path, changes, said):
  config = make_config(three(tmp_path / "set"))
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=said):
    studies.make_study(config, tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("three")
  config = make_config(three(folder / "set"), epochs=30)
  return folder, run.train(config.lock(), folder / "run")


@pytest.mark.slow
def test_two_regions_are_learnt_and_reported(trained):
  folder, found = trained
  mean = found.per_case.groupby("model")[
    ["dice", "dice_lesion", "dice_cyst"]
  ].mean()
  assert (mean.loc[["Teacher", "Student"]] > 0.7).all(axis=None)
  assert set(mean.index) > {"L_DKD_WAug", "L_DIST_WAug", "L_LSKD_WAug"}
  report = folder / "run" / "report"
  rows = (report / "regions.csv").read_text().splitlines()
  assert len(rows) == 1 + 2 * len(mean)
  assert (report / "figures" / "regions.png").exists()
  text = (report / "table.md").read_text()
  assert "Dice of lesion" in text and "mean over the regions" in text
  page = (report / "index.html").read_text()
  data = page.split('id="cases-data">')[1].split("</script>")[0]
  assert len(json.loads(data)["colours"]) == 2
  # What was read is what was written.
  again = run.read(folder / "run")
  assert again.table.equals(found.table)


@pytest.mark.slow
def test_two_regions_are_exported_and_predicted(trained, tmp_path):
  """In masks of their numbers, which are those that the study tested."""
  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  folder, _ = trained
  workdir, model = folder / "run", tmp_path / "student.onnx"
  asked = ["--workdir", str(workdir), "--out", str(model), "--arm", "Student"]
  assert not cli.main(["export", *asked, "--quantise"])
  about = json.loads(model.with_suffix(".json").read_text())
  assert about["classes"] == ["background", *NAMES]
  assert about["output"]["shape"] == ["batch", 32, 32, 2]
  stored = predictions.read(workdir)
  paths = [str(folder / "set" / "images" / f"{x}.png") for x in stored.cases]
  out = tmp_path / "masks"
  assert not cli.main(
    ["predict", "--model", str(model), "--out", str(out), *paths]
  )
  for case in stored.cases:
    with PIL.Image.open(out / f"{case}_mask.png") as mask:
      assert mask.mode == "P"
    said = images.read_numbers(out / f"{case}_mask.png")
    tested = stored.mask("Student", 0, 0, case)
    assert np.mean(said != tested) < 0.01  # Ties at the border.
  hlo = tmp_path / "student.stablehlo"
  asked[3] = str(hlo)
  assert not cli.main(["export", *asked, "--format", "stablehlo"])
  exported = jax.export.deserialize(bytearray(hlo.read_bytes()))
  answer = exported.call(jnp.zeros((2, 32, 32), jnp.uint8))
  assert answer.shape == (2, 32, 32, 2)


@pytest.mark.slow
def test_two_regions_are_tested_elsewhere_by_name(trained, tmp_path):
  folder, found = trained
  other = three(tmp_path / "other", cases=9, coloured=False)
  where = ("data.dir", str(other))
  tested = run.test(
    folder / "run",
    (where, ("data.regions", "lesion=9,cyst=4")),
    tmp_path / "out",
  )
  assert tested.table.set_index("model").loc["Student", "dice_mean"] > 0.6
  with pytest.raises(UserError, match="tell lesion, cyst, not cyst, lesion"):
    run.test(
      folder / "run",
      (where, ("data.regions", "cyst=4,lesion=9")),
      tmp_path / "wrong",
    )
  assert not (tmp_path / "wrong").exists()
