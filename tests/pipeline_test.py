"""From files to arrays: right, the same each time, prepared once, quiet."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import ml_collections
import numpy as np
import PIL.Image
import pytest

from kdjax.data import description
from kdjax.data import folders
from kdjax.data import phantom
from kdjax.data import pipeline
from kdjax.data import splits
from kdjax.errors import UserError

BUSI = pathlib.Path(__file__).parents[2] / "shared" / "data" / "busi"
SPLITS = ml_collections.ConfigDict(
  dict(kind="kfold", num_folds=3, val_fraction=0.25, seed=0)
)


def config(tmp_path, **changes):
  return ml_collections.ConfigDict(
    dict(
      name="folder",
      dir=str(tmp_path / "set"),
      mask_name="{}",
      masks="same",
      group="",
      features=("image", "mask"),
      channels=1,
      regions=("lesion",),
      classes=(),
      image_size=16,
      num_cases=4,
      seed=0,
      cache_dir=str(tmp_path / "cache"),
    )
    | changes
  )


def write(path, pixels):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(pixels).save(path)


def make(folder, names="cab", labels=("benign", "malignant")):
  """Cases of random pixels, of several sizes, alternating in label."""
  rows = ["name,class"]
  for i, name in enumerate(names):
    rng = np.random.default_rng(ord(name))
    image = rng.integers(0, 256, (40 + i, 64), np.uint8)
    mask = np.zeros(image.shape, np.uint8)
    mask[8:24, 16:32] = 255
    write(folder / "images" / f"{name}.png", image)
    write(folder / "masks" / f"{name}.png", mask)
    rows.append(f"{name},{labels[i % len(labels)]}")
  (folder / "manifest.csv").write_text("\n".join(rows))
  return folder


@pytest.fixture
def no_generation(monkeypatch):
  """Call it to make any further preparation fail."""

  def forbid():
    monkeypatch.setattr(
      folders.Folder, "_generate_examples", lambda self: pytest.fail("again")
    )

  return forbid


def test_arrays_have_the_promised_shapes_and_types(tmp_path):
  make(tmp_path / "set")
  data = pipeline.load(config(tmp_path))
  assert (data.name, data.version, data.notes) == ("set", "1.0.0", ())
  assert data.cases == data.groups == ("a", "b", "c")
  assert data.labels == ("malignant", "benign", "benign")
  assert data.images.shape == data.masks.shape == (3, 16, 16)
  assert data.images.dtype == data.masks.dtype == np.uint8
  assert [mask.shape for mask in data.full_masks] == [
    (41, 64),
    (42, 64),
    (40, 64),
  ]
  assert all(mask.dtype == np.uint8 for mask in data.full_masks)
  assert all(mask.sum() == 256 for mask in data.full_masks)


def test_an_image_is_shrunk_smoothly_and_a_mask_by_area(tmp_path):
  stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
  mask = np.zeros((64, 64), np.uint8)
  mask[:32, :34] = 255  # Half of the ninth column's area: not more than half.
  mask[[32, 33, 35]] = mask[0]  # Three quarters of the ninth row's.
  write(tmp_path / "set" / "images" / "a.png", stripes)
  write(tmp_path / "set" / "masks" / "a.png", mask)
  data = pipeline.load(config(tmp_path))
  np.testing.assert_allclose(data.images[0], 100, atol=30)
  want = np.zeros((16, 16), np.uint8)
  want[:9, :8] = 1
  np.testing.assert_array_equal(data.masks[0], want)


def test_classes_are_kept_and_unknown_ones_named(tmp_path):
  make(tmp_path / "set")
  data = pipeline.load(config(tmp_path, classes=("benign",)))
  assert data.cases == ("b", "c") and len(data.images) == 2
  with pytest.raises(UserError, match="'normal'; choose from benign, malig"):
    pipeline.load(config(tmp_path, classes=("normal",)))


def test_masks_resized_are_another_data_set_and_counted(tmp_path):
  folder = make(tmp_path / "set")
  path = folder / "masks" / "a.png"
  mask = PIL.Image.open(path)
  mask.resize((2 * mask.width, 2 * mask.height), 0).save(path)
  data = pipeline.load(config(tmp_path, masks="resize"))
  # Though they are prepared now, for whom asked for it.
  with pytest.raises(UserError, match="a.png: .* set data.masks=resize"):
    pipeline.load(config(tmp_path))
  assert data.notes == (
    "1 masks were of another size than their image and resized to it",
  )
  a, b = data.full_masks[:2]
  np.testing.assert_array_equal(a[:40], b[:40])
  with pytest.raises(UserError, match="data.masks='fit': choose same or"):
    pipeline.load(config(tmp_path, masks="fit"))


def test_notes_survive_the_cache(tmp_path, no_generation):
  make(tmp_path / "set")
  shutil.copy(tmp_path / "set/images/a.png", tmp_path / "set/images/d.png")
  shutil.copy(tmp_path / "set/masks/a.png", tmp_path / "set/masks/d.png")
  (tmp_path / "set" / "manifest.csv").unlink()
  fresh = pipeline.load(config(tmp_path))
  assert fresh.groups == ("a", "b", "c", "a")
  assert len(fresh.notes) == 1 and fresh.notes[0].startswith("1 images equal")
  no_generation()
  cached = pipeline.load(config(tmp_path))
  assert cached.notes == fresh.notes
  assert cached.fingerprint == fresh.fingerprint
  np.testing.assert_array_equal(cached.images, fresh.images)


def test_the_fingerprint_ignores_order_on_disk_and_resizing(tmp_path):
  one = pipeline.load(config(tmp_path, dir=str(make(tmp_path / "one", "ab"))))
  (tmp_path / "two" / "images").mkdir(parents=True)
  (tmp_path / "two" / "masks").mkdir()
  for file in ("masks/b.png", "images/b.png", "images/a.png", "masks/a.png"):
    shutil.copy(tmp_path / "one" / file, tmp_path / "two" / file)
  (tmp_path / "two" / "manifest.csv").write_text(
    "class,name\nmalignant,b\nbenign,a\n"
  )
  two = pipeline.load(config(tmp_path, dir=str(tmp_path / "two"), image_size=8))
  assert one.fingerprint == two.fingerprint and len(one.fingerprint) == 64


def test_spacing_is_read_anew_and_seen_by_the_fingerprint(
  tmp_path, no_generation
):
  folder = make(tmp_path / "set", "ab")
  names = ("name,spacing\na,\nb,\n", "name,spacing\na,\nb,0.07\n")
  (folder / "manifest.csv").write_text(names[0])
  before = pipeline.load(config(tmp_path))
  no_generation()
  (folder / "manifest.csv").write_text(names[1])
  after = pipeline.load(config(tmp_path))
  assert before.spacings == {}
  assert after.spacings == {"b": (0.07, 0.07)}
  assert before.fingerprint != after.fingerprint
  text = description.make(after, ())
  assert "0.07 to 0.07 mm per pixel, 1 of 2 cases" in text


@pytest.mark.parametrize("what", ["image", "mask", "label", "group", "classes"])
def test_the_fingerprint_sees_every_change(tmp_path, what):
  folder = make(tmp_path / "set")
  before = pipeline.load(config(tmp_path))
  changes = {}
  if what in ("image", "mask"):
    path = folder / f"{what}s" / "a.png"
    pixels = np.array(PIL.Image.open(path))
    pixels[9, 17] ^= 255
    write(path, pixels)
  elif what == "classes":
    changes = dict(classes=("benign",))
  else:
    group = ",h" if what == "group" else ",g"
    label = "other" if what == "label" else "malignant"
    rows = f"name,class,group\nc,benign,c\na,{label},a{group[1:]}\nb,benign,b\n"
    (folder / "manifest.csv").write_text(rows)
  after = pipeline.load(config(tmp_path, **changes))
  assert after.fingerprint != before.fingerprint


def test_an_interrupted_preparation_is_not_taken_for_good(
  tmp_path, monkeypatch
):
  make(tmp_path / "set")
  read = folders.masks.read

  def interrupt(paths, *args, **kwargs):
    if paths[0].name == "b.png":
      raise KeyboardInterrupt
    return read(paths, *args, **kwargs)

  monkeypatch.setattr(folders.masks, "read", interrupt)
  with pytest.raises(KeyboardInterrupt):
    pipeline.load(config(tmp_path))
  monkeypatch.undo()
  assert len(pipeline.load(config(tmp_path)).cases) == 3


def test_another_process_may_prepare_the_same_data_first(tmp_path, monkeypatch):
  make(tmp_path / "set")
  read, inside = folders.masks.read, []

  def race(*args, **kwargs):
    if not inside:
      inside.append(True)
      pipeline.load(config(tmp_path))
    return read(*args, **kwargs)

  monkeypatch.setattr(folders.masks, "read", race)
  assert len(pipeline.load(config(tmp_path)).cases) == 3


def test_damaged_prepared_data_say_what_to_delete(tmp_path):
  make(tmp_path / "set")
  pipeline.load(config(tmp_path))
  (record,) = (tmp_path / "cache").glob("folder/*/*/*array_record*")
  record.write_bytes(record.read_bytes()[:1000])
  with pytest.raises(UserError, match="delete this folder") as caught:
    pipeline.load(config(tmp_path))
  assert str(record.parent) in str(caught.value)


def test_the_folder_is_left_as_it_was(tmp_path):
  folder = make(tmp_path / "set")
  state = lambda: {
    path: (path.stat().st_mtime_ns, path.stat().st_size)
    for path in [folder, *folder.rglob("*")]
  }
  before = state()
  pipeline.load(config(tmp_path))
  assert state() == before


def test_nothing_is_said_and_nothing_written_elsewhere(tmp_path):
  """In a process of its own, since pytest takes over the loggers of this."""
  make(tmp_path / "set")
  (tmp_path / "home").mkdir()
  program = f"""
