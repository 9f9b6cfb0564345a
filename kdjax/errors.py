"""The one exception that the command prints as a line, not a traceback."""


class UserError(Exception):
  """Something its user can put right.

  The message is one line that names the file, field or case at fault and the
  way out.
  """
