"""The parts of an encoder block: embeddings, self-attention, feed-forward.

Written as in Devlin et al. 2018 (arXiv:1810.04805) and its reference code
google-research/bert `modeling.py`: LayerNorm after each residual sum, dropout
just before it. Parameters are kept in `param_dtype`, the sums run in `dtype`,
and LayerNorm statistics and softmax in float32 at least.

Activations that several devices may share say what their axes are (`logical_axes`);
which of them a mesh splits is none of the model's business.

Shape legend: B rows, L tokens, H hidden width, I feed-forward width, N heads,
D head width, C the three of query, key and value, S sequences at most in a row.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bert_jax.batch import fold_in_rows
from bert_jax.models import attention
from bert_jax.models.config import EncoderConfig
from bert_jax.models.dropout import ATTENTION, ATTENTION_OUTPUT, FEED_FORWARD, PROBABILITIES, dropout

Dtype = Any


def weight_init(config: EncoderConfig) -> nn.initializers.Initializer:
  """A normal distribution cut at two standard deviations, as original BERT draws every weight.

  The cut leaves a standard deviation of 0.88 * initializer_range. It is not
  corrected for, because tf.truncated_normal_initializer in google-research/bert
  does not either: the published learning rates and results belong to this scale.
  """
  return nn.initializers.truncated_normal(stddev=config.initializer_range)


def sinusoids(config: EncoderConfig) -> nn.initializers.Initializer:
  """Sines and cosines of the position, as Vaswani et al. 2017 (arXiv:1706.03762, section 3.5) fix them, as a start to
  learn from.

  A shift by k positions is then one rotation for all positions, so a head can
  learn to look at neighbours from every row at once; from random vectors each
  position has to be learned by itself, which takes a small model thousands of
  steps. Wavelengths run from 2π to 2π·max_position_embeddings. The amplitude of
  2.5 initializer_range makes positions about twice as long as words at the start.
  """

  def init(key, shape, dtype):
    del key
    positions, features = shape
    frequencies = positions ** (-jnp.arange(features // 2) / (features // 2))
    angles = jnp.arange(positions)[:, None] * frequencies[None, :]
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
    return (2.5 * config.initializer_range * waves).astype(dtype)

  return init


def logical_axes(x: jax.Array, *axes: str | None) -> jax.Array:
  """x, with names for its axes: "batch", "length", "predictions", "hidden", "heads", "mlp", "vocab".

  Where the axes of a mesh are assigned to names (training/sharding.py), x is split accordingly; elsewhere this does
  nothing.
  """
  return nn.with_logical_constraint(x, axes)


def dense(owner: nn.Module, features: int, name: str | None = None) -> nn.Dense:
  """A dense layer with BERT's initialisation and its owner's dtypes. `kernel` is [in, out]."""
  init = weight_init(owner.config)
  return nn.Dense(features, dtype=owner.dtype, param_dtype=owner.param_dtype, kernel_init=init, name=name)


def layer_norm(owner: nn.Module, name: str | None = None) -> nn.LayerNorm:
  """LayerNorm with its owner's epsilon and dtypes; mean and variance in float32 at least."""
  epsilon = owner.config.layer_norm_eps
  return nn.LayerNorm(epsilon=epsilon, dtype=owner.dtype, param_dtype=owner.param_dtype, name=name)


def gelu(x: jax.Array) -> jax.Array:
  """x Φ(x), exactly. Written with erf: jax.nn.gelu takes erfc, whose gradient is twice as slow on CPU."""
  return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS = {"gelu": gelu}  # by `EncoderConfig.hidden_act`


class Embedding(nn.Module):
  """A table of vectors.

  Rows are looked up in `param_dtype` and cast afterwards: the gradient of a
  frequent token is a sum over many positions, which bfloat16 could not hold.

  Attributes:
    num_embeddings: rows that ids may name.
    padded_size: rows of the table; those beyond num_embeddings are zero and stay so.
    features: width of a row.
    initializer: of the first num_embeddings rows, the same whatever padded_size.
    dtype: dtype of the result.
    param_dtype: dtype of the table.
  """

  num_embeddings: int
  padded_size: int
  features: int
  initializer: nn.initializers.Initializer
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    def padded_init(key, shape, dtype):
      rows = self.initializer(key, (self.num_embeddings, shape[1]), dtype)
      return jnp.pad(rows, ((0, shape[0] - self.num_embeddings), (0, 0)))

    self.embedding = self.param("embedding", padded_init, (self.padded_size, self.features), self.param_dtype)

  def __call__(self, ids: jax.Array) -> jax.Array:
    """Looks ids up: integer [...] to [..., features]."""
    return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)


