"""Whatever a file holds, the command ends with a line that names it."""

import io
import json
import os
import pathlib
import pickle
import shutil
import signal
import struct
import zipfile
import zlib

import hypothesis
from hypothesis import strategies
import numpy as np
import PIL.Image
import pytest

from kdjax import cli
from kdjax.engine import checkpoint
from kdjax.report import figures
from tests import killed
from tests import simulated

SECONDS = 150  # Longer is a hang.


@pytest.fixture(autouse=True)
def no_hang():
  """Ends a test that waits for what never comes."""

  def give_up(*_):
    raise BaseException("it hangs")  # Not to be taken for an error of a file.

  before = signal.signal(signal.SIGALRM, give_up)
  signal.alarm(SECONDS)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


def refuse(capsys, named, *argv):
  """Runs the command, which has to end with one line that names the fault."""
  capsys.readouterr()
  assert cli.main([str(x) for x in argv]) == 1
  captured = capsys.readouterr()
  assert captured.out == ""
  lines = [x for x in captured.err.splitlines() if x.startswith("kdjax: ")]
  assert len(lines) == 1, captured.err
  assert captured.err.endswith(lines[0] + "\n")
  assert named in lines[0]
  # These ends are for mistakes of ours and for disks.
  assert "--verbose shows where" not in lines[0]
  return lines[0]


def contents(folder):
  """Every file below `folder`."""
  return {
    str(x.relative_to(folder)): x.lstat().st_size
    for x in sorted(folder.rglob("*"))
    if not x.is_dir()
  }


# Configs.

CONFIG = """\
from configs import quickstart


def get_config(size="tiny"):
  config = quickstart.get_config(size)
  with config.ignore_type():
    {}
  return config
"""

SET = {
  "wrong type": ("data.image_size = '32'", "data.image_size"),
  "no group": ("engine = dict(dtype='float32')", "engine"),
  "group for a value": ("data.seed = dict(a=1)", "data.seed"),
  "a value for a tuple": ("seeds = 3", "seeds"),
  "words in a tuple of numbers": ("folds = ('a',)", "folds"),
  "half a fold": ("folds = (0.5,)", "folds"),
  "a fold twice": ("folds = (0, 0)", "folds"),
  "a seed twice": ("seeds = (1, 1)", "seeds"),
  "negative seed": ("seeds = (-1,)", "seeds"),
  "huge seed": ("seeds = (2**70,)", "seeds"),
  "unknown field": ("data.size = 3", "data.size"),
  "unknown group": ("optimiser = dict(name='x')", "optimiser"),
  "negative size": ("data.image_size = -32", "data.image_size"),
  "no size": ("data.image_size = 0", "data.image_size"),
  "huge size": ("data.image_size = 10**9", "data.image_size"),
  "odd size": ("data.image_size = 33", "data.image_size"),
  "endless data": ("data.num_cases = 10**12", "data.num_cases"),
  "two cases": ("data.num_cases = 7", "splits.test_cases"),
  "data called otherwise": ("data.name = 'busi'", "data.name"),
  "NUL in a path": ("data.cache_dir = 'a\\0b'", "data.cache_dir"),
  "NaN of views": ("views.noise = float('nan')", "views.noise"),
  "infinite rotation": ("views.rotation = float('inf')", "views.rotation"),
  "all is cut away": ("views.crop = 2.0", "views.crop"),
  "NaN rate": ("grid.learning_rate = (float('nan'),)", "grid.learning_rate"),
  "negative rate": ("grid.learning_rate = (-1.0,)", "grid.learning_rate"),
  "no rate": (
    "teacher_training.learning_rate = 0.0",
    "teacher_training.learning_rate",
  ),
  "negative decay": ("grid.weight_decay = (-1.0,)", "grid.weight_decay"),
  "NaN temperature": ("grid.temperature = (float('nan'),)", "grid.temperature"),
  "a bare number": ("grid.alpha = 0.5", "grid.alpha"),
  "a bare word": ("grid.loss = 'KLD'", "grid.loss"),
  "an empty axis": ("grid.view = ()", "grid.view"),
  "odd pair": ("grid.pair = (3,)", "grid.pair"),
  "pair of nothing": ("grid.pair = ((),)", "grid.pair"),
  "unknown tap": ("grid.pair = (('encoder9', 'encoder5'),)", "encoder9"),
  "huge batch": ("student_training.batch_size = 10**6", "batch_size"),
  "no batch": ("student_training.batch_size = 0", "batch_size"),
  "half an epoch": ("student_training.max_epochs = 0.5", "max_epochs"),
  "a truth for a number": ("student_training.patience = True", "patience"),
  "negative patience": ("student_training.patience = -1", "patience"),
  "unknown schedule": ("student_training.schedule = 'step'", "schedule"),
  "half a decay": ("teacher_training.patience = 3", "patience=3"),
  "all warmup": ("student_training.warmup = 1.0", "student_training.warmup"),
  "unknown choice": ("student_training.select = 'iou'", "select"),
  "less than no Dice": ("grid.soft_dice = (-1.0,)", "grid.soft_dice"),
  "unknown end": ("regressor.activation = 'tanh'", "regressor.activation"),
  "less than no core": ("engine.cpu_devices = -1", "engine.cpu_devices"),
  "negative cadence": ("engine.checkpoint_epochs = -1", "checkpoint_epochs"),
  "NaN cadence": (
    "engine.checkpoint_minutes = float('nan')",
    "checkpoint_minutes",
  ),
  "NaN margin": (
    "report.equivalence_margin = float('nan')",
    "report.equivalence_margin",
  ),
  "words for widths": ("student.widths = ('a', 'b')", "student.widths"),
  "a number for widths": ("student.widths = 8", "student.widths"),
  "negative width": ("student.widths = (4, -4)", "student.widths"),
  "no widths": ("student.widths = ()", "student"),
  "huge network": ("student.widths = (60000,) * 4", "student"),
  "three classes": ("teacher.num_classes = 3", "teacher.num_classes"),
  "unknown model": ("teacher.name = 'Net'", "teacher.name"),
  "model of a number": ("teacher.name = 3", "teacher.name"),
  "unlike decoder": ("teacher.decoder_widths = (3,)", "teacher"),
  "unknown encoder": (
    "teacher = dict(name='EncoderUNet', encoder='resnet5')",
    "teacher",
  ),
}


