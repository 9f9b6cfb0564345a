"""Folders: every layout is found, every pixel read right, the rest refused."""

import collections
import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from kdjax.data import folders
from kdjax.data import images
from kdjax.data import listing
from kdjax.data import masks
from kdjax.errors import UserError

SIZE = (12, 10)  # Height and width.
SQUARE = np.zeros(SIZE, bool)
SQUARE[3:7, 2:6] = True


def write(path, pixels, mode=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  image = PIL.Image.fromarray(np.asarray(pixels))
  (image.convert(mode) if mode else image).save(path)
  return path


def grey(seed, size=SIZE):
  return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def mask(scale=255):
  return SQUARE.astype(np.uint8) * scale


def plain(folder, names="abc", manifest=None):
  for seed, name in enumerate(names):
    write(folder / "images" / f"{name}.png", grey(seed))
    write(folder / "masks" / f"{name}.png", mask())
  if manifest is not None:
    (folder / "manifest.csv").write_text(manifest)
  return folder


def busi(folder):
  for seed, label in enumerate(("benign", "malignant", "normal")):
    write(folder / label / f"{label} (1).png", grey(seed))
    write(folder / label / f"{label} (1)_mask.png", mask())
  write(folder / "benign" / "benign (1)_mask_1.png", mask()[::-1])
  return folder


def groups(folder):
  """The groups of the cases in `folder`, and what was counted."""
  tally = collections.Counter()
  return folders.groups(listing.find(folder), tally), tally


@pytest.mark.parametrize("wrap", ["", "Dataset_BUSI_with_GT"])
def test_busi_as_published_is_found(tmp_path, wrap):
  busi(tmp_path / wrap)
  cases = listing.find(tmp_path)
  assert [(case.name, case.label) for case in cases] == [
    ("benign (1)", "benign"),
    ("malignant (1)", "malignant"),
    ("normal (1)", "normal"),
  ]
  assert [len(case.masks) for case in cases] == [2, 1, 1]
  union = masks.read(cases[0].masks, SIZE)
  np.testing.assert_array_equal(union, SQUARE | SQUARE[::-1])


def test_udiat_is_found_whatever_the_endings(tmp_path):
  write(tmp_path / "original" / "000001.BMP", grey(0))
  write(tmp_path / "GT" / "000001.png", mask())
  (case,) = listing.find(tmp_path)
  assert (case.name, case.image.name) == ("000001", "000001.BMP")


def test_plain_is_found_and_clutter_passed_over(tmp_path):
  plain(tmp_path, "cab")
  (tmp_path / "images" / "._a.png").write_bytes(b"finder")
  (tmp_path / "masks" / "Thumbs.db").write_bytes(b"explorer")
  cases = listing.find(tmp_path)
  assert [case.name for case in cases] == ["a", "b", "c"]
  assert {case.label for case in cases} == {"unlabelled"}


def test_manifest_gives_labels_and_groups_and_may_say_more(tmp_path):
  manifest = "\ufeffname,age,class,group\nb,50,malignant,g1\na,60,benign,g0\n"
  first, second = listing.find(plain(tmp_path, "ab", manifest))
  assert (first.label, first.group) == ("benign", "g0")
  assert (second.label, second.group) == ("malignant", "g1")


@pytest.mark.parametrize(
  "text, expected",
  [
    ("name,spacing\na,0.1\nb,\n", [(0.1, 0.1), None]),
    (
      "name,spacing_y,spacing_x\na,0.1,0.2\nb,,\n",
      [(0.1, 0.2), None],
    ),
    ("name\na\nb\n", [None, None]),
  ],
)
def test_manifest_may_know_the_spacing_of_pixels(tmp_path, text, expected):
  cases = listing.find(plain(tmp_path, "ab", text))
  assert [case.spacing for case in cases] == expected


def test_manifest_may_group_a_published_data_set(tmp_path):
  names = ("benign (1)", "malignant (1)", "normal (1)")
  rows = "\n".join(f"{name},one" for name in names)
  (tmp_path / "manifest.csv").write_text(f"name,group\n{rows}\n")
  cases = listing.find(busi(tmp_path))
  assert [case.group for case in cases] == ["one"] * 3
  assert cases[1].label == "malignant"


def test_equal_pixels_become_one_group(tmp_path):
  plain(tmp_path, "abc")
  write(tmp_path / "images" / "d.bmp", grey(0))
  write(tmp_path / "masks" / "d.png", mask())
  found, tally = groups(tmp_path)
  assert found == ["a", "b", "c", "a"]
  assert tally["twins"] == 1


def test_equal_pixels_in_two_groups_are_refused(tmp_path):
  plain(tmp_path, "ab", "name,group\na,g0\nb,g1\n")
  write(tmp_path / "images" / "b.png", grey(0))
  with pytest.raises(UserError, match="same pixels as a but groups g1 and g0"):
    groups(tmp_path)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_comes_back_as_it_was(tmp_path, ending, mode):
  path = write(tmp_path / f"x.{ending}", grey(0), mode)
  image = images.read_image(path)
  assert image.dtype == np.uint8
  np.testing.assert_array_equal(image, grey(0))


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, ending):
  deep = np.array([[0, 128, 129, 257], [32768, 65535, 65406, 1]], np.uint16)
  image = images.read_image(write(tmp_path / f"x.{ending}", deep))
  np.testing.assert_array_equal(image, [[0, 0, 1, 1], [128, 255, 254, 0]])


