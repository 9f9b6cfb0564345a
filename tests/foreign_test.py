"""A data set of TFDS' own is read as ours are, and refused in a line."""

import io
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from kdjax.data import pipeline
from kdjax.errors import UserError
from tests import pipeline_test

FEATURES = ("scan", "lesion", "kind", "patient")


def png(pixels):
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, "PNG")
  file.seek(0)
  return file


def scans():
  """Name, split, and what the builder below keeps of each of six cases."""
  rng = np.random.default_rng(0)
  for i in range(6):
    colours = rng.integers(0, 256, (40 + i, 48, 3), np.uint8)
    lesion = np.zeros((40 + i, 48), np.uint8)
    lesion[8 : 20 + i, 10:30] = 1
    yield (
      "test" if i > 3 else "train",
      {
        "scan": colours,
        "lesion": lesion,
        "kind": ("benign", "malignant")[i % 2],
        "patient": f"p{i // 2}",
      },
    )


class KdjaxRings(tfds.core.GeneratorBasedBuilder):
  """As another package has it: colours, masks of 0 and 1, two splits."""

  VERSION = tfds.core.Version("1.2.0")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "scan": tfds.features.Image(shape=(None, None, 3)),
          "lesion": tfds.features.Image(shape=(None, None, 1)),
          "kind": tfds.features.ClassLabel(names=["benign", "malignant"]),
          "patient": tfds.features.Text(),
          "age": np.int64,
        }
      ),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {x: self._generate_examples(x) for x in ("train", "test")}

  def _generate_examples(self, split):
    for i, (where, row) in enumerate(scans()):
      if where == split:
        pictures = {x: png(row[x]) for x in ("scan", "lesion")}
        yield i, {**row, **pictures, "age": 50 + i}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  builder = KdjaxRings(data_dir=folder)
  builder.download_and_prepare(file_format="array_record")
  return folder


def config(tmp_path, folder, **changes):
  settings = {"name": "tfds:kdjax_rings", "dir": str(folder)}
  return pipeline_test.config(
    tmp_path, **{**settings, "features": FEATURES, **changes}
  )


def test_a_data_set_of_tfds_is_read_as_it_is(prepared, tmp_path):
  dataset = pipeline.load(config(tmp_path, prepared))
  assert dataset.name == "kdjax_rings" and len(dataset.cases) == 6
  by_size = {x.shape: i for i, x in enumerate(dataset.full_masks)}
  for split, row in scans():
    i = by_size[row["lesion"].shape]
    assert dataset.cases[i].startswith(f"{split}-0000")
    np.testing.assert_array_equal(dataset.full_masks[i], row["lesion"] > 0)
    assert dataset.labels[i] == row["kind"]
    assert dataset.groups[i] == row["patient"]
    grey = np.asarray(PIL.Image.fromarray(row["scan"]).convert("L"))
    alone = pipeline.images.squeeze(grey, 16)
    np.testing.assert_array_equal(dataset.images[i], alone)
  again = pipeline.load(config(tmp_path, prepared))
  assert again.fingerprint == dataset.fingerprint


def test_without_label_and_group_equal_images_stay_together(prepared, tmp_path):
  dataset = pipeline.load(config(tmp_path, prepared, features=FEATURES[:2]))
  assert set(dataset.labels) == {"unlabelled"}
  assert dataset.groups == dataset.cases
  part = config(tmp_path, prepared, features=("scan", "lesion", "", "patient"))
  assert len(set(pipeline.load(part).groups)) == 3


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"name": "tfds:no_such_rings"}, "no such data set is prepared in"),
    ({"name": "tfds:"}, "no such data set is prepared in"),
    ({"dir": "nowhere"}, "is prepared in nowhere: prepare it there, with"),
    ({"features": ("scan",)}, "give those of image and mask"),
    ({"features": ()}, "give those of image and mask"),
    ({"features": ("image", "lesion")}, "has no 'image' for its image; it has"),
    ({"features": ("scan", "mask")}, "has no 'mask' for its mask; it has"),
    ({"features": ("age", "lesion")}, "its image is int64 .* and no picture"),
    ({"features": ("patient", "lesion")}, "and no picture"),
    ({"features": ("scan", "scan")}, "its mask is uint8 .*whole numbers"),
    ({"features": ("scan", "age")}, "its mask is int64"),
    ({"masks": "stretch"}, "choose same or resize"),
    ({"classes": ("cyst",)}, "no case of kdjax_rings is 'cyst'"),
  ],
)
def test_what_cannot_be_read_is_one_line(prepared, tmp_path, changes, said):
  with pytest.raises(UserError, match=said) as error:
    pipeline.load(config(tmp_path, prepared, **changes))
  assert "\n" not in str(error.value)
  whole = "classes" in changes  # Known only once it is read.
  assert bool(list((tmp_path / "cache").glob("**/*.array_record*"))) == whole


def test_our_own_builders_are_no_data_sets_of_tfds(tmp_path):
  """Or `tfds:cases` would be one."""
  assert "cases" not in registered.list_imported_builders()
  with pytest.raises(UserError, match="no such data set"):
    pipeline.load(config(tmp_path, pathlib.Path(tmp_path), name="tfds:cases"))
