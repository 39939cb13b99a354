"""Folders that count, and those that do not."""

import errno
import json
import os

import pytest
from etils import epath

from bert_jax.errors import UserError
from bert_jax.training import checkpoint_folder as folders

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
  assert "Make room" in folders.remedy(str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), tmp_path)
  assert "writable" in folders.remedy(str(OSError(errno.EACCES, os.strerror(errno.EACCES))), tmp_path)
  assert folders.remedy("something else", tmp_path) is None


def test_two_leaves_of_one_name_are_refused():
  assert folders.by_path({"a": [1, 2], "b": {"c": 3}}) == {"a/0": 1, "a/1": 2, "b/c": 3}
  with pytest.raises(ValueError, match="same path"):
    folders.by_path({"a/b": 1, "a": {"b": 2}})
