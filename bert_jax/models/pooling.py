"""One vector per sequence out of one vector per token.

What BERT was trained to say at [CLS], through its pooler, is whether B follows A; nothing in pretraining asks for a
vector whose cosine means similarity. Which pooling serves a purpose best is measured: `bert_jax probe`.
"""

import jax
import jax.numpy as jnp

from bert_jax.batch import ModelInputs

POOLINGS = ("cls", "pooler", "mean", "max")


def pool(x_BxLxH: jax.Array, pooled_BxSxH: jax.Array | None, inputs: ModelInputs, pooling: str) -> jax.Array:
  """[B, H], the vector of each row's only sequence. Padding never enters.

  Args:
    x_BxLxH: vectors of the tokens, of the last layer (`sequence_output`) or any other.
    pooled_BxSxH: `pooled_output` of the model; read by "pooler" alone.
    inputs: one sequence in each row.
    pooling: cls (the vector at [CLS]), pooler (that of the last layer through the pooler: dense and tanh), mean or max (over
      all tokens but padding, [CLS] and [SEP] included, as sentence-transformers does).
  """
  if pooling == "cls":
    return x_BxLxH[:, 0]
  if pooling == "pooler":
    return pooled_BxSxH[:, 0]
  real_BxLx1 = jnp.asarray(inputs.segment_ids)[:, :, None] > 0
  if pooling == "max":
    return jnp.max(jnp.where(real_BxLx1, x_BxLxH, -jnp.inf), axis=1)
  return jnp.sum(jnp.where(real_BxLx1, x_BxLxH, 0.0), axis=1) / jnp.sum(real_BxLx1, axis=1)