class Embeddings(nn.Module):
  """Word, position and token type embeddings, summed, normalised, dropped out."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    config = self.config

    def table(rows: int, padded_size: int, init=weight_init(config)) -> Embedding:
      return Embedding(rows, padded_size, config.hidden_size, init, self.dtype, self.param_dtype)

    self.word_embeddings = table(config.vocab_size, config.padded_vocab_size)
    positions = config.max_position_embeddings
    position_init = sinusoids(config) if config.position_init == "sinusoidal" else weight_init(config)
    self.position_embeddings = table(positions, positions, position_init)
    self.token_type_embeddings = table(config.type_vocab_size, config.type_vocab_size)
    self.layer_norm = layer_norm(self)

  def __call__(
    self, ids_BxL: jax.Array, token_types_BxL: jax.Array, positions_BxL: jax.Array, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    x_BxLxH = self.word_embeddings(ids_BxL)
    x_BxLxH += self.position_embeddings(positions_BxL)
    x_BxLxH += self.token_type_embeddings(token_types_BxL)
    x_BxLxH = logical_axes(x_BxLxH, "batch", "length", "hidden")
    return dropout(self.layer_norm(x_BxLxH), self.config.hidden_dropout_prob, dropout_keys_B)


class Projection(nn.Module):
  """The parameters of a dense layer, for a caller that multiplies several at once: kernel [H, N, D] and bias [N, D]."""

  config: EncoderConfig
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self) -> tuple[jax.Array, jax.Array]:
    config = self.config
    heads = (config.num_attention_heads, config.head_dim)
    kernel = self.param("kernel", weight_init(config), (config.hidden_size, config.hidden_size), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (config.hidden_size,), self.param_dtype)
    return kernel.reshape(config.hidden_size, *heads), bias.reshape(heads)


class SelfAttention(nn.Module):
  """Multi-head self-attention with its output projection, residual and LayerNorm."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32
  attention: str = "xla"

  @nn.compact
  def __call__(
    self,
    x_BxLxH: jax.Array,
    segment_ids_BxL: jax.Array,
    segment_lengths_BxS: jax.Array | None,
    dropout_keys_B: jax.Array | None,
  ) -> jax.Array:
    config = self.config
    # One product for the three: larger, and where devices share the heads, its gradient is one sum over them, not
    # three.
    kernels, biases = zip(*(Projection(config, self.param_dtype, name=name)() for name in ("query", "key", "value")))
    kernel_HxCxNxD = jnp.stack(kernels, axis=1).astype(self.dtype)
    bias_CxNxD = jnp.stack(biases).astype(self.dtype)
    y_BxLxCxNxD = jnp.einsum("blh,hcnd->blcnd", x_BxLxH, kernel_HxCxNxD) + bias_CxNxD[None, None]
    y_BxLxCxNxD = logical_axes(y_BxLxCxNxD, "batch", "length", None, "heads", None)
    if self.is_mutable_collection("intermediates"):  # somebody wants to see them: apply(…, mutable="intermediates")
      probabilities = attention.attention_probabilities(y_BxLxCxNxD[:, :, 0], y_BxLxCxNxD[:, :, 1], segment_ids_BxL)
      self.sow("intermediates", "probabilities", probabilities)
    y_BxLxNxD = attention.dot_product_attention(
      y_BxLxCxNxD[:, :, 0],
      y_BxLxCxNxD[:, :, 1],
      y_BxLxCxNxD[:, :, 2],
      segment_ids_BxL,
      segment_lengths_BxS,
      dropout_rate=config.attention_probs_dropout_prob,
      dropout_keys_B=fold_in_rows(dropout_keys_B, PROBABILITIES),
      implementation=self.attention,
    )
    y_BxLxNxD = logical_axes(y_BxLxNxD, "batch", "length", "heads", None)
    y_BxLxH = dense(self, config.hidden_size, "output")(y_BxLxNxD.reshape(x_BxLxH.shape))
    y_BxLxH = logical_axes(y_BxLxH, "batch", "length", "hidden")
    y_BxLxH = dropout(y_BxLxH, config.hidden_dropout_prob, fold_in_rows(dropout_keys_B, ATTENTION_OUTPUT))
    return layer_norm(self, "layer_norm")(x_BxLxH + y_BxLxH)


class FeedForward(nn.Module):
  """Two dense layers with GELU between, residual and LayerNorm."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BxLxH: jax.Array, dropout_keys_B: jax.Array | None) -> jax.Array:
    config = self.config
    y_BxLxI = dense(self, config.intermediate_size, "intermediate")(x_BxLxH)
    y_BxLxI = logical_axes(ACTIVATIONS[config.hidden_act](y_BxLxI), "batch", "length", "mlp")
    y_BxLxH = logical_axes(dense(self, config.hidden_size, "output")(y_BxLxI), "batch", "length", "hidden")
    y_BxLxH = dropout(y_BxLxH, config.hidden_dropout_prob, dropout_keys_B)
    return layer_norm(self, "layer_norm")(x_BxLxH + y_BxLxH)


class Block(nn.Module):
  """One layer of the encoder: self-attention, then feed-forward."""

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32
  attention: str = "xla"

  @nn.compact
  def __call__(
    self,
    x_BxLxH: jax.Array,
    segment_ids_BxL: jax.Array,
    segment_lengths_BxS: jax.Array | None,
    dropout_keys_B: jax.Array | None,
  ) -> jax.Array:
    x_BxLxH = SelfAttention(self.config, self.dtype, self.param_dtype, self.attention, name="attention")(
      x_BxLxH, segment_ids_BxL, segment_lengths_BxS, fold_in_rows(dropout_keys_B, ATTENTION)
    )
    return FeedForward(self.config, self.dtype, self.param_dtype, name="feed_forward")(
      x_BxLxH, fold_in_rows(dropout_keys_B, FEED_FORWARD)
    )
