"""Folders that count, and those that do not."""

import errno
import json
import os

import pytest
from etils import epath

from bert_jax.errors import StorageError, UserError
from bert_jax.io import storage
from bert_jax.training.checkpoints import folder as folders
from bert_jax.training.checkpoints import reading
from tests.helpers.object_store import in_this_process

MANIFEST = folders.Manifest(3, {"position": 2**63}, {"eval/mlm_loss": 0.1}, {"params/w": ("float32", (2, 3), 17)})


@pytest.fixture
def step(tmp_path):
  """A folder like that of a committed checkpoint."""
  path = epath.Path(tmp_path) / "3"
  for name in ("state", "manifest"):
    (path / name).mkdir(parents=True)
  for name in (folders.COMMIT_METADATA, folders.COMMIT_MARKER, "state/data"):
    (path / name).write_text("something")
  return path


def write_manifest(step, encoded):
  (step / folders.MANIFEST_FILE).write_text(json.dumps(encoded))


def test_a_manifest_comes_back_as_it_was(step):
  write_manifest(step, folders.encode(MANIFEST))
  assert folders.read_manifest(step) == MANIFEST
  assert MANIFEST.host_values == {"position": 2**63, "step": 3}


def test_any_other_value_in_a_manifest_is_noticed(step):
  encoded = folders.encode(MANIFEST)
  encoded["content"]["arrays"]["params/w"][2] = 18
  write_manifest(step, encoded)
  with pytest.raises(folders.Damaged, match="altered"):
    folders.read_manifest(step)


def test_a_later_format_is_not_damage(step, monkeypatch):
  monkeypatch.setattr(folders, "FORMAT", 2)
  write_manifest(step, folders.encode(MANIFEST))
  monkeypatch.undo()
  with pytest.raises(UserError, match="format 2, this bert_jax reads 1: update"):
    folders.read_manifest(step)


@pytest.mark.parametrize("survive", range(4))
def test_a_removal_killed_at_any_point_leaves_a_whole_checkpoint_or_none(step, monkeypatch, survive):
  """Stops `remove` after its first, second, … deletion."""
  done = []

  def stop_after(real):
    def delete(*args, **kwargs):
      if len(done) == survive:
        raise KeyboardInterrupt
      done.append(args)
      return real(*args, **kwargs)

    return delete

  for name in ("unlink", "remove", "rmdir"):
    monkeypatch.setattr(os, name, stop_after(getattr(os, name)))
  with pytest.raises(KeyboardInterrupt):
    folders.remove(step)
  monkeypatch.undo()
  try:
    folders.check_committed(step)
    assert (step / "state/data").exists()
  except folders.Damaged as damage:
    assert damage.reason == "unfinished"
  assert folders.committed_steps(step.parent) in ([3], [])


def test_only_folders_named_by_a_step_are_checkpoints(step):
  for name in ("set-aside", "12x", "-5"):
    (step.parent / name).mkdir()
  (step.parent / "10").mkdir()
  (step.parent / "7").write_text("a file")
  assert [path.name for path in folders.step_folders(step.parent)] == ["3", "10"]
  assert folders.committed_steps(step.parent) == [3]


def test_a_full_disk_and_a_locked_folder_have_a_remedy(tmp_path):
  assert "Free some space" in folders.remedy(str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), tmp_path)
  assert "writable" in folders.remedy(str(OSError(errno.EACCES, os.strerror(errno.EACCES))), tmp_path)
  assert folders.remedy("something else", tmp_path) is None


def test_two_leaves_of_one_name_are_refused():
  assert folders.by_path({"a": [1, 2], "b": {"c": 3}}) == {"a/0": 1, "a/1": 2, "b/c": 3}
  with pytest.raises(ValueError, match="same path"):
    folders.by_path({"a/b": 1, "a": {"b": 2}})


@pytest.fixture
def stored(monkeypatch):
  """(store, folder of checkpoints in it), with steps 3 and 7 saved."""
  with in_this_process(monkeypatch) as store:
    for step in (3, 7):
      save(store, str(step))
    yield store, storage.folder("gs://bucket/run/checkpoints")


def save(store, name):
  for part in ("state/data", "manifest/data.json", folders.COMMIT_METADATA, folders.COMMIT_MARKER):
    store.put(f"run/checkpoints/{name}/{part}", b"something")


