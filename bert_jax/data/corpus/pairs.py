"""Documents -> training sequences: pairs for next-sentence or sentence-order prediction, or plain text.

A chunk of tokenized documents is one flat array of ids with the places where
sentences and documents begin. A sequence is nothing but two ranges of that
array, A and B, so nothing is copied here; `packing` lays the ranges out in rows.

Which sequences come out depends on the seed, on the number of the document in
the whole corpus, and on the chunk it stands in; not on workers or on what was
drawn for other documents. Every document has its own stream of random numbers,
made from the raw words of NumPy's Philox counter generator, whose values (unlike
those of `Generator` methods) are the same in all versions of NumPy.

A new objective is a row in `PAIRINGS`.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus.documents import Documents
from bert_jax.data.tokenizer.template import Template
from bert_jax.errors import UserError

FOLLOWS, RANDOM = 0, 1  # NSP labels, as in BERT and Hugging Face
IN_ORDER, SWAPPED = 0, 1  # SOP labels, as in ALBERT and Hugging Face
MIN_SEQ_LENGTH, MAX_SEQ_LENGTH = 8, 2**16 - 1  # the corpus stores lengths in 16 bits

_EMPTY_SHARE = 16  # of a run of sentences 1/16 may stay empty before a sentence is cut
_MOST_UNUSED = 1 / 3  # of a chunk's tokens in no sequence, before its sentences go on in the next one

TokenRange = tuple[int, int]


class Sequences(NamedTuple):
  """Sequences as ranges of `Documents.tokens`.

  Attributes:
    a: int64 [n, 2], begin and end of A, never empty.
    b: int64 [n, 2], begin and end of B; begin = end where the objective has no B.
    labels: int64 [n], NSP: 0 (B follows A) or 1 (B is random); SOP: 0 (in order) or 1 (swapped); else 0,
      which means nothing.
    documents: uint32 [n, 2], the numbers of the documents of A and of B.
    lengths: int64 [n], tokens including special tokens.
  """

  a: np.ndarray
  b: np.ndarray
  labels: np.ndarray
  documents: np.ndarray
  lengths: np.ndarray


class _Found(NamedTuple):
  """One sequence; `document_b` counts within the chunk."""

  a: TokenRange
  b: TokenRange
  label: int
  document_b: int


class Pairing(NamedTuple):
  """How an objective cuts a document.

  Attributes:
    cut: (chunk, index of the document, room in tokens, short_probability, draw) -> sequences.
    pair: whether sequences have a B.
    min_documents: how many different documents a chunk needs.
    cut_running: as `cut`, for text whose sentences are too long for it: nothing is shortened, and what is left of a
      sentence begins the next sequence. None where `cut` does that anyway.
  """

  cut: Callable[["_Chunk", int, int, float, Callable[[], float]], Iterator[_Found]]
  pair: bool
  min_documents: int
  cut_running: Callable[["_Chunk", int, int, float, Callable[[], float]], Iterator[_Found]] | None = None


class _Chunk(NamedTuple):
  """Lists: these loops read single numbers, which lists give several times faster. Parts of one document, held apart

  by what validates, have one number.
  """

  sentence_starts: list[int]
  document_starts: list[int]
  numbers: list[int]


def make_sequences(
  documents: Documents, objective: str, *, template: Template, seq_length: int, short_probability: float, seed: int
) -> Sequences:
  """Cuts every document of a chunk into sequences.

  As BERT and ALBERT do it, what is too long for a row is shortened. Where that would
  leave more than a third of the chunk's tokens in no sequence (lines of hundreds of
  words without a stop, say), sentences are cut instead and go on in the next sequence.

  Args:
    documents: the chunk; see `Pairing.min_documents` for how many it needs. None at all give no sequences.
    objective: a key of `PAIRINGS`.
    template: of the tokenizer.
    seq_length: tokens in a sequence at most, special tokens included.
    short_probability: share of NSP pairs whose target length is drawn between 2 and the maximum.
    seed: together with a document's number it decides what is drawn for that document.

  Returns:
    Sequences in the order of the documents.

  Raises:
    UserError: unknown objective, unusable seq_length, or too few documents.
  """
  kind = pairing_of(objective, seq_length)
  if 0 < len(set(documents.numbers.tolist())) < kind.min_documents:
    raise UserError(
      f"objective {objective} takes a random B from another document: expected at least "
      f"{kind.min_documents} documents, found {len(documents.numbers)}; give more documents, "
      "or use --objective=none"
    )
  special_tokens = template.room(kind.pair)
  cut = lambda how: _sequences(documents, how, seq_length - special_tokens, special_tokens, short_probability, seed)
  sequences = cut(kind.cut)
  if kind.cut_running and unused_tokens(documents, sequences) > _MOST_UNUSED * len(documents.tokens):
    return cut(kind.cut_running)
  return sequences


def unused_tokens(documents: Documents, sequences: Sequences) -> int:
  """How many tokens of a chunk are in no sequence."""
  size = len(documents.tokens) + 1
  begins, ends = np.concatenate([sequences.a, sequences.b]).T
  covered = np.cumsum(np.bincount(begins, minlength=size) - np.bincount(ends, minlength=size))
  return int(np.count_nonzero(covered[:-1] == 0))


def _sequences(documents, cut, room, special_tokens, short_probability, seed) -> Sequences:
  numbers = documents.numbers.tolist()
  chunk = _Chunk(documents.sentence_starts.tolist(), documents.document_starts.tolist(), numbers)
  found, owners, generator = [], [], np.random.Philox()
  for document, number in enumerate(numbers):
    own = list(cut(chunk, document, room, short_probability, random_numbers(seed, number, generator)))
    found += own
    owners += [document] * len(own)
  a, b = (np.array([getattr(one, side) for one in found], np.int64).reshape(-1, 2) for side in "ab")
  sources = np.array([owners, [one.document_b for one in found]], np.int64).T
  return Sequences(
    a,
    b,
    np.array([one.label for one in found], np.int64),
    documents.numbers[sources].astype(np.uint32),
    (a[:, 1] - a[:, 0]) + (b[:, 1] - b[:, 0]) + special_tokens,
  )


def pairing_of(objective: str, seq_length: int) -> Pairing:
  """The objective's row in the table, or a UserError that says what is wrong."""
  if objective not in PAIRINGS:
    raise UserError(f"unknown objective {objective!r}; known are {', '.join(PAIRINGS)}")
  if not MIN_SEQ_LENGTH <= seq_length <= MAX_SEQ_LENGTH:
    raise UserError(
      f"seq_length: expected {MIN_SEQ_LENGTH} to {MAX_SEQ_LENGTH:,} tokens, found {seq_length}: two "
      "sentences and three special tokens need room; BERT uses 128 and 512"
    )
  return PAIRINGS[objective]


