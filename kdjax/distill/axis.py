"""What the declaration of an axis says, and what it leaves unsaid."""

from collections.abc import Callable
import dataclasses
from typing import Any

from kdjax import fields


def _by_all(pathway, loss):
  """Read by every arm, Students too."""
  del pathway, loss
  return True


@dataclasses.dataclass(frozen=True)
class Axis:
  """An axis of the grid.

  Attributes:
    name: the field of `config.grid`; its value is a tuple.
    field: what each value is.
    question: what the page asks where the axis has more than one value.
    read_by: from a pathway and a loss, None for a Student's, to whether such
      an arm reads the axis. What an arm does not read does not multiply it.
    suffix: how a value is written at the end of an arm's name.
    always_shown: whether it is there when the axis has one value, too.
    unread: of an axis of numbers, which a program maps over: the number of an
      arm that does not read it. None for an axis of names.
    objection: from a value to what is wrong with it, said behind the axis'
      name, or None.
    word: from an arm to the value's word; None for numbers, which the arm has.
    by_authors: whether an arm that is weighted as its loss's authors do has
      it from them.
    compresses: whether it makes a network smaller, which costs quality: what a
      search would put at one end always, and a Teacher is trained without.
  """

  name: str
  field: fields.Field
  question: str
  read_by: Callable[[str | None, str | None], bool] = _by_all
  suffix: Callable[[Any], str] = "_{:g}".format
  always_shown: bool = False
  unread: float | None = None
  objection: Callable[[Any], str | None] = lambda value: None
  word: Callable | None = None
  by_authors: bool = False
  compresses: bool = False
