"""Files that appear whole or not at all."""

import uuid

from etils import epath


def write_text(path, text):
  """Writes `text` beside `path`, then renames: a reader never sees half of it.

  Args:
    path: a local path or a bucket's (`gs://...`); missing folders are made.
    text: the whole content, stored as UTF-8 with its line ends untouched.

  Raises:
    OSError: `path` cannot be written; what stood there is unharmed.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
  try:
    beside.write_bytes(text.encode())
    beside.replace(path)
  except BaseException:  # An interrupt must not leave half a file either.
    beside.unlink(missing_ok=True)
    raise
