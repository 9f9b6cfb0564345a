"""Pairs of levels: what of the student is held against what of the teacher."""


def make(value):
  """A value of the grid's axis `pair` as a tuple of pairs with weights.

  Args:
    value: `(student's tap, teacher's tap)`, or a tuple of such pairs, each
      with or without a weight as its third; 1 without.

  Returns:
    `(student's tap, teacher's tap, weight)` of each.
  """
  if isinstance(value[0], str):
    value = (value,)
  return tuple(
    (student, teacher, float(*weight or (1.0,)))
    for student, teacher, *weight in value
  )


def name(pairs):
  """Pairs in a word, such as "encoder4-encoder5"; "" without any."""
  return "+".join(
    f"{student}-{teacher}" + (f"x{weight:g}" if weight != 1 else "")
    for student, teacher, weight in pairs
  )


def describe(name, positions, channels, signed):
  """What a pair compares, in words.

  Args:
    name: of the pair.
    positions: `(h, w)`.
    channels: the student's and the teacher's.
    signed: whether the teacher's are negative in places.
  """
  height, width = positions
  ours, theirs = channels
  return (
    f"{name} at {height} x {width} positions, {ours} channels against {theirs}"
    + (" that are negative in places" if signed else "")
  )


def objection(value):
  """What is wrong with a value of the axis, said behind its name, or None."""
  try:
    pairs = make(value)
    taps = [tap for pair in pairs for tap in pair[:2]]
    if not all(isinstance(tap, str) for tap in taps):
      raise ValueError
  except (TypeError, ValueError, IndexError):
    return (
      " takes pairs of a student's and a teacher's tap, or tuples of such "
      f"pairs with weights, not {value!r}"
    )
  for student, teacher, weight in pairs:
    if weight <= 0:
      return (
        f": {student}-{teacher} of weight {weight:g} distils nothing; leave "
        "it out, or give it a weight above 0"
      )
  if len({pair[:2] for pair in pairs}) < len(pairs):
    return f" names a pair twice in {value!r}"
  return None
