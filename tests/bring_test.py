"""What a user brings is trained, reported, exported and predicted."""

import numpy as np
import PIL.Image
import pytest

from kdjax import cli
from kdjax.data import images
from kdjax.data import phantom
from tests import foreign_test

pytestmark = pytest.mark.slow

CLASSES = [
  "--config.data.regions=lesion,cyst",
  "--config.teacher.num_classes=3",
  "--config.student.num_classes=3",
  "--config.grid.loss=KLD,DKD",
]
prepared = foreign_test.prepared


def picture(folder):
  """An image that is of no data set here, as a file."""
  image, _, _ = phantom.simulate(99, 0)
  path = folder / "new.png"
  PIL.Image.fromarray(image).save(path)
  return path, image.shape


@pytest.mark.parametrize("kind", ["network", "classes", "tfds"])
def test_from_the_command_to_a_predicted_mask(kind, prepared, tmp_path, capsys):
  pytest.importorskip("onnx")
  pytest.importorskip("onnxruntime")
  workdir, model = tmp_path / "run", tmp_path / "student.onnx"
  brought = {
    "network": network_file(tmp_path),
    "classes": ["--config=configs/quickstart.py:tiny", *CLASSES],
    "tfds": [
      "--config=configs/quickstart.py:tiny",
      "--config.data.name=tfds:kdjax_rings",
      f"--config.data.dir={prepared}",
      f"--config.data.features={','.join(foreign_test.FEATURES[:3])}",
      "--config.splits.test_cases=1",
      "--config.splits.val_fraction=0.2",
      "--config.data.channels=3",
      "--config.teacher.in_channels=3",
      "--config.student.in_channels=3",
    ],
  }[kind]
  cache = f"--config.data.cache_dir={tmp_path / 'cache'}"
  argv = ["train", *brought, cache, "--config.grid.pathway=L"]
  assert not cli.main([*argv, "--workdir", str(workdir)])
  said = capsys.readouterr().out
  assert "| Student " in said and (workdir / "report/index.html").exists()
  assert ("Dice of cyst" in said) == (kind == "classes")

  asked = ["--workdir", str(workdir), "--out", str(model), "--arm", "Student"]
  assert not cli.main(["export", *asked])
  path, size = picture(tmp_path)
  out = tmp_path / "masks"
  assert not cli.main(
    ["predict", "--model", str(model), "--out", str(out), str(path)]
  )
  said = capsys.readouterr().out
  assert "lesion on" in said and ("cyst on" in said) == (kind == "classes")
  mask = images.read_numbers(out / "new_mask.png")
  assert mask.shape == size
  allowed = {0, 1, 2} if kind == "classes" else {0, 255}
  assert set(np.unique(mask)) <= allowed


def network_file(folder):
  """A config with a network of another package, as a user writes one."""
  path = folder / "configs" / "mine.py"
  path.parent.mkdir()
  path.write_text(
    '"""Does a plain network learn from a U-Net?"""\n'
    "from configs import quickstart\n\n\n"
    'def get_config(size="full"):\n'
    '  config = quickstart.get_config("tiny")\n'
    "  config.student = dict(\n"
    '    name="tests.nets:Plain", num_classes=2, in_channels=1\n'
    "  )\n"
    "  return config\n"
  )
  return [f"--config={path}"]
