"""What masks show beside the background, and which of their values mean it."""

import dataclasses
import re

import numpy as np
import PIL.Image

from kdjax.errors import UserError

BACKGROUND = "background"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_MOST = 255  # Of regions: a mask's class is a byte.
_HOW = (
  "name regions as lesion,cyst in the order of their numbers, or with what "
  "stands for them in masks, as lesion=1,cyst=4 or lesion=#ff0000,cyst=#00ff00"
)


@dataclasses.dataclass(frozen=True)
class Regions:
  """The classes of a mask's pixels: the background, which is 0, and regions.

  Attributes:
    names: of the regions in order; the class of `names[i]` is i + 1.
    table: from a mask's value to its class: numbers, or colours `(r, g, b)`;
      empty where the larger of two values is the region, see `masks.read`.
  """

  names: tuple[str, ...] = ("lesion",)
  table: tuple[tuple[int | tuple[int, int, int], int], ...] = ()

  @property
  def classes(self):
    """How many classes there are, the background with them."""
    return len(self.names) + 1

  @property
  def coloured(self):
    """Whether colours stand for classes, rather than numbers."""
    return any(isinstance(value, tuple) for value, _ in self.table)

  @property
  def key(self):
    """What a cache of prepared masks is called by; "" as it always was."""
    return repr((self.names, self.table)) if self != LESION else ""


LESION = Regions()  # What two-valued masks show.


def make(entries):
  """The regions of `data.regions`.

  An entry is a name, whose number in masks is its place, from 1; or a name and
  what stands for it, `name=3` or `name=#ff0000`, where a name may come again
  for another value. The background is 0, or black, unless entries give it
  values of its own. A single name alone is what two-valued masks show.

  Args:
    entries: words.

  Raises:
    UserError: names the entry that is no such thing, or stands twice.
  """
  names, table = [], {}
  for place, entry in enumerate(entries, start=1):
    name, given, value = map(str.strip, entry.partition("="))
    if not _NAME.fullmatch(name) or bool(given) != bool(value):
      raise UserError(f"data.regions: {entry!r} names nothing: {_HOW}")
    value = _value(entry, value) if given else place
    if value in table:
      raise UserError(
        f"data.regions: {entry!r} and {table[value]} have one value: {_HOW}"
      )
    if not given and name in names:
      raise UserError(f"data.regions: {name} is there twice: {_HOW}")
    table[value] = name
    if name != BACKGROUND and name not in names:
      names.append(name)
  if not 0 < len(names) <= _MOST:
    raise UserError(f"data.regions has {len(names)} regions: {_HOW}")
  return _checked(entries, tuple(names), table)


def _checked(entries, names, table):
  """The `Regions`, once their values are known to go together."""
  kinds = {isinstance(value, tuple) for value in table}
  given = {"=" in entry for entry in entries}
  if len(kinds) > 1 or len(given) > 1:
    raise UserError(
      f"data.regions={','.join(entries)}: places, numbers and colours do not "
      f"go together: {_HOW}"
    )
  if given == {False} and len(names) == 1:
    return Regions(names)
  if BACKGROUND not in table.values():
    nothing = (0, 0, 0) if kinds == {True} else 0
    if nothing in table:
      raise UserError(
        f"data.regions: {table[nothing]} has the background's value: add "
        f"{BACKGROUND}=VALUE, or give it another"
      )
    table = {nothing: BACKGROUND, **table}
  numbers = {name: i for i, name in enumerate((BACKGROUND, *names))}
  return Regions(names, tuple((x, numbers[name]) for x, name in table.items()))


def _value(entry, text):
  """A number or a colour `(r, g, b)`."""
  if re.fullmatch(r"\d{1,5}", text):
    return int(text)
  if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
    return tuple(bytes.fromhex(text[1:]))
  raise UserError(
    f"data.regions: {entry!r} has neither a number nor a colour: {_HOW}"
  )


def several(names):
  """`names` if there are several, else none: of one all is said already."""
  return tuple(names) if len(names) > 1 else ()


def classify(where, values, regions):
  """The classes of a mask's values, uint8 `[h, w]`.

  Args:
    where: what the mask is called in an error.
    values: whole numbers `[h, w]` or, where `regions` are `coloured`,
      `[h, w, 3]`.
    regions: `Regions` with a table.

  Raises:
    UserError: a pixel has a value that the table has not.
  """
  values = np.asarray(values)
  if regions.coloured:
    values = values.astype(np.int64) @ (1 << 16, 1 << 8, 1)  # [h, w]
  code = lambda x: (
    (x[0] << 16) + (x[1] << 8) + x[2] if isinstance(x, tuple) else x
  )
  found = np.zeros(values.shape, np.uint8)
  known = np.zeros(values.shape, bool)
  for value, number in regions.table:
    here = values == code(value)
    found[here] = number
    known |= here
  if not known.all():
    other = int(values[~known][0])
    said = f"#{other:06x}" if regions.coloured else other
    raise UserError(
      f"{where}: {np.mean(~known):.2%} of its pixels have values that "
      f"data.regions does not name, such as {said}: name them, as "
      f"{BACKGROUND}={said} if nothing is there"
    )
  return found


def resize(classes, count, size):
  """The class of the most of each pixel's area, uint8 of another size.

  Of two classes the region needs more than half; the lower class has a tie.

  Args:
    classes: uint8 `[h, w]`.
    count: of classes.
    size: `(H, W)`.
  """
  height, width = size

  def area(number):
    image = PIL.Image.fromarray((classes == number).astype(np.float32))
    return image.resize((width, height), PIL.Image.Resampling.BOX)

  areas = np.stack([np.asarray(area(x)) for x in range(1, count)])
  # What regions leave, so that of two classes half is compared with half.
  areas = np.concatenate([1 - areas.sum(axis=0, keepdims=True), areas])
  return np.argmax(areas, axis=0).astype(np.uint8)
