"""Stage two for one chunk: rows, what is counted in them, and the shard in the making."""

import numpy as np
import pytest

from bert_jax.data.corpus import npy, packing, pairs, rows
from bert_jax.data.corpus.documents import Documents
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, build_tokenizer

TEMPLATE = build_tokenizer(SPECIAL_TOKENS, lowercase=True).template
VOCAB = 500


def some_documents(count: int = 6, words: bool = False) -> Documents:
  rng = np.random.default_rng(0)
  lengths = [rng.integers(1, 12, rng.integers(1, 12)) for _ in range(count)]
  flat = np.concatenate([np.zeros(0, int), *lengths])
  return Documents(
    rng.integers(5, VOCAB, flat.sum()).astype("uint16"),
    np.cumsum([0, *flat]),
    np.cumsum([0, *map(len, lengths)]),
    np.arange(40, 40 + count, dtype=np.uint32),
    np.array([(n % 2, 7 * n) for n in range(count)], np.uint64).reshape(-1, 2),
    rng.random(flat.sum()) < 0.5 if words else None,
  )


def make(documents: Documents, objective: str = "nsp"):
  settings = rows.RowSettings(objective, seq_length=32, max_sequences=4, short_probability=0.1, seed=3)
  return rows.make_rows(documents, settings, vocab_size=VOCAB, template=TEMPLATE)


@pytest.mark.parametrize("objective", pairs.PAIRINGS)
def test_rows_are_the_packed_sequences_and_everything_is_counted(objective):
  documents = some_documents()
  made, counts = make(documents, objective)
  sequences = pairs.make_sequences(
    documents, objective, template=TEMPLATE, seq_length=32, short_probability=0.1, seed=3
  )
  expected = packing.fill_rows(documents, sequences, seq_length=32, max_sequences=4, template=TEMPLATE, dtype="uint16")
  for name, array in expected.items():
    np.testing.assert_array_equal(made[name], array)
  used = made["sequences"][..., 0] > 0
  assert counts[:4] == (6, documents.document_starts[-1], len(documents.tokens), len(made["tokens"]))
  assert counts.label_counts.tolist() == [(made["sequences"][used][:, 2] == label).sum() for label in (0, 1)]
  assert counts.length_counts.tolist() == np.bincount(made["sequences"][used][:, 0], minlength=33).tolist()
  unigrams = np.bincount(made["tokens"].ravel(), minlength=VOCAB)
  assert (
    counts.unigram_counts[TEMPLATE.special.pad] == 0 and counts.unigram_counts[1:].tolist() == unigrams[1:].tolist()
  )
  assert counts.unigram_counts.sum() == made["sequences"][..., 0].sum()


def test_every_document_of_the_chunk_has_its_origin():
  made, _ = make(some_documents())
  assert made["origins"].dtype == np.uint64
  assert made["origins"].tolist() == [[40 + n, n % 2, 7 * n] for n in range(6)]
  assert set(made["documents"].ravel().tolist()) - {0} <= set(made["origins"][:, 0].tolist())


@pytest.mark.parametrize("count, objective", [(0, "nsp"), (0, "none"), (1, "nsp")])
def test_too_few_documents_make_a_shard_without_rows(count, objective):
  """All others of the chunk held nothing that makes a token."""
  made, counts = make(some_documents(count, words=True), objective)
  assert (
    made["tokens"].shape == (0, 32) and made["sequences"].shape == (0, 4, 3) and made["word_starts"].shape == (0, 4)
  )
  assert made["origins"].shape == (count, 3)
  assert counts.documents == count and counts.rows == 0 and counts.unigram_counts.shape == (VOCAB,)


@pytest.mark.parametrize("words", [False, True])
def test_a_shard_in_the_making_comes_back_with_its_counts(tmp_path, words):
  made, counts = make(some_documents(words=words))
  rows.write_shard(tmp_path, "train", 2, made, counts)
  record, found = rows.read_shard(tmp_path, "train", 2)
  assert record.keys() == made.keys() | {"rows", "origins_rows"} and ("word_starts" in made) == words
  assert record["rows"] == len(made["tokens"]) and record["origins_rows"] == 6
  folder = rows.shard_folder(tmp_path, "train", 2)
  assert folder == tmp_path / "rows/train/00002"
  for name, array in made.items():
    np.testing.assert_array_equal(npy.read(folder / f"{name}.npy", record[name]), array)
  for left, right in zip(counts, found):
    np.testing.assert_array_equal(left, right)
  assert found[:4] == counts[:4]


def test_a_shard_that_cannot_be_written_does_not_appear(tmp_path, monkeypatch):
  def full(path, array):
    if path.name == "documents.npy":
      raise OSError(28, "No space left on device", str(path))
    return write(path, array)

  write = npy.write
  monkeypatch.setattr(rows.npy, "write", full)
  with pytest.raises(OSError):
    rows.write_shard(tmp_path, "train", 0, *make(some_documents()))
  assert list((tmp_path / "rows" / "train").iterdir()) == []
