"""bench/rows.py: rows that are made up are rows as a corpus has them."""

import numpy as np
import pytest

from bert_jax import config as configs
from bert_jax.batch import FIRST_LENGTH, LABEL, LENGTH, model_inputs
from bert_jax.errors import UserError
from bert_jax.tools.bench.rows import SHORTEST, bench_data, make_up
from bert_jax.tools.plan.data_facts import STAND_IN, DataFacts
from tests.helpers.tiny_runs import write_config

DATA = DataFacts(1000, 64, 4, "nsp", True)


def test_rows_are_full_and_hold_the_sequences_asked_for():
  rows = make_up(DATA, num_rows=50)
  lengths = rows.sequences[:, :, LENGTH]
  assert (lengths.sum(axis=1) == 64).all() and lengths.min() >= SHORTEST and len(np.unique(lengths)) > 10
  inputs = model_inputs(rows.tokens, rows.sequences)
  assert np.asarray(inputs.segment_ids).min() == 1 and np.asarray(inputs.segment_ids).max() == 4


def test_each_sequence_is_cls_a_sep_b_sep():
  rows, special = make_up(DATA, num_rows=50), STAND_IN.special
  for tokens, sequences in zip(rows.tokens, rows.sequences):
    start = 0
    for length, first, label in sequences[:, [LENGTH, FIRST_LENGTH, LABEL]]:
      one = tokens[start : start + length]
      assert one[0] == special.cls and one[first - 1] == special.sep and one[-1] == special.sep
      assert 1 < first - 1 < length - 2 and label in (0, 1)
      assert np.isin(one, list(special)).sum() == 3 and one.max() < 1000
      start += length


def test_ids_follow_zipfs_law():
  counts = np.bincount(make_up(DataFacts(1000, 512, 1, ""), num_rows=200).tokens.reshape(-1), minlength=1000)[
    len(STAND_IN.special) :
  ]
  # Under 1 / rank the first ten ranks hold ln(10) / ln(995) of all.
  assert counts[1:10].sum() / counts.sum() == pytest.approx(np.log(10) / np.log(995), abs=0.03)


def test_they_are_the_same_every_time_and_go_through_the_order_of_a_corpus():
  one, other = make_up(DATA, num_rows=8), make_up(DATA, num_rows=8)
  assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.sequences, other.sequences)
  epoch, index = one.order(np.arange(16), seed=1)
  assert sorted(index[:8]) == list(range(8)) and list(epoch) == [0] * 8 + [1] * 8
  assert one.gather(index[:8])["word_starts"].shape == (8, 8)


def test_too_many_sequences_for_a_row_are_refused():
  with pytest.raises(UserError, match="--sequences=9: a row of 64 tokens holds 1 to 8 sequences"):
    make_up(DATA._replace(max_sequences=9), num_rows=2)


def test_a_corpus_that_is_there_is_used(tmp_path, corpus):
  config = configs.load_config(write_config(tmp_path), [f"data.corpus={corpus}"])
  data = bench_data(config, sequences=1)
  assert data.corpus and data.facts.source == f"the corpus {corpus}"
  batch = data.first(data.resolved(config), 2)[1]
  stream = data.stream(data.resolved(config))
  next(stream)
  assert all(np.array_equal(array, batch[name]) for name, array in next(stream).items())
  missing = bench_data(
    configs.load_config(write_config(tmp_path), ["data.corpus=nowhere", "prepare.seq_length=32"]), sequences=2
  )
  assert missing.corpus is None and missing.facts.source == "synthetic, rows of 32 tokens, 2 sequences of 16 on average"
