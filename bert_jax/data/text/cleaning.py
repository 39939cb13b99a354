"""What everyone does to raw text before training, and no more: exact duplicates out, short documents out.

For language identification, quality filters and near-duplicates there is
datatrove, whose output `prepare` reads as it is.
"""

import collections
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from bert_jax.data.text.sources import Document

_FIRST_SIZE = 2**16
_MOVED_AT_ONCE = 2**12


def clean(
  documents: Iterable[Document], *, deduplicate: bool, min_characters: int, counts: collections.Counter
) -> Iterator[Document]:
  """Drops documents.

  Args:
    documents: the stream.
    deduplicate: drop exact duplicates of documents. Takes 16 to 32 bytes of
      memory per document, and 48 now and then for a moment.
    min_characters: drop documents with fewer characters than this.
    counts: receives `short_documents` and `duplicate_documents`, what was dropped.
  """
  seen = _Hashes()
  for document in documents:
    if len(document.text) < min_characters:
      counts["short_documents"] += 1
    elif deduplicate and not seen.add(document.text):
      counts["duplicate_documents"] += 1
    else:
      yield document


class _Hashes:
  """A set of 64-bit hashes in one flat table with linear probing: a Python set takes five times the memory.

  Among n documents the chance that two different ones share a hash is n² / 2^65: one in a million at six million.
  """

  def __init__(self):
    self._table = np.zeros(_FIRST_SIZE, np.uint64)  # 0: free
    self._used = 0

  def add(self, text: str) -> bool:
    """Whether the text is new; it is known from now on."""
    mark = int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little") or 1
    if not _insert(self._table, mark):
      return False
    self._used += 1
    if 2 * self._used > len(self._table):
      old, self._table = self._table, np.zeros(2 * len(self._table), np.uint64)
      for begin in range(0, len(old), _MOVED_AT_ONCE):  # as Python numbers they take five times the memory
        part = old[begin : begin + _MOVED_AT_ONCE]
        for one in part[part > 0].tolist():
          _insert(self._table, one)
    return True


def _insert(table: np.ndarray, mark: int) -> bool:
  place, last = mark % len(table), len(table) - 1
  while value := int(table[place]):
    if value == mark:
      return False
    place = (place + 1) & last
  table[place] = mark
  return True
