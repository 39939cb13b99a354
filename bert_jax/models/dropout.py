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

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

# What is folded into the keys of rows, each within the one before: a part of the model, of a layer, of its attention.
EMBEDDINGS = 0  # layer n of N has n, a head for labels N + 1
ATTENTION, FEED_FORWARD = 0, 1
PROBABILITIES, ATTENTION_OUTPUT = 0, 1

LEVELS = 2**16
_PER_BLOCK = 4


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
  """Sets a share of the numbers to zero and scales up the others, by the share that is really kept: the mean stays
  exactly.

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
  keep = jax.vmap(lambda key: _keep(key, x.shape[1:], kept))(jax.random.key_data(keys_B))
  scaled = x.astype(jnp.promote_types(x.dtype, jnp.float32)) * (
    LEVELS / kept
  )  # in bfloat16 1/0.9 would be 0.16 % too small
  return jnp.where(keep, scaled, 0).astype(x.dtype)


def _keep(key_data: jax.Array, shape: tuple[int, ...], kept: int) -> jax.Array:
  """bool [..., W], each true in `kept` of LEVELS cases.

  A block's four numbers stand a quarter of the last axis apart: put side by side, they would make TPUs work on axes of
  length 2. No mesh splits that axis.
  """
  blocks = (*shape[:-1], -(-shape[-1] // _PER_BLOCK))
  count = jnp.arange(math.prod(blocks), dtype=jnp.uint32).reshape(blocks)
  words = threefry2x32_p.bind(key_data[0], key_data[1], jnp.zeros_like(count), count)
  halves = [half for word in words for half in (word >> np.uint32(16), word & np.uint32(LEVELS - 1))]
  return jnp.concatenate([half < np.uint32(kept) for half in halves], axis=-1)[..., : shape[-1]]
