"""Rounding float32 to bfloat16 without bias: up or down by chance, so that what is lost on average is nothing.

A second moment moves by a thousandth of itself in a step (1 - b2), and bfloat16
has a step of 1/128 to 1/256: rounded to the nearest, it would never move again.
Rounded up as often as the remainder says, it follows on average (Gupta et al.
2015, arXiv 1502.02551).

The chance is a function of the element's index and of a counter, not of a key:
sixteen bits of a hash of the index, moved on by the golden ratio with every
count. One element so meets all remainders evenly, however few the steps, and the
numbers are the same on any mesh.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.training.bit_hash import flat_index, mix

_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: the multiples of it, mod 2^32, fill the range most evenly


def round_to_bfloat16(x: jax.Array, count: jax.Array, *, stream: int = 0) -> jax.Array:
  """bfloat16 of any shape: each element one of its two neighbours there, the nearer one with the greater chance.

  Args:
    x: float32. What bfloat16 holds stays as it is; infinities and NaN too.
    count: integer scalar, another one for each time that an array is rounded.
    stream: arrays that are rounded at the same count, with different chances for different numbers.
  """
  chance = mix(flat_index(x.shape) + np.uint32(stream) * _GOLDEN) + count.astype(jnp.uint32) * _GOLDEN
  words = jax.lax.bitcast_convert_type(x, jnp.uint32) + (
    chance >> np.uint32(16)
  )  # the half that is cut off carries into the other
  rounded = jax.lax.bitcast_convert_type((words >> np.uint32(16)).astype(jnp.uint16), jnp.bfloat16)
  return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))
