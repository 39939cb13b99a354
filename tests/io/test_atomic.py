"""Files and folders that appear whole or not at all."""

import pathlib
import time

import pytest

from bert_jax.io import atomic


def names(folder: pathlib.Path) -> list[str]:
  return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_its_name_when_it_is_filled(tmp_path):
  target = tmp_path / "a" / "b" / "made"
  with atomic.new_folder(target) as folder:
    (folder / "file").write_text("content")
    assert not target.exists() and folder.parent == target.parent
  assert names(target) == ["file"] and names(target.parent) == ["made"]


def test_a_folder_whose_filling_fails_never_appears(tmp_path):
  with pytest.raises(KeyboardInterrupt), atomic.new_folder(tmp_path / "made") as folder:
    (folder / "file").write_text("half of it")
    raise KeyboardInterrupt
  assert names(tmp_path) == []


def test_whoever_comes_second_is_dropped(tmp_path):
  target = tmp_path / "made"
  with atomic.new_folder(target) as second:
    (second / "file").write_text("second")
    with atomic.new_folder(target) as first:
      (first / "file").write_text("first")
  assert (target / "file").read_text() == "first" and names(tmp_path) == ["made"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
  (tmp_path / "made").write_text("a file")
  with pytest.raises(OSError), atomic.new_folder(tmp_path / "made") as folder:
    (folder / "file").write_text("content")
  assert names(tmp_path) == ["made"] and (tmp_path / "made").read_text() == "a file"


def test_a_text_replaces_the_older_one_at_once(tmp_path):
  path = tmp_path / "text.json"
  atomic.write_text(path, "one")
  with open(path) as before:
    atomic.write_text(path, "zwei äöü")
    assert before.read() == "one"  # another file took the name
  assert path.read_text(encoding="utf-8") == "zwei äöü" and names(tmp_path) == ["text.json"]


def test_a_text_that_cannot_be_written_leaves_the_older_one_and_names_the_file(tmp_path, monkeypatch):
  path = tmp_path / "text.json"
  atomic.write_text(path, "one")

  def full(descriptor):
    raise OSError(28, "No space left on device")  # as write() tells it: without a name

  monkeypatch.setattr(atomic.os, "fsync", full)
  with pytest.raises(OSError) as error:
    atomic.write_text(path, "two")
  assert error.value.filename == str(path) and error.value.errno == 28
  assert path.read_text() == "one" and names(tmp_path) == ["text.json"]


def test_two_processes_of_one_number_on_two_machines_do_not_meet(tmp_path, monkeypatch):
  """Two containers on one file system may both be process 1; each has a file of its own in the making."""
  monkeypatch.setattr(atomic.os, "getpid", lambda: 1)
  fsync, seen = atomic.os.fsync, []

  def note(descriptor):
    seen.append(names(tmp_path))
    if len(seen) == 1:
      time.sleep(0.001)
      atomic.write_text(tmp_path / "text", "the other machine's")
    fsync(descriptor)

  monkeypatch.setattr(atomic.os, "fsync", note)
  atomic.write_text(tmp_path / "text", "ours")
  assert [len(one) for one in seen] == [1, 2]
  assert names(tmp_path) == ["text"] and (tmp_path / "text").read_text() == "ours"


def test_a_folder_that_is_replaced_returns_where_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
  for name in ("old", "new"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text(name)
  target, rename = tmp_path / "old", pathlib.Path.rename

  def fails(self, to):
    if self.name == "new":
      raise OSError(5, "Input/output error")
    return rename(self, to)

  with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
    patch.setattr(pathlib.Path, "rename", fails)
    atomic.move_into_place(tmp_path / "new", target)
  assert names(tmp_path) == ["new", "old"] and (target / "file").read_text() == "old"
  (tmp_path / ".old.replaced-7-7").mkdir()  # of a process that was killed
  atomic.move_into_place(tmp_path / "new", target)
  assert names(tmp_path) == ["old"] and (target / "file").read_text() == "new"
  atomic.remove_folder(target)
  assert names(tmp_path) == []
