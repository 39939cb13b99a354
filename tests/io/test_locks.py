"""Locks on folders."""

import errno
import fcntl
import subprocess
import sys

import pytest

from bert_jax.io import locks

HOLD = """
import sys, time
from bert_jax.io.locks import FolderLock
with FolderLock(sys.argv[1]) as lock:
  print(lock.take(alone=sys.argv[2] == "alone"), flush=True)
  time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
  """Starts a process that holds the lock."""
  started = []

  def start(how: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), how], stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout.readline() == "True\n"
    return process

  yield start
  for process in started:
    process.kill()
    process.communicate()


def test_one_process_alone_or_several_together(tmp_path, other):
  other("together")
  with locks.FolderLock(tmp_path) as lock:
    assert lock.take(alone=False) and not lock.take(alone=True) and lock.take(alone=False)
  with locks.FolderLock(tmp_path) as lock:
    assert not lock.take(alone=True)


def test_a_lock_held_alone_keeps_everybody_out_until_its_process_is_killed(tmp_path, other):
  process = other("alone")
  with locks.FolderLock(tmp_path) as lock:
    assert not lock.take(alone=False) and not lock.take(alone=True)
    process.kill()
    process.wait()
    assert lock.take(alone=True)


def test_waiting_ends_when_the_other_ends(tmp_path, other):
  process = other("alone")
  process.kill()
  with locks.FolderLock(tmp_path) as lock:
    assert lock.take(alone=True, wait=True)


def test_a_lock_is_given_up_at_the_end_and_leaves_no_file(tmp_path):
  for _ in range(2):
    with locks.FolderLock(tmp_path) as first:
      assert first.take(alone=True)
      with locks.FolderLock(tmp_path) as second:
        assert not second.take(alone=True)
  assert list(tmp_path.iterdir()) == []


def test_of_two_that_want_to_be_alone_the_last_one_is(tmp_path):
  """Both hold the lock together; the first to ask gives up its part, so that the second succeeds."""
  with locks.FolderLock(tmp_path) as first, locks.FolderLock(tmp_path) as second:
    assert first.take(alone=False) and second.take(alone=False)
    assert not first.take(alone=True)
    assert second.take(alone=True)


def test_where_there_are_no_locks_nothing_is_refused_and_nothing_is_certain(tmp_path, monkeypatch):
  def unsupported(descriptor, kind):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", unsupported)
  with locks.FolderLock(tmp_path) as lock:
    assert lock.take(alone=True) and lock.take(alone=False, wait=True) and not lock.take(alone=True, certainly=True)
