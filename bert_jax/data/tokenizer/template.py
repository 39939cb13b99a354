"""How a tokenizer frames texts: the special tokens around A and B, and which ids play which role.

BERT writes "[CLS] A [SEP]" and "[CLS] A [SEP] B [SEP]"; other families write other tokens, in other places, or none.
Whoever adds, counts or takes off special tokens asks the Template, which is read from the tokenizer's own
post-processor. Plain values and no JAX: the worker processes of `prepare` are given one.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from bert_jax.errors import UserError

ABSENT = -1  # no token's id


class SpecialIds(NamedTuple):
  """Ids of the tokens that have a role; ABSENT where a tokenizer has no such token (BERT has all)."""

  pad: int
  unk: int
  cls: int
  sep: int
  mask: int


class SpecialTokens(NamedTuple):
  """What the roles of SpecialIds are called."""

  pad: str
  unk: str
  cls: str
  sep: str
  mask: str


SPECIAL_TOKENS = SpecialTokens("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Part(NamedTuple):
  """A part of a framed sequence.

  Attributes:
    text: 0 for A, 1 for B, None for special tokens.
    ids: the special tokens; empty for a text.
    token_type: of all its tokens.
  """

  text: int | None
  ids: tuple[int, ...]
  token_type: int


class Template(NamedTuple):
  """What stands around texts. A text is a sequence of ids without special tokens; a single text has B = None.

  Attributes:
    special: the roles.
    single, pair: the parts of a framed text and of a framed pair, in their order; pair is empty where a model is not
      told B from A, so that it cannot be given pairs.
    extra: ids of special tokens that have no role and may stand in a text, such as marks around an entity.
  """

  special: SpecialIds
  single: tuple[Part, ...]
  pair: tuple[Part, ...]
  extra: tuple[int, ...] = ()

  @property
  def never_predicted(self) -> tuple[int, ...]:
    """Ids that are no target of a prediction and no random replacement, ascending: special tokens, [UNK] included."""
    framing = (token for part in (*self.single, *self.pair) for token in part.ids)
    return tuple(sorted({*framing, *self.special, *self.extra} - {ABSENT}))

  @property
  def offset(self) -> int:
    """Where A begins, in a single text as in a pair."""
    return self._gaps(pair=False)[0]

  def room(self, pair: bool) -> int:
    """Tokens that the special tokens of a text or pair take."""
    return sum(self._gaps(pair))

  def first_length(self, length: int, pair: bool) -> int:
    """Tokens before B, of an A of `length` tokens: where B begins; of a single text, all of its tokens."""
    return length + sum(self._gaps(pair)[:2])

  def frame(self, first: Iterable[int], second: Iterable[int] | None = None) -> tuple[list[int], list[int]]:
    """(ids, token types) of a text or pair with its special tokens."""
    ids: list[int] = []
    types: list[int] = []
    for part in self._parts(second is not None):
      ids += part.ids if part.text is None else (first, second or ())[part.text]
      types += [part.token_type] * (len(ids) - len(types))
    return ids, types

  def write(
    self, tokens: np.ndarray, starts: np.ndarray, first: np.ndarray, second: np.ndarray | None = None
  ) -> list[np.ndarray]:
    """Writes the special tokens of n framed texts or pairs into an array, all at once.

    Args:
      tokens: integer [T], changed in place.
      starts: int [n], where each begins.
      first, second: int [n], the lengths of A and of B.

    Returns:
      Where A begins, and B where there is one, each int [n].
    """
    places, begins = np.array(starts), []
    for part in self._parts(second is not None):
      for token in part.ids:
        tokens[places] = token
        places += 1
      if part.text is not None:
        begins.append(places.copy())
        places += first if part.text == 0 else second
    return begins

  def texts(self, length: int, first_length: int) -> tuple[slice, slice]:
    """Where A and B stand in a framed sequence; B is empty where there is none.

    Args:
      length: tokens of the sequence.
      first_length: of them before B; all of them where there is no B.
    """
    before, behind, *closing = self._gaps(pair=first_length < length)
    return slice(before, first_length - behind), slice(first_length, length - sum(closing))

  def truncate(
    self, first: Sequence[int], second: Sequence[int] | None, limit: int
  ) -> tuple[Sequence[int], Sequence[int], bool]:
    """Shortens the longer of two texts from its end until both fit `limit` tokens with their special tokens.

    An empty `second` counts as none.
    """
    second = second or []
    room = limit - self.room(pair=bool(second))
    cut = len(first) + len(second) > room
    if cut:
      short = min(len(first), len(second), room // 2)
      first, second = (
        (first[: room - short], second[:short]) if len(first) > len(second) else (first[:short], second[: room - short])
      )
    return first, second, cut

  def _parts(self, pair: bool) -> tuple[Part, ...]:
    if pair and not self.pair:
      raise UserError(
        "pairs of texts: transformers 5 gives B the token types of A with this tokenizer, and version 4 may not. If "
        'the model was trained with types of their own, write "model_input_names": ["input_ids", "token_type_ids", '
        '"attention_mask"] into its tokenizer_config.json'
      )
    return self.pair if pair else self.single

  def _gaps(self, pair: bool) -> list[int]:
    """How many special tokens stand before A, behind A, and behind B where there is one."""
    gaps = [0]
    for part in self._parts(pair):
      if part.text is None:
        gaps[-1] += len(part.ids)
      else:
        gaps.append(0)
    return gaps


def read_template(backend: tokenizers.Tokenizer, special: SpecialIds, extra: tuple[int, ...] = ()) -> Template:
  """The template of a tokenizer, seen in what its post-processor makes of a text and of a pair.

  Args:
    backend: makes at least one token of the letter "a".
    special, extra: see Template; its post-processor does not tell them.
  """
  return Template(special, _parts_of(backend.encode("a")), _parts_of(backend.encode("a", "a")), extra)


def _parts_of(encoding: tokenizers.Encoding) -> tuple[Part, ...]:
  tokens = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids)
  runs = itertools.groupby(tokens, key=lambda token: (token[2], token[1]))
  return tuple(
    Part(text, () if text is not None else tuple(token for token, _, _ in run), token_type)
    for (text, token_type), run in runs
  )
