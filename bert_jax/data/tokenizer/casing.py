"""Whether texts lost their capitals and their marks, told by the vocabulary that was made of them.

Scripts without capitals tell nothing of capitals, and their marks may be letters: 한 consists of three of them, and が
without its mark is か.
"""

import unicodedata
from collections.abc import Sequence

# A vocabulary where fewer tokens than this hold a capital letter is lower-cased: BERT uncased and Chinese
# have 2 of 30,522 and 21,128 (ℝ; <S>, <T>), BERT cased 8,368 of 28,996.
_CAPITALS = 0.02
# And where more than this hold marks, texts keep theirs: BERT uncased and Chinese have none.
_MARKS = 0.002


def decided_by(vocabulary: Sequence[str]) -> tuple[bool, bool, bool]:
  """(lowercase, strip_accents, handle_chinese_chars) of texts that a vocabulary was made for, told by its tokens."""
  lowercase = len(with_capitals(vocabulary)) <= _CAPITALS * len(vocabulary)
  return lowercase, lowercase and len(with_marks(vocabulary)) <= _MARKS * len(vocabulary), True


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
