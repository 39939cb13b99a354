"""One vector per sequence out of one vector per token.

What BERT was trained to say at [CLS], through its pooler, is whether B follows A; nothing in pretraining asks for a
vector whose cosine means similarity. Which pooling serves a purpose best is measured: `bert_jax probe`.
"""

import jax
import jax.numpy as jnp

from bert_jax.batch import ModelInputs

POOLINGS = ("cls", "pooler", "mean", "max")


def pool(
  x_BxLxH: jax.Array, pooled_BxSxH: jax.Array | None, inputs: ModelInputs, pooling: str, sequence: int = 0
) -> jax.Array:
  """[B, H], the vector of one sequence of each row, by default the first. Padding and other sequences never enter.

  Args:
    x_BxLxH: vectors of the tokens, of the last layer (`sequence_output`) or any other.
    pooled_BxSxH: `pooled_output` of the model; read by "pooler" alone.
    inputs: every row has that sequence.
    pooling: cls (the vector at [CLS]), pooler (that of the last layer through the pooler: dense and tanh), mean or max
      (over all tokens but padding, [CLS] and [SEP] included, as sentence-transformers does).
    sequence: which, from 0, of those that are packed into a row.
  """
  if pooling == "cls":
    return at_cls(x_BxLxH, inputs)[:, sequence]
  if pooling == "pooler":
    assert pooled_BxSxH is not None
    return pooled_BxSxH[:, sequence]
  own_BxLx1 = jnp.asarray(inputs.segment_ids)[:, :, None] == sequence + 1
  if pooling == "max":
    return jnp.max(jnp.where(own_BxLx1, x_BxLxH, -jnp.inf), axis=1)
  return jnp.sum(jnp.where(own_BxLx1, x_BxLxH, 0.0), axis=1) / jnp.sum(own_BxLx1, axis=1)


def at_cls(x_BxLxH: jax.Array, inputs: ModelInputs) -> jax.Array:
  """[B, S, H], the vectors where the sequences of each row begin."""
  return jnp.take_along_axis(x_BxLxH, jnp.asarray(inputs.cls_positions)[:, :, None], axis=1)
