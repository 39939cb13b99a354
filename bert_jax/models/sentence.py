"""BERT that gives one vector per text, for several texts in each row.

Reimers & Gurevych 2019, arXiv 1908.10084: the same encoder reads every text by itself ("siamese"), and its token
vectors are pooled. Here the texts of an example lie packed in one row, as in pretraining, and attention stays within
each.

The parameter subtrees are encoder, pooler (only where it is read) and classifier (only where classes are learned).

Shape legend: B rows, S texts in a row, L tokens, H hidden width, C classes.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bert_jax.batch import ModelInputs
from bert_jax.models.config import EncoderConfig
from bert_jax.models.encoder import Encoder
from bert_jax.models.heads import LabelHead, Pooler
from bert_jax.models.layers import Dtype
from bert_jax.models.pooling import at_cls, pool


class SentenceModel(nn.Module):
  """An encoder whose token vectors become one vector per text.

  Attributes:
    config: sizes and constants.
    pooling: one of POOLINGS.
    normalize: scale vectors to length 1.
    num_labels: C, or 0 where no classes are learned.
    dtype, param_dtype, remat, attention: as in PretrainingModel.
  """

  config: EncoderConfig
  pooling: str = "mean"
  normalize: bool = False
  num_labels: int = 0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32
  remat: str = "none"
  attention: str = "xla"

  def setup(self):
    self.encoder = Encoder(self.config, self.dtype, self.param_dtype, self.remat, self.attention)
    if self.pooling == "pooler":
      self.pooler = Pooler(self.config, self.dtype, self.param_dtype)
    if self.num_labels:
      self.classifier = LabelHead(self.config, self.num_labels, 0.0, self.dtype, self.param_dtype)

  def __call__(self, inputs: ModelInputs, dropout_keys: jax.Array | None = None) -> jax.Array:
    """Vectors [B, S, H] in float32 at least.

    Args:
      inputs: S sequences in each row; their labels and weights are not read.
      dropout_keys: PRNG keys [B], one for every row, or None for no dropout. One text twice in a row is dropped out
        differently.
    """
    # Padding is counted on from the last text, maybe past the last position that the model has.
    position_ids = jnp.where(inputs.segment_ids > 0, inputs.position_ids, 0)
    x_BxLxH = self.encoder(
      inputs.input_ids, inputs.token_type_ids, position_ids, inputs.segment_ids, dropout_keys, inputs.sequence_lengths
    ).sequence_output
    pooled_BxSxH = self.pooler(at_cls(x_BxLxH, inputs)) if self.pooling == "pooler" else None
    x_BxLxH = x_BxLxH.astype(jnp.promote_types(self.dtype, jnp.float32))
    vectors = [
      pool(x_BxLxH, pooled_BxSxH, inputs, self.pooling, place) for place in range(inputs.cls_positions.shape[1])
    ]
    vectors_BxSxH = jnp.stack(vectors, axis=1).astype(x_BxLxH.dtype)
    if self.is_initializing() and self.num_labels:
      self.classify(vectors_BxSxH)
    return l2_normalize(vectors_BxSxH) if self.normalize else vectors_BxSxH

  def classify(self, vectors_BxSxH: jax.Array) -> jax.Array:
    """Scores [B, C] of the classes of a pair (u, v), the first two texts of a row, from (u, v, |u - v|)."""
    u_BxH, v_BxH = vectors_BxSxH[:, 0], vectors_BxSxH[:, 1]
    return self.classifier(jnp.concatenate([u_BxH, v_BxH, jnp.abs(u_BxH - v_BxH)], axis=-1), None)


def l2_normalize(vectors: jax.Array) -> jax.Array:
  """[..., H] scaled to length 1; zero stays zero."""
  squares = jnp.sum(vectors**2, axis=-1, keepdims=True)
  return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
