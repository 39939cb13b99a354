"""Labelled texts as token ids, and batches of them, each padded to the length that it needs.

A batch is a pure function of (examples, seed, position), as in pretraining: the order of the examples is order.py's,
and every WINDOW batches of an epoch are sorted by length, cut, and dealt out in an order that follows from the seed. So
a batch holds texts of about one length, and few lengths are compiled: those of LENGTHS.

Shape legend: N examples, B rows of a batch, L tokens in a row, C labels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from bert_jax.batch import EVALUATION_EPOCH
from bert_jax.data import order
from bert_jax.data.loading.input_pipeline import HostBatch, prefetched
from bert_jax.data.tokenizer.wordpiece import Tokenizer, encode_batch

LENGTHS = (32, 64, 128, 256, 512)  # tokens in a row; longer models add multiples of the last
WINDOW = 32  # batches that are sorted by length together
IGNORED = -1  # label of a token that has none: a later piece of a word, [CLS], [SEP], padding


class Features(NamedTuple):
  """Examples as token ids, special tokens included.

  Attributes:
    tokens: int32 [sum of lengths], all examples concatenated.
    offsets: int64 [N + 1], where each begins in `tokens`.
    first_lengths: int32 [N], tokens before B ("[CLS] A [SEP]"). Or int32 [N, S]: a row holds S texts packed one after
      the other, each with its own special tokens, and this is how many tokens each of them has.
    labels: int32 [N] classes; float32 [N] scores; int32 [N, S] which text each is; float32 [N, C] of 0 and 1, several
      classes at once; int32 [N, 2] first and last token of an answer, (0, 0) where there is none; int32 [sum of
      lengths] a class for every token, or IGNORED.
    truncated: how many texts were too long, and lost their end.
  """

  tokens: np.ndarray
  offsets: np.ndarray
  first_lengths: np.ndarray
  labels: np.ndarray
  truncated: int

  @property
  def num_rows(self) -> int:
    return len(self.offsets) - 1

  @property
  def lengths(self) -> np.ndarray:
    return np.diff(self.offsets)

  @property
  def of_tokens(self) -> bool:
    """Whether every token has a label of its own."""
    return self.labels.ndim == 1 and len(self.labels) == len(self.tokens)


def make_features(rows: Sequence[Sequence[int]], first_lengths: ArrayLike, labels, truncated: int) -> Features:
  """Features from lists; `labels`: an array, or for tokens one list per row."""
  offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
  flat = lambda lists: np.fromiter((x for one in lists for x in one), np.int32, count=offsets[-1])
  labels = labels if isinstance(labels, np.ndarray) else flat(labels)
  return Features(flat(rows), offsets, np.asarray(first_lengths, np.int32), labels, truncated)


def of_texts(
  tokenizer: Tokenizer, first: Sequence[str], second: Sequence[str] | None, labels: np.ndarray, *, max_length: int
) -> Features:
  """Features of texts or pairs of texts; the longer one of a pair loses its end first."""
  template = tokenizer.template
  ids = encode_batch(tokenizer, [*first, *(second or ())])
  pairs = zip(ids[: len(first)], ids[len(first) :] if second is not None else [None] * len(first))
  rows, first_lengths, truncated = [], [], 0
  for a, b in pairs:
    a, b, cut = template.truncate(a, b, max_length)
    rows.append(template.frame(a, b if second is not None else None)[0])
    first_lengths.append(template.first_length(len(a), pair=second is not None))
    truncated += cut
  return make_features(rows, first_lengths, labels, truncated)


def of_texts_apart(
  tokenizer: Tokenizer, texts: Sequence[Sequence[str]], labels: np.ndarray | None, *, max_length: int
) -> Features:
  """Features of examples of S texts, each a sequence of its own of at most `max_length` tokens, packed into one row.

  Args:
    tokenizer: the model's.
    texts: S lists of N texts.
    labels: [N]; None: int32 [N, S], which text each is: equal tokens have equal numbers.
    max_length: tokens in a text at most, special tokens included.
  """
  template, cut_texts = tokenizer.template, 0
  known: dict[tuple[int, ...], int] = {}
  columns: list[list[tuple[int, ...]]] = []
  for column in texts:
    columns.append([])
    for ids in encode_batch(tokenizer, list(column)):
      ids, _, cut = template.truncate(ids, None, max_length)
      columns[-1].append(tuple(template.frame(ids)[0]))
      cut_texts += cut
  rows = list(zip(*columns))
  if labels is None:
    labels = np.array([[known.setdefault(text, len(known)) for text in row] for row in rows], np.int32)
  lengths = [[len(text) for text in row] for row in rows]
  return make_features([[token for text in row for token in text] for row in rows], lengths, labels, cut_texts)


def of_words(
  tokenizer: Tokenizer, words: Sequence[Sequence[str]], tags: Sequence[Sequence[int]], *, max_length: int
) -> Features:
  """Features of texts in words, each with a tag: the first piece of a word has its label, the others have none.

  A word without any piece (control characters alone) counts as [UNK], so that none is lost.
  """
  template = tokenizer.template
  limit = max_length - template.room(pair=False)
  known = {word: None for sentence in words for word in sentence}
  pieces = dict(zip(known, encode_batch(tokenizer, list(known))))
  rows, labels, truncated = [], [], 0
  for sentence, own in zip(words, tags):
    row, marks = [], []
    for word, tag in zip(sentence, own):
      ids = pieces[word] or [template.special.unk]
      row += ids
      marks += [tag] + [IGNORED] * (len(ids) - 1)
    truncated += len(row) > limit
    rows.append(template.frame(row[:limit])[0])
    before = [IGNORED] * template.offset + marks[:limit]
    labels.append(before + [IGNORED] * (len(rows[-1]) - len(before)))
  return make_features(rows, [len(row) for row in rows], labels, truncated)


def row_length(longest: int) -> int:
  """The least of LENGTHS, or multiple of its last, that holds `longest` tokens."""
  return next((length for length in LENGTHS if length >= longest), -(-longest // LENGTHS[-1]) * LENGTHS[-1])


def gather(
  features: Features, rows: np.ndarray, *, epoch: np.ndarray, max_length: int, own: np.ndarray | None = None
) -> HostBatch:
  """A batch of examples, padded to the length that the longest of them needs.

  Args:
    features: the examples.
    rows: int64 [B], which; -1: an empty row, which weighs nothing.
    epoch: uint32 [B], which pass over the examples.
    max_length: the most tokens that a row may have.
    own: which of the B rows are filled here; None: all. The length is that of the whole batch, on every process.

  Returns:
    tokens, sequences, epoch, index as in batch.HOST_BATCH with one sequence in a row, or S packed ones; labels [B], [B,
    C], [B, 2] or [B, L], as in Features; weights float32 [B], 0 for empty rows.
  """
  lengths = np.where(rows >= 0, features.lengths[rows], 0)
  width = min(row_length(int(lengths.max())), max_length)
  if own is not None:
    rows, lengths, epoch = rows[own], lengths[own], epoch[own]
  filled = np.arange(width)[None, :] < lengths[:, None]
  places = features.offsets[rows][:, None] + np.arange(width)[None, :]
  places = np.where(filled, places, 0)
  labels = np.where(filled, features.labels[places], IGNORED) if features.of_tokens else features.labels[rows]
  first = features.first_lengths[rows] * (rows >= 0).reshape(-1, *[1] * (features.first_lengths.ndim - 1))
  whole, first = (first, first) if first.ndim == 2 else (lengths[:, None], first[:, None])
  sequences = np.stack([whole, first, np.zeros_like(whole)], axis=-1)
  return {
    "tokens": np.where(filled, features.tokens[places], 0),
    "sequences": sequences.astype(np.int32),
    "epoch": epoch.astype(np.uint32),
    "index": np.maximum(rows, 0).astype(np.uint32),
    "labels": labels,
    "weights": (rows >= 0).astype(np.float32),
  }


def rows_of_batch(lengths: np.ndarray, number: int, *, batch_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """(epoch uint32 [B], row int64 [B]) of the examples in batch `number` of a run, a pure function of its arguments.

  Windows end with their epoch, so that every example comes once in it and none twice in a batch. The one batch that
  holds the end of an epoch and the beginning of the next is as order.py has it.
  """
  in_epoch = len(lengths)
  epoch = number * batch_size // in_epoch
  first, end = (
    -(-epoch * in_epoch // batch_size),
    (epoch + 1) * in_epoch // batch_size,
  )  # the batches that lie in this epoch whole
  if number >= end:
    return order.rows_at(number * batch_size + np.arange(batch_size, dtype=np.int64), num_rows=in_epoch, seed=seed)
  window = first + (number - first) // WINDOW * WINDOW
  size = min(WINDOW, end - window)
  epochs, rows = order.rows_at(
    window * batch_size + np.arange(size * batch_size, dtype=np.int64), num_rows=in_epoch, seed=seed
  )
  by_length = np.argsort(lengths[rows], kind="stable")
  dealt = order.permutation(np.array([number - window]), size, order.key_of(seed, np.array([window])))
  batch = by_length[int(dealt[0]) * batch_size :][:batch_size]
  return epochs[batch], rows[batch]


def length_grouped_batches(
  features: Features,
  *,
  batch_size: int,
  seed: int,
  start: int,
  steps: int,
  max_length: int,
  process_rows: np.ndarray | None = None,
) -> Iterator[HostBatch]:
  """This process's part of `steps` global batches, made ahead in the background; arguments as in
  input_pipeline.train_batches.
  """

  def load(number: int) -> HostBatch:
    epoch, rows = rows_of_batch(features.lengths, number, batch_size=batch_size, seed=seed)
    return gather(features, rows, epoch=epoch, max_length=max_length, own=process_rows)

  first = start // batch_size
  return prefetched(load, range(first, first + steps))


def sorted_batches(
  features: Features, *, batch_size: int, max_length: int, process_rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, HostBatch]]:
  """All examples once, the shortest first: (int64 [B] which, -1 for rows that fill up the last batch; this process's
  part of the batch).
  """
  by_length = np.argsort(features.lengths, kind="stable")
  filled = np.concatenate([by_length, np.full(-len(by_length) % batch_size, -1)])

  def load(begin: int) -> tuple[np.ndarray, HostBatch]:
    rows = filled[begin : begin + batch_size]
    epoch = np.full(batch_size, EVALUATION_EPOCH, np.uint32)
    return rows, gather(features, rows, epoch=epoch, max_length=max_length, own=process_rows)

  return prefetched(load, range(0, len(filled), batch_size))