def test_alpha_shows_black(tmp_path):
  pixels = np.full((2, 2, 4), 200, np.uint8)
  pixels[..., 3] = [[255, 0], [128, 255]]
  image = images.read_image(write(tmp_path / "x.png", pixels))
  np.testing.assert_array_equal(image, [[200, 0], [100, 200]])


def test_palette_means_its_colours(tmp_path):
  image = PIL.Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
  image.putpalette([9, 9, 9, 250, 250, 250, 100, 100, 100])
  image.save(tmp_path / "x.png")
  read = images.read_image(tmp_path / "x.png")
  np.testing.assert_array_equal(read, [[9, 250], [100, 250]])


def test_one_bit_and_jpeg_are_read(tmp_path):
  bits = write(tmp_path / "x.png", SQUARE)
  np.testing.assert_array_equal(images.read_image(bits), mask())
  smooth = np.full((16, 16), 77, np.uint8)
  for mode in ("L", "RGB", "CMYK"):
    path = write(tmp_path / "x.jpg", smooth, mode)
    np.testing.assert_allclose(images.read_image(path), 77, atol=1)


@pytest.mark.parametrize(
  "pixels",
  [
    SQUARE,
    mask(1),
    mask(255),
    mask(1) + np.uint8(3),
    mask(1).astype(np.uint16),
    np.stack([mask(), mask(0), mask(0)], -1),
    np.stack([mask(0) + np.uint8(255)] * 3 + [mask()], -1),
  ],
  ids=["1-bit", "0/1", "0/255", "3/4", "16-bit 0/1", "red", "alpha"],
)
def test_of_two_values_the_larger_is_the_lesion(tmp_path, pixels):
  tally = collections.Counter()
  path = write(tmp_path / "x.png", pixels)
  read = masks.read([path], SIZE, tally=tally)
  assert read.dtype == np.uint8 and not tally
  np.testing.assert_array_equal(read, SQUARE)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_constant_mask_is_empty_or_full(tmp_path, value):
  path = write(tmp_path / "x.png", np.full(SIZE, value, np.uint8))
  assert (masks.read([path], SIZE) == (value > 0)).all()


def test_a_soft_border_is_cut_at_half_and_counted(tmp_path):
  big = np.kron(SQUARE, np.ones((20, 20), bool))
  soft = PIL.Image.fromarray(big.astype(np.uint8) * 255)
  soft.resize((113, 140), PIL.Image.Resampling.BILINEAR).save(
    tmp_path / "x.png"
  )
  tally = collections.Counter()
  read = masks.read([tmp_path / "x.png"], (140, 113), tally=tally)
  assert tally == {"cut": 1}
  assert read.mean() == pytest.approx(SQUARE.mean(), abs=0.01)


def few_grey(value):
  pixels = mask()
  pixels[0, 0] = value
  return pixels


def renamed(folder, mask_name, names="abc", **kind):
  """A plain folder whose masks are called otherwise."""
  plain(folder, names, **kind)
  for name in names:
    path = folder / "masks" / f"{name}.png"
    path.rename(path.with_name(f"{mask_name.format(name)}.png"))
  return folder


@pytest.mark.parametrize("mask_name", ["{}_mask", "seg-{}", "m{}_1"])
def test_masks_may_be_called_otherwise(tmp_path, mask_name):
  renamed(tmp_path, mask_name)
  cases = listing.find(tmp_path, mask_name)
  assert [case.name for case in cases] == ["a", "b", "c"]
  for case in cases:
    assert case.masks[0].stem == mask_name.format(case.name)
  with pytest.raises(UserError) as caught:
    listing.find(tmp_path)
  # What it says would do, does.
  _, proposed = str(caught.value).split("data.mask_name=")
  assert proposed == f"{mask_name} pairs all 3"


