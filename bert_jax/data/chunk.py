"""One chunk of raw text -> one shard of the corpus: the work of one `prepare` worker.

A worker process imports this module and what it needs, and nothing else: no JAX
(so not `data/tokenizer.py` either, which shares types with the model), no
TensorFlow. It starts in a fraction of a second and stays small. It gets
everything as plain values: the tokenizer comes as its JSON text.
"""

import itertools
import multiprocessing
import os
import pathlib
import signal
import threading
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import numpy as np
import tokenizers

from bert_jax.data import corpus, packing, pairs
from bert_jax.data.sentences import split_sentences

# Text that goes to the tokenizer in one call: enough for its threads, little enough to hold.
_BATCH_CHARACTERS = 2**18

Advance = Callable[[int], None]  # told how many bytes of text were finished


class Recipe(NamedTuple):
  """What every chunk of a corpus has in common.

  Attributes:
    folder: the corpus folder in the making.
    tokenizer: JSON text of `Tokenizer.plain`, to which a "[SEP]" in a text is brackets and a word.
    special_ids: ids of pad, unk, cls, sep, mask.
    vocab_size: number of ids.
    objective, seq_length, max_sequences, short_probability, seed: see `pairs` and `packing`.
  """

  folder: str
  tokenizer: str
  special_ids: dict[str, int]
  vocab_size: int
  objective: str
  seq_length: int
  max_sequences: int
  short_probability: float
  seed: int


class Chunk(NamedTuple):
  """Documents that become one shard; numbers count documents in reading order."""

  split: str
  index: int
  numbers: list[int]
  texts: list[str]
  num_bytes: int


class Counts(NamedTuple):
  """What was counted in a chunk; those of several chunks are added field by field.

  Attributes:
    documents, sentences, tokens: of the text, without empty ones.
    rows: of the shard.
    label_counts: int64 [2], sequences with label 0 and 1.
    length_counts: int64 [seq_length + 1], sequences by length.
    unigram_counts: int64 [vocab_size], tokens in the rows by id, padding left out.
  """

  documents: int
  sentences: int
  tokens: int
  rows: int
  label_counts: np.ndarray
  length_counts: np.ndarray
  unigram_counts: np.ndarray


class Made(NamedTuple):
  """What came of a chunk: which shard, its entry in the manifest, what it holds, and bytes of text read."""

  split: str
  index: int
  shard: dict[str, Any]
  counts: Counts
  num_bytes: int


def token_dtype(vocab_size: int) -> str:
  """The smallest dtype that the corpus knows and the vocabulary fits into."""
  return "uint16" if vocab_size <= 2**16 else "uint32"


def make_shard(recipe: Recipe, backend: tokenizers.Tokenizer, chunk: Chunk, advance: Advance) -> Made:
  """Tokenizes, pairs, packs and writes one chunk.

  Args:
    recipe: the settings.
    backend: the recipe's tokenizer, `tokenizers.Tokenizer.from_str(recipe.tokenizer)`.
    chunk: the documents.
    advance: called with the bytes of text finished since the last call.

  Raises:
    UserError: the shard cannot be written.
  """
  documents = tokenize(backend, chunk, advance, token_dtype(recipe.vocab_size))
  if len(documents.numbers) < pairs.OBJECTIVES[recipe.objective].min_documents:
    # All others of the chunk were empty after tokenization (nothing but control characters, say).
    documents = _documents([], [], [], chunk.numbers[:0], token_dtype(recipe.vocab_size))
  sequences = pairs.make_sequences(
      documents, recipe.objective, seq_length=recipe.seq_length, short_probability=recipe.short_probability,
      seed=recipe.seed,
  )  # fmt: skip
  rows = packing.fill_rows(
      documents, sequences, seq_length=recipe.seq_length, max_sequences=recipe.max_sequences,
      special_ids=recipe.special_ids, dtype=token_dtype(recipe.vocab_size),
  )  # fmt: skip
  shard = corpus.write_shard(pathlib.Path(recipe.folder, chunk.split), chunk.index, rows)
  unigram_counts = np.bincount(rows["tokens"].ravel(), minlength=recipe.vocab_size)
  unigram_counts[recipe.special_ids["pad"]] = 0
  counts = Counts(
      len(documents.numbers), len(documents.sentence_starts) - 1, len(documents.tokens), shard["rows"],
      np.bincount(sequences.labels, minlength=2),
      np.bincount(sequences.lengths, minlength=recipe.seq_length + 1), unigram_counts,
  )  # fmt: skip
  return Made(chunk.split, chunk.index, shard, counts, chunk.num_bytes)


def tokenize(backend: tokenizers.Tokenizer, chunk: Chunk, advance: Advance, dtype: str) -> pairs.Documents:
  """The documents of a chunk as sentences of ids; sentences and documents without a token are left out."""
  pieces, sentence_lengths, sentence_counts, numbers = [], [], [], []
  for batch in _batches(zip(chunk.numbers, chunk.texts)):
    sentences = [split_sentences(text) for _, text in batch]
    encoded = iter(backend.encode_batch_fast(list(itertools.chain(*sentences)), add_special_tokens=False))
    for (number, _), own in zip(batch, sentences):
      ids = [one for one in (encoding.ids for encoding in itertools.islice(encoded, len(own))) if one]
      if ids:
        pieces.append(np.fromiter(itertools.chain.from_iterable(ids), dtype))
        sentence_lengths += map(len, ids)
        sentence_counts.append(len(ids))
        numbers.append(number)
    advance(sum(len(text.encode("utf-8")) for _, text in batch))
  return _documents(pieces, sentence_lengths, sentence_counts, numbers, dtype)


def _documents(pieces, sentence_lengths, sentence_counts, numbers, dtype) -> pairs.Documents:
  return pairs.Documents(
      np.concatenate([np.zeros(0, dtype), *pieces]), np.cumsum([0, *sentence_lengths], dtype=np.int64),
      np.cumsum([0, *sentence_counts], dtype=np.int64), np.array(numbers, np.uint32),
  )  # fmt: skip


def _batches(documents: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
  batch, size = [], 0
  for number, text in documents:
    batch.append((number, text))
    size += len(text)
    if size >= _BATCH_CHARACTERS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


_worker: tuple[Recipe, tokenizers.Tokenizer] | None = None  # set in worker processes only


def start_worker(recipe: Recipe):
  """Runs once in every worker process, before its first chunk."""
  global _worker
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
  # The processes are the parallelism; threads inside each would only fight over the cores.
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  threading.Thread(target=_leave_with_parent, daemon=True).start()
  _worker = recipe, tokenizers.Tokenizer.from_str(recipe.tokenizer)


def _leave_with_parent():
  """Ends this process when its parent is gone, even killed: it would wait for work for ever."""
  multiprocessing.parent_process().join()
  os._exit(1)


def make_shard_in_worker(chunk: Chunk) -> Made:
  """`make_shard` with what `start_worker` prepared."""
  return make_shard(*_worker, chunk, lambda num_bytes: None)
