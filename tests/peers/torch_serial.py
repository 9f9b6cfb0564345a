"""The study trained serially in PyTorch: what a loop of jobs would do.

`kdjax.bench.peer` starts it on a folder that holds the study, the first
weights and the rendered batches. It then answers lines on its standard input:

  step ARM N            trains `ARM` for N steps; prints the seconds of one.
                        "Teacher" trains a copy of the teacher.
  answer N              asks the teacher about N batches; the same.
  gradients ARM FILE    writes losses and gradients of the next step.
  parameters ARM FILE   writes the arm's trained parameters.
  peak                  prints the most memory held so far, bytes.

What it writes has our names and shapes. It runs where kdjax does, a CPU or a
GPU, with the same numbers: float32 (on a GPU in TF32, as XLA) or bfloat16 by
autocast. Its settings are the quickest for eager PyTorch that keep those: all
cores, channels last, cuDNN's kernels timed, BatchNorm folded into the teacher's
convolutions, a fused Adam, freed memory kept in the process. The teacher stops
after the deepest level that the arm compares.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import fusion

from kdjax.engine import memory


class ConvNorm(nn.Module):
  """Convolution + BatchNorm.

  At stride 2 TensorFlow, `same`, has one pixel less before than behind.
  """

  def __init__(
    self, channels, width, kernel=3, stride=1, groups=1, same=False, eps=1e-5
  ):
    super().__init__()
    margin = (kernel - 1) // 2
    self.pad = nn.Identity()
    if same and stride == 2:
      self.pad, margin = nn.ZeroPad2d((margin - 1, margin) * 2), 0
    self.conv = nn.Conv2d(
      channels, width, kernel, stride, margin, groups=groups, bias=False
    )
    self.norm = nn.BatchNorm2d(width, eps)

  def forward(self, x):
    return self.norm(self.conv(self.pad(x)))

  def fold(self):
    """One convolution instead, for a network in evaluation mode."""
    self.conv = fusion.fuse_conv_bn_eval(self.conv, self.norm)
    self.norm = nn.Identity()


class ConvBlock(nn.Module):
  """Two 3x3 convolutions, each with BatchNorm and ReLU."""

  def __init__(self, channels, widths):
    super().__init__()
    self.conv1 = ConvNorm(channels, widths[0])
    self.conv2 = ConvNorm(widths[0], widths[1])

  def forward(self, x):
    x = functional.relu(self.conv1(x), inplace=True)
    return functional.relu(self.conv2(x), inplace=True)


class UNet(nn.Module):
  """The plain U-Net: max pooling down, bilinear up."""

  def __init__(self, widths, decoder_widths, num_classes, in_channels):
    super().__init__()
    self.depth = len(widths)
    channels = in_channels
    for i, width in enumerate(widths, start=1):
      self.add_module(f"encoder{i}", ConvBlock(channels, (width, width)))
      channels = width
    for i, width in zip(
      range(self.depth - 1, 0, -1), decoder_widths, strict=True
    ):
      channels += widths[i - 1]
      block = ConvBlock(channels, (channels // 2, width))
      self.add_module(f"decoder{i}", block)
      channels = width
    self.head = nn.Conv2d(channels, num_classes, 1)

  def stages(self, x):
    """Yields every level's name and map, in the order of computation."""
    skips = []
    for i in range(1, self.depth + 1):
      if i > 1:
        skips.append(x)
        x = functional.max_pool2d(x, 2)
      x = self.get_submodule(f"encoder{i}")(x)
      yield f"encoder{i}", x
    for i in range(self.depth - 1, 0, -1):
      x = functional.interpolate(x, scale_factor=2, mode="bilinear")
      x = torch.cat([skips[i - 1], x], dim=1)
      x = self.get_submodule(f"decoder{i}")(x)
      yield f"decoder{i}", x
    yield "head", self.head(x)


class Bottleneck(nn.Module):
  """ResNet's block of 1x1, 3x3 and 1x1 convolutions."""

  def __init__(self, channels, width, stride):
    super().__init__()
    self.conv1 = ConvNorm(channels, width, 1)
    self.conv2 = ConvNorm(width, width, 3, stride)
    self.conv3 = ConvNorm(width, 4 * width, 1)
    self.shortcut = nn.Identity()
    if stride > 1 or channels != 4 * width:
      self.shortcut = ConvNorm(channels, 4 * width, 1, stride)

  def forward(self, x):
    y = functional.relu(self.conv1(x), inplace=True)
    y = functional.relu(self.conv2(y), inplace=True)
    y = self.conv3(y) + self.shortcut(x)
    return functional.relu(y, inplace=True)