def test_nothing_is_proposed_that_does_not_pair_all(tmp_path):
  renamed(tmp_path, "{}_mask")
  (tmp_path / "masks" / "b_mask.png").rename(tmp_path / "masks" / "b.png")
  with pytest.raises(UserError, match="a.png: an image without a mask"):
    listing.find(tmp_path)
  with pytest.raises(UserError, match="b.png: an image without a mask"):
    listing.find(tmp_path, "{}_mask")


@pytest.mark.parametrize(
  "pattern, expected",
  [(r"p\d+", ["p1", "p1", "p2"]), (r"p(\d)_", ["1", "1", "2"])],
)
def test_the_patient_may_stand_in_the_name(tmp_path, pattern, expected):
  plain(tmp_path, ("p1_a", "p1_b", "p2_a"))
  cases = listing.find(tmp_path, group=pattern)
  assert [case.group for case in cases] == expected
  manifest = "name,group\np1_a,x\np1_b,y\np2_a,z\n"
  (tmp_path / "manifest.csv").write_text(manifest)
  cases = listing.find(tmp_path, group=pattern)
  assert [case.group for case in cases] == ["x", "y", "z"]


def test_a_manifest_may_list_files_anywhere(tmp_path):
  for place in ("us/1/scan.png", "us/2/scan.png"):
    write(tmp_path / place, grey(len(place)))
  for place in ("us/1/left.png", "us/1/right.png", "seg/2.png"):
    write(tmp_path / place, mask())
  write(tmp_path / "us/3/unlisted.png", grey(0))
  (tmp_path / "manifest.csv").write_text(
    "image,mask,class,group\n"
    "us/1/scan.png,us/1/left.png; us/1/right.png,benign,g\n"
    "us/2/scan.png,seg/2.png,malignant,h\n"
  )
  first, second = listing.find(tmp_path)
  assert (first.name, first.label, first.group) == ("us_1_scan", "benign", "g")
  assert [x.name for x in first.masks] == ["left.png", "right.png"]
  assert second.image == tmp_path / "us/2/scan.png"
  named = "name,image,mask\none,us/1/scan.png,us/1/left.png\n"
  (tmp_path / "manifest.csv").write_text(named)
  (case,) = listing.find(tmp_path)
  assert (case.name, case.label, case.group) == ("one", "unlabelled", "")


@pytest.mark.parametrize("scale", [4, 0.5])
def test_masks_of_another_size_are_resized_where_that_is_asked(tmp_path, scale):
  large = np.kron(SQUARE, np.ones((8, 8), bool))
  size = int(large.shape[1] * scale), int(large.shape[0] * scale)
  other = PIL.Image.fromarray(large.astype(np.uint8) * 255)
  other.resize(size, PIL.Image.Resampling.NEAREST).save(tmp_path / "x.png")
  tally = collections.Counter()
  read = masks.read(
    [tmp_path / "x.png"], large.shape, sizes="resize", tally=tally
  )
  assert tally == {"resized": 1}
  np.testing.assert_array_equal(read, large)
  with pytest.raises(UserError, match="or set data.masks=resize"):
    masks.read([tmp_path / "x.png"], large.shape)
  with pytest.raises(UserError, match="not of the same aspect"):
    masks.read([tmp_path / "x.png"], (80, 96), sizes="resize")