@pytest.fixture
def cache(tmp_path_factory):
  """Phantoms prepared once; compilations are not looked for."""
  base = tmp_path_factory.getbasetemp() / "phantoms"
  return f"--config.data.cache_dir={base}"


def train(config, workdir, *more):
  return ("train", "--config", config, "--workdir", workdir, *more)


@pytest.mark.parametrize("said, named", SET.values(), ids=SET)
def test_a_config_that_makes_no_sense_is_refused(
  said, named, cache, tmp_path, capsys
):
  path = tmp_path / "mine.py"
  path.write_text(CONFIG.format(f"config.{said}"))
  more = () if "cache_dir" in said else (cache,)
  refuse(capsys, named, *train(path, tmp_path / "run", *more))
  assert not (tmp_path / "run").exists()


SOURCES = {
  "empty": b"",
  "syntax": b"def get_config(:\n",
  "NUL": b"\0\0\0",
  "not UTF-8": b"# \xff\nx = '\xe4'\n",
  "no function": b"config = 3\n",
  "nothing returned": b"def get_config():\n  pass\n",
  "a dict returned": b"def get_config():\n  return {}\n",
  "division": b"1 / 0\n",
  "unknown name": b"def get_config():\n  return nothing\n",
  "it leaves": b"import sys\nsys.exit(0)\n",
  "two arguments": b"def get_config(a, b):\n  return 1\n",
  "a wrong size": b"def get_config():\n  raise ValueError('size')\n",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_file_that_is_no_config_is_named(source, tmp_path, capsys):
  (tmp_path / "mine.py").write_bytes(source)
  refuse(capsys, "mine.py", *train(tmp_path / "mine.py", tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["text", "folder", "pipe", "loop"])
def test_what_is_no_python_file_is_named(kind, tmp_path, capsys):
  path = tmp_path / ("mine.txt" if kind == "text" else "mine.py")
  {
    "text": lambda: path.write_text("x"),
    "folder": path.mkdir,
    "pipe": lambda: os.mkfifo(path),
    "loop": lambda: path.symlink_to(path),
  }[kind]()
  refuse(capsys, path.name, *train(path, tmp_path / "run"))


# Data sets.


def png(width, height, pixels=b""):
  """A PNG that claims a size and holds `pixels`."""
  chunk = lambda kind, data: (
    struct.pack(">I", len(data))
    + kind
    + data
    + struct.pack(">I", zlib.crc32(kind + data))
  )
  header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  return b"".join(
    (
      b"\x89PNG\r\n\x1a\n",
      chunk(b"IHDR", header),
      chunk(b"IDAT", zlib.compress(pixels)),
      chunk(b"IEND", b""),
    )
  )


def encoded(kind, mode="L", side=24, **options):
  file = io.BytesIO()
  PIL.Image.new(mode, (side, side)).save(file, kind, **options)
  return file.getvalue()


def bmp(width, height, bits=8):
  """A BMP's header, and a row."""
  about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, *(0,) * 6)
  return b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, 54) + about + bytes(64)


