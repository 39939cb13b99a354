"""WordPiece, BERT's tokenizer: load one, or train one that comes out the same every time.

The work is done by Hugging Face `tokenizers`; the files written here are the
ones that `transformers` reads, so that a model sees the same ids there as in
its pretraining.

A tokenizer is two views of one vocabulary. `backend` recognises "[MASK]" and
the other special tokens in a text, as someone who fills a mask expects.
`plain` does not: a document that speaks of "[SEP]" holds brackets and a word, never the
id that separates sentences. Corpora are encoded with `plain`.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bert_jax.data.tokenizer import casing, files
from bert_jax.data.tokenizer.files import CONTINUES, MAX_WORD_CHARACTERS
from bert_jax.data.tokenizer.template import SPECIAL_TOKENS, SpecialIds, Template, read_template
from bert_jax.errors import UserError


class Tokenizer(NamedTuple):
  """A WordPiece tokenizer with its five special tokens.

  Attributes:
    backend: recognises special tokens in a text, and adds [CLS] and [SEP] where asked to;
      saved as tokenizer.json.
    plain: the same without BERT's five: "[SEP]" in a text is ordinary characters. Added tokens are found by both.
    template: how it frames texts, and the roles of special tokens.
    vocab_size: number of tokens.
    lowercase: whether text is lower-cased.
    fingerprint: SHA-256 (hex) of what decides its ids: vocabulary, normalisation and added tokens; not
      of files, paths or versions.
    normalisation: {'lowercase', 'strip_accents', 'handle_chinese_chars'}, all bool.
  """

  backend: tokenizers.Tokenizer
  plain: tokenizers.Tokenizer
  template: Template
  vocab_size: int
  lowercase: bool
  fingerprint: str
  normalisation: dict[str, bool]

  @property
  def special(self) -> SpecialIds:
    """Ids of the tokens that have a role."""
    return self.template.special

  def token(self, token_id: int) -> str:
    """A token as the vocabulary writes it; "[id 30600]" for an id beyond it, which a padded model may predict."""
    return self.backend.id_to_token(token_id) or f"[id {token_id}]"

  def starts_word(self, token_id: int) -> bool:
    """Whether a token begins a word, or is none of a word's."""
    return split_mark(self.token(token_id))[1]

  @property
  def word_starts_table(self) -> np.ndarray:
    """bool [V]: `starts_word` of all ids."""
    return np.array([self.starts_word(token_id) for token_id in range(self.vocab_size)])


def split_mark(token: str) -> tuple[str, bool]:
  """(what a token adds to a text, whether it begins a word): "##ing" -> ("ing", False)."""
  return token.removeprefix(CONTINUES) or token, not token.startswith(CONTINUES)


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
  """Token ids of each text, without [CLS] and [SEP] around it, not truncated.

  Whoever writes "[MASK]" in a text means the mask token, as in transformers. Corpora alone are read otherwise, with
  Tokenizer.plain.

  Raises:
    UserError: what is no text, or holds half of a surrogate pair.
  """
  return [encoding.ids for encoding in _encoded(tokenizer.backend.encode_batch_fast, texts)]


def encode_with_offsets(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tokenizers.Encoding]:
  """As encode_batch, with the places of the tokens in the texts. Raises UserError as it does."""
  return _encoded(tokenizer.backend.encode_batch, texts)


def _encoded(encode: Callable[..., list[tokenizers.Encoding]], texts: Sequence[str]) -> list[tokenizers.Encoding]:
  try:
    return encode(list(texts), add_special_tokens=False)
  except (TypeError, UnicodeEncodeError):
    for number, text in enumerate(texts, 1):
      if not isinstance(text, str):
        raise UserError(f"text {number} is a {type(text).__name__}, and a text is expected") from None
      if any("\ud800" <= one <= "\udfff" for one in text):
        raise UserError(
          f"text {number}, {text[:40]!a}, holds half of a surrogate pair, or bytes that are not UTF-8, which are no "
          "characters: convert it first"
        ) from None
    raise