@pytest.mark.parametrize(
  "pixels, said",
  [
    (grey(0), "grey levels"),
    (few_grey(127) // 127, "3 grey levels from 0 to 2"),
    (np.zeros((9, 10), np.uint8), "mask is 10x9 but its image 10x12"),
  ],
  ids=["picture", "label map", "size"],
)
def test_what_is_no_mask_is_refused(tmp_path, pixels, said):
  path = write(tmp_path / "x.png", pixels)
  with pytest.raises(UserError, match=said) as caught:
    masks.read([path], SIZE)
  assert "x.png" in str(caught.value) and "\n" not in str(caught.value)


def twice(folder):
  write(plain(folder) / "images" / "a.bmp", grey(0))


def link_out(folder):
  outside = write(folder.parent / "elsewhere.png", grey(0))
  (plain(folder) / "images" / "a.png").unlink()
  (folder / "images" / "a.png").symlink_to(outside)


def link_folder_out(folder):
  plain(folder)
  (folder / "masks").rename(folder.parent / "masks")
  (folder / "masks").symlink_to(folder.parent / "masks")


def link_loop(folder):
  (plain(folder) / "images" / "a.png").unlink()
  (folder / "images" / "a.png").symlink_to("a.png")


def pipe(folder):
  (plain(folder) / "images" / "a.png").unlink()
  os.mkfifo(folder / "images" / "a.png")


def both_layouts(folder):
  write(plain(folder) / "benign" / "x.png", grey(0))


def busi_twice(folder):
  busi(folder)
  write(folder / "normal" / "benign (1).png", grey(9))
  write(folder / "normal" / "benign (1)_mask.png", mask())


def manifest(text):
  return lambda folder: plain(folder, manifest=text)


def not_utf8(folder):
  (plain(folder) / "manifest.csv").write_bytes(b"name\nb\xe4h\n")


def manifest_link(folder):
  (folder.parent / "far.csv").write_text("name\na\nb\nc\n")
  (plain(folder) / "manifest.csv").symlink_to(folder.parent / "far.csv")


def listed(*rows):
  return lambda folder: plain(folder, manifest="\n".join(["image,mask", *rows]))


def link_out_listed(folder):
  link_out(folder)
  (folder / "manifest.csv").write_text("image,mask\nimages/a.png,masks/a.png")


def gone(path):
  return lambda folder: (plain(folder) / path).unlink()


REFUSED = {
  "missing": (lambda folder: folder.rmdir(), "no such folder"),
  "empty": (lambda folder: None, "no known layout .* images/ and masks/"),
  "no images": (lambda folder: (folder / "benign").mkdir(), "no images in it"),
  "two layouts": (both_layouts, "several layouts"),
  "image alone": (
    gone("masks/b.png"),
    r"images/b.png: an image without a mask",
  ),
  "mask alone": (gone("images/b.png"), r"masks/b.png: a mask without an image"),
  "names twice": (twice, r"a.png: a.bmp has the same name"),
  "busi twice": (busi_twice, r"normal/benign \(1\).png: .* same name"),
  "other file": (
    lambda folder: (plain(folder) / "images" / "a.gif").write_bytes(b"GIF89a"),
    "a.gif: not a PNG",
  ),
  "link out": (link_out, "images/a.png: a link out of"),
  "linked folder": (link_folder_out, "masks/a.png: a link out of"),
  "link loop": (link_loop, "images/a.png: a link out of"),
  "pipe": (pipe, "images/a.png: not a PNG"),
  "newline": (
    lambda folder: write(plain(folder) / "images" / "a\nb.png", grey(0)),
    r"a\\nb.png': unprintable",
  ),
  "row alone": (
    manifest("name\na\nb\nc\nd\n"),
    "manifest.csv: 'd': a row with",
  ),
  "no row": (manifest("name\na\nc\n"), "images/b.png: an image without a row"),
  "row twice": (manifest("name\na\nb\nc\na\n"), "line 5: 'a' appears twice"),
  "no name": (manifest("case,class\na,x\n"), "manifest.csv: no column 'name'"),
  "semicolons": (manifest("name;class\na;x\n"), "with commas"),
  "no text": (manifest(""), "manifest.csv: no column 'name'"),
  "no group": (manifest("name,group\na,g\nb\nc,\n"), "line 3: group is ''"),
  "no number": (
    manifest("name,spacing\na,0.1\nb,fine\nc,0.1\n"),
    "manifest.csv: line 3: spacing is 'fine'; give millimetres",
  ),
  "no distance": (
    manifest("name,spacing_y,spacing_x\na,0.1,0\nb,,\nc,,\n"),
    "line 2: spacing_x is '0'",
  ),
  "not finite": (
    manifest("name,spacing\na,nan\nb,1\nc,1\n"),
    "line 2: spacing is 'nan'",
  ),
  "one axis": (manifest("name,spacing_y\na,1\n"), "both spacing_y and"),
  "half a row": (
    manifest("name,spacing_y,spacing_x\na,1,\nb,,\nc,,\n"),
    "line 2: spacing_y or spacing_x is empty",
  ),
  "three columns": (
    manifest("name,spacing,spacing_y,spacing_x\na,1,1,1\n"),
    "manifest.csv: give a column spacing, or both",
  ),
  "climbs": (manifest("name\n../a\n"), "line 2: '../a' is a path"),
  "absolute": (manifest("name\n/etc/a\n"), "line 2: '/etc/a' is a path"),
  "windows": (manifest("name\n..\\a\n"), "line 2: .* is a path"),
  "file not there": (listed("a.png,m.png"), "csv: a: there is no file .*a.png"),
  "file above": (listed("../a.png,m.png"), "'../a.png' leaves"),
  "file elsewhere": (listed("/a.png,m.png"), "'/a.png' leaves"),
  "file of no image": (
    listed("images/a.png,manifest.csv"),
    "'manifest.csv' is no PNG",
  ),
  "file linked": (link_out_listed, "images/a.png: a link out of"),
  "no mask": (listed("images/a.png,"), "line 2: mask is ''"),
  "an empty mask": (
    listed("images/a.png,masks/a.png;"),
    "images_a: '' is no PNG",
  ),
  "a mask of two": (
    listed("images/a.png,masks/a.png", "images/b.png,masks/a.png"),
    "images_b: .*masks/a.png is images_a's already",
  ),
  "an image of two": (
    listed("images/a.png,masks/a.png", "images/a.png,masks/b.png"),
    "line 3: 'images_a' appears twice",
  ),
  "not utf-8": (not_utf8, "manifest.csv: not a UTF-8"),
  "manifest link": (manifest_link, "manifest.csv: a link out of"),
}


@pytest.mark.parametrize("make, said", REFUSED.values(), ids=REFUSED)
def test_a_malformed_folder_is_refused_in_one_line(tmp_path, make, said):
  folder = tmp_path / "data"
  folder.mkdir()
  make(folder)
  with pytest.raises(UserError, match=said) as caught:
    listing.find(folder)
  assert "\n" not in str(caught.value)


def test_an_error_says_how_many_there_are(tmp_path):
  plain(tmp_path, "abcd")
  for name in "bcd":
    (tmp_path / "masks" / f"{name}.png").unlink()
  with pytest.raises(UserError, match=r"b.png: .*\(3 such\)"):
    listing.find(tmp_path)


def header(width, height):
  """A PNG that claims a size and holds nothing."""
  data = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  chunk = lambda kind, data: (
    struct.pack(">I", len(data))
    + kind
    + data
    + struct.pack(">I", zlib.crc32(kind + data))
  )
  start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", data)
  return start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(format, image=None, **options):
  file = io.BytesIO()
  image = image or PIL.Image.fromarray(grey(0, (64, 64)))
  image.save(file, format, **options)
  return file.getvalue()


def frames():
  pages = [PIL.Image.fromarray(grey(seed)) for seed in range(3)]
  return encoded("TIFF", pages[0], save_all=True, append_images=pages[1:])


def turned():
  exif = PIL.Image.Exif()
  exif[PIL.ExifTags.Base.Orientation] = 6
  return encoded("JPEG", exif=exif)


UNREADABLE = {
  "empty": ("x.png", b"", "not a readable PNG"),
  "text": ("x.png", b"<html>not found</html>", "not a readable PNG"),
  "cut short": ("x.png", encoded("PNG")[:1500], "cut short"),
  "cut jpeg": ("x.jpg", encoded("JPEG")[:1500], "cut short"),
  "disguised": ("x.png", encoded("JPEG"), "not a readable PNG"),
  "over 64 megapixels": ("x.png", header(8200, 8200), "64 megapixels"),
  "pillow warns": ("x.png", header(10_000, 10_000), "64 megapixels"),
  "pillow refuses": ("x.png", header(60_000, 60_000), "64 megapixels"),
  "frames": ("x.tif", frames(), "3 frames"),
  "float": (
    "x.tif",
    encoded("TIFF", PIL.Image.fromarray(np.ones(SIZE, np.float32))),
    "32 bits",
  ),
  "turned": ("x.jpg", turned(), "EXIF"),
  "other ending": ("x.gif", b"GIF89a", "not a PNG, JPEG, BMP or TIFF"),
}


@pytest.mark.parametrize(
  "name, data, said", UNREADABLE.values(), ids=UNREADABLE
)
def test_an_unreadable_image_is_refused_in_one_line(tmp_path, name, data, said):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=said) as caught:
    images.read_image(tmp_path / name)
  assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_image_is_refused(tmp_path):
  with pytest.raises(UserError, match="x.png: no such file"):
    images.read_image(tmp_path / "x.png")


@pytest.mark.parametrize(
  "asked, said",
  [
    ({"mask_name": "mask"}, "data.mask_name='mask' has no one {}"),
    ({"mask_name": "{}{}"}, "has no one {}"),
    ({"group": "("}, "data.group='\\(' is no regular expression"),
    ({"group": "p1"}, "a.png: data.group='p1' finds no group in 'a'"),
    ({"group": "(x?)"}, "finds no group"),
  ],
)
def test_what_cannot_be_asked_of_names_is_refused(tmp_path, asked, said):
  with pytest.raises(UserError, match=said) as caught:
    listing.find(plain(tmp_path), **asked)
  assert "\n" not in str(caught.value)
