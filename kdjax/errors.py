"""The exceptions that the command prints as a line, not a traceback."""

import signal


class UserError(Exception):
  """Something its user can put right.

  The message is one line that names the file, field or case at fault and the
  way out.
  """


class Interrupted(Exception):
  """A signal asked the run to stop, and nothing is lost by stopping now."""

  def __init__(self, number, resume="the same command"):
    self.number = number
    self.resume = resume

  def __str__(self):
    name = signal.Signals(self.number).name
    return f"stopped by {name}, nothing is lost; go on with: {self.resume}"
