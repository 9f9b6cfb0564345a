"""A U-Net on a ResNet-18 in PyTorch, named as segmentation_models_pytorch does.

  python smp_unet.py DATA.npz CLASSES OUT.pth MARGINS.npy

trains it for a few steps on `images` and `masks` `[N, S, S]` of DATA.npz, and
writes its state dict, and what it then says of every image: the lesion's logit
minus the background's, or its only logit where CLASSES is 1.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Basic(nn.Module):
  """ResNet's block of two 3x3 convolutions."""

  def __init__(self, before, width, stride):
    super().__init__()
    self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.downsample = None
    if stride > 1 or before != width:
      shortcut = nn.Conv2d(before, width, 1, stride, bias=False)
      self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

  def forward(self, x):
    """From a map to a map."""
    y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
    return functional.relu(y + (self.downsample(x) if self.downsample else x))


class Encoder(nn.Module):
  """ResNet-18 without its head."""

  def __init__(self):
    super().__init__()
    self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(64)
    before = 64
    for i, width in enumerate((64, 128, 256, 512), start=1):
      first = Basic(before, width, 1 if i == 1 else 2)
      setattr(self, f"layer{i}", nn.Sequential(first, Basic(width, width, 1)))
      before = width

  def forward(self, x):
    """From images to maps of 1/2 to 1/32 of their side."""
    found = [functional.relu(self.bn1(self.conv1(x)))]
    x = functional.max_pool2d(found[0], 3, 2, 1)
    for i in range(1, 5):
      x = getattr(self, f"layer{i}")(x)
      found.append(x)
    return found


def convolve(before, width):
  """3x3, BatchNorm, ReLU."""
  conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
  return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


class Stage(nn.Module):
  """A decoder's stage: twice the side, a skip, two convolutions."""

  def __init__(self, before, skip, width):
    super().__init__()
    self.conv1 = convolve(before + skip, width)
    self.conv2 = convolve(width, width)

  def forward(self, x, *skips):
    """From a map, and perhaps one of twice its side, to a map."""
    x = functional.interpolate(x, scale_factor=2, mode="nearest")
    return self.conv2(self.conv1(torch.cat([x, *skips], dim=1)))


class Decoder(nn.Module):
  """The five stages."""

  def __init__(self):
    super().__init__()
    before, skips = 512, (256, 128, 64, 64, 0)
    stages = []
    for skip, width in zip(skips, (256, 128, 64, 32, 16), strict=True):
      stages.append(Stage(before, skip, width))
      before = width
    self.blocks = nn.ModuleList(stages)

  def forward(self, found):
    """From the encoder's maps to one of the image's side."""
    x, skips = found[-1], [[y] for y in found[-2::-1]] + [[]]
    for stage, skip in zip(self.blocks, skips, strict=True):
      x = stage(x, *skip)
    return x


class Unet(nn.Module):
  """Images `[B, 3, H, W]` to logits `[B, classes, H, W]`."""

  def __init__(self, classes):
    super().__init__()
    self.encoder = Encoder()
    self.decoder = Decoder()
    self.segmentation_head = nn.Sequential(nn.Conv2d(16, classes, 3, padding=1))

  def forward(self, x):
    """See the class."""
    return self.segmentation_head(self.decoder(self.encoder(x)))


def main(data, classes, out, margins):
  """See the module."""
  torch.manual_seed(0)
  with np.load(data) as found:
    images = torch.tensor(found["images"]).float()[:, None] / 255
    masks = torch.tensor(found["masks"]).long()
  mean, deviation = (torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
  images = (images.expand(-1, 3, -1, -1) - mean) / deviation
  network = Unet(int(classes))
  optimizer = torch.optim.Adam(network.parameters(), 1e-3)

  def say(x):
    logits = network(x)
    return logits[:, -1] - (logits[:, 0] if int(classes) > 1 else 0)

  for step in range(30):
    batch = torch.arange(8 * step, 8 * step + 8) % len(images)
    loss = functional.binary_cross_entropy_with_logits(
      say(images[batch]), masks[batch].float()
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
  torch.save(network.state_dict(), out)
  network.eval()
  with torch.no_grad():
    np.save(margins, say(images).numpy())


if __name__ == "__main__":
  main(*sys.argv[1:])
