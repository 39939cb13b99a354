"""The checksum sees every change, and is the same wherever the array lies."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.training.checkpoints import checksums

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int16", "uint8", "int8", "bool"]


def checksum(array) -> int:
  return checksums.array_facts({"x": jnp.asarray(array)})["x"].checksum


def random_array(dtype: str, shape=(5, 3, 4), seed=0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return (rng.normal(size=shape) * 50).astype(jnp.dtype(dtype)) if dtype != "bool" else rng.random(shape) < 0.5


def reference(array: np.ndarray) -> int:
  """The formula of the module's docstring in Python integers, word by word."""

  def mix(x):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
      x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 16)

  size = min(array.itemsize, 4)
  data = np.ascontiguousarray(array).tobytes()
  words = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
  return sum(mix(word) * (mix(i + 1) | 1) for i, word in enumerate(words)) % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (5, 3, 4)])
def test_device_and_numpy_agree_with_the_formula(dtype, shape):
  array = np.asarray(random_array(dtype, shape))
  assert checksum(array) == checksums.numpy_checksum(array) == reference(array)


def test_64_bit_elements_count_as_two_words():
  with jax.enable_x64(True):
    for dtype in ("float64", "int64", "uint64"):
      array = random_array(dtype)
      assert checksum(array) == checksums.numpy_checksum(array) == reference(array)
      changed = array.copy()
      changed.view(np.uint64)[2, 1, 3] ^= np.uint64(1 << 40)
      assert checksum(changed) != checksum(array)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_every_single_flipped_bit_changes_the_checksum(dtype):
  array = random_array(dtype, (3, 5))
  right = checksum(array)
  flipped = np.repeat(array[None], array.nbytes * 8, axis=0)
  for bit, copy in enumerate(flipped):
    copy.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
  assert right not in {checksums.numpy_checksum(copy) for copy in flipped}
  assert right not in {checksum(copy) for copy in flipped[::7]}


def test_any_two_swapped_elements_change_the_checksum_even_x_and_minus_x():
  values = np.asarray([1.5, -1.5, 0.0, -0.0, 3e8, -3e8, 1e-40, 7.0], np.float32)
  right = checksums.numpy_checksum(values)
  for i, j in itertools.combinations(range(len(values)), 2):
    swapped = values.copy()
    swapped[[i, j]] = swapped[[j, i]]
    assert checksums.numpy_checksum(swapped) != right, (i, j)


def test_swapped_rows_and_transposed_squares_change_the_checksum():
  array = random_array("float32", (64, 64))
  assert checksum(array[::-1]) != checksum(array)
  assert checksum(array.T) != checksum(array)
  assert checksum(np.roll(array, 32, axis=0)) != checksum(array)


@pytest.mark.parametrize("spec", [(), ("a",), (None, "b"), (("a", "b"),), ("b", "a"), (None, ("b", "a"))])
def test_sharding_does_not_change_the_checksum(spec):
  array = random_array("float32", (16, 24, 3))
  mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
  assert checksum(placed) == checksum(array)


def test_no_shard_is_gathered():
  mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("a")))
  program = checksums._facts.lower(spec).compile().as_text()
  assert "all-reduce" in program
  assert "all-gather" not in program


def test_arrays_of_more_than_2_to_the_32_elements_have_weights():
  huge = jax.ShapeDtypeStruct((3, 2**16 + 1, 2**16 + 1), jnp.uint8)
  total, finite = jax.eval_shape(checksums._facts, huge)
  assert (total.dtype, total.shape, finite.shape) == (jnp.uint32, (), ())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_makes_an_array_not_finite(dtype, bad):
  array = random_array(dtype)
  assert checksums.array_facts({"x": jnp.asarray(array)})["x"].finite
  array[4, 2, 3] = bad
  assert not checksums.array_facts({"x": jnp.asarray(array)})["x"].finite


def test_integers_are_always_finite():
  assert checksums.array_facts({"x": jnp.full((3,), 0x7F800000, jnp.int32)})["x"].finite


@pytest.mark.parametrize("make", [lambda: jnp.ones(3, jnp.complex64), lambda: jax.random.key(0)])
def test_a_dtype_that_is_not_held_is_named(make):
  with pytest.raises(TypeError, match="opt_state/x"):
    checksums.array_facts({"opt_state/x": make()})


def test_bfloat16_is_read_by_its_bits():
  array = np.asarray([1.0, -2.0], ml_dtypes.bfloat16)
  assert checksums.numpy_checksum(array) == checksums.numpy_checksum(array.view(np.uint16))
