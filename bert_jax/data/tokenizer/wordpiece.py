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
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bert_jax.data.tokenizer.template import SpecialIds, Template, read_template
from bert_jax.errors import UserError


class SpecialTokens(NamedTuple):
  """What the roles of SpecialIds are called."""

  pad: str
  unk: str
  cls: str
  sep: str
  mask: str


SPECIAL_TOKENS = SpecialTokens("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"  # in front of a token that goes on with a word: "##ing"
_MAX_WORD_CHARACTERS = 100  # Longer words become [UNK], as in BERT.
_REMEDY = "give a BERT folder or a vocab.txt, or train a vocabulary with --vocab_size"

# A vocabulary where fewer tokens than this hold a capital letter is lower-cased: BERT uncased and Chinese
# have 2 of 30,522 and 21,128 (ℝ; <S>, <T>), BERT cased 8,368 of 28,996.
_CASED_SHARE = 0.02


class Tokenizer(NamedTuple):
  """A WordPiece tokenizer with its five special tokens.

  Attributes:
    backend: recognises special tokens in a text, and adds [CLS] and [SEP] where asked to;
      saved as tokenizer.json.
    plain: the same without: special tokens in a text are ordinary characters.
    template: how it frames texts, and the roles of special tokens.
    vocab_size: number of tokens.
    lowercase: whether text is lower-cased.
    fingerprint: SHA-256 (hex) of what decides its ids: vocabulary and normalisation; not
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
  """
  return [encoding.ids for encoding in tokenizer.backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def build_tokenizer(
  vocabulary: Sequence[str],
  *,
  lowercase: bool,
  strip_accents: bool | None = None,
  handle_chinese_chars: bool = True,
  name: str = "vocabulary",
) -> Tokenizer:
  """Makes a tokenizer from the tokens in id order.

  Args:
    vocabulary: the tokens; "##" in front continues a word.
    lowercase: lower-case the text.
    strip_accents: drop accents; None follows `lowercase`, as in BERT.
    handle_chinese_chars: make every Chinese character a word of its own.
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
  backend.add_special_tokens(list(SPECIAL_TOKENS))
  backend.post_processor = processors.TemplateProcessing(
    single="[CLS]:0 $A:0 [SEP]:0",
    pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
    special_tokens=[("[CLS]", special.cls), ("[SEP]", special.sep)],
  )
  backend.decoder = decoders.WordPiece(prefix=CONTINUES)
  decisive = {
    "model": "WordPiece",
    "max_word_characters": _MAX_WORD_CHARACTERS,
    **normalisation,
    "vocabulary": list(vocabulary),
  }
  canonical = json.dumps(decisive, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
  return Tokenizer(
    backend=backend,
    plain=build_backend(ids, **normalisation),
    template=read_template(backend, special),
    vocab_size=len(ids),
    lowercase=normalisation["lowercase"],
    fingerprint=hashlib.sha256(canonical.encode()).hexdigest(),
    normalisation=normalisation,
  )


def build_backend(
  ids: dict[str, int], *, lowercase: bool, strip_accents: bool | None = None, handle_chinese_chars: bool = True
) -> tokenizers.Tokenizer:
  """BERT's normaliser, pre-tokenizer and WordPiece over {token: id}; unchecked, no token is special."""
  backend = tokenizers.Tokenizer(
    models.WordPiece(dict(ids), unk_token=SPECIAL_TOKENS.unk, max_input_chars_per_word=_MAX_WORD_CHARACTERS)
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
        f"{number + 1}; every token must have one id: remove or rename one of them"
      )
    ids[token] = number
  missing = [token for token in SPECIAL_TOKENS if token not in ids]
  if missing:
    raise UserError(
      f"{name}: no {' and no '.join(missing)} in it; BERT's pretraining needs {' '.join(SPECIAL_TOKENS)}: "
      "put the missing ones in place of unused tokens such as [unused0], or train a vocabulary with "
      "--vocab_size"
    )
  return ids


def load_tokenizer(path: str | os.PathLike, *, lowercase: bool | None = None) -> Tokenizer:
  """Loads a BERT WordPiece tokenizer.

  Args:
    path: a vocabulary file (one token per line), or a folder with tokenizer.json
      (which decides where it exists) or vocab.txt, as Hugging Face writes them.
    lowercase: overrides what the files say. None: tokenizer.json or
      tokenizer_config.json (beside vocab.txt) decides, else the vocabulary itself: cased
      ones hold capital letters. True for such a vocabulary is refused.

  Raises:
    UserError: nothing there, another kind of tokenizer (named), or a vocabulary that
      `build_tokenizer` refuses.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise UserError(f"{path}: no such tokenizer; expected a vocab.txt or a folder with tokenizer.json or vocab.txt")
  folder = path if path.is_dir() else path.parent
  config = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
  normalisation = _settings(config, "do_lower_case", "strip_accents", "tokenize_chinese_chars")
  if path.is_dir():
    kind = str(config.get("tokenizer_class") or "BertTokenizer")
    if kind.removesuffix("Fast") not in ("BertTokenizer", "PreTrainedTokenizer", "TokenizersBackend"):
      raise UserError(f"{path}: a {kind}; only BERT's WordPiece is supported (BertTokenizer): {_REMEDY}")
    if (path / "tokenizer.json").exists():
      vocabulary, normalisation = _read_tokenizer_json(path / "tokenizer.json")
      path = path / "tokenizer.json"
    elif (path / "vocab.txt").exists():
      path = path / "vocab.txt"
      vocabulary = _read_vocabulary(path)
    else:
      raise UserError(f"{path}: no tokenizer.json and no vocab.txt in this folder; BERT's WordPiece has one of them")
  elif path.suffix == ".json":
    vocabulary, normalisation = _read_tokenizer_json(path)
  else:
    vocabulary = _read_vocabulary(path)
  capitals = _num_capitals(vocabulary)
  cased = capitals > _CASED_SHARE * len(vocabulary)
  if lowercase and cased:
    raise UserError(
      f"{path}: {capitals:,} of its {len(vocabulary):,} tokens hold capital letters, which "
      "lower-cased text never has; keep the capitals with --cased (prepare.lowercase=False)"
    )
  if lowercase is None:
    lowercase = normalisation["lowercase"]
  if lowercase is None:
    lowercase = not cased
  chinese = normalisation["handle_chinese_chars"]
  return build_tokenizer(
    vocabulary,
    lowercase=lowercase,
    strip_accents=normalisation["strip_accents"],
    handle_chinese_chars=True if chinese is None else chinese,
    name=str(path),
  )


def _settings(values: dict[str, Any], lowercase: str, accents: str, chinese: str) -> dict[str, bool | None]:
  return {
    "lowercase": values.get(lowercase),
    "strip_accents": values.get(accents),
    "handle_chinese_chars": values.get(chinese),
  }


def _num_capitals(vocabulary: Sequence[str]) -> int:
  """How many tokens hold a capital letter, not counting the likes of [MASK]."""
  return sum(token != token.lower() for token in vocabulary if not (token.startswith("[") and token.endswith("]")))


def _read_vocabulary(path: pathlib.Path) -> list[str]:
  try:
    # Only "\n" separates lines: BERT's Chinese vocabulary has other separators as tokens.
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path}: not a vocabulary in UTF-8 (byte 0x{error.object[error.start]:02x} at "
      f"{error.start}); expected one token per line"
    ) from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror}") from error
  if lines[-1] == "":
    lines.pop()
  return [line.removesuffix("\r") for line in lines]


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_bytes().decode("utf-8"))
  except ValueError as error:
    raise UserError(f"{path}: not JSON ({error}); restore the file, or give its vocab.txt alone") from error
  if not isinstance(value, dict):
    raise UserError(f"{path}: expected a JSON object, found a {type(value).__name__}")
  return value


def _read_tokenizer_json(path: pathlib.Path) -> tuple[list[str], dict[str, bool | None]]:
  """Vocabulary and normalisation of a tokenizer.json, if it is BERT's WordPiece and nothing else."""
  value = _read_json(path)
  parts = [("model", "WordPiece"), ("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")]
  for part, expected in parts:
    kind = (value.get(part) or {}).get("type", "none")
    if kind != expected:
      raise UserError(
        f"{path}: its {part} is {kind}; only BERT's WordPiece is supported ({part} {expected}): {_REMEDY}"
      )
  model, normalizer = value["model"], value["normalizer"]
  settings = [
    ("max_input_chars_per_word", model, _MAX_WORD_CHARACTERS),
    ("continuing_subword_prefix", model, CONTINUES),
    ("unk_token", model, SPECIAL_TOKENS.unk),
    ("clean_text", normalizer, True),
  ]
  for key, holder, expected in settings:
    if holder.get(key, expected) != expected:
      raise UserError(
        f"{path}: {key} is {holder[key]!r}; BERT's WordPiece has {expected!r}, and only that is supported"
      )
  ids = model["vocab"]
  beyond = [token["content"] for token in value.get("added_tokens") or () if token["content"] not in ids]
  if beyond:
    raise UserError(
      f"{path}: added tokens outside of the WordPiece vocabulary ({', '.join(beyond[:5])}); "
      "put them into vocab.txt in place of unused tokens and give that file"
    )
  vocabulary = sorted(ids, key=ids.get)
  if [ids[token] for token in vocabulary] != list(range(len(ids))):
    raise UserError(f"{path}: the ids of its vocabulary do not run from 0 to {len(ids) - 1}, each once")
  return vocabulary, _settings(normalizer, "lowercase", "strip_accents", "handle_chinese_chars")


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
  tokens = {f"{field}_token": token for field, token in SPECIAL_TOKENS._asdict().items()}
  ids = tokenizer.plain.get_vocab()
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
  vocabulary = "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__))
  (folder / "vocab.txt").write_bytes(vocabulary.encode("utf-8"))
  (folder / "tokenizer.json").write_bytes(tokenizer.backend.to_str(pretty=True).encode("utf-8"))
  for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", tokens)):
    (folder / name).write_bytes((json.dumps(value, indent=2, sort_keys=True) + "\n").encode("utf-8"))
