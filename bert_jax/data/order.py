"""The order of rows: a pure function of the seed and of the position in the run.

The training data is one endless sequence. At position p stands a row of epoch
p // N, where N is the number of rows, and each epoch is a permutation of all
rows. Nothing is shuffled, stored or skipped: the row at any position is
computed on the spot, so a run resumes anywhere at the same cost, and every
host finds the rows of its own part of a batch without asking the others.

The permutation is a Feistel network over pairs of numbers (left, right), as in
Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002: each
round adds to one half a keyed hash of the other, which can always be undone.
The halves live in Z_a x Z_b, where a * b is only just as large as N. The few
results that fall outside are sent through the network again until they land
inside ("cycle walking"), which keeps the map a bijection.

The order is part of the contract of a resumed run: a change here changes every
run. tests/data/test_order.py pins it.
"""

import math

import numpy as np

from bert_jax.batch import EVALUATION_EPOCH

# With eight rounds and very few rows, some orders come up more often than others; with 16 no test saw it any
# more, and small corpora can afford yet more. From about ten rows on no test tells 8 rounds from 32.
ROUNDS = 8
ROUNDS_WHEN_SMALL = 24
SMALL = 256

# 2^64 / golden ratio (odd), and the two multipliers of the murmur3 64-bit finaliser.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_HALF = np.uint64(32)

# Keep the hashes of the rounds apart; made of Python integers, because NumPy warns where a scalar overflows.
_ROUND_CONSTANTS = np.array([number * int(_MIX_2) % 2**64 for number in range(ROUNDS_WHEN_SMALL)], np.uint64)


def rows_at(positions: np.ndarray, *, num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Which row stands at each position of the endless training sequence.

  Args:
    positions: int64 [n], 0 or more; they may lie in different epochs.
    num_rows: rows in the corpus, 1 to 2^40.
    seed: any Python int; taken modulo 2^64.

  Returns:
    epoch: uint32 [n], which pass over the corpus.
    row: int64 [n], in [0, num_rows).

  Raises:
    ValueError: a negative position, or one so far on that its epoch is the one kept for evaluation.
  """
  positions = np.asarray(positions, np.int64)
  if not positions.size:
    return np.zeros(0, np.uint32), np.zeros(0, np.int64)
  epoch, index = np.divmod(positions, num_rows)
  if epoch.min() < 0 or epoch.max() >= EVALUATION_EPOCH:
    first, last = positions.min(), positions.max()
    raise ValueError(f"expected positions in [0, {num_rows} * {EVALUATION_EPOCH}), found {first} to {last}")
  return epoch.astype(np.uint32), permutation(index, num_rows, key_of(seed, epoch)).astype(np.int64)


def key_of(seed: int, epoch: np.ndarray) -> np.ndarray:
  """Keys for `permutation`, one for every epoch (or block): integer [n] -> uint64 [n]."""
  seed_key = _mix(np.array([seed % 2**64], np.uint64) ^ _GOLDEN)
  return _mix(seed_key + epoch.astype(np.uint64) * _GOLDEN)


def permutation(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
  """Where a keyed pseudo-random permutation of range(size) sends each index.

  Args:
    index: integer [n], in [0, size).
    size: 1 to 2^40.
    key: uint64, [n] or [1]: every value is another permutation.

  Returns:
    uint64 [n], in [0, size).
  """
  if not 1 <= size <= 2**40:
    raise ValueError(f"a permutation needs a size from 1 to 2^40, not {size}")
  # A product just above size: of the order of sqrt(size) values lie outside. One width is odd and one even,
  # because adding to a half of width w makes w-cycles: with two odd widths no odd permutation could come out,
  # and the orders of a tiny corpus would not be equally likely.
  width_left = (math.isqrt(size - 1) + 1) | 1
  width_right = -(-size // width_left)
  width_right += width_right % 2
  constants = _ROUND_CONSTANTS[: ROUNDS_WHEN_SMALL if size < SMALL else ROUNDS]
  key = np.broadcast_to(np.asarray(key, np.uint64), index.shape)
  result = _network(index.astype(np.uint64), key, width_left, width_right, constants)
  outside = np.flatnonzero(result >= size)
  while outside.size:
    result[outside] = _network(result[outside], key[outside], width_left, width_right, constants)
    outside = outside[result[outside] >= size]
  return result


def _network(value, key, width_left: int, width_right: int, constants) -> np.ndarray:
  """The Feistel network on Z_left x Z_right: uint64 [n] -> uint64 [n], a bijection of range(left * right)."""
  width, other = np.uint64(width_left), np.uint64(width_right)
  left, right = np.divmod(value, other)
  for constant in constants:
    # A multiplicative hash whose upper 32 bits are used; in place, since small arrays cost by the call.
    hashed = right * _GOLDEN
    hashed ^= key + constant
    hashed ^= hashed >> _HALF
    hashed *= _MIX_1
    hashed >>= _HALF
    # Scaled to [0, width) by a multiplication: cheaper than a division.
    hashed *= width
    hashed >>= _HALF
    left = left + hashed
    # Modulo width: where left < width the difference wraps around to a huge number, and left is kept.
    left = np.minimum(left, left - width)
    left, right, width, other = right, left, other, width
  # The number of rounds is even, so the halves stand where they began.
  return left * other + right


def _mix(value: np.ndarray) -> np.ndarray:
  """The finaliser of MurmurHash3 (64 bit): any input bit changes every output bit with probability 1/2."""
  value = (value ^ (value >> _SHIFT)) * _MIX_1
  value = (value ^ (value >> _SHIFT)) * _MIX_2
  return value ^ (value >> _SHIFT)
