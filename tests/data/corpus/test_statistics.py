"""The figures of the manifest, against definitions written out."""

import math

import numpy as np
import pytest

from bert_jax.data.corpus import statistics
from bert_jax.data.corpus.rows import Counts
from bert_jax.data.tokenizer.wordpiece import build_tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##ning", "dog"]
TOKENIZER = build_tokenizer(VOCABULARY, lowercase=True)


def counts(unigrams=(0, 2, 10, 20, 0, 6, 3, 3), labels=(4, 6), rows=2):
  lengths = np.zeros(33, np.int64)
  lengths[[4, 5, 32]] = (1, 2, 7)
  return Counts(3, 12, 40, rows, 0, np.array(labels), lengths, np.array(unigrams))


def describe(of):
  return statistics.describe_split(of, TOKENIZER)


def test_entropy_leaves_out_what_can_never_be_a_target():
  expected = -sum(p * math.log(p) for p in (6 / 12, 3 / 12, 3 / 12))
  assert describe(counts())["unigram_entropy"] == pytest.approx(expected, abs=1e-6)


def test_entropy_of_an_even_distribution_is_its_logarithm():
  assert statistics.entropy(np.full(1000, 7)) == pytest.approx(math.log(1000), abs=1e-6)
  assert statistics.entropy(np.zeros(5, int)) == 0.0


def test_unknown_tokens_and_pieces_are_counted_over_the_text():
  record = describe(counts())
  assert record["unknown_rate"] == pytest.approx(2 / 14, abs=1e-6)
  assert record["tokens_per_word"] == pytest.approx(14 / 11, abs=1e-6)  # ##ning begins no word
  assert record["frequent_tokens"] == [["run", 6], ["##ning", 3], ["dog", 3]]


def test_packing_efficiency_is_the_share_of_tokens_that_are_not_padding():
  record = describe(counts())
  assert record["counts"]["row_tokens"] == 44
  assert record["counts"]["packing_efficiency"] == pytest.approx(44 / (2 * 32), abs=1e-6)


def test_the_majority_label_is_the_larger_share():
  assert describe(counts())["majority_label_share"] == 0.6
  assert describe(counts(labels=(9, 1)))["majority_label_share"] == 0.9


def test_the_histogram_covers_every_length_once():
  histogram = describe(counts())["length_counts"]
  assert histogram == {"1-4": 1, "5-8": 2, "9-12": 0, "13-16": 0, "17-20": 0, "21-24": 0, "25-28": 0, "29-32": 7}


def test_counts_add_field_by_field():
  zero = statistics.zero_counts(len(VOCABULARY), 32)
  twice = statistics.add(statistics.add(zero, counts()), counts())
  assert twice.documents == 6 and twice.unigram_counts.tolist() == [0, 4, 20, 40, 0, 12, 6, 6]
  assert describe(twice)["unigram_entropy"] == describe(counts())["unigram_entropy"]
