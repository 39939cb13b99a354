"""Kernels that compute attention without ever holding all scores: splash on TPUs, cuDNN and Tokamax on GPUs.

Each computes what `attention.xla_attention` does, for queries that are real
tokens. What stands at padding is of no use to anybody: splash lets padding see
padding, cuDNN gives zeros, Tokamax does as the rule says; gradients from there
must be zero, as they are where no loss reads padding.

None of them drops attention probabilities out. `attention.obstacle` says where
one cannot be used. They are imported when they are called, since each needs a
package or a device that most machines do not have.

Shape legend: B rows, L tokens, N heads, D head width, S sequences at most in a row.
"""

import functools

import jax
import jax.numpy as jnp

from bert_jax.internals import jax as jax_internals
from bert_jax.internals import tokamax as tokamax_internals

SPLASH_BLOCK = 128  # what row lengths must be multiples of
TOKAMAX_KERNELS = ("mosaic_gpu", "triton")  # in the order in which they are tried


def splash_attention(query, key, value, segment_ids, segment_lengths, window, *, interpret: bool = False):
  """Pallas' splash attention for TPUs, which skips blocks that no query sees.

  Args:
    query, key, value: [B, L, N, D], L a multiple of SPLASH_BLOCK.
    segment_ids: int [B, L], 0 for padding.
    segment_lengths: not needed.
    window: see `attention.dot_product_attention`.
    interpret: run it without a TPU, slowly: for tests.

  Returns:
    [B, L, N, D].
  """
  del segment_lengths
  kernel = _splash_kernel(query.shape[1], query.shape[2], window, interpret)
  heads_first = lambda x: x.swapaxes(1, 2)  # [B, N, L, D]
  from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

  scaled = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
  attend = lambda q, k, v, ids: kernel(q, k, v, segment_ids=SegmentIds(ids, ids))
  return (
    jax.vmap(attend)(heads_first(scaled), heads_first(key), heads_first(value), segment_ids)
    .swapaxes(1, 2)
    .astype(value.dtype)
  )


@functools.lru_cache(maxsize=8)
def _splash_kernel(length: int, heads: int, window: int | None, interpret: bool):
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  mask = (
    splash.FullMask((length, length)) if window is None else splash.LocalMask((length, length), (window, window), 0)
  )
  # The largest block that divides the row: fewer steps of the grid, each with larger products.
  block = next(size for size in (512, 384, 256, 128) if length % size == 0)
  sizes = splash.BlockSizes(
    block_q=block,
    block_kv=block,
    block_kv_compute=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_kv_dkv_compute=block,
    block_q_dq=block,
    block_kv_dq=block,
  )
  with jax.ensure_compile_time_eval():  # the kernel is kept, so its arrays must not belong to the trace of one caller
    return splash.make_splash_mha(
      splash.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )


def cudnn_attention(query, key, value, segment_ids, segment_lengths, window):
  """cuDNN's fused attention on packed sequences, given by their lengths and offsets; Hopper and later.

  Args:
    query, key, value: bfloat16 or float16 [B, L, N, D], D a multiple of 8 and at most 256.
    segment_ids: int [B, L], 0 for padding.
    segment_lengths: int [B, S], 0 where there is no sequence.
    window: None; there is no window to both sides.

  Returns:
    [B, L, N, D], zero at padding.
  """
  del window
  # cuDNN neither reads nor writes padding: what it leaves there, in outputs and in gradients, is whatever memory held,
  # and NaN times zero would be NaN. `where` on both sides keeps it out of both passes.
  real = (segment_ids > 0)[:, :, None, None]
  query, key, value = (jnp.where(real, x, 0) for x in (query, key, value))
  lengths, offsets = packed_layout(segment_lengths)
  output = jax_internals.cudnn_packed_attention(query, key, value, lengths, offsets, scale=query.shape[-1] ** -0.5)
  return jnp.where(real, output, 0)


def packed_layout(segment_lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Where cuDNN finds the sequences of a row.

  Rows of lengths [3, 2, 0] and [5, 0, 0] give lengths [3, 2, -1] and [5, -1, -1], and offsets [0, 3, -1, -1] and [0,
  -1, -1, -1].

  Args:
    segment_lengths: int [B, S], 0 where there is no sequence; none before one that there is.

  Returns:
    lengths, int32 [B, S], and offsets, int32 [B, S + 1], where sequences begin; -1 where there is none. A row of one
    place for sequences gets a second, empty one: for fewer cuDNN would be called without offsets.
  """
  lengths = jnp.pad(segment_lengths.astype(jnp.int32), ((0, 0), (0, max(0, 2 - segment_lengths.shape[1]))))
  ends = jnp.cumsum(lengths, axis=1)
  there = lengths > 0
  offsets = jnp.where(there, ends - lengths, -1)
  return jnp.where(there, lengths, -1), jnp.pad(offsets, ((0, 0), (0, 1)), constant_values=-1)


def tokamax_attention(
  query, key, value, segment_ids, segment_lengths, window, *, kernels: tuple[str, ...] = TOKAMAX_KERNELS
):
  """Tokamax' attention for GPUs, where each query sees the keys from a first to a last one.

  Args:
    query, key, value: [B, L, N, D].
    segment_ids: int [B, L], 0 for padding; the tokens of a sequence stand together.
    segment_lengths: not needed.
    window: see `attention.dot_product_attention`.
    kernels: which of Tokamax' implementations may be used, in this order.

  Returns:
    [B, L, N, D].

  Raises:
    NotImplementedError: none of the kernels takes these arrays on this device.
  """
  del segment_lengths
  first, last = seen_keys(segment_ids, window)
  reasons = []
  for name in kernels:
    try:
      output = tokamax_internals.attention(name, query, key, value, first, last, scale=query.shape[-1] ** -0.5)
      return output.astype(value.dtype)
    except (NotImplementedError, KeyError) as error:
      reasons.append(f"{name}: {error}")
  raise NotImplementedError("no kernel of Tokamax takes this attention; " + "; ".join(reasons))


def seen_keys(segment_ids: jax.Array, window: int | None) -> tuple[jax.Array, jax.Array]:
  """The keys that each query sees, as a range.

  Args:
    segment_ids: int [B, L], 0 for padding at the end; the tokens of a sequence stand together.
    window: see `attention.dot_product_attention`.

  Returns:
    The first key, and the one after the last, int32 [B, L] each. Padding sees all tokens; in a row of padding alone,
    the first key.
  """
  length = segment_ids.shape[1]
  place = jnp.arange(length, dtype=jnp.int32)[None, :]
  changes = segment_ids[:, 1:] != segment_ids[:, :-1]
  begins = jnp.pad(changes, ((0, 0), (1, 0)), constant_values=True)
  ends = jnp.pad(changes, ((0, 0), (0, 1)), constant_values=True)
  first = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
  last = jax.lax.cummin(jnp.where(ends, place + 1, length), axis=1, reverse=True)
  if window is not None:
    first, last = jnp.maximum(first, place - window), jnp.minimum(last, place + window + 1)
  tokens = jnp.sum(segment_ids > 0, axis=1, keepdims=True, dtype=jnp.int32)
  padding = segment_ids == 0
  return jnp.where(padding, 0, first), jnp.where(padding, jnp.maximum(tokens, 1), last)
