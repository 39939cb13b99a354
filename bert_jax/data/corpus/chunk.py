"""Stage one of `prepare`, for one chunk: raw documents -> sentences -> ids.

WordPiece looks at one word at a time, and a text has far fewer different words
than words. So sentences are cut into pieces, at places where BERT ends a word
whatever stands around it; the tokenizer sees every different piece once, and the
ids are looked up. They are the ids of whole sentences, several times faster.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from bert_jax.data.corpus.documents import Documents
from bert_jax.data.text import words
from bert_jax.data.text.sentences import split_sentences

# Text that is cut at a time: little enough for the processor's cache.
_BATCH_CHARACTERS = 2**18

# Pieces that go to the tokenizer in one call: enough for its threads, little enough to hold.
_BATCH_PIECES = 2**8

# Where a sentence is cut: spaces separate words, and each of the others is a word by itself (Chinese characters if
# the tokenizer was told so). BERT knows more of each kind; what is not listed stays inside a piece, for the
# tokenizer to find.
_PUNCTUATION = r"!-/:-@\[-`{-~"
_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff"

Advance = Callable[[int], None]  # told how many bytes of text were finished


class Chunk(NamedTuple):
  """Raw documents that become one shard.

  Attributes:
    split, shard: which shard.
    numbers: of the documents, counted in reading order.
    texts: their texts; none where they are tokenized already.
    origins: (file, position) of each.
    num_bytes: UTF-8 bytes of text.
  """

  split: str
  shard: int
  numbers: list[int]
  texts: list[str]
  origins: list[tuple[int, int]]
  num_bytes: int


class _Numbers(dict[str, int]):
  """Pieces by number, in the order in which they were first asked for."""

  def __missing__(self, piece: str) -> int:
    number = self[piece] = len(self)
    return number


class _Batch(NamedTuple):
  """Sentences as pieces.

  Attributes:
    pieces: int32 [P], the numbers of all pieces.
    piece_counts: int64 [N], pieces in each sentence, at least one.
    word_begins: int64, where words begin, in characters from the beginning of the batch; None without a segmenter.
  """

  pieces: np.ndarray
  piece_counts: np.ndarray
  word_begins: np.ndarray | None


class _Table(NamedTuple):
  """The ids of every different piece.

  Attributes:
    ids: integer [T], those of all pieces, end to end.
    begins: int64 [T], where each begins in its piece, in characters; None without a segmenter.
    starts: int64 [pieces], where each piece begins in `ids`.
    sizes: int64 [pieces], how many ids it has; none for control characters.
    characters: int64 [pieces], its length.
  """

  ids: np.ndarray
  begins: np.ndarray | None
  starts: np.ndarray
  sizes: np.ndarray
  characters: np.ndarray


def token_dtype(vocab_size: int) -> str:
  """The smallest dtype that the corpus knows and the vocabulary fits into."""
  return "uint16" if vocab_size <= 2**16 else "uint32"


def tokenize(
  backend: tokenizers.Tokenizer,
  chunk: Chunk,
  *,
  dtype: str,
  segmenter: words.Segmenter | None = None,
  advance: Advance = lambda num_bytes: None,
) -> Documents:
  """The documents of a chunk as sentences of ids; sentences and documents without a token are left out.

  Args:
    backend: `Tokenizer.plain`, to which a "[SEP]" in a text is brackets and a word.
    chunk: the documents.
    dtype: of the ids.
    segmenter: finds the words, where the vocabulary does not tell.
    advance: called with the bytes of text finished since the last call.
  """
  find = _piece_pattern(backend, keep_spaces=segmenter is not None).findall
  numbers, batches = _Numbers(), []
  counts: list[int] = []
  for texts in _batches(chunk.texts):
    sentences = [split_sentences(text) for text in texts]
    counts += map(len, sentences)
    batches.append(_cut(itertools.chain(*sentences), find, numbers, segmenter))
    advance(sum(len(text.encode("utf-8")) for text in texts))
  table = _look_up(backend, list(numbers), dtype, offsets=segmenter is not None)
  del numbers
  tokens, sizes, starts = [np.zeros(0, dtype)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
  for batch in batches:
    for parts, part in zip((tokens, sizes, starts), _ids(batch, table)):
      parts.append(part)
  sizes = np.concatenate(sizes)
  filled = np.append(0, np.cumsum(sizes > 0))  # sentences with a token among the first 0, 1, 2, …
  document_starts = filled[np.append(0, np.cumsum(counts, dtype=np.int64))]
  kept = np.flatnonzero(np.diff(document_starts))
  return Documents(
    np.concatenate(tokens),
    np.append(0, np.cumsum(sizes[sizes > 0])),
    np.append(document_starts[kept], filled[-1]),
    np.array(chunk.numbers, np.uint32)[kept],
    np.array(chunk.origins, np.uint64).reshape(-1, 2)[kept],
    np.concatenate(starts) if segmenter else None,
  )


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
  """Consecutive texts that are cut together."""
  batch, size = [], 0
  for text in texts:
    batch.append(text)
    size += len(text)
    if size >= _BATCH_CHARACTERS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def _piece_pattern(backend: tokenizers.Tokenizer, *, keep_spaces: bool) -> re.Pattern:
  """Matches a piece. Every space is one, too, if they are kept: then the pieces of a sentence are as long as it is."""
  alone = _PUNCTUATION + (_CHINESE if backend.normalizer.handle_chinese_chars else "")
  return re.compile(f"[^ {alone}]+|[{alone}{' ' if keep_spaces else ''}]")


def _cut(sentences: Iterable[str], find, numbers: _Numbers, segmenter: words.Segmenter | None) -> _Batch:
  """Sentences to pieces; unknown ones get the next numbers."""
  piece_counts, word_begins, begin = [], [], 0

  def pieces() -> Iterator[list[str]]:
    nonlocal begin
    for sentence in sentences:
      found = find(sentence)
      piece_counts.append(len(found))
      if segmenter:
        word_begins.extend([begin + start for start in segmenter(sentence)])
        begin += len(sentence)
      yield found

  # Numbers are taken piece by piece while their text is fresh in the processor's cache.
  found = np.fromiter(map(numbers.__getitem__, itertools.chain.from_iterable(pieces())), np.int32)
  return _Batch(found, np.array(piece_counts, np.int64), np.array(word_begins, np.int64) if segmenter else None)


def _look_up(backend: tokenizers.Tokenizer, pieces: Sequence[str], dtype: str, *, offsets: bool) -> _Table:
  """Has every piece tokenized."""
  encode = backend.encode_batch if offsets else backend.encode_batch_fast  # the fast one has no offsets
  ids, begins = [np.zeros(0, dtype)], [np.zeros(0, np.int64)]
  counts: list[int] = []
  for first in range(0, len(pieces), _BATCH_PIECES):
    encoded = encode(pieces[first : first + _BATCH_PIECES], add_special_tokens=False)
    own = [encoding.ids for encoding in encoded]
    counts += map(len, own)
    ids.append(np.fromiter(itertools.chain.from_iterable(own), dtype))
    if offsets:
      begins.append(np.array([begin for encoding in encoded for begin, _ in encoding.offsets], np.int64))
  sizes = np.array(counts, np.int64)
  return _Table(
    np.concatenate(ids),
    np.concatenate(begins) if offsets else None,
    np.cumsum(sizes) - sizes,
    sizes,
    np.fromiter(map(len, pieces), np.int64),
  )


def _ids(batch: _Batch, table: _Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The ids of all sentences end to end, how many each has, and which begin a word (bool; empty if not asked for)."""
  sizes = table.sizes[batch.pieces]
  ends = np.cumsum(sizes)
  places = np.repeat(table.starts[batch.pieces] - (ends - sizes), sizes)
  places += np.arange(len(places))
  sentence_sizes = np.diff(ends[np.cumsum(batch.piece_counts) - 1], prepend=0)
  if batch.word_begins is None or table.begins is None:
    return table.ids[places], sentence_sizes, np.zeros(0, bool)
  characters = table.characters[batch.pieces]
  begins = table.begins[places] + np.repeat(np.cumsum(characters) - characters, sizes)
  return table.ids[places], sentence_sizes, words.token_starts(batch.word_begins, begins)
