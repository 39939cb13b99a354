"""The encoder stack: token ids to one vector per token, and every layer's on the way.

Shape legend: B rows, L tokens, H hidden width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from bert_jax.batch import fold_in_rows
from bert_jax.errors import UserError
from bert_jax.models.config import EncoderConfig
from bert_jax.models.dropout import EMBEDDINGS
from bert_jax.models.layers import Block, Dtype, Embeddings

# What a layer keeps for its backward pass, by `model.remat`, the most first; the rest is computed again.
REMAT = {
  "none": None,  # everything is kept
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with a parameter; not attention scores
  "full": jax.checkpoint_policies.nothing_saveable,  # only the layer's input
}


class EncoderOutput(NamedTuple):
  """What the encoder makes of a batch.

  Attributes:
    sequence_output: [B, L, H], the last layer's output.
    hidden_states: num_hidden_layers + 1 arrays [B, L, H]: the embeddings, then
      each layer's output; the last is `sequence_output`. Under jit the unused cost nothing.
  """

  sequence_output: jax.Array
  hidden_states: tuple[jax.Array, ...]


def attention_probabilities(intermediates: Any) -> jax.Array:
  """[layers, B, N, L, L] in float32 at least, N heads, from what `apply(…, mutable="intermediates")` of a model returns
  beside its output.
  """
  layers = intermediates["intermediates"]["encoder"]
  return jnp.stack([layers[f"layer_{n}"]["attention"]["probabilities"][0] for n in range(len(layers))])


class Encoder(nn.Module):
  """BERT's encoder (Devlin et al. 2018, arXiv:1810.04805).

  Attributes:
    config: sizes and constants.
    dtype: dtype of activations and matrix products.
    param_dtype: dtype of parameters.
    remat: what the backward pass recomputes, a key of REMAT.
    attention: one of attention.IMPLEMENTATIONS.
  """

  config: EncoderConfig
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32
  remat: str = "none"
  attention: str = "xla"

  def setup(self):
    if self.remat not in REMAT:
      raise UserError(f"model.remat: expected one of {', '.join(REMAT)}; got {self.remat!r}")
    block = Block if self.remat == "none" else nn.remat(Block, policy=REMAT[self.remat])
    self.embeddings = Embeddings(self.config, self.dtype, self.param_dtype)
    # Flax names the members of a list by attribute and number: layer_0, layer_1, …
    self.layer = [
      block(self.config, self.dtype, self.param_dtype, self.attention) for _ in range(self.config.num_hidden_layers)
    ]

  def __call__(
    self,
    input_ids: jax.Array,
    token_type_ids: jax.Array,
    position_ids: jax.Array,
    segment_ids: jax.Array,
    dropout_keys: jax.Array | None = None,
    segment_lengths: jax.Array | None = None,
  ) -> EncoderOutput:
    """Encodes token ids.

    Args:
      input_ids: int [B, L], below vocab_size.
      token_type_ids: int [B, L], below type_vocab_size.
      position_ids: int [B, L], counted within each sequence.
      segment_ids: int [B, L], which packed sequence a token belongs to, 0 for padding.
      dropout_keys: PRNG keys [B], one for every row, or None for no dropout.
      segment_lengths: int [B, S], how many tokens each packed sequence has, 0 where there is none; only some kernels
        read it.

    Returns:
      EncoderOutput, in `dtype`.

    Raises:
      UserError: L exceeds max_position_embeddings, for each of the S sequences that a row may hold.
    """
    limit = self.config.max_position_embeddings * (1 if segment_lengths is None else segment_lengths.shape[1])
    if input_ids.shape[1] > limit:
      raise UserError(
        f"rows of {input_ids.shape[1]} tokens do not fit a model of {limit} positions; "
        "raise model.max_position_embeddings or use shorter rows"
      )
    x_BxLxH = self.embeddings(input_ids, token_type_ids, position_ids, fold_in_rows(dropout_keys, EMBEDDINGS))
    hidden_states = [x_BxLxH]
    for number, layer in enumerate(self.layer, start=1):
      x_BxLxH = layer(x_BxLxH, segment_ids, segment_lengths, fold_in_rows(dropout_keys, number))
      hidden_states.append(x_BxLxH)
    return EncoderOutput(x_BxLxH, tuple(hidden_states))