RESNETS = {
  "resnet50": (3, 4, 6, 3),
  "resnet101": (3, 4, 23, 3),
  "resnet152": (3, 8, 36, 3),
}


class MBConv(nn.Module):
  """EfficientNet-Lite's inverted residual."""

  def __init__(self, channels, width, kernel, stride, expand):
    super().__init__()
    wide = channels * expand
    self.expand = ConvNorm(channels, wide, 1, eps=1e-3) if expand > 1 else None
    self.depthwise = ConvNorm(
      wide, wide, kernel, stride, groups=wide, same=True, eps=1e-3
    )
    self.project = ConvNorm(wide, width, 1, eps=1e-3)
    self.residual = stride == 1 and channels == width

  def forward(self, x):
    y = functional.relu6(self.expand(x), inplace=True) if self.expand else x
    y = functional.relu6(self.depthwise(y), inplace=True)
    y = self.project(y)
    return x + y if self.residual else y


# Of levels 2 to 5 of EfficientNet-Lite0: width, kernel, first stride, expand,
# and how often.
LITE0 = {
  2: ((16, 3, 1, 1, 1), (24, 3, 2, 6, 2)),
  3: ((40, 5, 2, 6, 2),),
  4: ((80, 3, 2, 6, 3), (112, 5, 1, 6, 3)),
  5: ((192, 5, 2, 6, 4), (320, 3, 1, 6, 1)),
}


class Encoded(nn.Module):
  """What has an encoder of five levels, each of half the last one's side."""

  def __init__(self, encoder, in_channels):
    super().__init__()
    self.lite = encoder == "efficientnet-lite0"
    self.encoder1 = nn.Module()
    if self.lite:
      self.encoder1.conv1 = ConvNorm(in_channels, 32, 3, 2, same=True, eps=1e-3)
      channels, levels = 32, {i: self._lite(LITE0[i]) for i in range(2, 6)}
    else:
      self.encoder1.conv1 = ConvNorm(in_channels, 64, 7, 2)
      channels, counts = 64, RESNETS[encoder]
      levels = {i: self._resnet(i, counts[i - 2]) for i in range(2, 6)}
    self.widths = {1: channels}
    for i, blocks in levels.items():
      level = nn.Sequential()
      for j, (make, width) in enumerate(blocks, start=1):
        level.add_module(f"block{j}", make(channels))
        channels = width
      self.add_module(f"encoder{i}", level)
      self.widths[i] = channels

  @staticmethod
  def _lite(stages):
    """Makers of a level's blocks, from channels, and the blocks' widths."""
    for width, kernel, first, expand, count in stages:
      for j in range(count):
        shape = width, kernel, 1 if j else first, expand
        yield lambda channels, shape=shape: MBConv(channels, *shape), width

  @staticmethod
  def _resnet(i, count):
    """The same of bottlenecks."""
    for j in range(count):
      stride = 2 if j == 0 and i > 2 else 1
      yield (
        lambda channels, stride=stride: Bottleneck(
          channels, 2 ** (i + 4), stride
        ),
        2 ** (i + 6),
      )

  def encode(self, x):
    """Yields the five levels' maps."""
    x = self.encoder1.conv1(x)
    activate = functional.relu6 if self.lite else functional.relu
    x = activate(x, inplace=True)
    yield x
    for i in range(2, 6):
      if i == 2 and not self.lite:
        x = functional.max_pool2d(x, 3, 2, 1)
      x = self.get_submodule(f"encoder{i}")(x)
      yield x


class EncoderUNet(Encoded):
  """U-Net on an encoder: nearest up."""

  def __init__(self, encoder, decoder_widths, num_classes, in_channels):
    super().__init__(encoder, in_channels)
    channels = self.widths[5]
    for i, width in zip(range(4, -1, -1), decoder_widths, strict=True):
      channels += self.widths.get(i, 0)
      self.add_module(f"decoder{i}", ConvBlock(channels, (width, width)))
      channels = width
    self.head = nn.Conv2d(channels, num_classes, 3, padding=1)

  def stages(self, x):
    """Yields every level's name and map, in the order of computation."""
    skips = []
    for i, level in enumerate(self.encode(x), start=1):
      skips.append(level)
      yield f"encoder{i}", level
    x = skips[-1]
    for i in range(4, -1, -1):
      x = functional.interpolate(x, scale_factor=2)
      x = torch.cat([x, skips[i - 1]], dim=1) if i else x
      x = self.get_submodule(f"decoder{i}")(x)
      yield f"decoder{i}", x
    yield "head", self.head(x)


