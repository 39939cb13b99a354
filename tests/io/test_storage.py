"""Paths of run folders: whole files on a file system and in an object store, and what a user is told where one is not
reached.
"""

import errno
import importlib.util
import os

import pytest

from bert_jax.errors import EXIT_STORAGE, UserError, ending_of
from bert_jax.io import storage
from tests.helpers.object_store import in_this_process


@pytest.fixture
def store(monkeypatch):
  with in_this_process(monkeypatch) as store:
    yield store


@pytest.fixture(params=["file system", "object store"])
def root(request, tmp_path, store):
  """A run folder on either kind of storage."""
  return storage.folder(tmp_path / "run" if request.param == "file system" else "gs://bucket/run")


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(root):
  for text in ("older and longer", "new"):
    storage.write_bytes(root / "a" / "data", text.encode())
    storage.write_text(root / "a" / "text", text + " ü")
  assert (root / "a" / "data").read_bytes() == b"new" and (root / "a" / "text").read_text() == "new ü"
  assert sorted(path.name for path in (root / "a").iterdir()) == ["data", "text"]


def test_what_is_written_elsewhere_is_seen_at_once(store):
  """gcsfs would go on believing its listings, while TensorStore and other processes write."""
  root = storage.folder("gs://bucket/run")
  storage.write_text(root / "one", "1")
  assert [path.name for path in root.iterdir()] == ["one"] and not (root / "two").exists()
  store.put("run/two", b"2")
  assert [path.name for path in root.iterdir()] == ["one", "two"] and (root / "two").exists()
  store.delete("run/one")
  assert not (root / "one").exists()


def test_a_folder_is_fetched_as_a_whole_and_a_local_one_stays_where_it_is(root):
  storage.write_bytes(root / "model" / "a.txt", b"a")
  storage.write_bytes(root / "model" / "deep" / "b.txt", b"b")
  here = storage.fetch(root / "model")
  assert (here / "a.txt").read_text() == "a" and (here / "deep" / "b.txt").read_text() == "b"
  assert storage.is_remote(root) or str(here) == str(root / "model")


def test_a_folder_that_is_sent_counts_only_with_its_last_file(store, tmp_path, monkeypatch):
  (tmp_path / "deep").mkdir()
  for name in ("config.json", "a.txt", "z.txt", "deep/b.txt"):
    (tmp_path / name).write_text(name)
  storage.send(tmp_path, "gs://bucket/model", last="config.json")
  assert [name for name, _ in store.written][-1] == "model/config.json"
  assert store.names("model/") == ["a.txt", "config.json", "deep/b.txt", "z.txt"]

  plain = storage.write_bytes

  def write(path, data):
    if path.name == "z.txt":
      raise OSError(errno.EIO, "the connection broke")
    plain(path, data)

  monkeypatch.setattr(storage, "write_bytes", write)
  with pytest.raises(OSError):
    storage.send(tmp_path, "gs://bucket/model", last="config.json")
  assert store.names("model/") == ["a.txt", "deep/b.txt", "z.txt"]


def test_whatever_a_client_raises_is_an_error_of_the_file(tmp_path):
  with pytest.raises(OSError) as caught, storage.failures("gs://bucket/a"):
    raise RuntimeError("token expired\nmore about it")
  assert (caught.value.errno, caught.value.strerror, caught.value.filename) == (
    errno.EIO,
    "token expired",
    "gs://bucket/a",
  )
  with pytest.raises(RuntimeError), storage.failures(tmp_path):  # a mistake of ours, there
    raise RuntimeError


def test_a_store_that_is_not_reached_or_not_known_is_a_clear_refusal(monkeypatch, store):
  with pytest.raises(
    UserError, match="s3://bucket/run: a run folder is on a file system or in gs://; mount other stores"
  ):
    storage.folder("s3://bucket/run")
  from etils.epath import backend

  def refuse(*_):
    raise RuntimeError("Your default credentials were not found.")

  monkeypatch.setattr(backend._FileSystemSpecBackend, "exists", refuse)
  with pytest.raises(
    UserError, match="gs://bucket/run cannot be reached: Your default credentials were not found.; check the address"
  ):
    storage.folder("gs://bucket/run")


def test_without_gcsfs_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  storage._connect.cache_clear()
  with pytest.raises(UserError, match="gs:// needs the package gcsfs, which is not installed: pip install gcsfs"):
    storage.folder("gs://bucket/run")


@pytest.mark.parametrize(
  "error, code",
  [
    (RuntimeError("Forbidden: caller does not have storage.objects.get access"), 1),
    (RuntimeError("Invalid Credentials, 401"), 1),
    (RuntimeError("503 Service Unavailable"), EXIT_STORAGE),
    (ConnectionResetError(104, "Connection reset by peer"), EXIT_STORAGE),
  ],
)
def test_a_store_that_lets_nobody_in_is_to_be_mended_and_one_that_does_not_answer_is_asked_again(error, code):
  with pytest.raises(OSError) as caught, storage.failures("gs://bucket/run"):
    raise error
  assert ending_of(caught.value)[0] == code


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "data.json")
  with pytest.raises(UserError, match="data.json: a pipe or a device, expected a file"):
    storage.read_text(tmp_path / "data.json")
