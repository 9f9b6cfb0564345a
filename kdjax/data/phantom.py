"""Synthetic breast ultrasound: a small B-mode simulator and its data set.

A case is painted as maps of tissue properties; speckle, shadows, enhancement
and bright interfaces then follow from the physics and are never drawn.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.special import expit
import tensorflow_datasets as tfds

from kdjax.data import images

# What a tissue is made of: echogenicity [dB re gland], attenuation
# [dB / cm / MHz] and impedance [MRayl]. The last two after Duck, Physical
# Properties of Tissue (1990), rounded; echogenicity is set by eye.
TISSUES = {
  "skin": (2, 1.5, 1.68),
  "fat": (-10, 0.5, 1.40),
  "gland": (0, 0.8, 1.55),
  "muscle": (-13, 1.0, 1.63),
  "ligament": (5, 1.5, 1.70),
  "hypoechoic": (-14, 1.4, 1.60),
  "isoechoic": (-9, 0.8, 1.54),  # As dark as fat, that is.
  "cyst": (-40, 0.1, 1.51),
}
KINDS = {"hypoechoic": 0.45, "isoechoic": 0.4, "cyst": 0.15}  # Their shares.

FREQUENCY = 8.0  # Centre of the pulse, MHz.
PULSE = 0.12  # Axial standard deviation, mm; the bandwidth sets it.
BEAM = 0.2  # Lateral standard deviation at the focus, mm.
RAYLEIGH = 9.0  # Distance from the focus where the beam is sqrt(2) wider, mm.
LOOKS = 3  # Views of independent speckle that are averaged (compounding).
SPECULAR = 22.0  # Echo of an interface per relative step of impedance.
NOISE = -75.0  # Of the electronics, before any gain, dB re gland.


def field(rng, shape, scale):
  """Smooth noise `[H, W]` of mean 0, variance 1; `scale` is (z, x) in px."""
  noise = np.fft.rfft2(rng.standard_normal(shape, np.float32))
  noise = ndimage.fourier_gaussian(noise, scale, n=shape[1])
  noise[0, 0] = 0
  noise = np.fft.irfft2(noise, shape)
  return noise / noise.std()


def envelope(scatterers, pixel, focus):
  """What the transducer hears of complex `scatterers`, `[..., H, W]` to same.

  At baseband the modulated pulse is a Gaussian along the depth, of constant
  length, and the beam a Gaussian across it that widens away from the focus.
  Both have unit energy, so that white scatterers of unit variance have a mean
  square of 1 at any depth: Rayleigh speckle, whose mean is 1.91 standard
  deviations (Burckhardt 1978; Wagner et al. 1983).

  Args:
    scatterers: complex amplitudes; the mean square is the echogenicity.
    pixel: side of a pixel, mm.
    focus: depth of the focus, mm.
  """
  height, width = scatterers.shape[-2:]
  margin = 24  # The FFT is periodic; mirrored tissue hides it.
  edges = [(0, 0)] * (scatterers.ndim - 1) + [(margin, margin)]
  padded = np.pad(scatterers, edges, mode="reflect")
  depth = (np.arange(height)[:, None] + 0.5) * pixel  # [H, 1]
  sigma = BEAM / pixel * np.sqrt(1 + ((depth - focus) / RAYLEIGH) ** 2)
  k = 2 * np.pi * np.fft.fftfreq(width + 2 * margin)  # [W']
  beam = np.exp(-0.5 * (k * sigma) ** 2)  # [H, W']
  beam /= np.sqrt(np.mean(beam**2, axis=1, keepdims=True))
  beam = beam.astype(scatterers.real.dtype)
  echo = np.fft.ifft(np.fft.fft(padded) * beam)[..., margin:-margin]
  reach = np.arange(-4, 5) * pixel / PULSE
  pulse = np.exp(-0.5 * reach**2)
  pulse /= np.linalg.norm(pulse)
  return np.abs(ndimage.convolve1d(echo, pulse, axis=-2, mode="reflect"))


def two_way_loss(attenuation, pixel):
  """Echo lost on the way down and back, dB, `[H, W]` in dB / cm / MHz to same.

  The aperture sees around small obstacles, hence the blur across the beam.
  """
  per_pixel = 2 * FREQUENCY * attenuation * pixel / 10
  return ndimage.gaussian_filter1d(np.cumsum(per_pixel, 0), 0.6 / pixel, axis=1)


def lesion(rng, kind, shape):
  """Where the lesion is, `[H, W]`: 0 outside, 1 inside, soft between.

  An ellipse whose radius is modulated by a Fourier series over the angle: a
  few gentle harmonics if benign, lobes and spicules if hypoechoic.
  """
  height, width = shape
  malignant = kind == "hypoechoic"
  area = np.clip(0.045 * np.exp(0.9 * rng.standard_normal()), 0.006, 0.17)
  flatness = rng.uniform(0.75, 1.25) if malignant else rng.uniform(1.1, 2.0)
  radius = np.sqrt(area * height * width / np.pi)
  half_height = radius / flatness**0.5
  half_width = min(radius * flatness**0.5, 0.4 * width)
  z0 = rng.uniform(0.25 * height, 0.65 * height)
  z0 = np.clip(z0, half_height + 0.1 * height, 0.95 * height - half_height)
  x0 = rng.uniform(0.9 * half_width, width - 0.9 * half_width)

  z, x = np.ogrid[:height, :width]
  tilt = rng.uniform(-0.35, 0.35)
  u = ((x - x0) * np.cos(tilt) + (z - z0) * np.sin(tilt)) / half_width
  v = ((z - z0) * np.cos(tilt) - (x - x0) * np.sin(tilt)) / half_height
  angle = np.arctan2(v, u)
  border = np.ones(shape)
  for harmonic in range(2, 16 if malignant else 5):
    size = 0.5 * harmonic**-1.5 if malignant else 0.15 / harmonic
    phase = rng.uniform(0, 2 * np.pi)
    border += size * rng.standard_normal() * np.cos(harmonic * angle + phase)
  for _ in range(rng.integers(0, 4) if malignant else 0):
    away = np.angle(np.exp(1j * (angle - rng.uniform(-np.pi, np.pi))))
    border += rng.uniform(0.1, 0.4) * np.exp(-0.5 * (away / 0.12) ** 2)
  softness = rng.uniform(0.1, 0.4) if malignant else rng.uniform(0.03, 0.12)
  return expit(4 / softness * (border.clip(0.4) - np.hypot(u, v)))


def anatomy(rng, kind, shape, pixel, cysts=None):
  """Maps of the columns of TISSUES, `[3, H, W]`, and the mask, `[H, W]`.

  The mask is 1 in the lesion. With `cysts`, a random generator of its own, it
  is 2 in cysts, the lesion's kind or a second finding beside it, which is
  there in two of three cases.
  """
  mm = 1 / pixel
  z, x = np.indices(shape)
  depth = shape[0] * pixel
  tissue = {name: np.array(row, float) for name, row in TISSUES.items()}
  for properties in tissue.values():
    properties[0] += rng.standard_normal()
  maps = np.ones((3, *shape)) * tissue["fat"][:, None, None]

  def paint(name, weight):
    maps[:] += weight * (tissue[name][:, None, None] - maps)

  def below(surface, roughness):
    surface = surface + roughness * field(rng, (1, shape[1]), (0, 5 * mm))
    return expit(8 * (z * pixel - surface))

  def web(scale, thickness):
    """Thin curved sheets: where a smooth field is near zero."""
    return np.exp(-0.5 * (field(rng, shape, scale) / thickness) ** 2)

  gland = below(rng.uniform(0.12, 0.38) * depth, 0.04 * depth)
  muscle = below(rng.uniform(0.65, 1.0) * depth, 0.02 * depth)
  paint("ligament", 0.7 * web((1.5 * mm, 4 * mm), 0.05))
  paint("gland", gland)
  # Fat within the gland is as dark and as round as a lesion, but is not one.
  lobules = field(rng, shape, (1.6 * mm, 2.4 * mm)) - rng.uniform(0.2, 1.2)
  paint("fat", gland * expit(8 * lobules))
  paint("ligament", 0.5 * gland * web((0.7 * mm, 3 * mm), 0.05))
  paint("muscle", muscle)
  paint("ligament", 0.8 * muscle * web((0.7 * mm, 6 * mm), 0.08))
  maps[0] += 2.5 * field(rng, shape, (0.25 * mm, 0.9 * mm))
  maps[0] += 3 * field(rng, shape, (0.9 * mm, 3 * mm))
  fold = 0.7 * mm * field(rng, shape, (6 * mm, 4 * mm))
  maps = maps[:, np.clip(z + fold.astype(int), 0, shape[0] - 1), x]

  inside = lesion(rng, kind, shape)
  tissue[kind][0] += rng.uniform(-4, 4)
  tissue[kind][1] *= rng.uniform(0.6, 1.4)
  paint(kind, inside)
  if kind != "cyst":  # Fluid is homogeneous.
    maps[0] += 2.5 * inside * field(rng, shape, (0.8 * mm, 0.8 * mm))
  mask = (inside > 0.5).astype(np.uint8)
  if cysts is not None:
    mask *= 1 + (kind == "cyst")
    if cysts.random() < 2 / 3:
      fluid = lesion(cysts, "cyst", shape) * (1 - inside)
      paint("cyst", fluid)
      mask[fluid > 0.5] = 2
  paint("skin", 1 - below(rng.uniform(1.2, 2.5), 0.1))
  # Ligaments met edge-on attenuate: shadows without a lesion above them.
  edge_on = field(rng, (1, shape[1]), (0, 2.5 * mm)) - rng.uniform(0, 1.5)
  maps[1] += 0.6 * gland * (1 - muscle) * np.maximum(edge_on, 0)
  return maps, mask


def simulate(seed, index, cysts=False):
  """Case `index` of the data set that `seed` names: (image, mask, kind).

  Depends on (seed, index) and `cysts` alone. The image is uint8 `[H, W]`, H in
  160..224 and W in 208..256, of 30 to 42 mm depth and square pixels; the mask
  is uint8 `[H, W]`, 1 in the lesion, 0.5 % to 20 % of it; with `cysts` 2 in
  cysts, see `anatomy`; the kind is one of KINDS.
  """
  rng = np.random.default_rng([seed, index])
  others = np.random.default_rng([seed, index, 1]) if cysts else None
  # Multiples of 8 keep the FFTs fast.
  shape = 8 * int(rng.integers(20, 29)), 8 * int(rng.integers(26, 33))
  kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
  pixel = rng.uniform(30, 42) / shape[0]  # mm
  (echo, attenuation, impedance), mask = anatomy(
    rng, kind, shape, pixel, others
  )

  # Time gain makes up for an average breast, not for this one; nor does the
  # probe touch the skin equally well everywhere.
  centimetres = (np.arange(shape[0])[:, None] + 0.5) * pixel / 10  # [H, 1]
  gain = 2 * FREQUENCY * rng.uniform(0.35, 0.7) * centimetres
  contact = 2 * field(rng, (1, shape[1]), (0, 6 / pixel))
  level = gain + contact - two_way_loss(attenuation, pixel)  # [H, W], dB

  # Electronic noise is as white as scatterers are: one draw serves both.
  power = 10 ** ((echo + level) / 10) + 10 ** ((NOISE + gain) / 10)
  draw = rng.standard_normal((LOOKS, shape[0], 2 * shape[1]), np.float32)
  diffuse = draw.view(np.complex64) * np.sqrt(power / 2)
  # An interface mirrors the beam where it faces it: a step along the depth.
  step = np.gradient(np.log(impedance), axis=0)
  rough = field(rng, shape, (0.4, 1.2 / pixel))
  specular = SPECULAR * step * rough * 10 ** (level / 20)
  scatterers = (diffuse + specular).astype(np.complex64)
  looks = envelope(scatterers, pixel, focus=rng.uniform(12, 26))

  decibel = 10 * np.log10(np.mean(looks**2, axis=0) + 1e-12)
  white = np.percentile(decibel, 99.3) + rng.uniform(5, 11)
  black = white - rng.uniform(48, 58)
  image = np.clip(255 * (decibel - black) / (white - black), 0, 255)
  return image.astype(np.uint8), mask, kind


@dataclasses.dataclass(eq=False)
class PhantomConfig(tfds.core.BuilderConfig):
  """How many cases, and which: each choice has a directory of its own."""

  name: str = ""  # Follows from the rest.
  num_cases: int = 163
  seed: int = 0
  cysts: bool = False  # Whether masks tell them from lesions, see `anatomy`.

  def __post_init__(self):
    kind = "_cysts" if self.cysts else ""
    self.name = f"cases{self.num_cases}_seed{self.seed}{kind}"


class Phantom(tfds.core.GeneratorBasedBuilder):
  """The phantom as a data set: one split, every case a group of its own.

  Images and masks, classes evenly from 0 to 255, are greyscale PNG; `label` is
  the lesion's kind.
  """

  # Goes up when `simulate` changes: what was prepared before is then stale.
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    picture = lambda: tfds.features.Image(
      shape=(None, None, 1), dtype=np.uint8, encoding_format="png"
    )
    return self.dataset_info_from_configs(
      description="Synthetic breast ultrasound with lesion masks.",
      features=tfds.features.FeaturesDict(
        {
          "name": tfds.features.Text(),
          "label": tfds.features.Text(),
          "group": tfds.features.Text(),
          "image": picture(),
          "mask": picture(),
        }
      ),
      disable_shuffling=True,  # Keeps the cases in order.
    )

  def _split_generators(self, dl_manager):
    # TFDS reserves "all" for reading; it names the union, so this one split.
    return {"cases": self._generate_examples()}

  def _generate_examples(self):
    config = self.builder_config
    for index in range(config.num_cases):
      image, mask, kind = simulate(config.seed, index, config.cysts)
      name = f"phantom_{index:03d}"
      yield (
        index,
        {
          "name": name,
          "label": kind,
          "group": name,
          "image": images.png(image),
          "mask": images.png(mask * (255 // (1 + config.cysts))),
        },
      )