class UNetPlusPlus(Encoded):
  """U-Net++ on an encoder: nearest up, all nodes of a row kept."""

  def __init__(self, encoder, decoder_widths, num_classes, in_channels):
    super().__init__(encoder, in_channels)
    encoder_widths = self.widths
    rows = {i: [width] for i, width in encoder_widths.items()}
    for name, i, column in self.nodes():
      width = decoder_widths[4 - i] if name[0] == "d" else encoder_widths[i]
      channels = rows[i + 1][column - 1] + sum(rows[i])
      self.add_module(name, ConvBlock(channels, (width, width)))
      rows[i].append(width)
    width = decoder_widths[4]
    self.decoder0 = ConvBlock(rows[1][-1], (width, width))
    self.head = nn.Conv2d(width, num_classes, 3, padding=1)

  @staticmethod
  def nodes():
    """Name, row and column of the decoder's nodes, in order."""
    for column in range(1, 5):
      for i in range(5 - column, 0, -1):
        last = column == 5 - i
        yield f"decoder{i}" if last else f"nested{i}_{column}", i, column

  def stages(self, x):
    """Yields every level's name and map, in the order of computation."""
    rows = {}
    for i, level in enumerate(self.encode(x), start=1):
      rows[i] = [level]
      yield f"encoder{i}", level
    for name, i, column in self.nodes():
      x = functional.interpolate(rows[i + 1][column - 1], scale_factor=2)
      x = torch.cat([x, *reversed(rows[i])], dim=1)
      x = self.get_submodule(name)(x)
      rows[i].append(x)
      yield name, x
    x = self.decoder0(functional.interpolate(rows[1][-1], scale_factor=2))
    yield "decoder0", x
    yield "head", self.head(x)


# Torch's devices by JAX's platforms.
DEVICES = {"cpu": "cpu", "gpu": "cuda"}

NETWORKS = {
  "UNet": UNet,
  "EncoderUNet": EncoderUNet,
  "UNetPlusPlus": UNetPlusPlus,
}


class Regressor(nn.Module):
  """A student's map to the teacher's width."""

  def __init__(self, channels, width):
    super().__init__()
    self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
    self.conv2 = nn.Conv2d(channels, width, 1)

  def forward(self, x):
    return functional.relu(self.conv2(self.conv1(x)))


def make_network(spec):
  """The network that a config's `spec` describes."""
  attributes = dict(spec)
  attributes.pop("weights", None)  # The folder has all.
  return NETWORKS[attributes.pop("name")](**attributes)


def look(network, images, wanted):
  """The maps of the levels `wanted`, and nothing after the last of them."""
  maps = {}
  for name, x in network.stages(images):
    if name in wanted:
      maps[name] = x
    if len(maps) == len(wanted):
      return maps
  raise KeyError(f"no level {', '.join(wanted - set(maps))}")


# Our leaf and whether it is a buffer, to torch's.
LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def load(network, tensors, device):
  """Fills `network` from arrays by our paths; all of both are used."""
  state = {}
  for path, array in tensors.items():
    *place, leaf = path.split("/")
    if leaf == "kernel":  # HWIO to OIHW.
      array = array.transpose(3, 2, 0, 1)
    state[".".join([*place, LEAVES[leaf]])] = torch.from_numpy(array.copy())
  counters = {
    name: x
    for name, x in network.state_dict().items()
    if name.endswith("num_batches_tracked")
  }
  network.load_state_dict({**counters, **state})
  return network.to(device, memory_format=torch.channels_last)


def numbers(tensor):
  """An array of it, on the host."""
  return tensor.detach().cpu().numpy()


