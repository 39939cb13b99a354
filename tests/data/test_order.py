"""Law 1: the order of rows is a pure function of (seed, position), and it looks random."""

import itertools
import math
import time

import numpy as np
import pytest

from bert_jax.batch import EVALUATION_EPOCH
from bert_jax.data.order import permutation, rows_at


def epochs_of(num_rows: int, epochs: int, seed: int = 0) -> np.ndarray:
  """The rows of the first epochs, [epochs, num_rows]."""
  _, rows = rows_at(np.arange(num_rows * epochs), num_rows=num_rows, seed=seed)
  return rows.reshape(epochs, num_rows)


def deviation(counts: np.ndarray) -> float:
  """How many standard deviations the chi-square of counts lies from that of a uniform distribution."""
  expected = counts.sum() / counts.size
  chi_square = ((counts - expected) ** 2 / expected).sum()
  freedom = counts.size - 1
  return (chi_square - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 255, 256, 257, 1000, 65_537])
def test_every_epoch_holds_every_row_exactly_once(num_rows):
  for rows in epochs_of(num_rows, 3, seed=5):
    np.testing.assert_array_equal(np.sort(rows), np.arange(num_rows))


def test_the_order_is_pinned():
  """These numbers may only change together with a new corpus format: every running training would change."""
  epoch, row = rows_at(np.arange(12), num_rows=10, seed=0)
  assert epoch.tolist() == [0] * 10 + [1] * 2
  assert row.tolist() == [3, 8, 5, 6, 0, 1, 2, 7, 9, 4, 5, 2]
  epoch, row = rows_at(np.array([0, 1, 2, 999_999, 1_000_000, 123_456_789_012]), num_rows=1_000_000, seed=42)
  assert epoch.tolist() == [0, 0, 0, 0, 1, 123_456]
  assert row.tolist() == [54575, 914404, 360185, 512840, 450570, 764607]
  epoch, row = rows_at(np.array([0, 1, 2**40 - 1, 2**40, 5 * 2**40 + 3]), num_rows=2**40, seed=-1)
  assert epoch.tolist() == [0, 0, 0, 1, 5]
  assert row.tolist() == [914994676336, 1055622117379, 810466504517, 903036531541, 1091030184432]


def test_a_position_means_the_same_alone_and_in_any_company():
  positions = np.random.default_rng(0).integers(0, 10**12, 500)
  together = rows_at(positions, num_rows=12_345, seed=9)
  for i in range(0, 500, 50):
    epoch, row = rows_at(positions[i : i + 1], num_rows=12_345, seed=9)
    assert (epoch[0], row[0]) == (together[0][i], together[1][i])


def test_dtypes_and_the_empty_batch():
  for positions in (np.arange(3), np.zeros(0, np.int64)):
    epoch, row = rows_at(positions, num_rows=7, seed=0)
    assert (epoch.dtype, row.dtype) == (np.uint32, np.int64)
    assert epoch.shape == row.shape == positions.shape


@pytest.mark.parametrize("num_rows", [2, 3, 4, 5, 6, 7])
def test_all_orders_of_a_tiny_corpus_are_equally_frequent(num_rows):
  rows = epochs_of(num_rows, 30_000, seed=11)
  powers = num_rows ** np.arange(num_rows)
  orders = np.sort([np.dot(order, powers) for order in itertools.permutations(range(num_rows))])
  place = np.searchsorted(orders, rows @ powers)
  assert deviation(np.bincount(place, minlength=len(orders))) < 4


@pytest.mark.parametrize("num_rows", [10, 64, 300])
def test_neighbouring_positions_hold_independent_rows(num_rows):
  """Over many epochs, the pair of rows at any two positions is uniform: first, middle and last pair."""
  rows = epochs_of(num_rows, 4_000 if num_rows == 300 else 20_000, seed=2)
  bins = min(num_rows, 10)
  for i in (0, num_rows // 2, num_rows - 2):
    assert deviation(np.bincount(rows[:, i], minlength=num_rows)) < 4.5
    if num_rows == 10:  # two positions never hold the same row: leave the diagonal out
      counts = np.bincount(rows[:, i] * bins + rows[:, i + 1], minlength=bins * bins).reshape(bins, bins)
      assert deviation(counts[~np.eye(bins, dtype=bool)]) < 4.5
    else:
      step = (rows[:, i + 1] - rows[:, i]) % num_rows
      assert deviation(np.bincount(step, minlength=num_rows)[1:]) < 4.5


def test_one_epoch_of_a_large_corpus_has_no_structure():
  num_rows = 1_000_003
  _, rows = rows_at(np.arange(200_000), num_rows=num_rows, seed=4)
  for lag in (1, 2, 1000, 1001):  # the halves of the network are about 1000 wide
    assert abs(np.corrcoef(rows[:-lag], rows[lag:])[0, 1]) < 0.01
    steps = (rows[lag:] - rows[:-lag]) % num_rows
    assert deviation(np.histogram(steps, bins=100, range=(0, num_rows))[0]) < 4.5
  assert deviation(np.histogram(rows, bins=100, range=(0, num_rows))[0]) < 4.5


@pytest.mark.parametrize("changed", ["epoch", "seed"])
def test_another_epoch_or_seed_is_another_order(changed):
  num_rows = 10_000
  first = epochs_of(num_rows, 2, seed=0)
  other = first[1] if changed == "epoch" else epochs_of(num_rows, 1, seed=1)[0]
  assert np.sum(first[0] == other) < 10  # one in expectation
  assert abs(np.corrcoef(first[0], other)[0, 1]) < 0.05


def test_no_two_of_many_epochs_are_alike():
  rows = epochs_of(50, 2_000)
  assert len({row.tobytes() for row in rows}) == 2_000


def test_positions_without_an_epoch_are_refused():
  with pytest.raises(ValueError, match="expected positions in"):
    rows_at(np.array([-1]), num_rows=5, seed=0)
  with pytest.raises(ValueError, match="expected positions in"):
    rows_at(np.array([5 * EVALUATION_EPOCH]), num_rows=5, seed=0)
  assert rows_at(np.array([5 * EVALUATION_EPOCH - 1]), num_rows=5, seed=0)[0][0] == EVALUATION_EPOCH - 1
  with pytest.raises(ValueError, match="size"):
    permutation(np.arange(1), 0, np.zeros(1, np.uint64))


@pytest.mark.alone
def test_a_batch_costs_little_more_than_a_single_row():
  """Measured at 3 times for 4,096 rows; the best of ten by this thread's clock, for the machine may be busy."""
  times = {1: [], 4096: []}
  for start in range(10):
    for number, found in times.items():
      positions = np.arange(number) + start * 10**12
      began = time.thread_time()
      rows_at(positions, num_rows=123_456_789, seed=0)
      found.append(time.thread_time() - began)
  assert min(times[4096]) < 20 * min(times[1])