def build_tokenizer(
  vocabulary: Sequence[str],
  *,
  lowercase: bool,
  strip_accents: bool | None = None,
  handle_chinese_chars: bool = True,
  added: Sequence[tokenizers.AddedToken] = (),
  extra: Collection[str] = (),
  pairs: bool = True,
  name: str = "vocabulary",
) -> Tokenizer:
  """Makes a tokenizer from the tokens in id order.

  Args:
    vocabulary: the tokens; "##" in front continues a word.
    lowercase: lower-case the text.
    strip_accents: drop accents; None follows `lowercase`, as in BERT.
    handle_chinese_chars: make every Chinese character a word of its own.
    added: tokens that are found in a text before it is split into words; those that the vocabulary lacks get the ids
      after it, in this order.
    extra: those of them that are special tokens, see Template.extra.
    pairs: whether A and B of a pair have token types of their own.
    name: what to call the vocabulary in messages.

  Raises:
    UserError: an empty vocabulary, a token twice, or one of the five special tokens missing.
  """
  ids = check_vocabulary(vocabulary, name)
  special = SpecialIds(*(ids[token] for token in SPECIAL_TOKENS))
  normalisation = {
    "lowercase": bool(lowercase),
    "strip_accents": bool(lowercase if strip_accents is None else strip_accents),
    "handle_chinese_chars": bool(handle_chinese_chars),
  }
  backend = build_backend(ids, **normalisation)
  names = {token.content for token in added}
  backend.add_special_tokens([token for token in SPECIAL_TOKENS if token not in names])
  backend.add_tokens(list(added))
  backend.post_processor = processors.TemplateProcessing(
    single="[CLS]:0 $A:0 [SEP]:0",
    pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
    special_tokens=[("[CLS]", special.cls), ("[SEP]", special.sep)],
  )
  backend.decoder = decoders.WordPiece(prefix=CONTINUES)
  decisive = {
    "model": "WordPiece",
    "max_word_characters": MAX_WORD_CHARACTERS,
    **normalisation,
    "vocabulary": list(vocabulary),
  }
  extra_ids = tuple(
    number
    for number, token in sorted(backend.get_added_tokens_decoder().items())
    if token.content in extra and number not in special
  )
  template = read_template(backend, special, extra_ids)
  plain = build_backend(ids, **normalisation)
  if added:
    plain.add_tokens([token for token in added if token.content not in SPECIAL_TOKENS])
    if later := [_flags_of(token) for token in _beyond_bert(backend)]:
      decisive["added_tokens"] = later
  canonical = json.dumps(decisive, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
  return Tokenizer(
    backend=backend,
    plain=plain,
    template=template if pairs else template._replace(pair=()),
    vocab_size=backend.get_vocab_size(),
    lowercase=normalisation["lowercase"],
    fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
    normalisation=normalisation,
  )


def build_backend(
  ids: dict[str, int], *, lowercase: bool, strip_accents: bool | None = None, handle_chinese_chars: bool = True
) -> tokenizers.Tokenizer:
  """BERT's normaliser, pre-tokenizer and WordPiece over {token: id}; unchecked, no token is special."""
  backend = tokenizers.Tokenizer(
    models.WordPiece(dict(ids), unk_token=SPECIAL_TOKENS.unk, max_input_chars_per_word=MAX_WORD_CHARACTERS)
  )
  backend.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=handle_chinese_chars,
    strip_accents=lowercase if strip_accents is None else strip_accents,
    lowercase=lowercase,
  )
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  return backend


def check_vocabulary(vocabulary: Sequence[str], name: str) -> dict[str, int]:
  """{token: id}, or UserError that says what is wrong and in which line (the id + 1)."""
  if not any(vocabulary):
    raise UserError(f"{name}: empty; expected one token per line, the line number minus one being its id")
  ids: dict[str, int] = {}
  for number, token in enumerate(vocabulary):
    if token in ids:
      raise UserError(
        f"{name}: token {token!r} stands in line {ids[token] + 1} and again in line "
        f"{number + 1}; every token must have one id: rename the later one, as in [unused{number}] (a line that is "
        "taken out would move the ids of all that follow)"
      )
    ids[token] = number
  missing = [token for token in SPECIAL_TOKENS if token not in ids]
  if missing:
    raise UserError(
      f"{name}: no {' and no '.join(missing)} in it; BERT's pretraining needs {' '.join(SPECIAL_TOKENS)}: "
      "append the missing ones as last lines, so that no other id moves (a model that exists needs as many rows more), "
      "or train a vocabulary with --vocab_size"
    )
  return ids