def tiff(*entries, following=0):
  """A TIFF of tags `(tag, kind, count, value)` and 64 bytes."""
  content = b"II*\0" + struct.pack("<IH", 8, len(entries))
  for entry in entries:
    content += struct.pack("<HHII", *entry)
  return content + struct.pack("<I", following) + bytes(64)


def tiff_of(width, height, bits=8, following=0, offset=8):
  tags = ((256, width), (257, height), (258, bits), (259, 1), (262, 1))
  tags += (
    (273, offset),
    (277, 1),
    (278, height),
    (279, min(width * height, 2**31)),
  )
  return tiff(*((tag, 4, 1, value) for tag, value in tags), following=following)


IMAGES = {
  "no bytes": (".png", b""),
  "text": (".png", b"<html>"),
  "bomb": (".png", png(50_000, 50_000)),
  "wide bomb": (".png", png(2**31 - 1, 1)),
  "no pixels": (".png", png(0, 0)),
  "no rows": (".png", png(24, 0)),
  "cut in its data": (".png", encoded("PNG")[:-30]),
  "cut in its header": (".png", encoded("PNG")[:20]),
  "a JPEG in disguise": (".png", encoded("JPEG")),
  "a GIF in disguise": (".png", encoded("GIF")),
  "a GIF in a BMP's": (".bmp", encoded("GIF")),
  "a script": (".bmp", b"#!/bin/sh\ntouch /tmp/x\n"),
  "BMP bomb": (".bmp", bmp(2**30, 2**30)),
  "BMP without a side": (".bmp", bmp(0, 24)),
  "BMP of negative width": (".bmp", bmp(-24, 24)),
  "BMP cut": (".bmp", encoded("BMP")[:100]),
  "BMP of 7 bits": (".bmp", bmp(24, 24, 7)),
  "TIFF bomb": (".tif", tiff_of(2**20, 2**20)),
  "TIFF without a side": (".tif", tiff_of(0, 24)),
  "TIFF without tags": (".tif", tiff()),
  "TIFF whose pages run in a circle": (".tif", tiff_of(24, 24, following=8)),
  "TIFF beyond its end": (".tif", tiff_of(24, 24, offset=2**31)),
  "TIFF of endless tags": (".tif", tiff((256, 4, 2**31, 8))),
  "TIFF of floats": (".tif", encoded("TIFF", "F")),
  "TIFF of frames": (
    ".tif",
    encoded(
      "TIFF", save_all=True, append_images=[PIL.Image.new("L", (24, 24))]
    ),
  ),
  "JPEG cut": (".jpg", encoded("JPEG")[:300]),
  "JPEG of nothing": (".jpg", b"\xff\xd8\xff\xd9"),
  "a GIF": (".gif", encoded("GIF")),
}


@pytest.fixture
def discs(tmp_path):
  return killed.write_discs(tmp_path / "discs")


def show(folder, tmp_path):
  return (
    "data",
    "--config=configs/quickstart.py:tiny",
    "--config.data.name=folder",
    f"--config.data.dir={folder}",
    f"--config.data.cache_dir={tmp_path / 'cache'}",
  )


