"""Copies a folder, of a disk or a bucket: `fetch.py gs://bucket/busi data`."""

import sys

from etils import epath


def fetch(source, target):
  """Copies the files of `source` that `target` lacks, folders and all."""
  for path in sorted(source.iterdir()):
    copy = target / path.name
    if path.is_dir():
      fetch(path, copy)
    elif not copy.exists():
      target.mkdir(parents=True, exist_ok=True)
      half = target / f".{path.name}.half"
      half.write_bytes(path.read_bytes())
      half.replace(copy)


if __name__ == "__main__":
  fetch(*map(epath.Path, sys.argv[1:]))