def ours(prefix, named):
  """Tensors by torch's names as arrays by our paths."""
  arrays = {}
  for name, tensor in named:
    *place, leaf = name.split(".")
    array = numbers(tensor)
    if array.ndim == 4:
      leaf, array = "kernel", array.transpose(2, 3, 1, 0)
    elif leaf == "weight":
      leaf = "scale"
    arrays["/".join([prefix, *place, leaf])] = np.ascontiguousarray(array)
  return arrays


def mse(student, teacher, temperature):
  """Mean squared difference."""
  del temperature
  return functional.mse_loss(student, teacher)


def kld(student, teacher, temperature):
  """KL(teacher || student) over channels, mean over positions and batch."""
  each = functional.kl_div(
    functional.log_softmax(student / temperature, dim=1),
    functional.log_softmax(teacher / temperature, dim=1),
    reduction="sum",
    log_target=True,
  )
  return temperature**2 * each * student.shape[1] / student.numel()


LOSSES = {"MSE": mse, "KLD": kld}


def align(student, teacher):
  """Resizes the finer of two maps to the coarser grid."""
  side = [
    min(x) for x in zip(student.shape[2:], teacher.shape[2:], strict=True)
  ]
  return [
    x
    if list(x.shape[2:]) == side
    # Not there in bfloat16.
    else functional.interpolate(
      x.float(), side, mode="bilinear", antialias=True
    )
    for x in (student, teacher)
  ]


def autocast(study):
  """The context in which it computes in its type of numbers."""
  return torch.autocast(
    DEVICES[study["platform"]],
    torch.bfloat16,
    enabled=study["dtype"] == "bfloat16",
  )


class Trainer:
  """One arm: a network of its own, and the teacher that all arms ask.

  Attributes:
    network: a student; of arm "Teacher" a teacher.
    regressors: by pair, "ours-theirs".
    done: steps.
  """

  def __init__(self, arm, study, weights, batches, teacher):
    self.arm = arm
    self.cast = autocast(study)
    self.batches = batches
    self.teacher = teacher
    self.done = 0
    device = DEVICES[study["platform"]]
    role = arm["role"]
    self.network = load(make_network(study[role]), weights[role], device)
    self.network.train()
    self.regressors = nn.ModuleDict()
    for student, theirs, _ in arm["pairs"] if arm["pathway"] == "HReg" else ():
      name = f"{student}-{theirs}"
      tensors = weights["regressors"][name]
      shape = tensors["conv2/kernel"].shape
      self.regressors[name] = load(Regressor(*shape[2:]), tensors, device)
    self.optimizer = torch.optim.AdamW(
      [*self.network.parameters(), *self.regressors.parameters()],
      lr=arm["learning_rate"],
      weight_decay=arm["weight_decay"],
      fused=True,
    )

  def losses(self):
    """Total, distillation and supervised loss of the next batch."""
    with self.cast:
      return self._losses()

  def _losses(self):
    batch = {name: x[self.done % len(x)] for name, x in self.batches.items()}
    pairs, view = self.arm["pairs"], self.arm["view"]
    images = batch["image" if self.arm["role"] == "student" else view]
    maps = look(self.network, images, {"head", *(pair[0] for pair in pairs)})
    sup = functional.cross_entropy(maps["head"], batch["mask"])
    if self.arm["pathway"] is None:
      return {"train": sup, "distill": torch.zeros_like(sup), "sup": sup}
    pairs = pairs or [("head", "head", 1.0)]
    with torch.inference_mode():
      answers = look(self.teacher, batch[view], {pair[1] for pair in pairs})
    # A clone, since what inference mode returns is refused by a loss.
    distill = sum(
      weight
      * self.compare(maps[student], answers[theirs].clone(), (student, theirs))
      for student, theirs, weight in pairs
    )
    alpha = self.arm["alpha"]
    total = (1.0 - alpha) * sup + alpha * distill
    return {"train": total, "distill": distill, "sup": sup}

  def compare(self, student, teacher, pair):
    """The arm's loss between two maps, as its pathway brings them together."""
    student, teacher = align(student, teacher)
    if self.arm["pathway"] == "H":  # One distribution over all positions.
      student, teacher = (
        x.mean(dim=1).flatten(1)[:, :, None, None] for x in (student, teacher)
      )
    elif self.arm["pathway"] == "HReg":
      student = self.regressors["-".join(pair)](student)
    return LOSSES[self.arm["loss"]](student, teacher, self.arm["temperature"])

  def step(self):
    """One step of training."""
    self.optimizer.zero_grad(set_to_none=True)
    self.losses()["train"].backward()
    self.optimizer.step()
    self.done += 1

  def read(self, pick=lambda x: x):
    """`pick` of every parameter, as arrays by our paths."""
    owners = {"student": self.network}
    for name, regressor in self.regressors.items():
      owners[f"regressors/{name}"] = regressor
    arrays = {}
    for prefix, owner in owners.items():
      named = ((name, pick(x)) for name, x in owner.named_parameters())
      arrays |= ours(prefix, named)
    return arrays

  def gradients(self):
    """Losses and gradients of the next step, by our paths."""
    self.optimizer.zero_grad(set_to_none=True)
    losses = self.losses()
    losses["train"].backward()
    scalars = {f"loss/{x}": numbers(y) for x, y in losses.items()}
    return {**scalars, **self.read(lambda x: x.grad)}


