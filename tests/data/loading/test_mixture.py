"""Several corpora in one run: the shares, the order, and what cannot be mixed."""

import numpy as np
import pytest

from bert_jax.data.corpus.folder import Split
from bert_jax.data.loading import mixture
from bert_jax.data.loading.input_pipeline import load_batch
from bert_jax.data.order import rows_at
from bert_jax.errors import UserError


def part(num_rows: int, first: int, max_sequences: int = 2) -> Split:
  """A split whose row r holds first + r everywhere."""
  tokens = np.repeat(first + np.arange(num_rows), 8).reshape(num_rows, 8).astype(np.uint16)
  sequences = np.ones((num_rows, max_sequences, 3), np.uint16)
  return Split(num_rows, 8, max_sequences, np.array([0, num_rows]), (tokens,), (sequences,), (), (), None)


@pytest.fixture
def mixed() -> mixture.MixedSplit:
  return mixture._mixed([part(700, 0), part(90, 10_000, 5), part(40, 20_000)], np.array([600, 350, 50]))


def corpus_of(tokens):
  return tokens[:, 0] // 10_000


def test_every_block_has_exactly_the_share_of_each_corpus(mixed):
  batch = load_batch(mixed, np.arange(5 * mixture.BLOCK), seed=3)
  for block in np.split(corpus_of(batch["tokens"]), 5):
    assert np.bincount(block).tolist() == [600, 350, 50]


def test_the_corpora_are_mixed_and_not_one_after_the_other(mixed):
  found = corpus_of(load_batch(mixed, np.arange(mixture.BLOCK), seed=3)["tokens"])
  for start in range(0, mixture.BLOCK, 100):
    assert 40 < (found[start : start + 100] == 0).sum() < 80
  assert (found != corpus_of(load_batch(mixed, np.arange(mixture.BLOCK), seed=4)["tokens"])).any()
  assert (found != corpus_of(load_batch(mixed, mixture.BLOCK + np.arange(mixture.BLOCK), seed=3)["tokens"])).any()


def test_each_corpus_goes_through_its_own_epochs(mixed):
  batch = load_batch(mixed, np.arange(20 * mixture.BLOCK), seed=3)
  for index, (num_rows, first) in enumerate(((700, 0), (90, 10_000), (40, 20_000))):
    own = corpus_of(batch["tokens"]) == index
    rows, epochs = batch["tokens"][own, 0] - first, batch["epoch"][own]
    for epoch in range(own.sum() // num_rows):
      assert sorted(rows[epochs == epoch]) == list(range(num_rows))
  assert batch["epoch"].max() == 20 * 350 // 90


def test_no_two_rows_share_a_key_in_an_epoch(mixed):
  """Masks are drawn from (epoch, index): an index names one row of one corpus."""
  batch = load_batch(mixed, np.arange(3 * mixture.BLOCK), seed=3)
  pairs = {(int(index), int(row)) for index, row in zip(batch["index"], batch["tokens"][:, 0])}
  assert len({index for index, _ in pairs}) == len({row for _, row in pairs}) == len(pairs)


def test_a_position_gives_the_same_example_wherever_one_begins(mixed):
  whole = load_batch(mixed, np.arange(990, 2010), seed=7)
  for cut in (0, 9, 10, 11, 500):
    piece = load_batch(mixed, np.arange(990 + cut, 2010), seed=7)
    for name in whole:
      np.testing.assert_array_equal(whole[name][cut:], piece[name])
  far = load_batch(mixed, np.array([10**12 + 5]), seed=7)
  assert far["epoch"][0] > 10**6


def test_rows_of_corpora_with_fewer_sequences_are_filled_up(mixed):
  batch = load_batch(mixed, np.arange(100), seed=3)
  assert batch["sequences"].shape == (100, 5, 3)
  for which, table in zip(corpus_of(batch["tokens"]), batch["sequences"]):
    assert (table[:, 0] > 0).sum() == (5 if which == 1 else 2)


def test_one_corpus_alone_is_in_the_order_of_its_rows_under_the_next_seed():
  alone = mixture._mixed([part(90, 0)], np.array([mixture.BLOCK]))
  batch = load_batch(alone, np.arange(2 * mixture.BLOCK), seed=3)
  block = np.sort(batch["tokens"][: mixture.BLOCK, 0])
  _, expected = rows_at(np.arange(mixture.BLOCK), num_rows=90, seed=4)
  np.testing.assert_array_equal(block, np.sort(expected))


@pytest.mark.parametrize(
  "weights, places",
  [
    ({"a": 1, "b": 1}, [500, 500]),
    ({"a": 2, "b": 1}, [667, 333]),
    ({"a": 1, "b": 1, "c": 1}, [334, 333, 333]),
    ({"a": 0.999, "b": 0.001}, [999, 1]),
  ],
)
def test_places_follow_the_weights(weights, places):
  assert mixture._places(weights).tolist() == places


def test_a_weight_too_small_for_a_place_is_refused():
  with pytest.raises(UserError, match="b has less than one part in 1000"):
    mixture._places({"a": 1, "b": 1e-4})


def test_mixtures_are_read_from_one_line():
  assert mixture.parse("data/a=0.7, gs://x/b=c=3") == {"data/a": 0.7, "gs://x/b=c": 3.0}
  for bad in ("data/a", "data/a=", "a=0", "a=-1", "a=inf", "=1", "a=1,a=2", "a=nan"):
    with pytest.raises(UserError, match="data.mixture"):
      mixture.parse(bad)
