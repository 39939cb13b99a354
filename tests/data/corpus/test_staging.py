"""staging.py: a corpus is copied to the local disk once, whole or not at all."""

import pytest

from bert_jax.data.corpus import staging
from bert_jax.data.corpus.folder import open_corpus
from bert_jax.errors import UserError


def test_the_copy_is_the_same_corpus_and_is_made_once(corpus, tmp_path):
  copy = staging.stage(corpus, tmp_path / "cache")
  assert open_corpus(copy).manifest == open_corpus(corpus).manifest
  made = copy.stat().st_mtime_ns
  assert staging.stage(corpus, tmp_path / "cache") == copy and copy.stat().st_mtime_ns == made
  assert [path.name for path in (tmp_path / "cache").iterdir()] == [copy.name]


def test_a_copy_that_fails_leaves_nothing_behind(corpus, tmp_path, monkeypatch):
  def full(source, target):
    (target / "half").write_text("")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(staging.storage, "copy_folder", full)
  with pytest.raises(UserError, match="No space left"):
    staging.stage(corpus, tmp_path / "cache")
  assert not list((tmp_path / "cache").iterdir())


def test_a_folder_without_a_manifest_is_refused(tmp_path):
  with pytest.raises(UserError, match="holds no corpus"):
    staging.stage(tmp_path, tmp_path / "cache")
