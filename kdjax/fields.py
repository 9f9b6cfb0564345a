"""A field of a config: what it is, and what values it takes."""

import math
import textwrap
from typing import NamedTuple

from kdjax.errors import UserError


class Field(NamedTuple):
  """A field.

  Attributes:
    about: what it is.
    kind: of its value: str, bool, int, float, or object for what others check.
    low: the smallest number it may be.
    high: the largest.
    many: whether it is a tuple of such values.
  """

  about: str
  kind: type = object
  low: float = -math.inf
  high: float = math.inf
  many: bool = False


def check(value, field, name):
  """Holds a value against its `Field`.

  Args:
    value: from a config.
    field: what it should be.
    name: of the field, with where it comes from.

  Raises:
    UserError: it is of another kind, not finite, or out of range.
  """
  if field.many and not isinstance(value, (tuple, list)):
    raise UserError(f"{name}={_short(value)}: it takes a tuple.")
  for one in value if field.many else (value,):
    if not _fits(one, field.kind):
      raise UserError(
        f"{name}: it takes {field.kind.__name__}, not {_short(one)}."
      )
    if field.kind is str and not one.isprintable():
      raise UserError(f"{name}={_short(one)}: it has unprintable characters.")
    if field.kind in (int, float) and not (
      math.isfinite(one) and field.low <= one <= field.high
    ):
      raise UserError(f"{name}={_short(one)}: {_range(field)}.")


def described(known, prefix=""):
  """What fields take and what they are, as lines of text.

  Args:
    known: from name to `Field`, or to such a dict of a group.
    prefix: of the names.
  """
  lines = []
  for name, field in known.items():
    if isinstance(field, dict):
      lines += described(field, f"{prefix}{name}.")
      continue
    takes = "" if field.kind is object else field.kind.__name__
    takes = f"tuple of {takes or 'values'}" if field.many else takes
    if math.isfinite(field.low):
      takes += f", {_range(field)}"
    lines.append(f"{prefix}{name}" + (f"  ({takes})" if takes else ""))
    lines += textwrap.wrap(
      field.about, initial_indent="    ", subsequent_indent="    "
    )
  return lines


def _fits(value, kind):
  if kind in (int, float) and isinstance(value, bool):
    return False
  return isinstance(value, (int, float) if kind is float else kind)


def _range(field):
  if not math.isfinite(field.low):
    return "it takes a finite number"
  if not math.isfinite(field.high):
    return f"at least {field.low:g}, and finite"
  return f"at least {field.low:g}, at most {field.high:,}"


def _short(value):
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:77]}..."