def tree(path):
  """An .npz whose names start with an owner, as a dict of dicts."""
  found = {}
  with np.load(path) as arrays:
    for name in arrays:
      owner, rest = name.split("/", 1)
      found.setdefault(owner, {})[rest] = arrays[name]
  return found


class Trainers(dict):
  """Every arm of a study, by name; "Teacher" once it is asked for."""

  def __init__(self, study, weights, batches, teacher):
    self._make = lambda arm: Trainer(arm, study, weights, batches, teacher)
    self._teacher = study["trained_teacher"]
    self._images = batches[self._teacher["view"]][0]
    self._answering, self._cast = teacher, autocast(study)
    super().__init__((x["name"], self._make(x)) for x in study["arms"])

  def __missing__(self, name):
    if name != self._teacher["name"]:
      raise KeyError(name)
    self[name] = self._make(self._teacher)
    return self[name]

  def ask(self):
    """Asks the teacher about a batch."""
    with torch.inference_mode(), self._cast:
      look(self._answering, self._images, {"head"})


def make_trainers(folder, study):
  """The `Trainers` of the `study` in `folder`."""
  device = DEVICES[study["platform"]]
  weights = tree(folder / "weights.npz")
  regressors = {}
  for name, array in weights.pop("regressors", {}).items():
    pair, rest = name.split("/", 1)
    regressors.setdefault(pair, {})[rest] = array
  weights["regressors"] = regressors
  with np.load(folder / "batches.npz") as arrays:
    batches = {
      name: torch.from_numpy(arrays[name]).to(device).long()
      if name == "mask"
      # Channels come last as they are; torch's axes do not.
      else torch.from_numpy(arrays[name]).to(device).permute(0, 1, 4, 2, 3)
      for name in arrays
    }
  teacher = load(
    make_network(study["teacher"]), weights["teacher"], device
  ).eval()
  for module in list(teacher.modules()):
    if isinstance(module, ConvNorm):
      module.fold()
  teacher.requires_grad_(False).to(memory_format=torch.channels_last)
  return Trainers(study, weights, batches, teacher)


def seconds(run, times):
  """Of one call of `run`, when it is called so often."""
  start = time.perf_counter()
  for _ in range(times):
    run()
  if torch.cuda.is_initialized():
    torch.cuda.synchronize()
  return (time.perf_counter() - start) / times


def answer(trainers, command, name="", rest=""):
  """What to print for a line of the input."""
  on_gpu = torch.cuda.is_initialized()
  if command == "step":
    return seconds(trainers[name].step, int(rest))
  if command == "answer":
    return seconds(trainers.ask, int(name))
  if command == "gradients":
    np.savez(rest, **trainers[name].gradients())
    return rest
  if command == "parameters":
    np.savez(rest, **trainers[name].read())
    return rest
  if command == "peak" and on_gpu:
    return torch.cuda.max_memory_allocated()
  if command == "peak":
    # Linux counts in kilobytes.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  raise ValueError(f"no command {command!r}")


def main(folder):
  """Answers until the input ends."""
  memory.keep()
  folder = pathlib.Path(folder)
  study = json.loads((folder / "study.json").read_text())
  torch.set_num_threads(study["threads"])
  trainers = make_trainers(folder, study)
  if torch.cuda.is_initialized():
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's.
  print("ready", flush=True)
  for line in sys.stdin:
    print(answer(trainers, *line.strip().split(maxsplit=2)), flush=True)


if __name__ == "__main__":
  main(sys.argv[1])
