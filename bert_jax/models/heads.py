"""What stands on top of the encoder in pretraining: pooler, MLM head, NSP head.

Shape legend: B rows, K positions to predict, H hidden width, V vocabulary (V'
with the padding rows), … any leading axes.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bert_jax.models.config import EncoderConfig
from bert_jax.models.dropout import dropout
from bert_jax.models.layers import ACTIVATIONS, Dtype, dense, layer_norm, logical_axes


class Pooler(nn.Module):
  """tanh of a dense layer, applied to a [CLS] vector: what the NSP head reads."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, cls_vectors: jax.Array) -> jax.Array:
    """[..., H] to [..., H], between -1 and 1."""
    return jnp.tanh(dense(self, self.config.hidden_size, "dense")(cls_vectors))


class MlmHead(nn.Module):
  """A transform (dense, GELU, LayerNorm), then the product with the word embeddings and a bias per word."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BxKxH: jax.Array, word_embeddings_VxH: jax.Array) -> jax.Array:
    """Scores every word of the vocabulary.

    Args:
      x_BxKxH: [B, K, H], encoder outputs at the positions to predict.
      word_embeddings_VxH: [V', H], the encoder's own table, padding rows included.

    Returns:
      Logits [B, K, V'] in float32 at least; those of padding rows are the lowest number there is, which gives
      these rows a probability and a gradient of zero.
    """
    config = self.config
    x_BxKxH = dense(self, config.hidden_size, "dense")(x_BxKxH)
    x_BxKxH = layer_norm(self, "layer_norm")(ACTIVATIONS[config.hidden_act](x_BxKxH))
    self.sow("intermediates", "transformed", x_BxKxH)  # kept for apply(…, mutable="intermediates") alone
    bias_V = self.param("bias", nn.initializers.zeros, (config.padded_vocab_size,), self.param_dtype)
    logits_dtype = jnp.promote_types(self.dtype, jnp.float32)
    words_VxH = word_embeddings_VxH.astype(self.dtype)
    logits_BxKxV = jnp.einsum("bkh,vh->bkv", x_BxKxH, words_VxH, preferred_element_type=logits_dtype)
    logits_BxKxV += bias_V.astype(logits_dtype)[None, None, :]
    logits_BxKxV = logical_axes(logits_BxKxV, "batch", "predictions", "vocab")
    is_word_V = jnp.arange(config.padded_vocab_size) < config.vocab_size
    return jnp.where(is_word_V[None, None, :], logits_BxKxV, jnp.finfo(logits_dtype).min)


class NspHead(nn.Module):
  """Two logits for a pooled [CLS] vector: 0 says that B follows A, 1 that it is random."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, pooled: jax.Array) -> jax.Array:
    """[..., H] to logits [..., 2] in float32 at least."""
    return dense(self, 2, "dense")(pooled).astype(jnp.promote_types(self.dtype, jnp.float32))


class LabelHead(nn.Module):
  """A dense layer from vectors to the scores of labels: what fine-tuning puts on an encoder.

  Attributes:
    num_labels: scores for each vector.
    dropout_rate: dropout before the layer; Hugging Face has it for classes, not for the ends of answers.
  """

  config: EncoderConfig
  num_labels: int
  dropout_rate: float = 0.0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, vectors: jax.Array, dropout_keys: jax.Array | None) -> jax.Array:
    """[B, ..., H] to scores [B, ..., num_labels] in float32 at least; dropout_keys: [B], or None for no dropout."""
    vectors = dropout(vectors, self.dropout_rate, dropout_keys)
    return dense(self, self.num_labels, "dense")(vectors).astype(jnp.promote_types(self.dtype, jnp.float32))