def names(found):
  return [path.name for path in found]


def test_in_an_object_store_a_marker_sets_a_checkpoint_aside_and_its_step_can_be_saved_again(stored):
  store, directory = stored
  before = dict(store.objects)
  folders.set_aside(folders.folder_of(directory, 7), "checksum")
  assert names(folders.step_folders(directory)) == ["3"] and folders.committed_steps(directory) == [3]
  assert folders.folder_of(directory, 7).name == "7.2" and folders.folder_of(directory, 3).name == "3"
  save(store, "7.2")
  assert names(folders.step_folders(directory)) == ["3", "7.2"] and folders.committed_steps(directory) == [3, 7]
  folders.set_aside(folders.folder_of(directory, 7), "unreadable")
  assert folders.folder_of(directory, 7).name == "7.3" and folders.has_damage(directory)
  assert store.names("run/checkpoints/set-aside/") == ["7-checksum", "7.2-unreadable"]
  assert before.items() <= store.objects.items() and not store.refused  # nothing was touched


def test_in_an_object_store_a_checkpoint_that_lacks_its_marker_alone_is_put_back(stored):
  store, directory = stored
  store.delete(f"run/checkpoints/7/{folders.COMMIT_MARKER}")
  with pytest.raises(folders.Damaged) as damage:
    folders.check_committed(directory / "7")
  folders.set_aside(directory / "7", damage.value.reason)
  assert folders.unmarked(directory) == ["7"] and names(folders.step_folders(directory)) == ["3"]
  folders.put_back(directory, "7")
  assert (
    folders.committed_steps(directory) == [3, 7]
    and not folders.unmarked(directory)
    and not folders.has_damage(directory)
  )
  folders.check_committed(directory / "7")


def test_a_copy_of_such_a_folder_on_a_disk_is_the_same_run(stored, tmp_path):
  store, directory = stored
  folders.set_aside(directory / "7", "checksum")
  save(store, "7.2")
  here = epath.Path(storage.fetch(directory))
  assert names(folders.step_folders(here)) == ["3", "7.2"] and folders.folder_of(here, 7).name == "7.2"
  folders.set_aside(folders.folder_of(here, 7), "manifest")  # by a rename, here
  assert names(folders.step_folders(here)) == ["3"] and folders.folder_of(here, 7).name == "7.2"
  assert sorted(names((here / folders.SET_ASIDE).iterdir())) == ["7-checksum", "7.2-manifest"]


def test_a_checkpoint_is_removed_from_an_object_store_marker_first(stored, monkeypatch):
  store, directory = stored
  gone, delete = [], store.delete
  monkeypatch.setattr(store, "delete", lambda name: gone.append(name.rpartition("/")[2]) or delete(name))
  folders.remove(directory / "3")
  assert gone[:2] == [folders.COMMIT_METADATA, folders.COMMIT_MARKER] and not store.names("run/checkpoints/3/")


def test_a_store_that_does_not_let_us_in_is_no_damage(stored, monkeypatch):
  _, directory = stored

  def refuse(*_, **__):
    raise OSError("Forbidden: no storage.objects.get")

  monkeypatch.setattr(storage, "PAUSES_SECONDS", (0.01,))
  monkeypatch.setattr(type(directory), "read_text", refuse)
  with pytest.raises(UserError, match="cannot be read: Forbidden"):
    folders.read_manifest(directory / "3")


@pytest.mark.parametrize(
  "said, is_damage",
  [("UNAVAILABLE: CURL error[6] Could not resolve hostname", False), ("DATA_LOSS: checksum of a block", True)],
)
def test_a_store_that_is_not_reached_sets_nothing_aside(stored, monkeypatch, said, is_damage):
  store, directory = stored
  store.put(f"run/checkpoints/3/{folders.MANIFEST_FILE}", json.dumps(folders.encode(MANIFEST)).encode())

  def refuse(*_, **__):
    raise ValueError(said)

  monkeypatch.setattr(reading.checkpoint_files, "load_arrays", refuse)
  monkeypatch.setattr(storage, "PAUSES_SECONDS", (0.01,))
  if is_damage:
    assert reading.diagnose(directory / "3").reason == "unreadable"
  else:
    with pytest.raises(StorageError, match="cannot be read: .*UNAVAILABLE.*nothing was changed"):
      reading.diagnose(directory / "3")
