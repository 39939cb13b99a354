"""Stage one of `prepare`, for one chunk: raw documents -> sentences -> ids."""

import itertools
from typing import Callable, Iterable, Iterator, NamedTuple

import numpy as np
import tokenizers

from bert_jax.data import words
from bert_jax.data.documents import Documents
from bert_jax.data.sentences import split_sentences

# Text that goes to the tokenizer in one call: enough for its threads, little enough to hold.
_BATCH_CHARACTERS = 2**18

Advance = Callable[[int], None]  # told how many bytes of text were finished


class Chunk(NamedTuple):
  """Raw documents that become one shard.

  Attributes:
    split, index: which shard.
    numbers: of the documents, counted in reading order.
    texts: their texts; none where they are tokenized already.
    origins: (file, position) of each.
    num_bytes: UTF-8 bytes of text.
  """

  split: str
  index: int
  numbers: list[int]
  texts: list[str]
  origins: list[tuple[int, int]]
  num_bytes: int


def token_dtype(vocab_size: int) -> str:
  """The smallest dtype that the corpus knows and the vocabulary fits into."""
  return "uint16" if vocab_size <= 2**16 else "uint32"


def tokenize(
    backend: tokenizers.Tokenizer, chunk: Chunk, *, dtype: str, segmenter: words.Segmenter | None = None,
    advance: Advance = lambda num_bytes: None,
) -> Documents:  # fmt: skip
  """The documents of a chunk as sentences of ids; sentences and documents without a token are left out.

  Args:
    backend: `Tokenizer.plain`, to which a "[SEP]" in a text is brackets and a word.
    chunk: the documents.
    dtype: of the ids.
    segmenter: finds the words, where the vocabulary does not tell.
    advance: called with the bytes of text finished since the last call.
  """
  pieces, starts, sentence_lengths, sentence_counts, kept = [], [], [], [], []
  encode = backend.encode_batch if segmenter else backend.encode_batch_fast  # the fast one has no offsets
  for batch in _batches(chunk.texts):
    sentences = [split_sentences(chunk.texts[place]) for place in batch]
    encoded = iter(encode(list(itertools.chain(*sentences)), add_special_tokens=False))
    for place, own in zip(batch, sentences):
      ids = []
      for sentence, encoding in zip(own, encoded):
        if one := encoding.ids:
          ids.append(one)
          if segmenter:
            starts.append(words.token_starts(sentence, encoding.offsets, segmenter))
      if ids:
        pieces.append(np.fromiter(itertools.chain.from_iterable(ids), dtype))
        sentence_lengths += map(len, ids)
        sentence_counts.append(len(ids))
        kept.append(place)
    advance(sum(len(chunk.texts[place].encode("utf-8")) for place in batch))
  return Documents(
      np.concatenate([np.zeros(0, dtype), *pieces]), np.cumsum([0, *sentence_lengths], dtype=np.int64),
      np.cumsum([0, *sentence_counts], dtype=np.int64), np.array([chunk.numbers[place] for place in kept], np.uint32),
      np.array([chunk.origins[place] for place in kept], np.uint64).reshape(-1, 2),
      np.concatenate([np.zeros(0, bool), *starts]) if segmenter else None,
  )  # fmt: skip


def _batches(texts: Iterable[str]) -> Iterator[list[int]]:
  """Places of consecutive texts that go to the tokenizer together."""
  batch, size = [], 0
  for place, text in enumerate(texts):
    batch.append(place)
    size += len(text)
    if size >= _BATCH_CHARACTERS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch
