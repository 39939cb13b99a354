"""The contract between data and model: what a batch holds, and what the model makes of it.

A row of a corpus is a fixed number of token ids and a table of the sequences
packed into it. Everything else that the model needs (positions, segments,
token types, where each [CLS] stands) is derived from those two on the device,
so that nothing redundant is stored, read or copied.

Shape legend: B rows, L tokens in a row, S sequences at most in a row.

A row of length 12 with two sequences, "[CLS] a b [SEP] c [SEP]" and
"[CLS] d [SEP] e [SEP]", then one token of padding:

    tokens          CLS a b SEP c SEP CLS d SEP e SEP PAD
    segment_ids       1 1 1   1 1   1   2 2   2 2   2   0
    token_type_ids    0 0 0   0 1   1   0 0   0 1   1   0
    position_ids      0 1 2   3 4   5   0 1   2 3   4   5
    cls_positions     0 and 6

`token_type_ids` means sentence A or B. `segment_ids` means which packed
sequence a token belongs to, 0 being padding; attention stays within it.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# The epoch that evaluation draws its masks under: no training epoch reaches it,
# so evaluation masks are always the same and never those of training.
EVALUATION_EPOCH = 2**32 - 1

# Host batch, as the loaders yield it: name -> (dtype, shape in B, L, S).
HOST_BATCH = {
  "tokens": ("int32", "B L"),
  "sequences": ("int32", "B S 3"),  # length, length of [CLS] A [SEP], NSP label
  "epoch": ("uint32", "B"),  # which pass over the corpus
  "index": ("uint32", "B"),  # which row of the corpus
}

# Only where the corpus has it; W = ceil(L / 8). Bits, the lowest first: 1 where a word begins.
WORD_STARTS = {"word_starts": ("uint8", "B W")}

# Columns of `sequences`.
LENGTH, FIRST_LENGTH, LABEL = 0, 1, 2


class ModelInputs(NamedTuple):
  """What the model reads of a batch, besides masks and labels.

  Attributes:
    input_ids: int32 [B, L].
    token_type_ids: int32 [B, L], 0 for sentence A and padding, 1 for sentence B.
    position_ids: int32 [B, L], counted from each sequence's own [CLS].
    segment_ids: int32 [B, L], 1, 2, … for the packed sequences, 0 for padding.
    cls_positions: int32 [B, S], where each sequence begins (0 where there is none).
    sequence_lengths: int32 [B, S], tokens of each sequence, 0 where there is none.
    sequence_weights: float32 [B, S], 1 where there is a sequence, else 0.
    sequence_labels: int32 [B, S], NSP label: 0 means that B follows A, 1 random. SOP: 0 in order, 1 swapped.
  """

  input_ids: Any
  token_type_ids: Any
  position_ids: Any
  segment_ids: Any
  cls_positions: Any
  sequence_lengths: Any
  sequence_weights: Any
  sequence_labels: Any


class Stream(enum.IntEnum):
  """What is folded into a row's key for random numbers of another kind; the key itself draws the masks.

  A value never changes: a resumed run would continue with other numbers.
  """

  SPANS = 1  # where a row's words are cut into spans
  DROPOUT = 2


def row_keys(seed: int, epoch: ArrayLike, index: ArrayLike) -> jax.Array:
  """Threefry keys [B], one per (epoch, row): fold_in(fold_in(key(seed), epoch), index).

  Args:
    seed: the run's seed.
    epoch: uint32 [B], which pass over the corpus the row belongs to.
    index: uint32 [B], which row of the corpus it is.
  """
  base = jax.random.key(seed, impl="threefry2x32")
  return jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(base, e), i))(epoch, index)


def fold_in_rows(keys_B: jax.Array | None, number: int) -> jax.Array | None:
  """Other keys from those of rows: of a Stream, of a layer, of a place in it. None (no dropout) stays None."""
  return None if keys_B is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)


def word_starts(batch: dict[str, jax.Array], continuation: ArrayLike) -> jax.Array:
  """Where words begin, bool [B, L].

  Args:
    batch: what the loaders yield. The bits of WORD_STARTS hold where they are there.
    continuation: bool [V], else: which pieces continue a word ("##ing").
  """
  tokens = batch["tokens"]
  if "word_starts" not in batch:
    return ~jnp.asarray(continuation)[tokens]
  flags_BxWx8 = (batch["word_starts"][:, :, None] >> jnp.arange(8, dtype=jnp.uint8)[None, None, :]) & 1
  return flags_BxWx8.reshape(tokens.shape[0], -1)[:, : tokens.shape[1]].astype(bool)


def model_inputs(tokens: jax.Array, sequences: jax.Array) -> ModelInputs:
  """Derives the model's inputs from packed rows.

  Args:
    tokens: integer [B, L].
    sequences: integer [B, S, 3]; rows of zeros where there is no sequence.

  Returns:
    ModelInputs, see there.
  """
  sequences = sequences.astype(jnp.int32)
  lengths_BxS = sequences[:, :, LENGTH]
  ends_BxS = jnp.cumsum(lengths_BxS, axis=1)
  starts_BxS = ends_BxS - lengths_BxS
  filled_BxS = lengths_BxS > 0

  # Which sequence a position falls into: how many ends lie at or before it.
  position_L = jnp.arange(tokens.shape[1], dtype=jnp.int32)
  sequence_BxL = jnp.sum(position_L[None, :, None] >= ends_BxS[:, None, :], axis=-1, dtype=jnp.int32)
  is_token_BxL = position_L[None, :] < ends_BxS[:, -1:]
  last_BxL = jnp.minimum(sequence_BxL, jnp.maximum(jnp.sum(filled_BxS, axis=1, keepdims=True, dtype=jnp.int32) - 1, 0))

  # One-hot sums instead of gathers: S is small, and they fuse.
  one_hot_BxLxS = last_BxL[:, :, None] == jnp.arange(sequences.shape[1])[None, None, :]
  start_BxL = jnp.sum(jnp.where(one_hot_BxLxS, starts_BxS[:, None, :], 0), axis=-1)
  first_BxL = jnp.sum(jnp.where(one_hot_BxLxS, sequences[:, None, :, FIRST_LENGTH], 0), axis=-1)
  offset_BxL = position_L[None, :] - start_BxL

  return ModelInputs(
    input_ids=tokens.astype(jnp.int32),
    token_type_ids=(is_token_BxL & (offset_BxL >= first_BxL)).astype(jnp.int32),
    position_ids=offset_BxL,
    segment_ids=jnp.where(is_token_BxL, last_BxL + 1, 0),
    cls_positions=jnp.where(filled_BxS, starts_BxS, 0),
    sequence_lengths=lengths_BxS,
    sequence_weights=filled_BxS.astype(jnp.float32),
    sequence_labels=sequences[:, :, LABEL],
  )
