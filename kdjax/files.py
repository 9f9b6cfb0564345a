"""Files that appear whole or not at all."""

import uuid

from etils import epath


def write_text(path, text):
  """Writes `text` as UTF-8, its line ends untouched; see `write_bytes`."""
  write_bytes(path, text.encode())


def write_bytes(path, content):
  """Writes beside `path`, then renames: a reader never sees half of it.

  Args:
    path: a local path or a bucket's (`gs://...`); missing folders are made.
    content: the whole of it.

  Raises:
    OSError: `path` cannot be written; what stood there is unharmed.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
  try:
    beside.write_bytes(content)
    beside.replace(path)
  except BaseException:  # An interrupt must not leave half a file either.
    beside.unlink(missing_ok=True)
    raise
