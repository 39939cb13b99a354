"""The stream of documents -> chunks of the train and the validation split.

A document belongs to a split by the hash of its text, so that a copy of it
elsewhere in the sources lands on the same side. The split is decided first, and
each split has chunks of its own: a random B comes from the same chunk, hence
never from the other split. (Were chunks cut before splitting, text of the
validation split would serve as random B in training, or a chunk might hold too
few documents of a split to pair.) Chunks depend on the documents and their
order only, never on how many workers there are.

Of a few long documents, whole ones would be any share but the one asked for. Then
every long one is cut instead, see `_parts`: a piece out of it validates.
"""

import hashlib
import heapq
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bert_jax.data.corpus import pairs
from bert_jax.data.corpus.chunk import Chunk
from bert_jax.data.corpus.folder import SPLITS
from bert_jax.data.text.sentences import split_sentences
from bert_jax.data.text.sources import Document
from bert_jax.errors import UserError

CHUNK_BYTES = 16 * 2**20  # UTF-8 text in a chunk, at most, unless two documents are longer
TRAIN, VALIDATION = SPLITS
_MIN_DOCUMENTS = 2  # in each split
_FEW = 10  # documents of one size in the smaller split, as expected: a third more or less is usual
_SHARE_OFF = 0.2  # of the share asked for, more or less, before documents are cut
_MIN_PIECE = 1000  # bytes of text that are cut out of a document at least: a few rows
_GAP = 256  # characters, then whatever sentence it is in
_WINDOW = 2000  # characters in which the end of a sentence is looked for


def make_chunks(
  documents: Iterable[Document],
  *,
  validation_fraction: float,
  objective: str,
  chunk_bytes: int,
  files: dict[str, int],
  total_bytes: int = 0,
) -> Iterator[Chunk]:
  """Cuts a stream of documents into chunks, each with at least two documents.

  Consecutive documents of a split make a chunk, up to `chunk_bytes`; a last
  lone document joins the chunk before it. Memory: two chunks of each split.

  Args:
    documents: in reading order.
    validation_fraction: share of the documents, or of each, that is held out.
    objective: a key of `pairs.PAIRINGS`. The chunks do not depend on it; too few documents for it are refused.
    chunk_bytes: UTF-8 text in a chunk, at most, unless two documents are longer.
    files: receives {file: number}, in the order of their first document.
    total_bytes: about how much text there is, from which it is told how many documents there will be; 0: not known,
      and many.

  Raises:
    UserError: no text, or too few documents (while iterating, before the first chunk).
  """
  opened = {split: _empty(split, 0) for split in SPLITS}
  waiting: dict[str, Chunk | None] = dict.fromkeys(SPLITS)
  for split, (_, number, document, size) in _with_splits(
    documents, validation_fraction, objective, chunk_bytes, total_bytes
  ):
    origin = files.setdefault(document.file, len(files)), document.position
    chunk = opened[split]
    if (
      chunk.numbers and chunk.num_bytes + size > chunk_bytes and number != chunk.numbers[-1] and _can_stand_alone(chunk)
    ):
      waiting[split] = chunk
      chunk = _empty(split, chunk.shard + 1)
    opened[split] = chunk = _joined(chunk, [number], [document.text], [origin], size)
    before = waiting[split]
    if before and _can_stand_alone(chunk):
      yield before
      waiting[split] = None
  for split in SPLITS:
    chunk, before = opened[split], waiting[split]
    if before:
      yield _joined(before, chunk.numbers, chunk.texts, chunk.origins, chunk.num_bytes)
    elif chunk.numbers:
      yield chunk


def _can_stand_alone(chunk: Chunk) -> bool:
  """Whether it has two documents; parts of one have one number."""
  return bool(chunk.numbers) and chunk.numbers[0] != chunk.numbers[-1]


def _empty(split: str, index: int) -> Chunk:
  return Chunk(split, index, [], [], [], 0)


def _joined(chunk: Chunk, numbers: list[int], texts: list[str], origins: list[tuple[int, int]], size: int) -> Chunk:
  chunk.numbers.extend(numbers)
  chunk.texts.extend(texts)
  chunk.origins.extend(origins)
  return chunk._replace(num_bytes=chunk.num_bytes + size)


_Hashed = tuple[int, int, Document, int]  # 64 bits of hash, number, document, bytes of its text


class _Plan(NamedTuple):
  """Which documents validate.

  Attributes:
    always: {hash: split} of those that do so whatever their hash says.
    limit: of the others, those with a hash below it validate.
    least: bytes of a document that is cut; None: none is.
    share: of a document that is cut, what validates.
  """

  always: dict[int, str]
  limit: int
  least: int | None = None
  share: float = 0.0


def _with_splits(documents, fraction, objective, head_bytes, total_bytes) -> Iterator[tuple[str, _Hashed]]:
  """Every document with its split, or its parts with theirs."""
  stream = _hashed(documents)
  head: list[_Hashed] = []
  sizes: dict[int, int] = {}
  size = 0
  for one in stream:
    head.append(one)
    sizes[one[0]] = one[-1]
    size += one[-1]
    if size >= head_bytes and len(sizes) >= 2 * _MIN_DOCUMENTS:
      break
  else:
    total_bytes = size
  more = max(total_bytes / max(size, 1), 1.0) if total_bytes else math.inf
  plan = _plan(sizes, fraction, objective, more)
  for one in itertools.chain(head, stream):
    if plan.least is not None and one[-1] >= plan.least and one[0] not in plan.always:
      yield from _parts(one, plan.share)
    else:
      yield plan.always.get(one[0], VALIDATION if one[0] < plan.limit else TRAIN), one


