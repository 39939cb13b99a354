"""Where words begin in text that is written without spaces.

BERT's vocabulary cuts Chinese into single characters, and no `##` tells which of
them make a word. A segmenter tells it here, while the text is still text; the
corpus then keeps one bit per token for whole-word masking (the "WWM" of Cui et
al. 2019, arXiv:1906.08101).
"""

import importlib.util
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from bert_jax.errors import UserError

# text -> the offsets at which words begin, in characters; the first is 0.
Segmenter = Callable[[str], list[int]]


def load_segmenter(name: str) -> Segmenter:
  """A segmenter by its name, a key of SEGMENTERS; see `check_segmenter`."""
  return SEGMENTERS[name]()


def check_segmenter(name: str) -> None:
  """Raises UserError for an unknown segmenter, or one whose package is not installed. The empty name is fine."""
  if name and name not in SEGMENTERS:
    raise UserError(f"word_segmenter: expected one of {', '.join(SEGMENTERS)}, or nothing; found {name!r}")
  if name and not importlib.util.find_spec(name):
    raise UserError(
      f"word_segmenter {name}: the package is not installed; pip install 'bert_jax[zh]' (or pip install {name})"
    )


def _jieba() -> Segmenter:
  import logging

  import jieba

  jieba.setLogLevel(logging.WARNING)  # its dictionary loads with three lines on the terminal
  jieba.initialize()

  def starts(text: str) -> list[int]:
    found, offset = [], 0
    for word in jieba.cut(text):
      found.append(offset)
      offset += len(word)
    return found

  return starts


SEGMENTERS: dict[str, Callable[[], Segmenter]] = {"jieba": _jieba}


def token_starts(word_begins: ArrayLike, token_begins: ArrayLike) -> np.ndarray:
  """Which tokens begin a word.

  Args:
    word_begins: where the words of a text begin, in order, 0 the first.
    token_begins: where its tokens begin, in order.

  Returns:
    bool [tokens]: the first token of every word. A token that spans several words begins the first of them.
  """
  word_of = np.searchsorted(np.asarray(word_begins, np.int64), token_begins, side="right")
  return np.diff(word_of, prepend=-1) != 0
