"""BERT with its pretraining heads: everything that people read out of a BERT, by name.

Shape legend: B rows, L tokens, S sequences at most in a row, K positions to
predict, H hidden width, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bert_jax.batch import ModelInputs
from bert_jax.errors import UserError
from bert_jax.models.config import EncoderConfig
from bert_jax.models.encoder import Encoder
from bert_jax.models.heads import MlmHead, NspHead, Pooler
from bert_jax.models.layers import Dtype
from bert_jax.models.parameters import SUBTREES

HEADS = frozenset(SUBTREES)  # what may stand on the encoder


class ModelOutput(NamedTuple):
  """What the model makes of a batch. None where the model lacks the head.

  Attributes:
    sequence_output: [B, L, H], one vector per token from the last layer.
    hidden_states: num_hidden_layers + 1 arrays [B, L, H], see EncoderOutput.
    pooled_output: [B, S, H], tanh(dense([CLS] vector)) for each packed sequence.
    masked_output: [B, K, H], sequence_output at the masked positions.
    padded_prediction_logits: float32 [B, K, V'], V' being V with the padding rows of the word embeddings; these have a
      probability of 0. What a loss wants: cutting the padding off would move logits between devices that share the
      vocabulary.
    prediction_logits: float32 [B, K, V], the same without padding.
    nsp_logits: float32 [B, S, 2]; index 0: B follows A.
  """

  sequence_output: jax.Array
  hidden_states: tuple[jax.Array, ...]
  pooled_output: jax.Array | None
  masked_output: jax.Array
  padded_prediction_logits: jax.Array | None
  prediction_logits: jax.Array | None
  nsp_logits: jax.Array | None


class PretrainingModel(nn.Module):
  """An encoder with pooler, MLM head and NSP head.

  Attributes:
    config: sizes and constants.
    dtype: dtype of activations and matrix products.
    param_dtype: dtype of parameters.
    remat: what the backward pass recomputes: 'none', 'dots' or 'full', see models/encoder.py.
    attention: one of attention.IMPLEMENTATIONS.
    heads: which of HEADS there are; 'nsp' needs 'pooler'.
  """

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32
  remat: str = "none"
  attention: str = "xla"
  heads: frozenset[str] = HEADS

  def setup(self):
    if not set(self.heads) <= HEADS or ("nsp" in self.heads and "pooler" not in self.heads):
      raise UserError(
        f"heads: expected some of {sorted(HEADS)}, and 'pooler' where there is 'nsp'; got {sorted(self.heads)}"
      )
    self.encoder = Encoder(self.config, self.dtype, self.param_dtype, self.remat, self.attention)
    if "pooler" in self.heads:
      self.pooler = Pooler(self.config, self.dtype, self.param_dtype)
    if "mlm" in self.heads:
      self.mlm_head = MlmHead(self.config, self.dtype, self.param_dtype)
    if "nsp" in self.heads:
      self.nsp_head = NspHead(self.config, self.dtype, self.param_dtype)

  def __call__(
    self, inputs: ModelInputs, masked_positions: jax.Array | None, dropout_keys: jax.Array | None = None
  ) -> ModelOutput:
    """Runs encoder and heads.

    Args:
      inputs: see ModelInputs; of it, labels and weights are not read.
      masked_positions: int [B, K], the positions to predict, or None for all of them.
      dropout_keys: PRNG keys [B], one for every row, or None for no dropout.

    Returns:
      ModelOutput. The MLM head runs on [B, K, H] only, so that with K of L
      positions nothing of size [B, L, V] is ever made.
    """
    x_BxLxH, hidden_states = self.encoder(
      inputs.input_ids,
      inputs.token_type_ids,
      inputs.position_ids,
      inputs.segment_ids,
      dropout_keys,
      inputs.sequence_lengths,
    )
    masked_BxKxH = x_BxLxH if masked_positions is None else _gather(x_BxLxH, masked_positions)
    pooled_BxSxH = self.pooler(_gather(x_BxLxH, inputs.cls_positions)) if "pooler" in self.heads else None
    word_embeddings_VxH = self.encoder.embeddings.word_embeddings.embedding
    padded_BxKxV = self.mlm_head(masked_BxKxH, word_embeddings_VxH) if "mlm" in self.heads else None
    return ModelOutput(
      sequence_output=x_BxLxH,
      hidden_states=hidden_states,
      pooled_output=pooled_BxSxH,
      masked_output=masked_BxKxH,
      padded_prediction_logits=padded_BxKxV,
      prediction_logits=None if padded_BxKxV is None else padded_BxKxV[:, :, : self.config.vocab_size],
      nsp_logits=self.nsp_head(pooled_BxSxH) if "nsp" in self.heads else None,
    )


def _gather(x_BxLxH: jax.Array, positions_BxK: jax.Array) -> jax.Array:
  """Picks positions: [B, L, H] and int [B, K] to [B, K, H]."""
  return jnp.take_along_axis(x_BxLxH, positions_BxK[:, :, None], axis=1)