def test_the_data_set_that_is_spoilt_below_is_a_good_one(
  discs, tmp_path, capsys
):
  assert cli.main([*show(discs, tmp_path)]) == 0
  assert "16 unlabelled" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("ending, content", IMAGES.values(), ids=IMAGES)
def test_an_image_that_is_none_is_named(
  part, ending, content, discs, tmp_path, capsys
):
  (discs / part / "case03.png").unlink()
  (discs / part / f"case03{ending}").write_bytes(content)
  before = contents(discs)
  refuse(capsys, f"case03{ending}", *show(discs, tmp_path))
  assert contents(discs) == before
  assert not list((tmp_path / "cache").rglob("*.array_record*"))


def swap(path, make):
  path.unlink()
  make()


def named(discs, number):
  return discs / "images" / f"case{number:02d}.png"


def link_outside(discs):
  path = named(discs, 3)
  path.rename(discs.parent / "outside.png")
  path.symlink_to(discs.parent / "outside.png")


def mask_of(pixels):
  def write(discs):
    PIL.Image.fromarray(pixels).save(discs / "masks" / "case03.png")

  return write


def manifest(content):
  return lambda discs: (discs / "manifest.csv").write_bytes(content)


def rows(head, row):
  lines = [head, *(row.format(f"case{i:02d}") for i in range(16))]
  return "\n".join(lines).encode() + b"\n"


FOLDERS = {
  "a folder for an image": (
    lambda x: swap(named(x, 3), named(x, 3).mkdir),
    "case03.png",
  ),
  "a pipe for an image": (
    lambda x: swap(named(x, 3), lambda: os.mkfifo(named(x, 3))),
    "case03.png",
  ),
  "a device for an image": (
    lambda x: swap(named(x, 3), lambda: named(x, 3).symlink_to("/dev/zero")),
    "case03.png",
  ),
  "a link to nothing": (
    lambda x: swap(named(x, 3), lambda: named(x, 3).symlink_to("nothing.png")),
    "case03.png",
  ),
  "a link outside": (link_outside, "case03.png"),
  "a name that is no text": (
    lambda x: os.rename(named(x, 3), bytes(x / "images") + b"/\xff.png"),
    "images",
  ),
  "a name of two lines": (
    lambda x: named(x, 3).rename(x / "images" / "a\nb.png"),
    "b.png",
  ),
  "no images": (lambda x: shutil.rmtree(x / "images"), "discs"),
  "nothing in it": (
    lambda x: [shutil.rmtree(y) for y in list(x.iterdir())],
    "discs",
  ),
  "empty folders": (
    lambda x: [y.unlink() for y in list(x.rglob("*.png"))],
    "discs",
  ),
  "images is a file": (
    lambda x: (shutil.rmtree(x / "images"), (x / "images").write_text("")),
    "discs",
  ),
  "a mask of another size": (
    mask_of(np.zeros((24, 25), np.uint8)),
    "masks/case03.png",
  ),
  "a mask of one pixel": (
    mask_of(np.zeros((1, 1), np.uint8)),
    "masks/case03.png",
  ),
  "a mask that is a picture": (
    mask_of(np.arange(576, dtype=np.uint8).reshape(24, 24)),
    "masks/case03.png",
  ),
  "a manifest of nothing": (manifest(b""), "manifest.csv"),
  "a manifest without names": (
    manifest(rows("case,class", "{},a")),
    "manifest.csv",
  ),
  "a manifest that climbs": (
    manifest(rows("name", "../images/{}")),
    "manifest.csv",
  ),
  "a manifest of absolute paths": (
    manifest(rows("name", "/etc/{}")),
    "manifest.csv",
  ),
  "a manifest of UTF-16": (
    manifest(rows("name", "{}").decode().encode("utf-16")),
    "manifest.csv",
  ),
  "a manifest of Latin-1": (
    manifest(rows("name,class", "{},böse").decode().encode("latin-1")),
    "manifest.csv",
  ),
  "NUL in a manifest": (manifest(rows("name,class", "{},\0")), "manifest.csv"),
  "a column twice": (
    manifest(rows("name,class,class", "{},a,b")),
    "manifest.csv",
  ),
  "the names twice": (manifest(rows("name,name", "{0},x")), "manifest.csv"),
  "cells without a column": (
    manifest(rows("name,class", "{},a,b")),
    "manifest.csv",
  ),
  "too few cells": (manifest(rows("name,class,group", "{},a")), "manifest.csv"),
  "a row twice": (manifest(rows("name", "{0}\n{0}")), "manifest.csv"),
  "a row of no image": (manifest(rows("name", "{}x")), "manifest.csv"),
  "an endless cell": (
    manifest(rows("name,class", "{}," + "a" * 200_000)),
    "manifest.csv",
  ),
  "one open quote": (manifest(rows("name,class", '{},"a')), "manifest.csv"),
  "a spacing of words": (
    manifest(rows("name,spacing", "{},wide")),
    "manifest.csv",
  ),
  "an infinite spacing": (
    manifest(rows("name,spacing", "{},inf")),
    "manifest.csv",
  ),
  "a manifest that is a folder": (
    lambda x: (x / "manifest.csv").mkdir(),
    "manifest.csv",
  ),
  "a manifest that is a pipe": (
    lambda x: os.mkfifo(x / "manifest.csv"),
    "manifest.csv",
  ),
  "a manifest that is a dead link": (
    lambda x: (x / "manifest.csv").symlink_to("gone.csv"),
    "manifest.csv",
  ),
  "a manifest from outside": (
    lambda x: (x / "manifest.csv").symlink_to("/etc/passwd"),
    "manifest.csv",
  ),
}


