"""Where an element stands in an array, and a hash of 32 bits: what checksums and rounding by chance are made of."""

import jax
import jax.numpy as jnp
import numpy as np


def flat_index(shape: tuple[int, ...]) -> jax.Array:
  """uint32 array of `shape`: each element's index in the flattened array, mod 2^32.

  It is summed from one iota per axis, without a reshape, so that XLA computes
  each shard's part on the device that holds the shard.
  """
  index, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
    stride *= shape[axis]
  return index


def mix(x):
  """A bijection of uint32 in which every input bit moves about half of the output bits; mix(0) = 0. Takes JAX and NumPy
  arrays.

  Constants: the "lowbias32" function of Chris Wellons' hash prospector (2018, public domain).
  """
  x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
  x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
  return x ^ (x >> np.uint32(16))
