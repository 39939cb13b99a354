"""Sequences -> rows of fixed length, several sequences to a row.

Padding costs as much as text, so short sequences share a row. `assign_rows`
decides who shares with whom from the lengths alone; `fill_rows` writes the rows
in the form that the corpus folder stores. Attention, positions and losses keep
packed sequences apart, so packing changes the speed and nothing else.
"""

import numpy as np

from bert_jax.data.corpus import pairs
from bert_jax.data.corpus.documents import Documents
from bert_jax.data.tokenizer.template import Template


def assign_rows(lengths: np.ndarray, *, seq_length: int, max_sequences: int) -> np.ndarray:
  """Packs by best fit, longest first.

  Each sequence goes into the fullest row that still has room for it. Rows are
  kept in buckets by the room they have left, and the buckets in use are the
  bits of one integer, so that finding the best row takes a shift, whatever the
  number of rows.

  Args:
    lengths: integer [n], each 1 to seq_length.
    seq_length: tokens in a row.
    max_sequences: sequences in a row at most; 1 means no packing.

  Returns:
    int64 [n], the row of each sequence. Rows are numbered by their first
    sequence, so that they follow the order of the text and not their lengths.
  """
  opened = np.empty(len(lengths), np.int64)
  members = [0] * len(lengths)
  buckets: list[list[int]] = [[] for _ in range(seq_length + 1)]
  in_use = 0  # bit r: some row has room r left
  rows = 0
  for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
    length = int(lengths[index])
    fitting = in_use >> length
    if fitting:
      room = length + (fitting & -fitting).bit_length() - 1
      row = buckets[room].pop()
      if not buckets[room]:
        in_use &= ~(1 << room)
    else:
      room, row = seq_length, rows
      rows += 1
    opened[index] = row
    members[row] += 1
    left = room - length
    if left and members[row] < max_sequences:
      buckets[left].append(row)
      in_use |= 1 << left
  # Renumber: unique() gives each row's first sequence.
  _, first, inverse = np.unique(opened, return_index=True, return_inverse=True)
  rank = np.empty(rows, np.int64)
  rank[np.argsort(first, kind="stable")] = np.arange(rows)
  return rank[inverse]


def fill_rows(
  documents: Documents,
  sequences: pairs.Sequences,
  *,
  seq_length: int,
  max_sequences: int,
  template: Template,
  dtype: str,
) -> dict[str, np.ndarray]:
  """Packs sequences and writes them out as a shard's arrays.

  Args:
    documents: the chunk that the sequences are ranges of.
    sequences: n of them.
    seq_length: tokens in a row (L below).
    max_sequences: sequences in a row at most (S below).
    template: of the tokenizer.
    dtype: of the tokens, "uint16" or "uint32".

  Returns:
    {"tokens": dtype [rows, L], "sequences": uint16 [rows, S, 3], "documents": uint32 [rows, S, 2]}, and
    where the documents have word starts, {"word_starts": uint8 [rows, ceil(L / 8)]}: arrays that `corpus` describes.
  """
  row_of = assign_rows(sequences.lengths, seq_length=seq_length, max_sequences=max_sequences)
  num_rows = int(row_of.max()) + 1 if len(row_of) else 0
  tokens = np.full((num_rows, seq_length), template.special.pad, dtype)
  table = np.zeros((num_rows, max_sequences, 3), np.uint16)
  sources = np.zeros((num_rows, max_sequences, 2), np.uint32)
  words = None if documents.word_starts is None else np.ones((num_rows, seq_length), bool)
  places, starts = _places(row_of, sequences.lengths)
  starts += seq_length * row_of
  first_lengths = sequences.lengths.copy()
  has_b = sequences.b[:, 1] > sequences.b[:, 0]
  for pair in (False, True):
    own = np.flatnonzero(has_b == pair)
    texts = [sequences.a[own], sequences.b[own]][: 1 + pair]
    begins = template.write(tokens.reshape(-1), starts[own], *(text[:, 1] - text[:, 0] for text in texts))
    if pair:
      first_lengths[own] = begins[1] - starts[own]
    for text, begin in zip(texts, begins):
      _copy(documents.tokens, text, tokens.reshape(-1), begin)
      # Special tokens are words of their own, and so is what was cut off from a word.
      if words is not None and documents.word_starts is not None:
        _copy(documents.word_starts, text, words.reshape(-1), begin)
        words.reshape(-1)[begin] = True
  table[row_of, places] = np.stack([sequences.lengths, first_lengths, sequences.labels], axis=1)
  sources[row_of, places] = sequences.documents
  rows = {"tokens": tokens, "sequences": table, "documents": sources}
  if words is not None:
    rows["word_starts"] = np.packbits(words, axis=1, bitorder="little")
  return rows


def _places(row_of: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(which of its row each sequence is, where in the row it begins), both int64 [n]: they stand as in the text."""
  order = np.argsort(row_of, kind="stable")
  before = np.cumsum(lengths[order]) - lengths[order]
  heads = np.searchsorted(row_of[order], row_of[order])  # the first of each one's row
  places, starts = np.empty_like(row_of), np.empty_like(row_of)
  places[order], starts[order] = np.arange(len(order)) - heads, before - before[heads]
  return places, starts


def _copy(source: np.ndarray, ranges: np.ndarray, target: np.ndarray, begins: np.ndarray) -> None:
  """Copies ranges [n, 2] of `source` to where they begin in `target`."""
  for (first, last), begin in zip(ranges.tolist(), begins.tolist()):
    target[begin : begin + last - first] = source[first:last]
