"""Integer checksums of arrays, computed where the arrays lie.

Storage does not tell when bits have flipped, so every array of a checkpoint is
stored with a checksum of its own:

    sum over i of  mix(bits_i) * odd(i)   mod 2^32,    odd(i) = mix(i + 1) | 1

where bits_i is element i as an unsigned integer, i its index in the flattened
global array, and mix a bijection of 32-bit integers. Integer sums do not
depend on their order, so the checksum is the same on any mesh and any sharding,
and it is computed by the devices that hold the shards: nothing but the sum
travels to the host.

A change of one element, of whatever bits, always changes the checksum: mix is a
bijection and an odd factor is invertible mod 2^32. Other damage (several
elements, elements in each other's place) goes unseen with a chance of about
2^-31. Without `mix` of the bits, x and -x could trade places unseen: their bits
differ by 2^31, which every difference of two odd factors sends to 0.

Arrays of more than 2^32 words (16 GiB of float32) reuse the factors of their
beginning; a single change is still always seen.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.training.bit_hash import flat_index, mix

# Words that the NumPy version takes at a time, so that its scratch memory stays small.
_BLOCK = 1 << 20


class ArrayFacts(NamedTuple):
  """What the device says about one array.

  Attributes:
    checksum: the sum of the module's docstring, 0 <= checksum < 2^32.
    finite: whether the array holds neither NaN nor infinity; True for integers and booleans.
  """

  checksum: int
  finite: bool


def array_facts(arrays: dict[str, Any]) -> dict[str, ArrayFacts]:
  """Checksums arrays on the devices that hold them.

  Every array takes one small jitted program of its own, compiled once per
  shape, dtype and sharding: a model has about fifteen of those, however many
  layers it has. (One program over a whole train state compiles for as many
  reductions as it has arrays.)

  Args:
    arrays: name -> array of any shape with a boolean, integer or floating dtype of 8 to 64 bits.

  Returns:
    name -> ArrayFacts, in the same order.

  Raises:
    TypeError: another dtype (complex numbers, typed PRNG keys, 4-bit types); the array is named.
  """
  for name, array in arrays.items():
    if _word_dtype(array.dtype) is None:
      raise TypeError(f"{name} has dtype {array.dtype}, which checkpoints do not support")
  facts = {}
  for name, array in arrays.items():
    # One program at a time: several with collectives in flight wait for each other for ever on virtual CPU devices.
    checksum, finite = jax.device_get(_facts(array))
    facts[name] = ArrayFacts(int(checksum), bool(finite))
  return facts


def numpy_checksum(array: np.ndarray) -> int:
  """The same checksum, of an array in host memory, by NumPy: for readers that need no device.

  Args:
    array: any shape and any dtype that `array_facts` takes, bfloat16 included.
  """
  array = np.ascontiguousarray(array)
  words = array.reshape(-1).view(_word_dtype(array.dtype))
  total = 0
  for start in range(0, words.size, _BLOCK):
    block = words[start : start + _BLOCK]
    # The index wraps at 2^32, as it does on the device.
    index = np.arange(block.size, dtype=np.uint32) + np.uint32(start % 2**32)
    products = mix(block.astype(np.uint32)) * _odd(index)
    total += int(np.sum(products, dtype=np.uint32))
  return total % 2**32


@jax.jit
def _facts(array):
  finite = jnp.all(jnp.isfinite(array)) if jnp.issubdtype(array.dtype, jnp.floating) else jnp.bool_(True)
  words = _words(array)
  return jnp.sum(mix(words) * _odd(flat_index(words.shape)), dtype=jnp.uint32), finite


def _word_dtype(dtype) -> Any:
  """The unsigned type that the bits of one element are read as (two words for 64 bits), or None."""
  if dtype == jnp.bool_:
    return np.uint8
  if not jnp.issubdtype(dtype, jnp.integer) and not jnp.issubdtype(dtype, jnp.floating):
    return None
  if jnp.dtype(dtype).name.startswith(("int4", "uint4", "int2", "uint2", "float4")):
    return None  # stored two or four to a byte on the device, one to a byte by NumPy
  return {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}.get(jnp.dtype(dtype).itemsize)


def _words(array):
  """The bits of an array as uint32: the same shape, or [..., 2] (low word first) for 64-bit elements."""
  if array.dtype == jnp.bool_:
    return array.astype(jnp.uint32)
  return jax.lax.bitcast_convert_type(array, _word_dtype(array.dtype)).astype(jnp.uint32)


def _odd(index):
  return mix(index + np.uint32(1)) | np.uint32(1)