def _plan(sizes: dict[int, int], fraction: float, objective: str, more: float) -> _Plan:
  """Which documents validate, told from the first chunk's worth of them.

  The share of a small corpus may well be no document at all, or all of them. So of
  these first documents the two with the lowest hashes validate and the two with the
  highest train, whatever the share.

  Args:
    sizes: {hash: bytes} of the first documents.
    fraction: that is to validate.
    objective: see `make_chunks`.
    more: how many times as much text there is.
  """
  each = min(_MIN_DOCUMENTS, len(sizes) // 2)
  always = dict.fromkeys(heapq.nsmallest(each, sizes), VALIDATION)
  always |= dict.fromkeys(heapq.nlargest(each, sizes), TRAIN)
  whole = _Plan(always, int(fraction * 2**64))
  total, least_needed = sum(sizes.values()), pairs.PAIRINGS[objective].min_documents
  if len(sizes) >= 2 * least_needed:
    held = sum(
      size
      for mark, size in sizes.items()
      if always.get(mark, VALIDATION if mark < whole.limit else TRAIN) == VALIDATION
    )
    # So many documents of one size would vary as much: one of half the text counts as a few, whatever else there is.
    count = more * total**2 / sum(size**2 for size in sizes.values())
    if abs(held - fraction * total) <= _SHARE_OFF * fraction * total or count * min(fraction, 1 - fraction) >= _FEW:
      return whole
  cut = _cut_plan(sizes, fraction, more) if len(sizes) >= least_needed else None
  if cut is None:
    check_count(len(sizes), objective)
  return cut or whole


def _cut_plan(sizes: dict[int, int], fraction: float, more: float) -> _Plan | None:
  """The long documents are cut; None where they are too short for that."""
  total, least = sum(sizes.values()), int(_MIN_PIECE / fraction) + 1
  long = {mark: size for mark, size in sizes.items() if size >= least}
  if len(sizes) == 1:
    return _Plan({}, 0, 0, fraction)
  if 2 * sum(long.values()) >= total:  # of the short ones, whole ones validate
    short = sizes.keys() - long.keys()
    each = max(_MIN_DOCUMENTS - len(long), 0)
    return _Plan(dict.fromkeys(heapq.nsmallest(each, short), VALIDATION), int(fraction * 2**64), least, fraction)
  if more > 1:
    return None
  # More of fewer, the longest: as many as give pieces that are long enough.
  ordered = sorted(sizes.values(), reverse=True)
  for count in range(len(ordered), _MIN_DOCUMENTS - 1, -1):
    share = fraction * total / sum(size for size in ordered if size >= ordered[count - 1])
    if share <= 0.5 and share * ordered[count - 1] >= _MIN_PIECE:
      return _Plan({}, 0, ordered[count - 1], share)
  return None


def _parts(one: _Hashed, share: float) -> Iterator[tuple[str, _Hashed]]:
  """What stands before a piece of a document, the piece, and what stands behind it.

  Where the piece is, the hash decides: ends are not like middles, and of a copy the
  same piece validates. On both sides of it a sentence or more is in neither split.
  """
  mark, number, document, _ = one
  text = document.text
  length = max(round(share * len(text)), 1)
  gap = min(_GAP, length // 4)
  first = _sentence_behind(text, mark * max(len(text) - length - 2 * gap, 0) >> 64)
  begin = _sentence_behind(text, first + gap)
  end = _sentence_behind(text, begin + length)
  last = _sentence_behind(text, end + gap)
  pieces = [(TRAIN, text[:first]), (VALIDATION, text[begin:end]), (TRAIN, text[last:])]
  if len({split for split, part in pieces if part.strip()}) < 2:  # there is no room for gaps
    sentences = split_sentences(text)
    if len(sentences) < 2:
      raise UserError(
        f"expected at least two sentences, one to train on and one to validate on, found {len(sentences)}"
      )
    pieces = [(TRAIN, "\n".join(sentences[:-1])), (VALIDATION, sentences[-1])]
  for split, part in pieces:
    if part := part.strip():
      yield split, (mark, number, document._replace(text=part), len(part.encode("utf-8")))


def _sentence_behind(text: str, place: int) -> int:
  """Where the next sentence begins, or where there is none near the next word, or else the place itself."""
  window = text[place : place + _WINDOW]
  sentences = split_sentences(window)
  if len(sentences) > 1:
    return place + window.index(sentences[1], window.index(sentences[0]) + len(sentences[0]))
  if len(text) - place <= _GAP:
    return len(text)
  space = re.search(r"\s+", window)
  return place + space.end() if space else place


def _hashed(documents: Iterable[Document]) -> Iterator[_Hashed]:
  for number, document in enumerate(documents):
    data = document.text.encode("utf-8")
    mark = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    yield mark, number, document, len(data)


def check_count(found: int, objective: str):
  """Raises UserError where an objective cannot do with so many different documents."""
  needed = 2 * pairs.PAIRINGS[objective].min_documents
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
