"""Dropout whose bits belong to a row: drawn from a key of each row, as masks are.

So a row is dropped out alike in any batch, microbatch, host and mesh, and the
losses of a run with dropout do not depend on how its batches are cut. Flax's
own dropout draws for the whole batch from one key.

A number is dropped by 16 bits of its own, compared as an integer. One block of
threefry (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
yields 64 bits, so it serves four numbers; jax.random.bernoulli takes a block
for each. With 16 bits a rate is met to 1/131072, and 0.1 becomes 0.100006; with
8 it would become 0.1016, and what is below 0.002 nothing at all.

Shape legend: B rows, W width of the last axis.
"""

import jax
from jax.extend.random import threefry2x32_p
import jax.numpy as jnp
import numpy as np

LEVELS = 2**16
_PER_BLOCK = 4


def fold(keys_B: jax.Array | None, number: int) -> jax.Array | None:
  """Other keys from the same ones: those of a layer, or of a place in it. None (no dropout) stays None."""
  return None if keys_B is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
  """Sets a share of the numbers to zero and scales up the others, by the share that is really kept: the mean stays exactly.

  Args:
    x: floating point [B, ..., W].
    rate: share that is dropped, below 1; rounded to the nearest 1/65536, and never to all.
    keys_B: threefry keys [B], one for every row, or None for no dropout.

  Returns:
    What x is, in shape and dtype.
  """
  kept = max(1, round((1 - rate) * LEVELS))
  if keys_B is None or kept == LEVELS:
    return x
  keep = jax.vmap(lambda key: _bits(key, x.shape[1:]))(jax.random.key_data(keys_B)) < np.uint16(kept)
  scaled = x.astype(jnp.promote_types(x.dtype, jnp.float32)) * (LEVELS / kept)  # bfloat16 would make the factor of 0.1 too small by 0.16 %
  return jnp.where(keep, scaled, 0).astype(x.dtype)


def _bits(key_data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """uint16 [..., W], evenly distributed; a block's four stand side by side in the last axis, which no mesh splits."""
  blocks = (*shape[:-1], -(-shape[-1] // _PER_BLOCK))
  count = jnp.arange(np.prod(blocks), dtype=jnp.uint32).reshape(blocks)
  words = jnp.stack(threefry2x32_p.bind(key_data[0], key_data[1], jnp.zeros_like(count), count), axis=-1)
  bits = jax.lax.bitcast_convert_type(words, jnp.uint16)
  return bits.reshape(*blocks[:-1], blocks[-1] * _PER_BLOCK)[..., : shape[-1]]
