"""What stands on top of the encoder in pretraining: pooler, MLM head, NSP head.

Shape legend: H hidden width, V vocabulary (V' with the padding rows), … any
leading axes.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from bert_jax.models.config import EncoderConfig
from bert_jax.models.layers import Dtype, dense, gelu, layer_norm


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
  def __call__(self, x: jax.Array, word_embeddings_VxH: jax.Array) -> jax.Array:
    """Scores every word of the vocabulary.

    Args:
      x: [..., H], encoder outputs at the positions to predict.
      word_embeddings_VxH: [V', H], the encoder's own table, padding rows included.

    Returns:
      Logits [..., V] in float32 at least, of the true vocabulary.
    """
    config = self.config
    x = dense(self, config.hidden_size, "dense")(x)
    x = gelu(x)
    x = layer_norm(self, "layer_norm")(x)
    bias_V = self.param("bias", nn.initializers.zeros, (config.padded_vocab_size,), self.param_dtype)
    logits_dtype = jnp.promote_types(self.dtype, jnp.float32)
    words_VxH = word_embeddings_VxH.astype(self.dtype)
    logits = jnp.einsum("...h,vh->...v", x, words_VxH, preferred_element_type=logits_dtype)
    # The product runs over the padded table; cutting its result gives the padding rows a gradient of zero.
    logits = logits[..., : config.vocab_size]
    bias = bias_V[: config.vocab_size].astype(logits_dtype)
    return logits + bias.reshape((1,) * (logits.ndim - 1) + (-1,))


class NspHead(nn.Module):
  """Two logits for a pooled [CLS] vector: 0 says that B follows A, 1 that it is random."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, pooled: jax.Array) -> jax.Array:
    """[..., H] to logits [..., 2] in float32 at least."""
    return dense(self, 2, "dense")(pooled).astype(jnp.promote_types(self.dtype, jnp.float32))