def random_numbers(seed: int, document: int, generator: np.random.Philox | None = None) -> Callable[[], float]:
  """A document's own stream: each call gives the next float64 of [0, 1).

  Args:
    seed, document: which stream.
    generator: computes it, whatever else it computed before: to set one to a place takes a quarter of the time
      of making one, which short documents notice.
  """
  generator = generator or np.random.Philox()

  def stream():
    for counter in itertools.count(0, 16):  # each makes four words
      state: Any = {  # NumPy's stubs ask for arrays; lists are taken too
        "bit_generator": "Philox",
        "state": {"counter": [counter, 0, 0, 0], "key": [seed, document]},
        "buffer": [0] * 4,
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
      }
      generator.state = state
      for word in generator.random_raw(64).tolist():
        yield (word >> 11) * 2.0**-53

  return stream().__next__


def _below(limit: int, draw: Callable[[], float]) -> int:
  """A random integer of 0, …, limit - 1."""
  return int(draw() * limit)


def _sentence_pairs(chunk, document, room, short_probability, draw) -> Iterator[_Found]:
  """Pairs as `create_instances_from_document` of google-research/bert makes them.

  Sentences are gathered up to a target length and split at a random sentence
  boundary into A and what follows. Half of the time, and whenever there is
  nothing to split, a random run of sentences from another document takes the
  place of B, and the unused sentences are gathered again for the next pair.
  One thing differs: BERT draws the short target once per document, and goes
  over the corpus ten times; we go over it once and draw for every pair, or else
  one book in ten would come out in crumbs.
  """
  starts, documents, _ = chunk
  position, end_of_document = documents[document], documents[document + 1]
  while position < end_of_document:
    target = _target(room, short_probability, draw)
    end = _run(starts, position, end_of_document, target)
    a_end = position + 1 + (_below(end - position - 1, draw) if end - position > 1 else 0)
    a = starts[position], starts[a_end]
    if end - position == 1 or draw() < 0.5:
      label, other = RANDOM, _other_document(chunk, document, draw)
      first = documents[other] + _below(documents[other + 1] - documents[other], draw)
      b = starts[first], starts[_run(starts, first, documents[other + 1], target - (a[1] - a[0]))]
      position = a_end
    else:
      label, other = FOLLOWS, document
      b = starts[a_end], starts[end]
      position = end
    yield _Found(*_truncate(a, b, room, draw), label, other)