import ml_collections
from kdjax.data import pipeline
pipeline.load(ml_collections.ConfigDict({config(tmp_path).to_dict()}))
"""
  root = pathlib.Path(pipeline.__file__).parents[2]
  path = os.pathsep.join(
    filter(None, [str(root), os.environ.get("PYTHONPATH")])
  )
  home = {"HOME": str(tmp_path / "home"), "PYTHONPATH": path}
  run = subprocess.run(
    [sys.executable, "-c", program.replace(str(tmp_path / "cache"), "~/cache")],
    env=os.environ | home,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
  assert os.listdir(tmp_path / "home") == ["cache"]


@pytest.mark.parametrize(
  "changes, said",
  [
    (dict(name="busi"), "data.name='busi' is unknown; choose phantom, "),
    (dict(dir=""), "data.dir is empty"),
    (dict(image_size=0), "data.image_size=0"),
    (dict(name="phantom", num_cases=0), "data.num_cases=0"),
    (dict(name="phantom", seed=-1), "data.seed=-1"),
  ],
)
def test_an_impossible_field_is_named(tmp_path, changes, said):
  with pytest.raises(UserError, match=said) as caught:
    pipeline.load(config(tmp_path, **changes))
  assert "\n" not in str(caught.value)


def test_a_cache_in_the_data_or_on_a_file_is_refused(tmp_path):
  folder = make(tmp_path / "set")
  with pytest.raises(UserError, match="inside data.dir"):
    pipeline.load(config(tmp_path, cache_dir=str(folder / "cache")))
  (tmp_path / "cache").write_text("a file")
  with pytest.raises(UserError, match="cache_dir=.*choose another place"):
    pipeline.load(config(tmp_path))


def test_a_bad_file_is_named_through_the_builder(tmp_path):
  folder = make(tmp_path / "set")
  (folder / "images" / "b.png").write_bytes(b"no image")
  with pytest.raises(UserError, match="images/b.png: not a readable PNG"):
    pipeline.load(config(tmp_path))


@pytest.mark.parametrize("num_cases", [4, 163])
def test_the_phantom_loads_by_the_same_protocol(
  tmp_path, monkeypatch, num_cases
):
  # The default configuration is one that TFDS knows already; both must do.
  cheap = lambda seed, index, cysts: (
    np.full((20, 24), index, np.uint8),
    np.eye(20, 24, dtype=np.uint8),
    "cyst",
  )
  monkeypatch.setattr(phantom, "simulate", cheap)
  data = pipeline.load(config(tmp_path, name="phantom", num_cases=num_cases))
  assert data.name == "phantom" and len(data.cases) == num_cases
  assert len(set(data.groups)) == num_cases


def test_describe_tells_what_is_there(tmp_path):
  make(tmp_path / "set", "abcdefghijkl")
  write(tmp_path / "set" / "masks" / "a.png", np.zeros((40, 64), np.uint8))
  data = pipeline.load(config(tmp_path))
  text = description.make(data, splits.make_folds(data, SPLITS))
  for line in (
    "data set     set 1.0.0",
    f"fingerprint  {data.fingerprint[:12]}",
    "cases        12: 6 benign, 6 malignant",
    "empty masks  1: 1 benign",
    "groups       12, the largest of 1 cases",
    "size         width 64 to 64, height 40 to 51",
    "fold  part   cases  groups  benign  malignant  median lesion",
    "2     test   4      4       2       2",
  ):
    assert line in text
  assert len(text.splitlines()) == 7 + 1 + 1 + 9


@pytest.mark.skipif(not BUSI.is_dir(), reason="BUSI is not beside the repo")
def test_the_real_busi_splits_by_group(tmp_path):
  start = time.perf_counter()
  everything = pipeline.load(config(tmp_path, dir=str(BUSI)))
  assert len(everything.cases) == 780
  lesions = pipeline.load(
    config(tmp_path, dir=str(BUSI), classes=("benign", "malignant"))
  )
  assert time.perf_counter() - start < 120  # About 8 on two idle cores.
  assert len(lesions.cases) == 647 and len(set(lesions.groups)) == 503
  assert all(mask.any() for mask in lesions.full_masks)
  folds = splits.make_folds(lesions, SPLITS)
  for fold in folds:
    held = [
      {lesions.groups[i] for i in part}
      for part in (fold.train, fold.val, fold.test)
    ]
    assert sum(map(len, held)) == 503 == len(set.union(*held))
  assert sum(len(fold.test) for fold in folds) == 647