def load_tokenizer(
  path: str | os.PathLike, *, lowercase: bool | None = None, strip_accents: bool | None = None
) -> Tokenizer:
  """Loads a BERT WordPiece tokenizer.

  Args:
    path: a vocabulary file (one token per line), a tokenizer.json, or a folder with them, which is read as
      AutoTokenizer reads it, see `files`.
    lowercase: overrides what the files say. None: they decide, else the vocabulary itself: cased ones hold capital
      letters. True for such a vocabulary is refused.
    strip_accents: the same of marks: é, が and 한 fall apart into letters and marks, and the marks are dropped. None:
      the files decide, else the vocabulary, which holds such tokens or does not.

  Raises:
    UserError: nothing there, another kind of tokenizer (named), files that contradict each other, or a vocabulary that
      `build_tokenizer` refuses.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise UserError(f"{path}: no such tokenizer; expected a vocab.txt or a folder with tokenizer.json or vocab.txt")
  said = files.read_folder(path) if path.is_dir() else files.read_file(path)
  guessed, strips, _ = casing.decided_by(said.vocabulary)
  if lowercase and said.lowercase is False:
    raise UserError(
      f"{said.name}: made for cased texts (do_lower_case is false); keep the capitals with --cased "
      "(prepare.lowercase=False)"
    )
  holds_marks = casing.hold_marks(said.vocabulary)
  for refused, tokens_with, what, remedy in (
    (lowercase and not guessed, casing.with_capitals, "capital letters, which lower-cased text", "cased lowercase"),
    (strip_accents and holds_marks, casing.with_marks, "marks, which stripped text", "keep_accents strip_accents"),
  ):
    if refused and (found := tokens_with(said.vocabulary)):
      flag, _, key = remedy.partition(" ")
      raise UserError(
        f"{said.name}: {len(found):,} of its {len(said.vocabulary):,} tokens hold {what} never has; keep them with "
        f"--{flag} (prepare.{key}=False)"
      )
  if lowercase is None:
    lowercase = guessed if said.lowercase is None else said.lowercase
  if strip_accents is None:
    strip_accents = said.strip_accents
  if strip_accents is None:  # files that speak of lower-casing alone say that marks go with it
    strip_accents = lowercase and (strips if said.lowercase is None else True)
  tokenizer = build_tokenizer(
    said.vocabulary,
    lowercase=lowercase,
    strip_accents=strip_accents,
    handle_chinese_chars=said.handle_chinese_chars is not False,
    added=said.added,
    extra=said.special,
    pairs=said.pairs,
    name=said.name,
  )
  for file, token, number in said.stated:
    found = tokenizer.backend.token_to_id(token)
    if found != number:
      what = "does not read it there" if found is None else f"gives it {found}"
      raise UserError(
        f"{file}: the added token {token!r} has the id {number}, and transformers {what}: added tokens follow the "
        f"{len(said.vocabulary):,} of the vocabulary in id order, without gaps, and stand in added_tokens_decoder of "
        "tokenizer_config.json if there is one: number them so, and let the rows of the model follow"
      )
  return tokenizer


def _flags_of(token: tokenizers.AddedToken) -> dict[str, str | bool]:
  """An added token as tokenizer_config.json writes it."""
  names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
  return {name: getattr(token, name) for name in names}


def _beyond_bert(backend: tokenizers.Tokenizer) -> list[tokenizers.AddedToken]:
  """Added tokens in id order: those that are none of BERT's five as BERT has them."""
  plain = [tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS]
  return [token for _, token in sorted(backend.get_added_tokens_decoder().items()) if token not in plain]


def save_tokenizer(tokenizer: Tokenizer, folder: str | os.PathLike, *, max_length: int):
  """Writes the four files that let any version of transformers find the same tokenizer.

  tokenizer.json and tokenizer_config.json are what transformers v5 reads,
  vocab.txt and special_tokens_map.json what older versions and other programs expect.

  Args:
    tokenizer: a Tokenizer.
    folder: made where it does not exist.
    max_length: the longest sequence of the model, in tokens (`model_max_length`).
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  tokens: dict[str, Any] = {f"{field}_token": token for field, token in SPECIAL_TOKENS._asdict().items()}
  ids = tokenizer.plain.get_vocab(with_added_tokens=False)
  strip_accents = tokenizer.normalisation["strip_accents"]
  config = {
    "tokenizer_class": "BertTokenizer",
    "model_max_length": max_length,
    "do_lower_case": tokenizer.lowercase,
    # null is how BERT says "as do_lower_case".
    "strip_accents": None if strip_accents == tokenizer.lowercase else strip_accents,
    "tokenize_chinese_chars": tokenizer.normalisation["handle_chinese_chars"],
    "clean_up_tokenization_spaces": True,
    **tokens,
  }
  if not tokenizer.template.pair:
    config["model_input_names"] = ["input_ids", "attention_mask"]
  if _beyond_bert(tokenizer.backend):
    every = dict(sorted(tokenizer.backend.get_added_tokens_decoder().items()))
    config["added_tokens_decoder"] = {str(number): _flags_of(token) for number, token in every.items()}
    if extra := [every[number].content for number in tokenizer.template.extra]:
      config["additional_special_tokens"] = tokens["additional_special_tokens"] = extra
  vocabulary = "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__))
  (folder / "vocab.txt").write_bytes(vocabulary.encode("utf-8"))
  (folder / "tokenizer.json").write_bytes(tokenizer.backend.to_str(pretty=True).encode("utf-8"))
  for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", tokens)):
    (folder / name).write_bytes((json.dumps(value, indent=2, sort_keys=True) + "\n").encode("utf-8"))