def _running_pairs(chunk, document, room, short_probability, draw) -> Iterator[_Found]:
  """Pairs as those of `_sentence_pairs` but for three things, by which no token is lost.

  A run is the sentences that fit, not those that overflow; one that does not fit is
  cut, and goes on in the next run. A run without a sentence boundary is split between
  any two tokens, unless it is a whole sentence. And a random B ends where it is full.
  """
  starts = chunk.sentence_starts
  position, end_of_document = _tokens_of(chunk, document)
  while position < end_of_document:
    target, middle, end = _next_run(chunk, document, position, room, short_probability, draw)
    sentence = bisect.bisect_left(starts, position)
    if end - position < target and starts[sentence] == position and starts[sentence + 1] == end:
      middle = end
    if middle == end or draw() < 0.5:
      other = _other_document(chunk, document, draw)
      begin = _random_place(chunk, other, target, draw)
      yield _Found(
        (position, middle), (begin, _full_run(chunk, other, begin, target - (middle - position))), RANDOM, other
      )
      position = middle
    else:
      yield _Found((position, middle), (middle, end), FOLLOWS, document)
      position = end


def _other_document(chunk: _Chunk, document: int, draw: Callable[[], float]) -> int:
  """A random document of the chunk other than `document`, and no part of it."""
  count = len(chunk.numbers)
  other = _below(count - 1, draw)
  other += other >= document
  while chunk.numbers[other] == chunk.numbers[document]:
    other = (other + 1) % count
  return other


def _random_place(chunk: _Chunk, document: int, near: int, draw: Callable[[], float]) -> int:
  """Where a random B begins: as what follows an A does, at a sentence if one begins `near`, else anywhere."""
  starts, documents, _ = chunk
  first, last = documents[document], documents[document + 1]
  place = starts[first] + _below(starts[last] - starts[first], draw)
  sentence = starts[bisect.bisect_left(starts, place, first, last)]
  return sentence if place <= sentence <= place + near and sentence < starts[last] else place


def _ordered_pairs(chunk, document, room, short_probability, draw) -> Iterator[_Found]:
  """Two runs of text that follow each other, swapped half of the time: ALBERT (Lan et al. 2019, arXiv:1909.11942).

  Text is gathered as for NSP, and cut at a random sentence boundary. Where ALBERT
  takes a random segment of another document if there is no second sentence, the one
  sentence is cut at a random token here, so that the label is about order alone; a
  document's last token left alone makes no pair.
  """
  starts, documents, _ = chunk
  position, end_of_document = documents[document], documents[document + 1]
  while position < end_of_document:
    target = _target(room, short_probability, draw)
    end = _run(starts, position, end_of_document, target)
    first, last = starts[position], starts[end]
    if end - position > 1:
      middle = starts[position + 1 + _below(end - position - 1, draw)]
    else:
      middle = first + 1 + _below(max(last - first - 1, 1), draw)
    position = end
    if middle < last:
      a, b = _truncate((first, middle), (middle, last), room, draw)
      yield _Found(b, a, SWAPPED, document) if draw() < 0.5 else _Found(a, b, IN_ORDER, document)


def _running_ordered_pairs(chunk, document, room, short_probability, draw) -> Iterator[_Found]:
  """Pairs as those of `_ordered_pairs`, in runs that are never too long; see `_running_pairs`."""
  position, end_of_document = _tokens_of(chunk, document)
  while position < end_of_document:
    _, middle, end = _next_run(chunk, document, position, room, short_probability, draw)
    a, b = (position, middle), (middle, end)
    position = end
    if middle < end:
      yield _Found(b, a, SWAPPED, document) if draw() < 0.5 else _Found(a, b, IN_ORDER, document)


