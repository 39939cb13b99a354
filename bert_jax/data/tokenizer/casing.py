"""Whether texts lost their capitals and their marks, told by the vocabulary that was made of them.

Scripts without capitals tell nothing of capitals, and their marks may be letters: 한 consists of three of them, and が
without its mark is か.
"""

import collections
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# A vocabulary where fewer tokens than this hold a capital letter is lower-cased: BERT uncased and Chinese
# have 2 of 30,522 and 21,128 (ℝ; <S>, <T>), BERT cased 8,368 of 28,996.
_CAPITALS = 0.02
# Where more words of a text than this have marks, marks belong to its spelling: in English one in some thousands has.
KEPT_ABOVE = 0.01
_SAID = 0.0005
_LOOKED_AT = 4 * 2**20  # characters
_SHOWN = 24  # characters of an example

# And where more than this hold marks, texts keep theirs: BERT uncased and Chinese have none.
_MARKS = 0.002


def decided_by(vocabulary: Sequence[str]) -> tuple[bool, bool, bool]:
  """(lowercase, strip_accents, handle_chinese_chars) of texts that a vocabulary was made for, told by its tokens."""
  lowercase = len(with_capitals(vocabulary)) <= _CAPITALS * len(vocabulary)
  return lowercase, lowercase and not hold_marks(vocabulary), True


def hold_marks(vocabulary: Sequence[str]) -> bool:
  """Whether so many tokens have marks that the text was not stripped of them."""
  return len(with_marks(vocabulary)) > _MARKS * len(vocabulary)


def with_capitals(vocabulary: Sequence[str]) -> list[str]:
  """The tokens that lower-cased text never has, not counting the likes of [MASK]."""
  return [token for token in vocabulary if token != token.lower() and not _in_brackets(token)]


def with_marks(vocabulary: Sequence[str]) -> list[str]:
  """The tokens that text without marks never has: ö, が, में, 한; see `without_marks`."""
  return [token for token in vocabulary if not token.isascii() and token != without_marks(token)]


def _in_brackets(token: str) -> bool:
  return token.startswith("[") and token.endswith("]")


def without_marks(text: str) -> str:
  """A text as strip_accents leaves it, decomposed and without marks; 한 becomes three letters, が becomes か."""
  return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


class Stripping(NamedTuple):
  """What stripping marks does to a text.

  Attributes:
    share: of its words that are changed; 0 of no words.
    examples: the most frequent of them, with what becomes of them.
  """

  share: float
  examples: tuple[tuple[str, str], ...]


def stripping_of(texts: Iterable[str]) -> Stripping:
  """What stripping changes in texts, of which the first few megabytes are looked at."""
  counts: collections.Counter[str] = collections.Counter()
  left = _LOOKED_AT
  for text in texts:
    counts.update(text[:left].lower().split())
    left -= len(text)
    if left <= 0:
      break
  changed = {word: count for word, count in counts.items() if not word.isascii() and without_marks(word) != word}
  first = sorted(changed, key=lambda word: (-changed[word], word))[:3]
  share = sum(changed.values()) / max(counts.total(), 1)
  return Stripping(share, tuple((word[:_SHOWN], _shown(word[:_SHOWN])) for word in first))


def note_of_stripping(found: Stripping, *, stripped: bool) -> str:
  """What a user should know of it, in a line; empty where it does not matter."""
  if found.share < _SAID:
    return ""
  share = f"{found.share:.1%}" if found.share < 0.1 else f"{found.share:.0%}"
  examples = ", ".join(f"{word} -> {then}" for word, then in found.examples)
  if stripped:
    return f"Accents and marks are stripped, which changes {share} of the words: {examples}; --keep_accents keeps them"
  return f"Accents and marks are kept: stripping would change {share} of the words: {examples}; --strip_accents strips"


def _shown(word: str) -> str:
  """A word without its marks; letters that a terminal would put together again, apart."""
  left = without_marks(word)
  return " ".join(left) if unicodedata.normalize("NFC", left) != left else left
