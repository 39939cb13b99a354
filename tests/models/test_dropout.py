"""dropout.py: the stated share, the mean, independence, and bits that belong to a row and to nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import fold_in_rows
from bert_jax.models.dropout import dropout


def keys(number=4, seed=0):
  return jax.random.split(jax.random.key(seed, impl="threefry2x32"), number)


def kept(shape, rate, keys_B):
  """bool of `shape`: what dropout keeps of ones."""
  return np.asarray(dropout(jnp.ones(shape), rate, keys_B)) != 0


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.15, 0.5, 0.9, 0.999])
def test_the_stated_share_is_dropped(rate):
  found = kept((4, 50, 1000), rate, keys())
  sigma = np.sqrt(rate * (1 - rate) / found.size)
  assert abs(np.mean(~found) - rate) < 4 * sigma + 0.5 / 65536


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
def test_what_is_kept_is_scaled_by_the_share_that_is_really_kept(rate, dtype):
  """So the mean over all bits is the number itself, to the rounding of its dtype."""
  with jax.enable_x64(dtype == "float64"):
    x = jnp.linspace(0.5, 3.0, 4 * 20_000).reshape(4, 20_000).astype(dtype)
    found = dropout(x, rate, keys())
    assert found.dtype == x.dtype
    share = round((1 - rate) * 65536) / 65536
    expected = np.asarray(x, np.float64) / share
    found = np.asarray(found, np.float64)
  error = (found - expected)[found != 0] / expected[found != 0]
  assert np.abs(error).max() <= {"bfloat16": 2.0**-8, "float32": 2.0**-22, "float64": 2.0**-51}[dtype]
  # What the mean is off by is the rounding of the products alone; a factor that is itself a bfloat16 would be off by
  # up to 0.4 %.
  rounded = np.asarray(
    jnp.asarray(expected, jnp.float32).astype(dtype if dtype == "bfloat16" else "float32"), np.float64
  )
  assert abs(error.mean() - (rounded / expected - 1)[found != 0].mean()) < 2e-5


def test_the_mean_stays():
  x = jax.random.normal(jax.random.key(1), (4, 50, 1000)) + 2
  found = dropout(x, 0.25, keys())
  assert abs(float(jnp.mean(found)) / float(jnp.mean(x)) - 1) < 0.01


@pytest.mark.parametrize(
  "shape", [(3, 1), (3, 2), (3, 3), (3, 5), (3, 7, 9), (3, 2, 5, 6), (3, 4, 127), (3, 0), (3, 1, 4)]
)
def test_odd_sizes_are_as_good_as_even_ones(shape):
  found = kept(shape, 0.5, keys(3))
  assert found.shape == shape
  many = np.stack([kept(shape, 0.5, keys(3, seed)) for seed in range(200)])
  assert np.all(np.abs(many.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(200)), "every place is dropped half of the time"


def test_without_keys_or_rate_nothing_is_dropped():
  x = jnp.arange(8.0).reshape(2, 4)
  assert dropout(x, 0.5, None) is x and dropout(x, 0.0, keys(2)) is x
  assert fold_in_rows(None, 3) is None


def test_a_rate_that_rounds_to_none_drops_nothing_and_one_close_to_all_still_keeps_some():
  x = jnp.ones((2, 4, 50000))
  assert dropout(x, 1e-6, keys(2)) is x
  found = np.asarray(dropout(x, 1 - 1e-9, keys(2)))
  assert set(np.unique(found)) == {0.0, 65536.0}
  assert np.sum(found == 0) < found.size and 0 < np.sum(kept(x.shape, 1 / 65536, keys(2)) == 0) < 40


def correlation(a, b):
  """Between two fields of bits, in units of its standard deviation for independent ones."""
  a, b = (np.asarray(x, np.float64).ravel() - np.mean(x) for x in (a, b))
  return np.mean(a * b) / (a.std() * b.std()) * np.sqrt(a.size)


@pytest.mark.parametrize("width", [768, 1001])
def test_numbers_are_dropped_independently_of_all_others_in_the_row(width):
  """Those beside them, above them, and those that share a block of random bits with them, wherever they stand."""
  found = kept((4, 25, width), 0.3, keys())
  for distance in range(1, width):
    assert abs(correlation(found[:, :, distance:], found[:, :, :-distance])) < 5.5, f"{distance} apart in a line"
  for distance in range(1, 25):
    assert abs(correlation(found[:, distance:], found[:, :-distance])) < 5, f"{distance} lines apart"


def test_rows_places_and_layers_are_dropped_independently():
  shape = (8, 100, 256)
  fields = {"a row": kept(shape, 0.3, keys(8))}
  fields["the row below"] = np.roll(fields["a row"], 1, axis=0)
  fields |= {f"place {place}": kept(shape, 0.3, fold_in_rows(keys(8), place)) for place in range(3)}
  fields |= {
    f"place {place} of layer {layer}": kept(shape, 0.3, fold_in_rows(fold_in_rows(keys(8), layer), place))
    for layer in (1, 2)
    for place in (0, 1)
  }
  names = list(fields)
  for number, name in enumerate(names):
    for other in names[:number]:
      assert abs(correlation(fields[name], fields[other])) < 5, f"{name}, {other}"


def test_a_row_is_dropped_alike_alone_and_in_any_batch():
  all_keys = keys(6)
  whole = kept((6, 9, 37), 0.4, all_keys)
  for row in range(6):
    np.testing.assert_array_equal(kept((1, 9, 37), 0.4, all_keys[row : row + 1])[0], whole[row])
  np.testing.assert_array_equal(kept((6, 9, 37), 0.4, all_keys[::-1]), whole[::-1])
  assert len({row.tobytes() for row in whole}) == 6


def test_the_bits_do_not_depend_on_dtype_values_or_compilation():
  x = jax.random.normal(jax.random.key(1), (4, 8, 20))
  expected = kept(x.shape, 0.4, keys())
  np.testing.assert_array_equal(np.asarray(dropout(x, 0.4, keys())) != 0, expected)
  np.testing.assert_array_equal(np.asarray(dropout(x.astype(jnp.bfloat16), 0.4, keys())) != 0, expected)
  np.testing.assert_array_equal(np.asarray(jax.jit(lambda x, k: dropout(x, 0.4, k))(x, keys())) != 0, expected)


@pytest.mark.parametrize("remat", [False, True])
def test_the_gradient_passes_where_the_number_did_scaled_alike(remat):
  x = jax.random.normal(jax.random.key(1), (4, 8, 21))
  weights = jax.random.normal(jax.random.key(2), x.shape)
  fn = lambda x: dropout(x, 0.4, keys())
  gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * (jax.checkpoint(fn) if remat else fn)(x))))(x)
  np.testing.assert_array_equal(gradient, fn(weights))


def test_what_is_dropped_does_not_spoil_a_gradient_though_it_be_infinite():
  mask = kept((4, 64), 0.5, keys())
  gradient = jax.grad(lambda x: jnp.sum(dropout(x, 0.5, keys())))(jnp.where(mask, 1.0, jnp.inf))
  np.testing.assert_array_equal(gradient, np.where(mask, 2.0, 0.0))


def test_a_block_of_threefry_serves_four_numbers():
  """jax.random.bernoulli takes a block for each."""
  text = str(jax.make_jaxpr(lambda x, k: dropout(x, 0.1, k))(jnp.ones((2, 6, 64)), keys(2)))
  (line,) = (line for line in text.splitlines() if "= threefry2x32" in line)
  assert "u32[2,6,16]" in line, line