def _tokens_of(chunk: _Chunk, document: int) -> TokenRange:
  return chunk.sentence_starts[chunk.document_starts[document]], chunk.sentence_starts[
    chunk.document_starts[document + 1]
  ]


def _target(room: int, short_probability: float, draw: Callable[[], float]) -> int:
  """Tokens of the next pair: a short one now and then, for the model will also be used on short input."""
  return room if draw() >= short_probability else 2 + _below(room - 1, draw)


def _next_run(
  chunk: _Chunk, document: int, position: int, room: int, short_probability: float, draw: Callable[[], float]
) -> tuple[int, int, int]:
  """(target, middle, end) of the run that begins at a token of a document, see `_full_run` and `_middle`."""
  target = _target(room, short_probability, draw)
  end = _full_run(chunk, document, position, target)
  return target, _middle(chunk, document, position, end, draw), end


def _middle(chunk: _Chunk, document: int, begin: int, end: int, draw: Callable[[], float]) -> int:
  """A random sentence boundary between two tokens, or where there is none any place; `end` if there is no place."""
  starts, documents, _ = chunk
  low = bisect.bisect_right(starts, begin, documents[document], documents[document + 1])
  high = bisect.bisect_left(starts, end, low, documents[document + 1])
  if low < high:
    return starts[low + _below(high - low, draw)]
  return begin + 1 + _below(max(end - begin - 1, 1), draw)


def _full_run(chunk: _Chunk, document: int, position: int, room: int) -> int:
  """End of the longest run of whole sentences from `position` that has `room`; where more than a sixteenth of it would

  stay empty, the next sentence is cut.
  """
  starts, documents, _ = chunk
  first, last = documents[document], documents[document + 1]
  full = min(position + room, starts[last])
  end = starts[bisect.bisect_right(starts, full, first, last + 1) - 1]
  return full if end <= position or full - end > room // _EMPTY_SHARE else end


def _run(starts: Sequence[int], first: int, limit: int, target: int) -> int:
  """End of the shortest run of whole sentences from `first` that has `target` tokens, or ends at `limit`."""
  end = first + 1
  while end < limit and starts[end] - starts[first] < target:
    end += 1
  return end


def _truncate(a: TokenRange, b: TokenRange, room: int, draw: Callable[[], float]) -> tuple[TokenRange, TokenRange]:
  """Shortens the longer of the two, token by token from either end at random, until both fit into `room`."""
  length_a, length_b = a[1] - a[0], b[1] - b[0]
  excess = length_a + length_b - room
  if excess <= 0:
    return a, b
  # First the longer one comes down to the shorter one's length, then both in turn, beginning with B.
  level = min(excess, abs(length_a - length_b))
  cut_a, cut_b = (excess - level) // 2, (excess - level + 1) // 2
  if length_a > length_b:
    cut_a += level
  else:
    cut_b += level
  return _shorten(a, cut_a, draw), _shorten(b, cut_b, draw)


def _shorten(part: TokenRange, cut: int, draw: Callable[[], float]) -> TokenRange:
  """Cuts `cut` tokens off, each from the front or from the back with equal odds."""
  front = sum(_below(2 ** min(32, cut - done), draw).bit_count() for done in range(0, cut, 32))
  return part[0] + front, part[1] - (cut - front)


def _plain_sequences(chunk, document, room, short_probability, draw) -> Iterator[_Found]:
  """Runs of whole sentences, as many as fit into `room`: RoBERTa's input (Liu et al. 2019, arXiv:1907.11692).

  Two things differ. A run ends with its document: where RoBERTa continues with the next one, `packing` puts several
  runs into a row, which do not see each other. And where whole sentences would leave more than a sixteenth of the
  room empty, the next one is cut, and its rest begins the next run: else a tenth of a row of 128 tokens is padding.
  """
  del short_probability, draw  # no pairs, so nothing to draw
  starts, documents, _ = chunk
  position, end_of_document = (starts[documents[at]] for at in (document, document + 1))
  while position < end_of_document:
    end = _full_run(chunk, document, position, room)
    yield _Found((position, end), (end, end), 0, document)
    position = end


PAIRINGS = {
  "nsp": Pairing(_sentence_pairs, pair=True, min_documents=2, cut_running=_running_pairs),
  "sop": Pairing(_ordered_pairs, pair=True, min_documents=1, cut_running=_running_ordered_pairs),
  "none": Pairing(_plain_sequences, pair=False, min_documents=1),
}
