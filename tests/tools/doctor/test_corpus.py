"""The corpus: there, unaltered, and fit for the config."""

import shutil

import pytest

from bert_jax.data.corpus.folder import read_corpus_manifest, write_manifest
from bert_jax.tools.doctor import corpus as checks
from bert_jax.tools.doctor import row
from tests.helpers.machines import context
from tests.helpers.tiny_runs import prepare, write_text


@pytest.fixture
def copy(tmp_path, corpus):
  return shutil.copytree(corpus, tmp_path / "copy")


def look(view):
  return row.run_check("corpus", checks.corpus, view)["corpus"]


def flip(folder, number=1):
  shard = sorted((folder / "train").glob("tokens-*.npy"))[0]
  data = bytearray(shard.read_bytes())
  data[-20] ^= number
  shard.write_bytes(data)
  return shard


def test_a_sound_corpus_is_shown_with_its_rows_epochs_and_id(tmp_path, corpus):
  (found,) = look(context(tmp_path, corpus))
  manifest = read_corpus_manifest(corpus)
  rows = manifest["splits"]["train"]["counts"]["rows"]
  assert found.status == row.OK and f"{rows:,} rows, {24 * 8 / rows:.1f} epochs" in found.found
  assert "SHA-256 of every shard" in found.found and manifest["corpus_id"][:12] in found.found


def test_a_flipped_bit_is_found_unless_only_sizes_were_asked_for(tmp_path, copy):
  shard = flip(copy)
  (found,) = look(context(tmp_path, copy))
  assert (
    found.status == row.FAIL
    and shard.name in found.found
    and "altered" in found.found
    and found.remedy.startswith("copy the folder again")
  )
  (found,) = look(context(tmp_path, copy, quick=True))
  assert found.status == row.OK and "contents not read" in found.found


def test_a_truncated_shard_is_found_by_its_size(tmp_path, copy):
  shard = flip(copy)
  shard.write_bytes(shard.read_bytes()[:-1])
  (found,) = look(context(tmp_path, copy, quick=True))
  assert found.status == row.FAIL and "truncated" in found.found and found.remedy


def test_one_process_of_a_machine_reads_the_shards(tmp_path, copy):
  flip(copy)
  view = context(tmp_path, copy)
  view.introductions = view.introductions * 2
  view.cluster = view.cluster._replace(num_processes=2, process_id=1)
  assert look(view)[0].status == row.OK and "contents not read" in look(view)[0].found
  view.introductions = [view.introductions[0], view.introductions[0] | {"host": "another"}]
  assert look(view)[0].status == row.FAIL


def test_a_missing_corpus_fails_unless_it_has_a_source(tmp_path):
  (found,) = look(context(tmp_path, tmp_path / "nowhere"))
  assert (
    found.status == row.FAIL and "there is no such corpus folder" in found.found and "bert_jax prepare" in found.remedy
  )
  (found,) = look(context(tmp_path, tmp_path / "nowhere", "data.source=docstrings:"))
  assert found == row.ok(f"{tmp_path / 'nowhere'} does not exist yet; it will be prepared from docstrings:")
  (found,) = look(context(tmp_path, ""))
  assert found.status == row.FAIL and "data.corpus is empty" in found.found


def test_a_manifest_that_was_altered_fails(tmp_path, copy):
  manifest = copy / "manifest.json"
  manifest.write_text(manifest.read_text().replace('"seq_length": 32', '"seq_length": 33'))
  (found,) = look(context(tmp_path, copy))
  assert found.status == row.FAIL and "manifest was altered" in found.found


def test_another_tokenizer_in_its_folder_fails(tmp_path, copy):
  other = prepare(f"text:{write_text(tmp_path / 'other.txt', seed=5)}", tmp_path / "other", vocab_size=100)
  shutil.rmtree(copy / "tokenizer")
  shutil.copytree(other / "tokenizer", copy / "tokenizer")
  (found,) = look(context(tmp_path, copy))
  assert found.status == row.FAIL and "is not the tokenizer that made this corpus" in found.found


def test_a_model_that_does_not_fit_fails_and_the_other_checks_go_on(tmp_path, corpus):
  view = context(tmp_path, corpus, "model.max_position_embeddings=16")
  (found,) = look(view)
  assert (
    found.status == row.FAIL
    and "have 32 tokens, the model has 16 positions" in found.found
    and "seq_length=16" in found.remedy
  )
  assert view.state_bytes > 0


def test_a_batch_larger_than_the_corpus_is_a_warning(tmp_path, corpus):
  (found,) = look(context(tmp_path, corpus, "data.batch_size=100000"))
  assert found.status == row.WARN and "more than once" in found.found


def test_a_mixture_is_looked_at_corpus_by_corpus(tmp_path, corpus, copy):
  mixture = f"data.mixture={corpus}=2,{copy}=1"
  (found,) = look(context(tmp_path, "", mixture))
  assert found.status == row.OK and found.found.startswith(f"{corpus}=2,{copy}=1: ")
  shard = flip(copy)
  assert shard.name in look(context(tmp_path, "", mixture))[0].found
  assert look(context(tmp_path, "", mixture, quick=True))[0].status == row.OK


def test_a_corpus_on_an_object_store_needs_a_place_to_be_copied_to(tmp_path, corpus, monkeypatch):
  (found,) = look(context(tmp_path, "gs://bucket/corpus"))
  assert found.status == row.FAIL and "data.cache_dir" in found.found
  monkeypatch.setattr(checks.epath, "Path", lambda path: corpus if "bucket" in str(path) else tmp_path / "nothing")
  (found,) = look(context(tmp_path, "gs://bucket/corpus", f"data.cache_dir={tmp_path}"))
  assert found.status == row.OK and "will be copied to" in found.found
  (found,) = look(context(tmp_path, "gs://other/corpus", f"data.cache_dir={tmp_path}"))
  assert found.status == row.FAIL and "holds no corpus" in found.found


def judged_anew(folder, **train):
  """The corpus with other figures in its manifest."""
  manifest = read_corpus_manifest(folder)
  manifest["splits"]["train"] |= train
  return write_manifest(folder, manifest)


def test_a_corpus_that_cannot_teach_fails_with_the_remedy(tmp_path, copy):
  judged_anew(copy, unknown_rate=0.9)
  (found,) = look(context(tmp_path, copy))
  assert found.status == row.FAIL and "90.0% of the tokens are [UNK]" in found.found and "prepare again" in found.remedy


def test_what_is_odd_about_a_corpus_is_a_warning(tmp_path, copy):
  judged_anew(copy, unknown_rate=0.1, label_counts=[1, 9])
  first, *others = look(context(tmp_path, copy))
  assert first.status == row.OK
  assert [one.status for one in others] == [row.WARN] * len(others) and others[0].remedy
  assert "10.0% of the tokens are [UNK]" in others[0].found
