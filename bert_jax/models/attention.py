"""Dot-product attention under one mask rule, and which of its implementations is used where.

The rule: a query sees a key when the key is not padding and both belong to
the same packed sequence, or when the query itself is padding. A real token so
never sees padding or a neighbour in its row. A padding query sees every real
token, which is what Hugging Face's BERT computes there, so that outputs agree
with it at every position of an unpacked row; nothing ever reads them. With a
window, a real token sees only those at most that far away, to both sides.

`xla` is the rule written down, for any device, and what the kernels
(attention_kernels.py) are held against.

Shape legend: B rows, L tokens (Q as query, K as key), N heads, D head width, S
sequences at most in a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.errors import UserError
from bert_jax.models import attention_kernels as kernels
from bert_jax.models.dropout import dropout


class Use(NamedTuple):
  """What an implementation is to be used for.

  Attributes:
    platform: tpu, gpu or cpu, as jax.default_backend() names it; empty: any.
    seq_length: tokens in a row; 0: any.
    head_dim: width of a head.
    dtype: name of the dtype of queries, keys and values.
    dropout: whether attention probabilities are dropped out.
    split_heads: whether devices share the heads (mesh.tensor above 1).
    window: tokens that are seen to each side, or None.
  """

  platform: str = ""
  seq_length: int = 0
  head_dim: int = 64
  dtype: str = "float32"
  dropout: bool = False
  split_heads: bool = False
  window: int | None = None


def dot_product_attention(
  query_BxLxNxD: jax.Array,
  key_BxLxNxD: jax.Array,
  value_BxLxNxD: jax.Array,
  segment_ids_BxL: jax.Array,
  segment_lengths_BxS: jax.Array | None = None,
  *,
  window: int | None = None,
  dropout_rate: float = 0.0,
  dropout_keys_B: jax.Array | None = None,
  implementation: str = "xla",
) -> jax.Array:
  """Attends within packed sequences.

  Args:
    query_BxLxNxD: [B, L, N, D], not scaled.
    key_BxLxNxD: [B, L, N, D].
    value_BxLxNxD: [B, L, N, D].
    segment_ids_BxL: integer [B, L], 1, 2, … for the sequences of a row from left to right, 0 for padding after them.
    segment_lengths_BxS: integer [B, S], tokens of each sequence, 0 where there is none; only `cudnn` reads it.
    window: None, or how many tokens are seen to each side, besides the query's own.
    dropout_rate: share of attention probabilities that are dropped; `xla` only.
    dropout_keys_B: PRNG keys [B], one for every row, or None for no dropout.
    implementation: one of IMPLEMENTATIONS, see `choose`.

  Returns:
    [B, L, N, D] in the dtype of `value`. At real tokens that is the same for every implementation; at padding it is
    finite, and no loss may depend on it.

  Raises:
    UserError: the implementation is unknown, or cannot be used for this.
  """
  if implementation == "xla":
    return xla_attention(
      query_BxLxNxD,
      key_BxLxNxD,
      value_BxLxNxD,
      segment_ids_BxL,
      window=window,
      dropout_rate=dropout_rate,
      dropout_keys_B=dropout_keys_B,
    )
  use = Use(
    "",
    query_BxLxNxD.shape[1],
    query_BxLxNxD.shape[3],
    query_BxLxNxD.dtype.name,
    dropout=dropout_keys_B is not None and dropout_rate > 0,
    window=window,
  )
  choose(implementation, use)
  return KERNELS[implementation].attend(
    query_BxLxNxD, key_BxLxNxD, value_BxLxNxD, segment_ids_BxL, segment_lengths_BxS, window
  )


def attention_mask(segment_ids_BxL: jax.Array, window: int | None = None) -> jax.Array:
  """Returns bool [B, L, L], True where the query (second axis) sees the key (third)."""
  query_BxQx1 = segment_ids_BxL[:, :, None]
  key_Bx1xK = segment_ids_BxL[:, None, :]
  same_BxQxK = query_BxQx1 == key_Bx1xK
  if window is not None:
    place_L = jnp.arange(segment_ids_BxL.shape[1])
    same_BxQxK &= (jnp.abs(place_L[:, None] - place_L[None, :]) <= window)[None]
  return (key_Bx1xK != 0) & (same_BxQxK | (query_BxQx1 == 0))


def attention_probabilities(query_BxQxNxD, key_BxKxNxD, segment_ids_BxL, window=None) -> jax.Array:
  """How much each token attends to each other: [B, N, Q, K] in float32 at least, each row adds up to 1; arguments as
  of `dot_product_attention`.
  """
  softmax_dtype = jnp.promote_types(query_BxQxNxD.dtype, jnp.float32)
  scaled_BxQxNxD = query_BxQxNxD * jnp.asarray(query_BxQxNxD.shape[-1] ** -0.5, query_BxQxNxD.dtype)
  scores_BxNxQxK = jnp.einsum("bqnd,bknd->bnqk", scaled_BxQxNxD, key_BxKxNxD, preferred_element_type=softmax_dtype)
  mask_Bx1xQxK = attention_mask(segment_ids_BxL, window)[:, None, :, :]
  # A finite minimum, not -inf: a row of nothing but padding then gets a uniform average instead of NaN.
  masked_BxNxQxK = jnp.where(mask_Bx1xQxK, scores_BxNxQxK, jnp.finfo(softmax_dtype).min)
  return jax.nn.softmax(masked_BxNxQxK, axis=-1)


def xla_attention(
  query_BxQxNxD, key_BxKxNxD, value_BxKxNxD, segment_ids_BxL, *, window=None, dropout_rate=0.0, dropout_keys_B=None
) -> jax.Array:
  """Plain einsums that XLA fuses; scores and softmax in float32 at least. Arguments as of `dot_product_attention`."""
  probs_BxNxQxK = attention_probabilities(query_BxQxNxD, key_BxKxNxD, segment_ids_BxL, window).astype(
    value_BxKxNxD.dtype
  )
  probs_BxNxQxK = dropout(probs_BxNxQxK, dropout_rate, dropout_keys_B)
  return jnp.einsum("bnqk,bknd->bqnd", probs_BxNxQxK, value_BxKxNxD)


class Kernel(NamedTuple):
  """An implementation for one kind of device.

  Attributes:
    platform: tpu or gpu.
    attend: (query, key, value, segment_ids, segment_lengths, window) -> [B, L, N, D], see attention_kernels.py.
  """

  platform: str
  attend: Callable[..., jax.Array]


KERNELS = {
  "splash": Kernel("tpu", kernels.splash_attention),
  "cudnn": Kernel("gpu", kernels.cudnn_attention),
  "tokamax": Kernel("gpu", kernels.tokamax_attention),
}
IMPLEMENTATIONS = ("xla", *KERNELS)


def choose(implementation: str, use: Use = Use()) -> str:
  """The implementation that 'auto' stands for, or the one that was asked for by name.

  Asks no device: what a program runs on need not be this machine.

  Raises:
    UserError: it is unknown, or asked for by name and of no use here.
  """
  if implementation == "auto":
    return "xla"  # on every platform: no kernel has been measured yet, see docs/performance.md
  if implementation not in IMPLEMENTATIONS:
    raise UserError(f"model.attention: expected one of {', '.join(('auto', *IMPLEMENTATIONS))}; got {implementation!r}")
  reason = obstacle(implementation, use)
  if reason:
    raise UserError(f"model.attention={implementation} cannot be used: {reason}; set model.attention=xla, or auto")
  return implementation


def obstacle(implementation: str, use: Use) -> str:
  """Why an implementation cannot be used, or ""."""
  if implementation == "xla":
    return ""
  platform = KERNELS[implementation].platform
  if use.platform not in ("", platform):
    return f"it is a kernel for {platform.upper()}s, and this is a {use.platform.upper()}"
  if use.dropout:
    return "it has no dropout of attention probabilities (model.attention_probs_dropout_prob must be 0)"
  if use.split_heads:
    return "it cannot share heads between devices (mesh.tensor must be 1)"
  if implementation == "splash" and use.seq_length % kernels.SPLASH_BLOCK:
    return f"it needs rows of a multiple of {kernels.SPLASH_BLOCK} tokens, not {use.seq_length}"
  if implementation == "cudnn":
    if use.window is not None:
      return "it has no window to both sides"
    if use.dtype not in ("bfloat16", "float16"):
      return f"it needs model.dtype=bfloat16, not {use.dtype}"
    if use.head_dim % 8 or use.head_dim > 256:
      return f"it needs a head width that is a multiple of 8 and at most 256, not {use.head_dim}"
  return ""
