"""Training a WordPiece vocabulary so that the same text always gives the same one.

`tokenizers` alone does not: ties among characters are broken by the order of a
hash map, so that ids differ from run to run, and for Chinese even the
vocabulary. The remedy here is to settle the alphabet beforehand. The characters
to keep are chosen by (count, character), all others are blanked out of the
text, and the kept ones go in sorted, as leading "special" tokens, before the
trainer adds its merges, which are deterministic.
"""

import collections
import hashlib
import heapq
import re
import unicodedata
from collections.abc import Iterable

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from bert_jax.data.tokenizer.wordpiece import CONTINUES, SPECIAL_TOKENS, Tokenizer, build_tokenizer
from bert_jax.errors import UserError

MIN_VOCAB_SIZE = 64

# Characters are kept, most frequent first, until this share of the text is covered: the rest would each take
# one or two tokens for less than one character in twenty thousand together.
_COVERAGE = 0.99995
# And never more than this share of the vocabulary. Generous, because Chinese is little else than characters.
_ALPHABET_SHARE = 0.75
_MIN_PAIR_COUNT = 2

# The blocks that BERT's normaliser cuts into single characters: these never continue a word.
CHINESE = re.compile(
  "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
  "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"
)


def train_wordpiece(
  texts: Iterable[str],
  vocab_size: int,
  *,
  lowercase: bool = True,
  strip_accents: bool | None = None,
  report: dict | None = None,
) -> Tokenizer:
  """Trains a vocabulary: the five special tokens, characters, "##" characters, then merges.

  Deterministic: the same texts give the same vocabulary, ids included, whatever
  their order, threads or process. Memory grows with the texts: pass a sample (`sample_documents`).

  Args:
    texts: the sample.
    vocab_size: number of tokens, at most: a small text yields fewer.
    lowercase: lower-case.
    strip_accents: drop accents and other marks; None follows `lowercase`, as in BERT.
    report: receives 'characters' (distinct), 'characters_kept' and 'coverage' (share of the
      text's characters kept).

  Raises:
    UserError: no text, or a vocab_size below MIN_VOCAB_SIZE.
  """
  if vocab_size < MIN_VOCAB_SIZE:
    raise UserError(f"vocab_size is {vocab_size}; expected at least {MIN_VOCAB_SIZE} (BERT has 30,522)")
  strip_accents = lowercase if strip_accents is None else strip_accents
  normalizer = normalizers.BertNormalizer(
    clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
  )
  normalised = [normalizer.normalize_str(text) for text in texts]
  counts: collections.Counter[str] = collections.Counter()
  for text in normalised:
    counts.update(text)
  for character in [character for character in counts if character.isspace()]:
    del counts[character]
  if not counts:
    raise UserError(
      "no text to train a vocabulary on: the sources hold no characters, or --min_characters drops every document"
    )

  tokens, kept = _alphabet(counts, vocab_size - len(SPECIAL_TOKENS))
  if report is not None:
    report.update(
      characters=len(counts),
      characters_kept=len(kept),
      coverage=sum(counts[character] for character in kept) / counts.total(),
    )
  rare = [character for character in counts if character not in kept]
  if rare:
    blank = re.compile("[" + "".join(map(re.escape, rare)) + "]")
    normalised = (blank.sub(" ", text) for text in normalised)

  model = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS.unk))
  model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  model.train_from_iterator(
    normalised,
    trainers.WordPieceTrainer(
      vocab_size=vocab_size - len(SPECIAL_TOKENS),
      min_frequency=_MIN_PAIR_COUNT,
      special_tokens=tokens,
      limit_alphabet=len(counts) + 1,
      show_progress=False,
      continuing_subword_prefix=CONTINUES,
    ),
  )
  ids = model.get_vocab(with_added_tokens=True)
  trained = [token for token in sorted(ids, key=ids.__getitem__) if token not in SPECIAL_TOKENS]
  vocabulary = [*SPECIAL_TOKENS, *trained]
  return build_tokenizer(vocabulary, lowercase=lowercase, strip_accents=strip_accents, name="the trained vocabulary")


def _alphabet(counts: collections.Counter, vocab_size: int) -> tuple[list[str], set[str]]:
  """(tokens of the alphabet: sorted characters, then sorted "##" characters; the characters kept)."""
  budget, needed, covered = int(_ALPHABET_SHARE * vocab_size), _COVERAGE * counts.total(), 0
  kept: list[str] = []
  continuing: list[str] = []
  for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
    size = 2 if _may_continue(character) else 1
    if covered >= needed or len(kept) + len(continuing) + size > budget:
      break
    kept.append(character)
    if size == 2:
      continuing.append(character)
    covered += count
  return sorted(kept) + [CONTINUES + character for character in sorted(continuing)], set(kept)


def _may_continue(character: str) -> bool:
  """Whether a character can stand inside a word: neither Chinese nor what BERT takes for punctuation."""
  ascii_sign = character.isascii() and not character.isalnum()
  return not (ascii_sign or unicodedata.category(character).startswith("P") or CHINESE.match(character))


def sample_documents(texts: Iterable[str], *, max_bytes: int, seed: int) -> list[str]:
  """A random sample of documents that does not depend on their order, in bounded memory.

  The documents with the smallest keyed hash of their text, as many as fit; at least one. Where all
  fit, it is all of them. Sorted by hash.

  Args:
    texts: the documents.
    max_bytes: budget, in UTF-8 bytes.
    seed: which sample.
  """
  key = seed.to_bytes(8, "little", signed=True)
  heap: list[tuple[int, int, str]] = []  # (-hash, bytes, text): the largest hash first
  total, ceiling = 0, None
  for text in texts:
    data = text.encode("utf-8")
    rank = int.from_bytes(hashlib.blake2b(data, key=key, digest_size=16).digest(), "big")
    # What once fell out sets the bound: only then is the result the same for every order.
    if ceiling is not None and rank >= ceiling:
      continue
    heapq.heappush(heap, (-rank, len(data), text))
    total += len(data)
    while total > max_bytes and len(heap) > 1:
      dropped, size, _ = heapq.heappop(heap)
      total -= size
      ceiling = -dropped
  return [text for _, _, text in sorted(heap, reverse=True)]
