"""rounding.py: to bfloat16 by chance, right on average, the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.training.rounding import round_to_bfloat16

NUMBERS = (np.random.default_rng(1).normal(size=(64, 48)) * 10.0 ** np.arange(-20, 28)).astype(np.float32)


def rounded(x, count, stream=0):
  found = round_to_bfloat16(jnp.asarray(x), jnp.int32(count), stream=stream)
  assert found.dtype == jnp.bfloat16 and found.shape == x.shape
  return np.asarray(found.astype(jnp.float32))


def neighbours(x):
  """The two numbers of bfloat16 that x lies between, the smaller magnitude first."""
  words = x.view(np.uint32) & np.uint32(0xFFFF0000)
  return words.view(np.float32), (words + np.uint32(0x10000)).view(np.float32)


def test_a_number_becomes_one_of_its_two_neighbours():
  low, high = neighbours(NUMBERS)
  found = rounded(NUMBERS, 3)
  assert np.all((found == low) | (found == high)) and 0.4 < np.mean(found == high) < 0.6


def test_the_mean_over_counts_is_the_number_itself():
  low, high = neighbours(NUMBERS)
  mean = np.mean([rounded(NUMBERS, count).astype(np.float64) for count in range(200)], axis=0)
  share, expected = (
    (mean - low) / (high.astype(np.float64) - low),
    (NUMBERS.astype(np.float64) - low) / (high.astype(np.float64) - low),
  )
  assert np.abs(share - expected).max() < 0.02, (
    "200 chances of an element are spread evenly, so the error goes as 1/200"
  )
  assert abs(np.mean(share - expected)) < 1e-3


def test_the_mean_over_elements_is_right_at_every_count():
  for count in (0, 1, 1000):
    x = np.full(100_000, 1.0 + 0.3 / 128, np.float32)
    assert abs(np.mean(rounded(x, count) > 1.0) - 0.3) < 0.01


def test_what_bfloat16_holds_stays_and_so_do_infinity_and_nan():
  held = np.array([0.0, -0.0, 1.0, -2.5, 2.0**-120, np.inf, -np.inf], np.float32)
  for count in range(20):
    np.testing.assert_array_equal(rounded(held, count), held)
  assert np.isnan(rounded(np.full(8, np.nan, np.float32), 5)).all()


def test_two_streams_have_different_chances():
  x = np.full(1000, 1.0 + 0.5 / 128, np.float32)
  assert 0.4 < np.mean(rounded(x, 7) == rounded(x, 7, stream=1)) < 0.6


def test_an_array_that_is_split_over_devices_is_rounded_alike():
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("a", "b"))
  split = jax.device_put(NUMBERS, NamedSharding(mesh, P("a", "b")))
  found = jax.jit(round_to_bfloat16)(split, jnp.int32(11))
  np.testing.assert_array_equal(np.asarray(found.astype(jnp.float32)), rounded(NUMBERS, 11))
