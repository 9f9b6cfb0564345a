import numpy as np
import pytest
from scipy import ndimage

from kdjax.data import phantom

CASES = range(40)


@pytest.fixture(scope="module")
def cases():
  return [phantom.simulate(0, index) for index in CASES]


def test_a_case_is_the_same_every_time(cases):
  for index in (0, 7):
    for once, again in zip(
      cases[index], phantom.simulate(0, index), strict=True
    ):
      np.testing.assert_array_equal(once, again)


def test_seeds_and_indices_give_other_cases(cases):
  same = lambda a, b: a.shape == b.shape and np.array_equal(a, b)
  other = [phantom.simulate(1, index)[0] for index in range(3)]
  images = [image for image, _, _ in cases[:10]] + other
  for i, image in enumerate(images):
    assert not any(same(image, earlier) for earlier in images[:i])


def test_images_are_8_bit_grey_and_use_the_range(cases):
  for image, mask, kind in cases:
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == mask.shape
    assert 160 <= image.shape[0] <= 224 and 208 <= image.shape[1] <= 256
    assert 50 < image.mean() < 180 and image.std() > 25
    assert np.mean((image == 0) | (image == 255)) < 0.35
    assert kind in phantom.KINDS
  assert {kind for _, _, kind in cases} == set(phantom.KINDS)


def test_lesions_are_one_piece_of_the_promised_size(cases):
  sizes = [mask.mean() for _, mask, _ in cases]
  assert 0.005 <= min(sizes) and max(sizes) <= 0.2
  assert 0.03 < np.median(sizes) < 0.08
  assert max(sizes) > 10 * min(sizes)
  for _, mask, _ in cases:
    pieces, count = ndimage.label(mask)
    assert np.bincount(pieces.ravel())[1:].max() > 0.98 * mask.sum(), count


def white(shape, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.standard_normal((*shape, 2)) @ [1, 1j]) / np.sqrt(2)


def test_speckle_is_rayleigh_at_every_depth():
  echo = phantom.envelope(white((8, 200, 240)), pixel=0.2, focus=15)
  for band in np.split(echo, 4, axis=1):
    assert np.mean(band) / np.std(band) == pytest.approx(1.913, rel=0.05)
    assert np.mean(band**2) == pytest.approx(1, rel=0.1)


def test_lateral_resolution_is_best_at_the_focus():
  points = np.zeros((200, 240), complex)
  points[[25, 75, 125, 175], 120] = 1
  echo = phantom.envelope(points, pixel=0.2, focus=75.5 * 0.2)
  x = np.arange(240) - 120
  width = [
    0.2 * np.sqrt(np.sum(echo[z] ** 2 * x**2) / np.sum(echo[z] ** 2))
    for z in (25, 75, 125, 175)
  ]
  assert width[1] == pytest.approx(phantom.BEAM / np.sqrt(2), rel=0.02)
  assert width[0] == pytest.approx(width[2], rel=1e-3)
  assert 1.2 * width[1] < width[2] < 0.8 * width[3]


def test_echoes_do_not_wrap_around_the_sides():
  points = np.zeros((200, 240), complex)
  points[:, 0] = 1
  echo = phantom.envelope(points, pixel=0.2, focus=15)
  assert echo[:, 120:].max() < 1e-4 * echo.max()


def test_loss_is_attenuation_times_the_way_there_and_back():
  loss = phantom.two_way_loss(np.full((100, 50), 0.5), pixel=0.2)
  one_centimetre = loss[99] - loss[49]
  np.testing.assert_allclose(one_centimetre, 2 * 0.5 * phantom.FREQUENCY)


def behind_minus_beside(image, mask):
  """Grey level behind the lesion, less that at the same depth beside it."""
  rows, columns = np.nonzero(mask)
  left, right = np.percentile(columns, [20, 80]).astype(int)
  bottom = rows.max() + 4
  rows = slice(bottom, bottom + 25)
  away = np.ones(mask.shape[1], bool)
  away[max(columns.min() - 5, 0) : columns.max() + 5] = False
  return image[rows, left:right].mean() - image[rows, away].mean()


def test_shadow_and_enhancement_follow_from_the_attenuation(cases):
  contrast = {kind: [] for kind in phantom.KINDS}
  for image, mask, kind in cases:
    has_room = np.nonzero(mask)[0].max() + 30 < mask.shape[0]
    if has_room and mask.mean() > 0.02:
      contrast[kind].append(behind_minus_beside(image.astype(float), mask))
  mean = {kind: np.mean(values) for kind, values in contrast.items()}
  assert mean["hypoechoic"] < -25
  assert mean["cyst"] > 20
  assert abs(mean["isoechoic"]) < 20


def prepare(path, **config):
  config = phantom.PhantomConfig(**config)
  builder = phantom.Phantom(data_dir=path, config=config)
  builder.download_and_prepare(file_format="array_record")
  return builder.as_data_source(split="all")


def test_the_builder_loses_nothing(tmp_path, cases):
  source = prepare(tmp_path, num_cases=3, seed=0)
  assert len(source) == 3
  for index, example in enumerate(source):
    image, mask, kind = cases[index]
    np.testing.assert_array_equal(example["image"][..., 0], image)
    np.testing.assert_array_equal(example["mask"][..., 0], 255 * mask)
    assert example["name"].decode() == f"phantom_{index:03d}"
    assert example["group"] == example["name"]
    assert example["label"].decode() == kind


def test_more_cases_leave_the_first_ones_alone(tmp_path):
  few = prepare(tmp_path, num_cases=2, seed=5)
  more = prepare(tmp_path, num_cases=4, seed=5)
  other = prepare(tmp_path, num_cases=2, seed=6)
  assert [len(few), len(more), len(other)] == [2, 4, 2]
  for index in range(2):
    np.testing.assert_array_equal(few[index]["image"], more[index]["image"])
    assert few[index]["image"].tobytes() != other[index]["image"].tobytes()
