"""Rows of fixed length: nothing lost, nothing mixed up, little padding."""

import numpy as np
import pytest

from bert_jax.data.corpus import packing, pairs
from bert_jax.data.corpus.documents import Documents
from bert_jax.data.tokenizer.wordpiece import build_tokenizer

TEMPLATE = build_tokenizer(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], lowercase=True).template
SPECIAL = TEMPLATE.special._asdict()


def random_documents() -> Documents:
  """12 documents, numbered from 100 on, of up to 11 sentences of up to 11 tokens."""
  rng = np.random.default_rng(0)
  lengths = [rng.integers(1, 12, rng.integers(1, 12)) for _ in range(12)]
  flat = np.concatenate(lengths)
  return Documents(
    rng.integers(10, 70_000, flat.sum()),
    np.cumsum([0, *flat]),
    np.cumsum([0, *map(len, lengths)]),
    np.arange(100, 112, dtype=np.uint32),
    np.zeros((12, 2), np.uint64),
  )


def load_of_rows(lengths, rows):
  return np.bincount(rows, weights=lengths).astype(int), np.bincount(rows)


def test_no_row_is_overfull_or_empty():
  rng = np.random.default_rng(0)
  for max_sequences in (1, 2, 8):
    lengths = rng.integers(5, 129, 3000)
    rows = packing.assign_rows(lengths, seq_length=128, max_sequences=max_sequences)
    load, count = load_of_rows(lengths, rows)
    assert load.max() <= 128 and count.min() >= 1 and count.max() <= max_sequences
    assert len(load) == rows.max() + 1


def test_at_most_one_sequence_to_a_row_means_no_packing():
  rows = packing.assign_rows(np.array([5, 6, 5, 128]), seq_length=128, max_sequences=1)
  assert rows.tolist() == [0, 1, 2, 3]


def test_best_fit_finds_the_perfect_packing_where_it_is_easy():
  lengths = np.array([100, 28, 64, 64, 90, 38, 128, 32, 32, 32, 32])
  rows = packing.assign_rows(lengths, seq_length=128, max_sequences=4)
  load, _ = load_of_rows(lengths, rows)
  assert load.tolist() == [128] * 5


def test_rows_follow_the_order_of_the_text():
  rng = np.random.default_rng(0)
  rows = packing.assign_rows(rng.integers(5, 129, 500), seq_length=128, max_sequences=8)
  first = np.unique(rows, return_index=True)[1]
  assert (np.diff(first) > 0).all()


def test_random_lengths_are_packed_above_97_percent():
  lengths = np.random.default_rng(0).integers(5, 129, 5000)
  rows = packing.assign_rows(lengths, seq_length=128, max_sequences=8)
  assert lengths.sum() / (128 * (rows.max() + 1)) > 0.97


def test_no_sequences_make_no_rows():
  assert packing.assign_rows(np.zeros(0, int), seq_length=128, max_sequences=8).shape == (0,)


@pytest.mark.parametrize("objective, max_sequences", [("nsp", 4), ("nsp", 1), ("sop", 4), ("none", 4)])
def test_every_sequence_is_found_again_in_the_rows(objective, max_sequences):
  documents = random_documents()
  sequences = pairs.make_sequences(
    documents, objective, template=TEMPLATE, seq_length=32, short_probability=0.1, seed=3
  )
  rows = packing.fill_rows(
    documents, sequences, seq_length=32, max_sequences=max_sequences, template=TEMPLATE, dtype="uint32"
  )
  assert rows["tokens"].dtype == np.uint32 and rows["sequences"].dtype == np.uint16
  found = []
  for tokens, table, sources in zip(rows["tokens"], rows["sequences"].astype(int), rows["documents"]):
    start = 0
    for (length, first_length, label), source in zip(table, sources):
      if length:
        found.append((tokens[start : start + length].tolist(), first_length, label, source.tolist()))
        start += length
    assert (tokens[start:] == SPECIAL["pad"]).all() and (table[(table[:, 0] > 0).sum() :] == 0).all()
  expected = []
  for a, b, label, source in zip(sequences.a, sequences.b, sequences.labels, sequences.documents):
    first, second = documents.tokens[slice(*a)].tolist(), documents.tokens[slice(*b)].tolist()
    text = [1, *first, 2] + ([*second, 2] if second else [])
    expected.append((text, len(first) + 2, label, source.tolist()))
  assert sorted(found, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("objective", ["nsp", "sop", "none"])
@pytest.mark.parametrize("seq_length", [32, 29])
def test_word_starts_stay_with_their_tokens(objective, seq_length):
  """A token is odd where it begins a word; special tokens and padding begin words of their own."""
  documents = random_documents()
  documents = documents._replace(word_starts=documents.tokens % 2 == 1)
  sequences = pairs.make_sequences(
    documents, objective, template=TEMPLATE, seq_length=seq_length, short_probability=0.1, seed=3
  )
  rows = packing.fill_rows(
    documents, sequences, seq_length=seq_length, max_sequences=4, template=TEMPLATE, dtype="uint32"
  )
  bits = rows["word_starts"]
  assert bits.dtype == np.uint8 and bits.shape == (len(rows["tokens"]), -(-seq_length // 8))
  starts = np.array([[line[place // 8] >> place % 8 & 1 for place in range(seq_length)] for line in bits.tolist()])
  expected = rows["tokens"] % 2 == 1
  expected |= rows["tokens"] <= SPECIAL["sep"]
  # What was cut off from its word begins one: the first token of A and of B.
  expected[:, 1:] |= np.isin(rows["tokens"][:, :-1], [SPECIAL["cls"], SPECIAL["sep"]])
  np.testing.assert_array_equal(starts, expected)
  assert 0.3 < starts.mean() < 0.8


def test_without_a_segmenter_rows_have_no_word_starts():
  documents = random_documents()
  sequences = pairs.make_sequences(documents, "none", template=TEMPLATE, seq_length=32, short_probability=0.1, seed=3)
  rows = packing.fill_rows(documents, sequences, seq_length=32, max_sequences=4, template=TEMPLATE, dtype="uint32")
  assert rows.keys() == {"tokens", "sequences", "documents"}
