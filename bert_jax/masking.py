"""Masked language modelling: which tokens are predicted, and what the model sees in their place.

Masks are drawn on the device, per row, from a key that belongs to that row in
that epoch (`row_keys`), so neither batch size, hosts, mesh nor microbatches
change them. Of the selected tokens 80 % become [MASK], 10 % a random token and
10 % stay as they are (Devlin et al. 2018, §3.1): a model that saw only [MASK]
would have no reason to build a good vector for the words it can read, and
fine-tuning never shows it a [MASK].

Shape legend: B rows, L tokens in a row, K predictions in a row at most, V vocabulary.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.batch import ModelInputs, SpecialIds

UNITS = ("token", "word")


class MaskSettings(NamedTuple):
  """How masks are drawn: the group `masking` of a config, resolved.

  Attributes:
    rate: share of a row's maskable tokens that is predicted.
    mask_share: share of those that becomes [MASK].
    random_share: share of those that becomes a random token; the rest stay as they are.
    unit: "token", or "word" for all pieces of a word or none.
    max_predictions: K, predicted tokens in a row at most.
  """

  rate: float
  mask_share: float
  random_share: float
  unit: str
  max_predictions: int


class Masked(NamedTuple):
  """Rows after masking.

  Attributes:
    input_ids: int32 [B, L], what the model sees.
    positions: int32 [B, K], where the predicted tokens stand; 0 where `weights` is 0.
    labels: int32 [B, K], the original ids at `positions`; 0 where `weights` is 0.
    weights: float32 [B, K], 1 for a predicted token, 0 for an unused slot.
  """

  input_ids: jax.Array
  positions: jax.Array
  labels: jax.Array
  weights: jax.Array


def default_max_predictions(rate: float, seq_length: int) -> int:
  """K for a masking rate: what a row without special tokens would need, rounded up."""
  return max(1, math.ceil(rate * seq_length))


def row_keys(seed: int, epoch: jax.Array, index: jax.Array) -> jax.Array:
  """Threefry keys [B], one per (epoch, row): fold_in(fold_in(key(seed), epoch), index).

  Args:
    seed: the run's seed.
    epoch: uint32 [B], which pass over the corpus the row belongs to.
    index: uint32 [B], which row of the corpus it is.
  """
  base = jax.random.key(seed, impl="threefry2x32")
  return jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(base, e), i))(epoch, index)


def settings_of(group) -> MaskSettings:
  """The settings that the group `masking` of a config holds.

  Args:
    group: what has every field of MaskSettings as a key; `max_predictions` is None where it is not resolved yet.
  """
  return MaskSettings(**{name: group[name] for name in MaskSettings._fields})


def mask_tokens(
    keys: jax.Array, inputs: ModelInputs, settings: MaskSettings, *, special: SpecialIds, vocab_size: int,
    continuation: jax.Array | None = None,
) -> Masked:  # fmt: skip
  """Selects tokens for prediction and replaces most of them.

  [CLS], [SEP], padding and [UNK] are never selected, and a random replacement
  is never a special token. The number selected in a row is rate x the row's
  maskable tokens, rounded, at least 1 and at most K. With the unit "word" it is
  the longest prefix of the row's words in random order that fits that number.

  Args:
    keys: threefry keys [B], see `row_keys`.
    inputs: the rows.
    settings: how many are selected, and what becomes of them.
    special: ids of the special tokens.
    vocab_size: V, the true one, without padding.
    continuation: bool [V], true for pieces that continue a word ("##ing"); the unit "word" needs it.

  Returns:
    Masked.

  Raises:
    ValueError: an unknown unit, or the unit "word" without `continuation`.
  """
  if settings.unit not in UNITS:
    raise ValueError(f"masking.unit: expected one of {', '.join(UNITS)}; got {settings.unit!r}")
  if settings.unit == "word" and continuation is None:
    raise ValueError("masking.unit=word needs `continuation`: without it nothing tells where a word begins")
  max_predictions = settings.max_predictions

  def mask_row(key, input_ids_L, segment_ids_L):
    # All the row's randomness in one draw, since each draw costs compile time: an order, an action, a word.
    bits = jax.random.bits(key, (input_ids_L.shape[0] + 2 * max_predictions,), jnp.uint32)
    order_bits_L, action_bits_K, word_bits_K = jnp.split(bits, [bits.size - 2 * max_predictions, bits.size - max_predictions])
    maskable_L = segment_ids_L > 0
    for token in special:
      maskable_L &= input_ids_L != token
    number = jnp.round(settings.rate * jnp.sum(maskable_L)).astype(jnp.int32)
    number = jnp.minimum(jnp.maximum(number, 1), max_predictions)
    number = jnp.minimum(number, jnp.sum(maskable_L, dtype=jnp.int32))

    # Maskable positions in random order, then all others. argsort, not top_k, which gathers sharded batches.
    order_L = jnp.lexsort((order_bits_L, ~maskable_L))
    if settings.unit == "word":
      order_L, number = _whole_words_first(order_L, number, maskable_L, jnp.asarray(continuation)[input_ids_L])
    positions_K = order_L[:max_predictions].astype(jnp.int32)
    chosen_K = jnp.arange(max_predictions) < number

    action_K = (action_bits_K >> 8).astype(jnp.float32) * 2.0**-24  # uniform in [0, 1)
    random_K = _random_ordinary_ids(word_bits_K, special, vocab_size)
    labels_K = input_ids_L[positions_K]
    replaced_K = jnp.where(action_K < settings.mask_share + settings.random_share, random_K, labels_K)
    replaced_K = jnp.where(action_K < settings.mask_share, special.mask, replaced_K)
    # Unused slots write outside the row, where writes are dropped.
    target_K = jnp.where(chosen_K, positions_K, input_ids_L.shape[0])
    masked_L = input_ids_L.at[target_K].set(replaced_K, mode="drop")
    return Masked(
        masked_L, jnp.where(chosen_K, positions_K, 0), jnp.where(chosen_K, labels_K, 0), chosen_K.astype(jnp.float32)
    )

  return jax.vmap(mask_row)(keys, inputs.input_ids, inputs.segment_ids)


def _whole_words_first(order_L, number, maskable_L, continues_L):
  """Puts the longest prefix of randomly ordered words that fits into `number` tokens at the front of `order_L`.

  A word is a maskable token with the continuations right after it; words stand
  in the random order of their first tokens. Words are taken until the next one
  no longer fits; a row whose first word is already too long gets none.

  Returns:
    The new order, and how many tokens the words taken have.
  """
  length = order_L.shape[0]
  after_maskable_L = jnp.concatenate([jnp.zeros(1, bool), maskable_L[:-1]])
  starts_L = maskable_L & ~(continues_L & after_maskable_L)
  start_of_L = jax.lax.cummax(jnp.where(starts_L, jnp.arange(length), 0))  # where a token's word begins
  size_L = jnp.zeros(length, jnp.int32).at[start_of_L].add(maskable_L.astype(jnp.int32))  # at the word's first token
  # Tokens used once the word that begins here is taken: running sum over first tokens in random order.
  used_in_order_L = jnp.cumsum(jnp.where(starts_L, size_L, 0)[order_L])
  used_L = jnp.zeros(length, jnp.int32).at[order_L].set(used_in_order_L)[start_of_L]
  taken_L = maskable_L & (used_L <= number)
  return jnp.lexsort((used_L, ~taken_L)), jnp.sum(taken_L, dtype=jnp.int32)


def _random_ordinary_ids(bits, special: SpecialIds, vocab_size: int) -> jax.Array:
  """Uniform over the vocabulary without the special tokens: draws among the others, then steps over each special id."""
  ids = (bits % jnp.uint32(vocab_size - len(special))).astype(jnp.int32)  # uneven by 2^-32 x vocab_size at most
  for token in sorted(special):
    ids = ids + (ids >= token)
  return ids