@pytest.mark.parametrize("spoil, said", FOLDERS.values(), ids=FOLDERS)
def test_a_spoilt_folder_is_refused_and_what_is_at_fault_named(
  spoil, said, discs, tmp_path, capsys
):
  spoil(discs)
  before = contents(discs)
  refuse(capsys, said, *show(discs, tmp_path))
  assert contents(discs) == before


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3)])
@pytest.mark.parametrize("lesion", [0, 255])
def test_images_of_any_size_and_masks_of_one_value_are_taken(
  shape, lesion, discs, tmp_path, capsys
):
  PIL.Image.new("L", shape[::-1], 7).save(discs / "images" / "case03.png")
  PIL.Image.new("L", shape[::-1], lesion).save(discs / "masks" / "case03.png")
  assert cli.main([*show(discs, tmp_path)]) == 0


@pytest.mark.parametrize("how", ["cut", "garbage", "gone"])
@pytest.mark.parametrize("name", ["*.array_record*", "dataset_info.json"])
def test_damaged_prepared_data_is_named_or_prepared_anew(
  how, name, discs, tmp_path, capsys
):
  assert cli.main([*show(discs, tmp_path)]) == 0
  good = capsys.readouterr().out
  (path,) = (tmp_path / "cache").rglob(name)
  {
    "cut": lambda: path.write_bytes(path.read_bytes()[:50]),
    "garbage": lambda: path.write_bytes(b"\xff" * 500),
    "gone": path.unlink,
  }[how]()
  if cli.main([*show(discs, tmp_path)]) == 0:
    assert capsys.readouterr().out == good
  else:
    refuse(capsys, "cache", *show(discs, tmp_path))


# Weights.


class Evil:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def zipped(index):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("archive/data.pkl", index)
  return file.getvalue()


def safetensors(header, data=b""):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text + data


WEIGHTS = {
  "nothing": (".pth", lambda _: b""),
  "a pickle": (".pth", lambda path: pickle.dumps(Evil(path))),
  "a pickle among tensors": (
    ".pth",
    lambda path: pickle.dumps({"conv1.weight": Evil(path)}),
  ),
  "a pickle in a zip": (".pth", lambda path: zipped(pickle.dumps(Evil(path)))),
  "system": (".pth", lambda _: b"cos\nsystem\n(S'touch evil'\ntR."),
  "a pickle of eval": (".pth", lambda _: b"cbuiltins\neval\n(S'1'\ntR."),
  "a list": (".pth", lambda _: zipped(pickle.dumps([1, 2]))),
  "a deep list": (".pth", lambda _: zipped(b"(" * 100_000 + b".")),
  "a pickle that asks for memory": (
    ".pth",
    lambda _: zipped(b"\x80\x04\x8e" + struct.pack("<Q", 2**50)),
  ),
  "an empty zip": (".pth", lambda _: zipped(b"")),
  "a script": (".pth", lambda _: b"import os\n"),
  "a named pickle": (".safetensors", lambda path: pickle.dumps(Evil(path))),
  "no header": (".safetensors", lambda _: b"\1"),
  "an endless header": (
    ".safetensors",
    lambda _: struct.pack("<Q", 2**62) + b"{}",
  ),
  "no JSON": (".safetensors", lambda _: safetensors(b"{{{{")),
  "nested JSON": (".safetensors", lambda _: safetensors(b"[" * 100_000)),
  "a list of JSON": (".safetensors", lambda _: safetensors([1])),
  "no tensors": (".safetensors", lambda _: safetensors({})),
  "beyond its end": (
    ".safetensors",
    lambda _: safetensors(
      {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}
    ),
  ),
}


