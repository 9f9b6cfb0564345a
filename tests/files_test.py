"""Files appear whole or not at all."""

import pytest

from kdjax import files


def test_files_appear_whole_or_not_at_all(tmp_path):
  path = tmp_path / "new" / "table.csv"
  files.write_text(path, "old ±\n")
  assert path.read_bytes() == "old ±\n".encode()
  with pytest.raises(UnicodeEncodeError):
    files.write_text(path, "\ud800")  # Has no UTF-8.
  assert path.read_text(encoding="utf-8") == "old ±\n"
  assert [x.name for x in path.parent.iterdir()] == ["table.csv"]


def test_a_failed_rename_leaves_nothing_beside(tmp_path):
  (tmp_path / "table.csv").mkdir()
  with pytest.raises(OSError):
    files.write_text(tmp_path / "table.csv", "text")
  assert [x.name for x in tmp_path.iterdir()] == ["table.csv"]
