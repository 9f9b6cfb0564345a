"""Reads images of any common format, and resizes as the networks need it.

Free of JAX, since a device that only predicts reads its images here too.
"""

import io
import pathlib
import warnings

import numpy as np
import PIL.ExifTags
import PIL.Image

from kdjax.errors import UserError

FORMATS = {
  ".png": "PNG",
  ".jpg": "JPEG",
  ".jpeg": "JPEG",
  ".bmp": "BMP",
  ".tif": "TIFF",
  ".tiff": "TIFF",
}
_MAX_PIXELS = 64 * 2**20


def read_image(path, channels=1):
  """The image at `path`, uint8, 0 to 255, `[H, W]` or `[H, W, 3]`.

  Palettes become their colours; what is transparent shows black; 16-bit
  greyscale is divided by 257 and rounded.

  Args:
    path: of the file.
    channels: 1, where colours become their luma, or 3, RGB, where grey is
      repeated.

  Raises:
    UserError: not an image of the format that its ending names, truncated,
      of several frames, turned by an EXIF tag, of more than 64 megapixels, or
      of 32 bits.
  """
  pixels = _decode(pathlib.Path(path), "L" if channels == 1 else "RGB")
  if pixels.dtype == np.uint16:
    pixels = np.rint(pixels / 257).astype(np.uint8)
  return coloured(pixels) if channels == 3 else pixels


def coloured(pixels):
  """RGB of what may be grey: `[H, W]` or `[H, W, 3]` to `[H, W, 3]`."""
  if pixels.ndim == 3:
    return pixels
  return np.repeat(pixels[..., None], 3, axis=-1)


def read_grey(path):
  """Decodes greyscale `[H, W]`: uint16 as stored if that deep, else uint8."""
  return _decode(path, "L")


def read_numbers(path):
  """Whole numbers `[H, W]` as stored: grey of 8 or 16 bits, or of a palette.

  Raises:
    UserError: as of `read_image`; or the file holds colours.
  """
  return _decode(path, "P")


def _decode(path, mode):
  """The pixels of a file in one of Pillow's modes, "L", "RGB" or "P".

  Greyscale that is 16 bits deep stays so, uint16 `[H, W]`. "P" is numbers: of
  a palette the places, else grey.
  """
  kind = FORMATS.get(path.suffix.lower())
  if kind is None:
    raise UserError(f"{path}: not a PNG, JPEG, BMP or TIFF file; convert it")
  if path.exists() and not path.is_file():  # A pipe would be waited for.
    raise UserError(f"{path}: not a file; name an image")
  limit = f"{path}: more than {_MAX_PIXELS >> 20} megapixels; shrink it"
  try:
    with warnings.catch_warnings():
      # Pillow only warns of sizes that are far beyond any ultrasound image.
      warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
      # Of odd tags and chunks too, which do not touch the pixels.
      warnings.simplefilter("ignore", UserWarning)
      with PIL.Image.open(path, formats=[kind]) as image:
        if image.width * image.height > _MAX_PIXELS:
          raise UserError(limit)
        if not image.width * image.height:
          raise UserError(f"{path}: it has no pixels; export it again")
        if (frames := getattr(image, "n_frames", 1)) > 1:
          raise UserError(f"{path}: {frames} frames; keep one of them")
        image.load()
        if image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1:
          # Some tools turn it, some do not: the mask may be either way up.
          raise UserError(f"{path}: turned by an EXIF tag; save it upright")
        return _pixels(path, image, mode)
  except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
    raise UserError(limit) from None
  except UserError:
    raise
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(f"{path}: no such file; check the name") from None
  except Exception as error:  # Decoders raise whatever a broken file provokes.
    raise UserError(
      f"{path}: not a readable {kind} file, or cut short; export it again"
    ) from error


def _pixels(path, image, mode):
  """The pixels of a loaded PIL image; see `_decode`."""
  if image.mode.startswith("I;16"):
    return np.asarray(image).astype(np.uint16)
  if image.mode in ("I", "F"):
    raise UserError(f"{path}: 32 bits a pixel; export it with 8 or 16")
  if mode == "P":
    if image.mode in ("P", "L", "1"):
      return np.asarray(image).astype(np.uint8)
    colours = np.asarray(image.convert("RGB"))
    if np.ptp(colours.astype(int), axis=-1).any():
      raise UserError(
        f"{path}: colours, where data.regions has numbers; name the colours, "
        "as lesion=#ff0000"
      )
    return colours[..., 0]
  if image.has_transparency_data:
    image = image.convert("RGBA")
    black = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
    image = PIL.Image.alpha_composite(black, image)
  return np.asarray(image.convert(mode))


def squeeze(image, side):
  """Resizes uint8 `[h, w]` or `[h, w, 3]` to `side`; no aspect is kept.

  Bilinear, widened where the image is the larger one so that every pixel
  counts.
  """
  image = PIL.Image.fromarray(image)
  return np.asarray(image.resize((side, side), PIL.Image.Resampling.BILINEAR))


def upsample(margin, size):
  """Resizes a network's margins to its mask, to float32 `[h, w]`.

  Bilinear with half-pixel centres; where the mask is the smaller one, the
  triangle is widened so that no pixel of the margin is skipped. The margin is
  resized and not the decision, since that keeps the border's position between
  the network's pixels.

  Args:
    margin: a region's logit minus the background's, `[S, S]`; or of several
      regions, `[S, S, R]` to `[h, w, R]`.
    size: `(h, w)` of the original mask.
  """
  if np.ndim(margin) == 3:
    each = np.moveaxis(np.asarray(margin), -1, 0)
    return np.stack([upsample(x, size) for x in each], axis=-1)
  height, width = size
  image = PIL.Image.fromarray(np.ascontiguousarray(margin, np.float32))
  resized = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
  return np.asarray(resized)


def decide(margin):
  """The class of each pixel, uint8 `[h, w]`: 0 is the background.

  That of the largest logit; the first of equal ones. What is not a number
  predicts nothing.

  Args:
    margin: `[h, w]`, or `[h, w, R]` of several regions.
  """
  margin = np.asarray(margin)
  if margin.ndim == 2:
    return (margin > 0).astype(np.uint8)
  margin = np.where(np.isnan(margin), -np.inf, margin)
  best = np.argmax(margin, axis=-1)
  highest = np.max(margin, axis=-1)
  return np.where(highest > 0, best + 1, 0).astype(np.uint8)


def png(pixels):
  """Encodes uint8 `[H, W]` or `[H, W, 3]` as PNG, a file object for TFDS."""
  file = io.BytesIO()
  # The cache may be a little larger; preparing takes half as long.
  PIL.Image.fromarray(pixels).save(file, "PNG", compress_level=1)
  file.seek(0)
  return file
