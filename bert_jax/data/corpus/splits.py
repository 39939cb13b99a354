"""The stream of documents -> chunks of the train and the validation split.

A document belongs to a split by the hash of its text, so that a copy of it
elsewhere in the sources lands on the same side. The split is decided first, and
each split has chunks of its own: a random B comes from the same chunk, hence
never from the other split. (Were chunks cut before splitting, text of the
validation split would serve as random B in training, or a chunk might hold too
few documents of a split to pair.) Chunks depend on the documents and their
order only, never on how many workers there are.
"""

import hashlib
import heapq
import itertools
from collections.abc import Iterable, Iterator

from bert_jax.data.corpus import pairs
from bert_jax.data.corpus.chunk import Chunk
from bert_jax.data.corpus.folder import SPLITS
from bert_jax.data.text.sentences import split_sentences
from bert_jax.data.text.sources import Document
from bert_jax.errors import UserError

CHUNK_BYTES = 16 * 2**20  # UTF-8 text in a chunk, at most, unless two documents are longer
TRAIN, VALIDATION = SPLITS
_MIN_DOCUMENTS = 2  # in each split


def make_chunks(
  documents: Iterable[Document], *, validation_fraction: float, objective: str, chunk_bytes: int, files: dict[str, int]
) -> Iterator[Chunk]:
  """Cuts a stream of documents into chunks, each with at least two documents.

  Consecutive documents of a split make a chunk, up to `chunk_bytes`; a last
  lone document joins the chunk before it. Memory: two chunks of each split.

  Args:
    documents: in reading order.
    validation_fraction: share of the documents that is held out.
    objective: a key of `pairs.PAIRINGS`. The chunks do not depend on it; too few documents for it are refused.
    chunk_bytes: UTF-8 text in a chunk, at most, unless two documents are longer.
    files: receives {file: number}, in the order of their first document.

  Raises:
    UserError: no text, or too few documents (while iterating, before the first chunk).
  """
  opened = {split: _empty(split, 0) for split in SPLITS}
  waiting: dict[str, Chunk | None] = dict.fromkeys(SPLITS)
  for split, (_, number, document, size) in _with_splits(documents, validation_fraction, objective, chunk_bytes):
    origin = files.setdefault(document.file, len(files)), document.position
    chunk = opened[split]
    if chunk.numbers and chunk.num_bytes + size > chunk_bytes and len(chunk.numbers) >= _MIN_DOCUMENTS:
      waiting[split] = chunk
      chunk = _empty(split, chunk.shard + 1)
    opened[split] = chunk = _joined(chunk, [number], [document.text], [origin], size)
    before = waiting[split]
    if before and len(chunk.numbers) >= _MIN_DOCUMENTS:  # it can stand alone
      yield before
      waiting[split] = None
  for split in SPLITS:
    chunk, before = opened[split], waiting[split]
    if before:
      yield _joined(before, chunk.numbers, chunk.texts, chunk.origins, chunk.num_bytes)
    elif chunk.numbers:
      yield chunk


def _empty(split: str, index: int) -> Chunk:
  return Chunk(split, index, [], [], [], 0)


def _joined(chunk: Chunk, numbers: list[int], texts: list[str], origins: list[tuple[int, int]], size: int) -> Chunk:
  chunk.numbers.extend(numbers)
  chunk.texts.extend(texts)
  chunk.origins.extend(origins)
  return chunk._replace(num_bytes=chunk.num_bytes + size)


_Hashed = tuple[int, int, Document, int]  # 64 bits of hash, number, document, bytes of its text


def _with_splits(documents, fraction, objective, head_bytes) -> Iterator[tuple[str, _Hashed]]:
  """Every document with its split.

  The share of a small corpus may well be no document at all, or all of them.
  So the first chunk's worth of documents is held back, and the two with the
  lowest hashes validate and the two with the highest train, whatever the share.
  """
  stream = _hashed(documents)
  head, distinct, size = [], set(), 0
  for one in stream:
    head.append(one)
    distinct.add(one[0])
    size += one[-1]
    if size >= head_bytes and len(distinct) >= 2 * _MIN_DOCUMENTS:
      break
  if len(head) == 1 and pairs.PAIRINGS[objective].min_documents == 1:
    yield from _halves(head[0], fraction)
    return
  check_count(len(distinct), objective)
  each = min(_MIN_DOCUMENTS, len(distinct) // 2)
  always = dict.fromkeys(heapq.nsmallest(each, distinct), VALIDATION)
  always |= dict.fromkeys(heapq.nlargest(each, distinct), TRAIN)
  limit = int(fraction * 2**64)
  for one in itertools.chain(head, stream):
    yield always.get(one[0], VALIDATION if one[0] < limit else TRAIN), one


def _hashed(documents: Iterable[Document]) -> Iterator[_Hashed]:
  for number, document in enumerate(documents):
    data = document.text.encode("utf-8")
    mark = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    yield mark, number, document, len(data)


def check_count(found: int, objective: str):
  """Raises UserError where an objective cannot do with so many different documents."""
  needed = _MIN_DOCUMENTS * pairs.PAIRINGS[objective].min_documents
  if found == 0:
    raise UserError("the sources hold no text")
  if found < needed:
    remedy = (
      ""
      if objective != "nsp"
      else (
        "; next-sentence prediction takes random sentences from another document: use --objective=sop or none, "
        "or give more documents (text: takes a blank line for the end of one)"
      )
    )
    raise UserError(
      f"objective {objective}: expected at least {needed} different documents, half to train "
      f"on and half to validate on, found {found}{remedy}"
    )


def _halves(one: _Hashed, fraction: float) -> Iterator[tuple[str, _Hashed]]:
  """The only document of a corpus: its last sentences validate."""
  mark, number, document, _ = one
  sentences = split_sentences(document.text)
  if len(sentences) < 2:
    raise UserError(f"expected at least two sentences, one to train on and one to validate on, found {len(sentences)}")
  cut = len(sentences) - max(1, round(fraction * len(sentences)))
  for split, part in ((TRAIN, sentences[: max(cut, 1)]), (VALIDATION, sentences[max(cut, 1) :])):
    joined = "\n".join(part)  # a newline ends a sentence, so they are found again
    yield split, (mark, number, document._replace(text=joined), len(joined.encode("utf-8")))
