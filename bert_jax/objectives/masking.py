"""MlmBatch language modelling: which tokens are predicted, and what the model sees in their place.

Masks are drawn on the device, per row, from a key that belongs to that row in
that epoch (batch.row_keys), so neither batch size, hosts, mesh nor microbatches
change them. Of the selected tokens 80 % become [MASK], 10 % a random token and
10 % stay as they are (Devlin et al. 2018, §3.1): a model that saw only [MASK]
would have no reason to build a good vector for the words it can read, and
fine-tuning never shows it a [MASK].

Tokens are selected in units: single tokens, whole words, or runs of whole words.
Runs come from cutting the row's words, from left to right, into pieces of random
length, and taking pieces in random order; so they never overlap, and their
lengths have the distribution that was asked for.

Shape legend: B rows, L tokens in a row, K predictions in a row at most, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ModelInputs, Stream

UNITS = ("token", "word", "span", "ngram")


class MaskSettings(NamedTuple):
  """How masks are drawn: the group `masking` of a config, resolved.

  Attributes:
    rate: share of a row's maskable tokens that is predicted; at the end of training, should it change.
    first_rate: the share at step 0, from where it goes in a straight line to `rate` at the last step; 0: `rate`.
    mask_share: share of those that becomes [MASK].
    random_share: share of those that becomes a random token; the rest stay as they are.
    unit: "token"; "word": all pieces of a word or none; "span": runs of words with geometric lengths (SpanBERT, Joshi
      et al. 2019, arXiv:1907.10529); "ngram": runs of n words, n with a probability that goes as 1/n (ALBERT, Lan et
      al. 2019, arXiv:1909.11942).
    span_stop: p of the geometric distribution of a span's length, (1 - p)^(n - 1) p up to `max_span`.
    max_span: words in a span at most.
    max_ngram: words in an n-gram at most.
    max_predictions: K, predicted tokens in a row at most.
  """

  rate: float
  first_rate: float
  mask_share: float
  random_share: float
  unit: str
  span_stop: float
  max_span: int
  max_ngram: int
  max_predictions: int

  @property
  def highest_rate(self) -> float:
    """The rate that `max_predictions` has to be enough for."""
    return max(self.rate, self.first_rate)


class MlmBatch(NamedTuple):
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


def rate_at(settings: MaskSettings, step: jax.Array | None, total_steps: int) -> jax.Array | float:
  """The masking rate of a step; that of evaluation (step None) is `rate`."""
  if step is None or not settings.first_rate:
    return settings.rate
  done = jnp.minimum(step.astype(jnp.float32) / total_steps, 1.0)
  return settings.first_rate + (settings.rate - settings.first_rate) * done


def settings_of(group) -> MaskSettings:
  """The settings that the group `masking` of a config holds.

  Args:
    group: what has every field of MaskSettings as a key; `max_predictions` is None where it is not resolved yet.
  """
  return MaskSettings(**{name: group[name] for name in MaskSettings._fields})


def mask_tokens(
  keys: jax.Array,
  inputs: ModelInputs,
  settings: MaskSettings,
  *,
  mask_id: int,
  never_predicted: Sequence[int],
  vocab_size: int,
  word_starts: jax.Array | None = None,
  rate: jax.Array | float | None = None,
) -> MlmBatch:
  """Selects tokens for prediction and replaces most of them.

  [CLS], [SEP], padding and [UNK] are never selected, and a random replacement
  is never a special token. The number selected in a row is rate x the row's
  maskable tokens, rounded, at least 1 and at most K. With every unit but "token"
  it is the longest prefix that fits that number of the row's words in random
  order, in which the words of a span stand together.

  Args:
    keys: threefry keys [B], see batch.row_keys.
    inputs: the rows.
    settings: how many are selected, and what becomes of them.
    mask_id: id of [MASK].
    never_predicted: distinct ids that are neither selected nor drawn: those of special tokens.
    vocab_size: V, the true one, without padding.
    word_starts: bool [B, L], true where a word begins; every unit but "token" needs it.
    rate: takes the place of settings.rate, see `rate_at`.

  Returns:
    MlmBatch.

  Raises:
    ValueError: an unknown unit, or one that needs `word_starts` without them.
  """
  if settings.unit not in UNITS:
    raise ValueError(f"masking.unit: expected one of {', '.join(UNITS)}; got {settings.unit!r}")
  if settings.unit == "token":
    word_starts = inputs.segment_ids > 0  # for vmap; unused
  elif word_starts is None:
    raise ValueError(f"masking.unit={settings.unit} needs `word_starts`: without it nothing tells where a word begins")
  rate = settings.rate if rate is None else rate
  max_predictions = settings.max_predictions

  def mask_row(key, input_ids_L, segment_ids_L, word_starts_L):
    # All the row's randomness in one draw, since each draw costs compile time: an order, an action, a word.
    bits = jax.random.bits(key, (input_ids_L.shape[0] + 2 * max_predictions,), jnp.uint32)
    order_bits_L, action_bits_K, word_bits_K = jnp.split(
      bits, [bits.size - 2 * max_predictions, bits.size - max_predictions]
    )
    maskable_L = segment_ids_L > 0
    for token in never_predicted:
      maskable_L &= input_ids_L != token
    number = jnp.round(rate * jnp.sum(maskable_L)).astype(jnp.int32)
    number = jnp.minimum(jnp.maximum(number, 1), max_predictions)
    number = jnp.minimum(number, jnp.sum(maskable_L, dtype=jnp.int32))

    if settings.unit == "token":
      # Maskable positions in random order, then all others. argsort, not top_k, which gathers sharded batches.
      order_L = jnp.lexsort((order_bits_L, ~maskable_L))
    else:
      starts_L = maskable_L & (word_starts_L | ~_shifted(maskable_L))
      span_starts_L = starts_L
      probabilities = _length_probabilities(settings)
      if len(probabilities) > 1:
        span_starts_L = _span_starts(jax.random.fold_in(key, Stream.SPANS), starts_L, maskable_L, probabilities)
      order_L, number = _whole_words_first(number, maskable_L, starts_L, span_starts_L, order_bits_L)
    positions_K = order_L[:max_predictions].astype(jnp.int32)
    chosen_K = jnp.arange(max_predictions) < number

    action_K = _uniform(action_bits_K)
    random_K = _random_ordinary_ids(word_bits_K, never_predicted, vocab_size)
    labels_K = input_ids_L[positions_K]
    replaced_K = jnp.where(action_K < settings.mask_share + settings.random_share, random_K, labels_K)
    replaced_K = jnp.where(action_K < settings.mask_share, mask_id, replaced_K)
    # Unused slots write outside the row, where writes are dropped.
    target_K = jnp.where(chosen_K, positions_K, input_ids_L.shape[0])
    masked_L = input_ids_L.at[target_K].set(replaced_K, mode="drop")
    return MlmBatch(
      masked_L, jnp.where(chosen_K, positions_K, 0), jnp.where(chosen_K, labels_K, 0), chosen_K.astype(jnp.float32)
    )

  return jax.vmap(mask_row)(keys, inputs.input_ids, inputs.segment_ids, word_starts)


def _length_probabilities(settings: MaskSettings) -> np.ndarray:
  """Probabilities of a span of 1, 2, … words."""
  if settings.unit == "span":
    weights = (1 - settings.span_stop) ** np.arange(settings.max_span)
  elif settings.unit == "ngram":
    weights = 1 / np.arange(1, settings.max_ngram + 1)
  else:
    weights = np.ones(1)
  return weights / weights.sum()


def _span_starts(key, starts_L, maskable_L, probabilities):
  """Which tokens begin a span, when the row's words are cut into spans of random lengths from left to right.

  A span also ends at whatever cannot be masked: the end of a sequence, say.

  Args:
    key: a key of its own.
    starts_L: true for the first tokens of words.
    maskable_L: true for tokens of words.
    probabilities: of a length of 1, 2, … words.

  Returns:
    bool [L].
  """
  length = starts_L.shape[0]
  limits = jnp.asarray(np.cumsum(probabilities)[:-1], jnp.float32)
  draws_L = _uniform(jax.random.bits(key, (length,), jnp.uint32))
  lengths_L = 1 + jnp.sum(draws_L[:, None] >= limits[None, :], axis=1, dtype=jnp.int32)
  ends_L = jnp.minimum(jnp.cumsum(lengths_L), length)  # the word after each span
  begins = jnp.zeros(length + 1, bool).at[0].set(True).at[ends_L].set(True)
  word_L = jnp.maximum(jnp.cumsum(starts_L) - 1, 0)  # which word a token belongs to
  return starts_L & (begins[word_L] | ~_shifted(maskable_L))


def _whole_words_first(number, maskable_L, starts_L, span_starts_L, order_bits_L):
  """Maskable tokens in an order that begins with the longest prefix of words that fits into `number` tokens.

  Spans stand in the random order of their first tokens, and words within a span as in the text. Words are taken
  until the next one no longer fits; a row whose first word is already too long gets none.

  Returns:
    The order, int [L], and how many tokens the words taken have.
  """
  length = maskable_L.shape[0]
  place_L = jnp.arange(length)
  start_of_L = jax.lax.cummax(jnp.where(starts_L, place_L, 0))  # where a token's word begins
  span_of_L = jax.lax.cummax(jnp.where(span_starts_L, place_L, 0))
  size_L = jnp.zeros(length, jnp.int32).at[start_of_L].add(maskable_L.astype(jnp.int32))  # at the word's first token
  order_L = jnp.lexsort((place_L, order_bits_L[span_of_L], ~maskable_L))
  # Tokens used once a token's word is taken: a running sum of whole words, each counted at its first token.
  used_in_order_L = jnp.cumsum(jnp.where(starts_L, size_L, 0)[order_L])
  used_L = jnp.zeros(length, jnp.int32).at[order_L].set(used_in_order_L)
  taken_L = maskable_L & (used_L <= number)
  return jnp.lexsort((used_L, ~taken_L)), jnp.sum(taken_L, dtype=jnp.int32)


def _shifted(flags_L: jax.Array) -> jax.Array:
  """Each token gets the flag of the one before it, the first one False."""
  return jnp.concatenate([jnp.zeros(1, bool), flags_L[:-1]])


def _uniform(bits: jax.Array) -> jax.Array:
  """uint32 bits -> float32 in [0, 1)."""
  return (bits >> 8).astype(jnp.float32) * 2.0**-24


def _random_ordinary_ids(bits, never_predicted: Sequence[int], vocab_size: int) -> jax.Array:
  """Uniform over the vocabulary without the special tokens: draws among the others, then steps over each special id."""
  ids = (bits % jnp.uint32(vocab_size - len(never_predicted))).astype(jnp.int32)  # uneven by 2^-32 x vocab_size at most
  for token in sorted(never_predicted):
    ids = ids + (ids >= token)
  return ids
