"""Files and folders that appear whole or not at all."""

import os
import pathlib
import subprocess
import sys
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


MAKE = """
import sys
from bert_jax.io import atomic
print(flush=True)
for number in range(40):
  with atomic.new_version(sys.argv[1]) as folder:
    for name in ("one", "two"):
      (folder / name).write_text(f"{sys.argv[2]} {number}")
"""


def test_of_two_that_make_the_same_folder_the_last_one_stays_and_there_is_always_a_whole_one(tmp_path):
  target = tmp_path / "made"
  with atomic.new_version(target) as folder:
    for name in ("one", "two"):
      (folder / name).write_text("first")
  made = [subprocess.Popen([sys.executable, "-c", MAKE, target, who], stdout=subprocess.PIPE) for who in "ab"]
  looks = 0
  while any(process.poll() is None for process in made):
    descriptor = os.open(target, os.O_RDONLY)  # fails where there is no folder
    os.close(descriptor)
    looks += 1
  assert [process.returncode for process in made] == [0, 0] and looks > 100
  assert (target / "one").read_text() == (target / "two").read_text()
  assert (target / "one").read_text().endswith(" 39") and names(tmp_path) == ["made"]


def test_where_names_cannot_be_traded_the_older_folder_steps_aside(tmp_path, monkeypatch):
  monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
  for text in ("old", "new"):
    with atomic.new_version(tmp_path / "made") as folder:
      (folder / "file").write_text(text)
  assert (tmp_path / "made" / "file").read_text() == "new" and names(tmp_path) == ["made"]


def test_the_folder_that_a_living_process_fills_is_left_to_it(tmp_path):
  with atomic.new_version(tmp_path / "made") as slow:
    (slow / "file").write_text("slow")
    with atomic.new_version(tmp_path / "made") as quick:
      (quick / "file").write_text("quick")
    assert (tmp_path / "made" / "file").read_text() == "quick" and (slow / "file").exists()
  assert (tmp_path / "made" / "file").read_text() == "slow" and names(tmp_path) == ["made"]
