"""Dropout whose bits belong to a row: drawn from a key of each row, as masks are.

So a row is dropped out alike in any batch, microbatch, host and mesh, and the
losses of a run with dropout do not depend on how its batches are cut. Flax's
own dropout draws for the whole batch from one key.

Shape legend: B rows.
"""

import jax
import jax.numpy as jnp


def fold(keys_B: jax.Array | None, number: int) -> jax.Array | None:
  """Other keys from the same ones: those of a layer, or of a place in it. None (no dropout) stays None."""
  return None if keys_B is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
  """Sets a share of the numbers to zero and scales up the others.

  Args:
    x: [B, ...].
    rate: share that is dropped, below 1.
    keys_B: PRNG keys [B], one for every row, or None for no dropout.
  """
  if keys_B is None or rate == 0:
    return x
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
  return jnp.where(keep, x / (1 - rate), 0)