@pytest.mark.parametrize("ending, make", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_none_are_named_and_nothing_in_them_runs(
  ending, make, cache, tmp_path, capsys, monkeypatch
):
  touched = tmp_path / "evil"
  path = tmp_path / f"weights{ending}"
  path.write_bytes(make(touched))
  config = tmp_path / "mine.py"
  config.write_text(
    CONFIG.format(
      "config.teacher = dict(name='EncoderUNet', encoder='resnet18', "
      f"weights={str(path)!r})"
    )
  )
  refuse(capsys, path.name, *train(config, tmp_path / "run", cache))
  assert not touched.exists() and not pathlib.Path("evil").exists()
  assert not (tmp_path / "run").exists()


# Workdirs.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """As much of a finished workdir as a report reads."""
  folder = tmp_path_factory.mktemp("finished") / "run"
  rng = np.random.default_rng(0)
  frame = simulated.per_case(rng, simulated.effects(), cases=12)
  simulated.workdir(folder, frame)
  simulated.predictions(folder, frame, side=16)
  (folder / "efficiency.csv").write_text(
    "model,parameters\nTeacher,9\nStudent,3\n"
  )
  return folder


JUNK = {
  "empty": b"",
  "garbage": b"\xff\xfe\0\1" * 50,
  "a list": b"[1, 2]",
  "another object": b'{"a": 1}',
  "nested": b"[" * 100_000,
  "another table": b"a,b\n1,2\n",
  "a table of words": None,  # Of the file's own columns.
  "cut": None,
}
FILES = (
  "config.json",
  "data.json",
  "history.csv",
  "per_case.csv",
  "efficiency.csv",
  "predictions.npz",
)


@pytest.mark.parametrize(
  "name, junk",
  [
    (name, junk)
    for name in FILES
    for junk in JUNK
    # Whoever cuts a table between two rows leaves a shorter one.
    if junk != "cut" or name not in ("efficiency.csv", "per_case.csv")
  ],
)
def test_a_damaged_file_of_a_workdir_is_named(
  name, junk, finished, tmp_path, capsys
):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  path = workdir / name
  content = JUNK[junk]
  if junk == "cut":
    content = path.read_bytes()[: path.stat().st_size // 2 - 1]
  elif junk == "a table of words":
    head = path.read_bytes().split(b"\n")[0]
    content = head + b"\n" + b",".join([b"x"] * (head.count(b",") + 1)) + b"\n"
  path.write_bytes(content)
  refuse(capsys, name, "report", workdir)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_for_a_file_of_a_workdir_is_named(
  name, finished, tmp_path, capsys
):
  workdir = tmp_path / "run"
  shutil.copytree(finished, workdir)
  (workdir / name).unlink()
  (workdir / name).mkdir()
  refuse(capsys, name, "report", workdir)


@pytest.mark.slow
@hypothesis.settings(
  max_examples=15,
  deadline=None,
  derandomize=True,
  suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(
  name=strategies.sampled_from(("config.json", "data.json", "history.csv")),
  place=strategies.floats(0, 1),
  insert=strategies.binary(min_size=1, max_size=8),
)
def test_a_file_with_a_few_bytes_amiss_makes_a_report_or_is_named(
  name, place, insert, finished, tmp_path_factory, capsys
):
  workdir = tmp_path_factory.mktemp("run") / "run"
  shutil.copytree(finished, workdir)
  content = (workdir / name).read_bytes()
  at = int(place * len(content))
  (workdir / name).write_bytes(
    content[:at] + insert + content[at + len(insert) :]
  )
  if cli.main(["report", str(workdir)]):
    said = capsys.readouterr().err.splitlines()[-1]
    assert name in said and "--verbose shows where" not in said


@pytest.mark.slow
def test_a_report_is_not_published_into_its_own_workdir(
  finished, tmp_path, capsys, monkeypatch
):
  # Drawn twice on a busy machine, they take as long as what hangs.
  monkeypatch.setattr(figures, "write", lambda results: [])
  shutil.copytree(finished, tmp_path / "run")
  assert cli.main(["report", str(tmp_path / "run")]) == 0
  page = (tmp_path / "run/report/index.html").read_bytes()
  out = tmp_path / "run" / "report"
  argv = ["report", str(tmp_path / "run"), "--out", str(out)]
  assert cli.main(argv) == 1
  assert str(out) in capsys.readouterr().err
  assert (tmp_path / "run/report/index.html").read_bytes() == page


# Checkpoints.


def progress(step):
  rng = np.random.default_rng(step)
  states = {"params": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}}
  return checkpoint.Progress(step, states, [{"epoch": step}], 1.5)


def files_of(folder):
  return sorted(x for x in folder.rglob("*") if x.is_file())


def cut(step):
  for path in files_of(step):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(step):
  """Turns a bit in every file of the states."""
  for path in files_of(step / "states"):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(step):
  shutil.rmtree(step)
  step.mkdir()


def a_file(step):
  shutil.rmtree(step)
  step.write_text("x")


def foreign(step):
  other = step.parent.parent / "other"
  saved = checkpoint.Checkpoint(other, "another")
  saved.save(progress(2))
  saved.close()
  shutil.rmtree(step)
  shutil.copytree(other / "2", step)


def forged(step):
  """Says another history, in JSON that is whole."""
  for path in files_of(step / "progress"):
    path.write_bytes(path.read_bytes().replace(b'"epoch"', b'"epocH"'))


def odd_json(step):
  for path in files_of(step / "progress"):
    path.write_bytes(b"[]")


DAMAGE = {
  "cut": cut,
  "a bit": flip,
  "emptied": emptied,
  "no states": lambda x: shutil.rmtree(x / "states"),
  "no progress": lambda x: shutil.rmtree(x / "progress"),
  "a file": a_file,
  "foreign": foreign,
  "forged": forged,
  "odd JSON": odd_json,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
  damage, tmp_path, capsys
):
  folder = tmp_path / "block"
  saved = checkpoint.Checkpoint(folder, "us")
  for step in (1, 2):
    saved.save(progress(step))
  saved.close()
  damage(folder / "2")
  for odd in ("007", "two", "-1"):  # None of ours.
    (folder / odd).mkdir()
  saved = checkpoint.Checkpoint(folder, "us")
  found = saved.restore()
  assert (found.step, found.digest()) == (1, progress(1).digest())
  assert f"{folder / '2'}: damaged" in capsys.readouterr().err
  assert (folder / "damaged-2").exists()
  saved.save(progress(2))
  saved.close()
  saved = checkpoint.Checkpoint(folder, "us")
  assert saved.restore().digest() == progress(2).digest()
  saved.close()


# What is exported and predicted.


@pytest.fixture(scope="module")
def network(tmp_path_factory):
  """An ONNX file as `kdjax export` writes it, of a network of one operation."""
  onnx = pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  path = tmp_path_factory.mktemp("network") / "network.onnx"

  def write(about, side=8, value=1.0, name="image"):
    shape = ["batch", side, side]
    info = onnx.helper.make_tensor_value_info
    scale = onnx.numpy_helper.from_array(np.float32(value), "scale")
    model = onnx.helper.make_model(
      onnx.helper.make_graph(
        [
          onnx.helper.make_node("Cast", [name], ["x"], to=1),
          onnx.helper.make_node("Mul", ["x", "scale"], ["margin"]),
        ],
        "network",
        [info(name, onnx.TensorProto.UINT8, shape)],
        [info("margin", onnx.TensorProto.FLOAT, shape)],
        [scale],
      ),
      opset_imports=[onnx.helper.make_opsetid("", 17)],
      ir_version=8,
    )
    if about is not None:
      model.metadata_props.add(key="kdjax", value=about)
    path.write_bytes(model.SerializeToString())
    return path

  return write


ABOUT = json.dumps(
  {
    "input": {"shape": ["batch", 8, 8]},
    "classes": ["background", "lesion"],
  }
)
NETWORKS = {
  "no description": lambda write: write(None),
  "no JSON": lambda write: write("{"),
  "a list": lambda write: write("[1]"),
  "nested": lambda write: write("[" * 100_000),
  "no shape": lambda write: write('{"input": {}}'),
  "a side of words": lambda write: write(ABOUT.replace("8, 8", '"a", "b"')),
  "a huge side": lambda write: write(ABOUT.replace("8", "100000")),
  "a negative side": lambda write: write(ABOUT.replace("8", "-8")),
  "another side": lambda write: write(ABOUT, side=16),
  "another input": lambda write: write(ABOUT, name="picture"),
  "cut": lambda write: cut_file(write(ABOUT)),
  "empty": lambda write: emptied_file(write(ABOUT)),
  "text": lambda write: emptied_file(write(ABOUT), b"hello"),
}


def cut_file(path):
  return emptied_file(path, path.read_bytes()[: path.stat().st_size // 2])


def emptied_file(path, content=b""):
  path.write_bytes(content)
  return path


@pytest.mark.parametrize("spoil", NETWORKS.values(), ids=NETWORKS)
def test_a_damaged_network_is_named_and_predicts_nothing(
  spoil, network, discs, tmp_path, capsys
):
  path = spoil(network)
  argv = ("predict", "--model", path, "--out", tmp_path / "out")
  refuse(capsys, path.name, *argv, named(discs, 0))
  assert not (tmp_path / "out").exists()


def test_good_images_are_predicted_beside_bad_ones(
  network, discs, tmp_path, capsys
):
  bad = tmp_path / "bad"
  bad.mkdir()
  for i, (ending, content) in enumerate(IMAGES.values()):
    (bad / f"bad{i}{ending}").write_bytes(content)
  os.mkfifo(bad / "pipe.png")
  (bad / "folder.png").mkdir()
  (bad / "device.png").symlink_to("/dev/zero")
  out = tmp_path / "out"
  argv = ["predict", "--model", network(ABOUT), "--out", out, named(discs, 0)]
  paths = [named(discs, 1), *bad.iterdir(), tmp_path / "gone.png"]
  assert cli.main([str(x) for x in (*argv, *paths)]) == 1
  said = capsys.readouterr().err.splitlines()
  assert {x.name for x in out.iterdir()} == {
    f"case0{i}_{kind}.png" for i in (0, 1) for kind in ("mask", "overlay")
  }
  for path in paths[1:]:
    if path.name != "folder.png":
      assert any(str(path) in line for line in said), path


def test_an_answer_that_is_not_finite_is_no_mask(
  network, discs, tmp_path, capsys
):
  path = network(ABOUT, value=np.nan)
  argv = ("predict", "--model", path, "--out", tmp_path / "out")
  assert cli.main([str(x) for x in (*argv, named(discs, 0))]) == 1
  assert "case00.png: the network's answer is not finite" in (
    capsys.readouterr().err
  )
  assert not (tmp_path / "out").exists()


def test_an_image_is_never_written_over(network, discs, tmp_path, capsys):
  folder = discs / "images"
  named(discs, 1).rename(folder / "case00_mask.png")
  before = contents(discs)
  argv = ("predict", "--model", network(ABOUT), "--out", folder)
  refuse(
    capsys,
    "case00_mask.png",
    *(*argv, named(discs, 0), folder / "case00_mask.png"),
  )
  assert contents(discs) == before


def test_an_export_names_no_file_that_it_would_write_over(
  finished, tmp_path, capsys
):
  shutil.copytree(finished, tmp_path / "run")
  before = contents(tmp_path / "run")
  for name in ("run/config.onnx", "x.json", "x.md", "run"):
    out = tmp_path / name
    argv = ("export", "--workdir", tmp_path / "run", "--out", out)
    refuse(capsys, str(out), *argv)
  assert contents(tmp_path / "run") == before
