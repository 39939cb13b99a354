"""Dot-product attention under one mask rule, and the table of its implementations.

The rule: a query sees a key when the key is not padding and both belong to
the same packed sequence, or when the query itself is padding. A real token so
never sees padding or a neighbour in its row. A padding query sees every real
token, which is what Hugging Face's BERT computes there, so that outputs agree
with it at every position of an unpacked row; nothing ever reads them.

Shape legend: B rows, L tokens (Q as query, K as key), N heads, D head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bert_jax.errors import UserError
from bert_jax.models.dropout import dropout


def dot_product_attention(
    query_BxLxNxD: jax.Array,
    key_BxLxNxD: jax.Array,
    value_BxLxNxD: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    dropout_rate: float = 0.0,
    dropout_keys_B: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
  """Attends within packed sequences.

  Args:
    query_BxLxNxD: [B, L, N, D], not scaled.
    key_BxLxNxD: [B, L, N, D].
    value_BxLxNxD: [B, L, N, D].
    segment_ids_BxL: integer [B, L], 0 for padding.
    dropout_rate: share of attention probabilities that are dropped.
    dropout_keys_B: PRNG keys [B], one for every row, or None for no dropout.
    implementation: 'auto' or a key of IMPLEMENTATIONS.

  Returns:
    [B, L, N, D] in the dtype of `value`; finite even where a row is all padding.

  Raises:
    UserError: the implementation is unknown.
  """
  return resolve(implementation)(
      query_BxLxNxD, key_BxLxNxD, value_BxLxNxD, segment_ids_BxL, dropout_rate, dropout_keys_B
  )


def attention_mask(segment_ids_BxL: jax.Array) -> jax.Array:
  """Returns bool [B, L, L], True where the query (second axis) sees the key (third)."""
  query_BxQx1 = segment_ids_BxL[:, :, None]
  key_Bx1xK = segment_ids_BxL[:, None, :]
  return (key_Bx1xK != 0) & ((query_BxQx1 == key_Bx1xK) | (query_BxQx1 == 0))


def _xla_attention(query_BxQxNxD, key_BxKxNxD, value_BxKxNxD, segment_ids_BxL, dropout_rate, dropout_keys_B):
  """Plain einsums that XLA fuses; scores and softmax in float32 at least."""
  softmax_dtype = jnp.promote_types(query_BxQxNxD.dtype, jnp.float32)
  scaled_BxQxNxD = query_BxQxNxD * jnp.asarray(query_BxQxNxD.shape[-1] ** -0.5, query_BxQxNxD.dtype)
  scores_BxNxQxK = jnp.einsum(
      "bqnd,bknd->bnqk", scaled_BxQxNxD, key_BxKxNxD, preferred_element_type=softmax_dtype)
  mask_Bx1xQxK = attention_mask(segment_ids_BxL)[:, None, :, :]
  # A finite minimum, not -inf: a row of nothing but padding then gets a uniform average instead of NaN.
  masked_BxNxQxK = jnp.where(mask_Bx1xQxK, scores_BxNxQxK, jnp.finfo(softmax_dtype).min)
  probs_BxNxQxK = jax.nn.softmax(masked_BxNxQxK, axis=-1).astype(value_BxKxNxD.dtype)
  probs_BxNxQxK = dropout(probs_BxNxQxK, dropout_rate, dropout_keys_B)
  return jnp.einsum("bnqk,bknd->bqnd", probs_BxNxQxK, value_BxKxNxD)


# Kernels (cuDNN, splash) move in here, and `resolve` then chooses among them for 'auto'.
IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {"xla": _xla_attention}
# What 'auto' stands for on a platform, as jax.default_backend() names it; where that is not said, what runs everywhere.
AUTO = {"tpu": "xla", "gpu": "xla", "cpu": "xla", "": "xla"}


def choose(implementation: str, platform: str) -> str:
  """The key of IMPLEMENTATIONS that 'auto' or such a key stands for on a platform, which need not be this machine's.

  Raises:
    UserError: the implementation is unknown.
  """
  name = AUTO.get(platform, AUTO[""]) if implementation == "auto" else implementation
  if name not in IMPLEMENTATIONS:
    known = ", ".join(["auto", *IMPLEMENTATIONS])
    raise UserError(f"model.attention: expected one of {known}; got {implementation!r}")
  return name


def resolve(implementation: str) -> Callable[..., jax.Array]:
  """Returns the function that 'auto' (on any platform) or a key of IMPLEMENTATIONS stands for. Asks no device: models are traced without."""
  return IMPLEMENTATIONS[choose(implementation, "")]
