"""What the files of a tokenizer say, read as transformers reads them, or refused by name.

A folder says in up to six files what its ids are. transformers 5 takes the words from tokenizer.json, else from
vocab.txt; lower-casing and the like from tokenizer_config.json, whatever tokenizer.json says; and tokens that were
added later from `added_tokens_decoder` there, else from special_tokens_map.json, added_tokens.json and tokenizer.json.
What version 4 would read otherwise is refused, since nobody could say which of the two a model was trained with.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers

from bert_jax.data.tokenizer.casing import decided_by
from bert_jax.data.tokenizer.template import SPECIAL_TOKENS
from bert_jax.errors import UserError
from bert_jax.io.json_files import MAX_TABLE_BYTES, json_type, read_if_there, read_object
from bert_jax.io.plain_files import read_bounded

CONTINUES = "##"  # in front of a token that goes on with a word: "##ing"
MAX_WORD_CHARACTERS = 100  # Longer words become [UNK], as in BERT.
# What transformers reads of a tokenizer, in any of its versions.
TOKENIZER_FILES = (
  "tokenizer.json",
  "vocab.txt",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
)

_REMEDY = "give a BERT folder or a vocab.txt, or train a vocabulary with --vocab_size"
_ROLES = {f"{role}_token": token for role, token in SPECIAL_TOKENS._asdict().items()}
# Roles in the order in which transformers adds their tokens.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BERT_CLASSES = ("", "BertTokenizer", "BertTokenizerFast")  # casing stands in tokenizer_config.json
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")  # all of it in tokenizer.json
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Keys of tokenizer_config.json that decide ids and have one supported value, which is also that of a missing key.
_FIXED: dict[str, Any] = {"split_special_tokens": False, "truncation_side": "right"}
# Unicode's White_Space, which `tokenizers` takes off the end of a line; Python's isspace has four characters more.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class TokenizerFiles(NamedTuple):
  """What files say of a tokenizer.

  Attributes:
    name: of the file that holds the vocabulary, for messages.
    vocabulary: the tokens in id order.
    lowercase, strip_accents, handle_chinese_chars: as BERT's normaliser takes them; None: not said.
    added: tokens that are found in a text before it is split into words, in the order in which they get ids.
    special: those of them that transformers counts among the special tokens of this tokenizer.
    stated: (file, token, id) wherever an id of an added token is written.
    pairs: whether transformers tells B of a pair from A by its token types.
  """

  name: str
  vocabulary: list[str]
  lowercase: bool | None
  strip_accents: bool | None
  handle_chinese_chars: bool | None
  added: list[tokenizers.AddedToken]
  special: frozenset[str]
  stated: list[tuple[str, str, int]]
  pairs: bool = True


def read_file(path: pathlib.Path) -> TokenizerFiles:
  """A vocabulary, or a tokenizer.json. Of other files only tokenizer_config.json is read, for the casing of a
  vocabulary.

  Raises:
    UserError: see `read_folder`.
  """
  if path.suffix == ".json":
    content = _read_tokenizer_json(path)
    added = [_token(token, str(path)) for token in content.added]
    special = frozenset(token.content for token in added if token.special)
    return TokenizerFiles(str(path), content.vocabulary, *content.settings, added, special, content.stated)
  config = _read_if_there(path.parent / "tokenizer_config.json")
  return TokenizerFiles(str(path), read_vocabulary(path), *_settings(config, path.parent), [], frozenset(), [])


def read_folder(folder: pathlib.Path) -> TokenizerFiles:
  """A tokenizer as AutoTokenizer makes it of a folder.

  Raises:
    UserError: no vocabulary in it; another kind of tokenizer; a key that is not supported; files that contradict each
      other where versions of transformers do not agree which of them is right.
  """
  has = lambda name: (folder / name).exists() or (folder / name).is_symlink()
  for inside in ("tokenizer", "0_Transformer"):  # of a run or a corpus; of the first sentence-transformers
    if not (has("tokenizer.json") or has("vocab.txt")) and (folder / inside).is_dir():
      return read_folder(folder / inside)
  config_file = folder / "tokenizer_config.json"
  config = _read_if_there(config_file)
  kind = str(config.get("tokenizer_class") or _read_if_there(folder / "config.json").get("tokenizer_class") or "")
  if kind not in _BERT_CLASSES + _PLAIN_CLASSES:
    raise UserError(f"{folder}: a {kind}; only BERT's WordPiece is supported (BertTokenizer): {_REMEDY}")
  for key, value in _FIXED.items():
    if config.get(key, value) != value:
      raise UserError(f"{config_file}: {key} is {config[key]!r}, and only {value!r} is supported: set it in a copy")
  content = None
  if has("tokenizer.json"):
    content = _read_tokenizer_json(folder / "tokenizer.json")
    name, vocabulary = folder / "tokenizer.json", content.vocabulary
  elif has("vocab.txt") and kind in _BERT_CLASSES:
    name, vocabulary = folder / "vocab.txt", read_vocabulary(folder / "vocab.txt")
  else:
    wanted = "no tokenizer.json and no vocab.txt" if kind in _BERT_CLASSES else f"a {kind} without tokenizer.json"
    raise UserError(f"{folder}: {wanted} in this folder; BERT's WordPiece has one of them")
  if kind in _PLAIN_CLASSES and content:
    settings = content.settings
  else:
    settings = _settings(config, folder)
    is_model = content is not None or "model_type" in _read_if_there(folder / "config.json")
    if is_model:
      settings = _settings_of_model(config, settings, content.settings if content else decided_by(vocabulary), name)
  added = _added_tokens(folder, config, content, starts_from_file=kind in _PLAIN_CLASSES)
  # Version 4 had types for any class. Where 5 has none, pairs are refused when they come.
  inputs = config.get("model_input_names", ["token_type_ids"] if kind in _BERT_CLASSES else [])
  if not isinstance(inputs, list):
    raise UserError(f"{config_file}: model_input_names is {json_type(inputs)}; expected a list of names")
  return TokenizerFiles(str(name), vocabulary, *settings, *added, "token_type_ids" in inputs)


def read_vocabulary(path: pathlib.Path) -> list[str]:
  """The lines of a vocab.txt, as `tokenizers` reads them. Raises UserError."""
  try:
    # Only "\n" separates lines: BERT's Chinese vocabulary has other separators as tokens.
    lines = read_bounded(path, MAX_TABLE_BYTES).decode("utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path}: not a vocabulary in UTF-8 (byte 0x{error.object[error.start]:02x} at "
      f"{error.start}); expected one token per line"
    ) from error
  except (FileNotFoundError, PermissionError) as error:
    raise UserError(f"{path}: cannot be read: {error.strerror}") from error
  if lines[-1] == "":
    lines.pop()
  return [line.rstrip(_WHITE_SPACE) or line.removesuffix("\r") for line in lines]


class _TokenizerJson(NamedTuple):
  """A tokenizer.json: its vocabulary, its normaliser's settings, its added tokens, and (file, token, id) of those."""

  vocabulary: list[str]
  settings: tuple[bool | None, bool | None, bool | None]
  added: list[dict[str, Any]]
  stated: list[tuple[str, str, int]]


def _read_if_there(path: pathlib.Path) -> dict[str, Any]:
  return read_if_there(path, remedy="restore the file, or give its vocab.txt alone", max_bytes=MAX_TABLE_BYTES)


def _settings(
  values: Mapping[str, Any],
  where: pathlib.Path,
  keys: Sequence[str] = ("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
) -> tuple[bool | None, bool | None, bool | None]:
  for key in keys:
    # BERT's way to say "as lower-casing".
    if key in values and not isinstance(values[key], bool) and not (key == "strip_accents" and values[key] is None):
      raise UserError(f"{where}: {key} is {values[key]!r:.60}; expected true or false")
  lowercase, accents, chinese = (values.get(key) for key in keys)
  return lowercase, accents, chinese


def _settings_of_model(
  config: Mapping[str, Any],
  said: tuple[bool | None, bool | None, bool | None],
  found: tuple[bool | None, bool | None, bool | None],
  name: pathlib.Path,
) -> tuple[bool, bool, bool]:
  """What transformers makes of a model's folder: of keys that are missing it takes BERT's values of 2018.

  Args:
    config: tokenizer_config.json.
    said: what it says.
    found: what tokenizer.json says, or what the vocabulary shows.
    name: of the file that `found` comes from.

  Raises:
    UserError: nobody has said what is taken for granted, and what was found says otherwise.
  """
  lowercase, accents, chinese = (True if said[0] is None else said[0]), said[1], (True if said[2] is None else said[2])
  taken = (lowercase, lowercase if accents is None else accents, chinese)
  there = (found[0], found[0] if found[1] is None else found[1], found[2])
  for key, own, other in zip(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), taken, there):
    follows = key == "strip_accents" and "do_lower_case" in config  # null says: as do_lower_case
    if other is not None and own != other and key not in config and not follows:
      how = "says" if name.suffix == ".json" else "looks as if made with"
      raise UserError(
        f"{name} {how} {key} {str(other).lower()}, and {name.with_name('tokenizer_config.json')} says nothing of it, "
        f"which transformers takes for {str(own).lower()}: write the right one there, "
        f'{{"tokenizer_class": "BertTokenizer", "{key}": {str(other).lower()}, …}}'
      )
  return taken


def _read_tokenizer_json(path: pathlib.Path) -> _TokenizerJson:
  """A tokenizer.json, if it is BERT's WordPiece and nothing else."""
  value = read_object(path, remedy="restore the file, or give its vocab.txt alone", max_bytes=MAX_TABLE_BYTES)
  parts = [("model", "WordPiece"), ("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")]
  for part, expected in parts:
    kind = value[part].get("type", "none") if isinstance(value.get(part), dict) else "none"
    if kind != expected:
      raise UserError(
        f"{path}: its {part} is {kind}; only BERT's WordPiece is supported ({part} {expected}): {_REMEDY}"
      )
  model, normalizer = value["model"], value["normalizer"]
  fixed = [
    ("max_input_chars_per_word", model, MAX_WORD_CHARACTERS),
    ("continuing_subword_prefix", model, CONTINUES),
    ("unk_token", model, SPECIAL_TOKENS.unk),
    ("clean_text", normalizer, True),
  ]
  for key, holder, expected in fixed:
    if holder.get(key, expected) != expected:
      raise UserError(
        f"{path}: {key} is {holder[key]!r:.60}; BERT's WordPiece has {expected!r}, and only that is supported"
      )
  ids = model.get("vocab")
  if not isinstance(ids, dict) or not all(type(number) is int for number in ids.values()):
    raise UserError(f"{path}: its model's vocab is no object of token and id")
  vocabulary = sorted(ids, key=ids.__getitem__)
  if [ids[token] for token in vocabulary] != list(range(len(ids))):
    raise UserError(f"{path}: the ids of its vocabulary do not run from 0 to {len(ids) - 1}, each once")
  added = value.get("added_tokens") or []
  if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
    raise UserError(f"{path}: added_tokens is {json_type(added)}; expected a list of objects")
  stated = [(str(path), _token(token, str(path)).content, _id(token.get("id"), str(path))) for token in added]
  _check_frame(path, value, ids)
  settings = _settings(normalizer, path, ("lowercase", "strip_accents", "handle_chinese_chars"))
  return _TokenizerJson(vocabulary, settings, added, stated)


def _check_frame(path: pathlib.Path, value: Mapping[str, Any], ids: Mapping[str, int]) -> None:
  """Raises UserError where the post-processor of a tokenizer.json does not frame texts as BERT does.

  transformers 5 puts BERT's in its place and version 4 does not, unless the class is no BertTokenizer: then neither.
  """
  cls, sep = ids.get(SPECIAL_TOKENS.cls), ids.get(SPECIAL_TOKENS.sep)
  if cls is None or sep is None:
    return  # which has a message of its own
  single = [(cls, 0), ("A", 0), (sep, 0)]
  try:
    found = _frames(value["post_processor"])
  except (AttributeError, KeyError, TypeError, ValueError):
    found = None
  if found != (single, [*single, ("B", 1), (sep, 1)]):
    raise UserError(
      f"{path}: its post_processor does not frame texts as BERT does, [CLS] A [SEP] B [SEP] with types 0 and 1, "
      "and only that is supported"
    )


def _frames(processor: Mapping[str, Any]) -> tuple[list[tuple[Any, int]], list[tuple[Any, int]]] | None:
  """(parts of a text, parts of a pair), each an id or the name of a text, and its type; None for other processors."""
  if processor["type"] == "BertProcessing":
    (_, cls), (_, sep) = processor["cls"], processor["sep"]
    single = [(cls, 0), ("A", 0), (sep, 0)]
    return single, [*single, ("B", 1), (sep, 1)]
  if processor["type"] != "TemplateProcessing":
    return None

  def parts(template: list[dict[str, Any]]) -> list[tuple[Any, int]]:
    found: list[tuple[Any, int]] = []
    for ((kind, part),) in (piece.items() for piece in template):
      special = processor["special_tokens"][part["id"]]["ids"] if kind == "SpecialToken" else [part["id"]]
      found += [(one, part["type_id"]) for one in special]
    return found

  return parts(processor["single"]), parts(processor["pair"])


def _added_tokens(
  folder: pathlib.Path, config: Mapping[str, Any], content: _TokenizerJson | None, *, starts_from_file: bool
) -> tuple[list[tokenizers.AddedToken], frozenset[str], list[tuple[str, str, int]]]:
  """TokenizerFiles.added, .special and .stated of the files of a folder.

  Args:
    folder: the folder.
    config: tokenizer_config.json.
    content: tokenizer.json, where there is one.
    starts_from_file: whether the class takes the tokens of tokenizer.json first, whatever else is said.
  """
  config_file, later_file, map_file = (
    str(folder / name) for name in ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
  )
  values, extra = dict(config), _extra(config, config_file)
  stated = list(content.stated) if content else []
  listed: dict[int, tokenizers.AddedToken] = {}
  later = _read_if_there(pathlib.Path(later_file))
  stated += [(later_file, token, _id(number, later_file)) for token, number in later.items()]
  if "added_tokens_decoder" in config:
    decoder = config["added_tokens_decoder"]
    if not isinstance(decoder, dict):
      raise UserError(
        f"{config_file}: added_tokens_decoder is {json_type(decoder)}; expected an object of id and token"
      )
    listed = {_id(number, config_file, is_key=True): _token(token, config_file) for number, token in decoder.items()}
    stated += [(config_file, token.content, number) for number, token in listed.items()]
  else:
    mapped = _read_if_there(pathlib.Path(map_file))
    values |= mapped
    new = {"extra_special_tokens": mapped.get("extra_special_tokens")}
    extra += [token for token in _extra(new, map_file) if token not in extra]
    known = {_token(values[key], map_file).content for key in _NAMED if values.get(key)}
    known |= {token.content for token in extra}
    extra = _agreed(extra, _extra({**mapped, **dict.fromkeys(new)}, map_file), map_file)
    for token, number in later.items():
      special = token in known
      listed[number] = tokenizers.AddedToken(token, special=special, normalized=not special)
    for token in content.added if content else ():
      listed[token["id"]] = _token(token, str(folder / "tokenizer.json"))
  first = [_token(token, str(folder / "tokenizer.json")) for token in content.added] if content else []
  tokens = {token.content: token for token in (first if starts_from_file else ())}
  tokens |= {token.content: token for _, token in sorted(listed.items(), key=lambda item: item[0])}
  names = _named(values, config_file, with_defaults=not starts_from_file)
  for token in (*names, *extra):
    tokens.setdefault(token.content, token)
  named = {token.content for token in names}
  for token in tokens.values():
    token.special = token.special or token.content in named
  missing = [token for token in SPECIAL_TOKENS if token not in tokens]
  if missing:
    raise UserError(
      f"{folder}: nothing says that {' '.join(missing)} are special tokens; name them in tokenizer_config.json"
    )
  return list(tokens.values()), frozenset(named | {token.content for token in extra}), stated


def _named(values: Mapping[str, Any], where: str, *, with_defaults: bool) -> list[tokenizers.AddedToken]:
  """The tokens of roles, BERT's five and others. Raises UserError where one of the five is another token."""
  found = []
  others = [key for key in values if key.endswith("_token") and key not in _NAMED]
  for key in (*_NAMED, *others):
    value = values.get(key, _ROLES.get(key) if with_defaults else None)
    token = _token(value, where) if isinstance(value, str) or isinstance(value, dict) and "content" in value else None
    if key in _ROLES and (token.content if token else value) != (_ROLES[key] if with_defaults or value else None):
      raise UserError(f"{where}: {key} is {value!r:.60}; BERT's is {_ROLES[key]!r}, and only that is supported")
    if token:
      found.append(token)
  extra = values.get("extra_special_tokens")
  if isinstance(extra, dict):
    found += [_token(value, where) for value in extra.values()]
  return found


def _extra(values: Mapping[str, Any], where: str) -> list[tokenizers.AddedToken]:
  """Special tokens without a role, by the key of version 5, else of version 4. Raises UserError."""
  lists = []
  for key in ("extra_special_tokens", "additional_special_tokens"):
    found = values.get(key) or []
    if not isinstance(found, (list, dict)):
      raise UserError(f"{where}: {key} is {json_type(found)}; expected a list of tokens")
    lists.append([_token(token, where) for token in found] if isinstance(found, list) else [])  # an object: roles
  return _agreed(lists[0], lists[1], where)


def _agreed(
  tokens: list[tokenizers.AddedToken], others: list[tokenizers.AddedToken], where: str
) -> list[tokenizers.AddedToken]:
  """Special tokens by the key of version 5, else by that of version 4. Raises UserError where they are not the same."""
  if tokens and others and {token.content for token in tokens} != {token.content for token in others}:
    raise UserError(
      f"{where}: additional_special_tokens, which version 4 of transformers reads, names other tokens than "
      "extra_special_tokens, which version 5 reads: make them the same"
    )
  return tokens or others


def _token(value: Any, where: str) -> tokenizers.AddedToken:
  """A token that is written as a string, which is a special one, or as an object with flags."""
  if isinstance(value, str) and value:
    return tokenizers.AddedToken(value, special=True)
  if not isinstance(value, dict) or not isinstance(value.get("content"), str) or not value["content"]:
    raise UserError(f"{where}: {value!r:.80} is no token; expected a string, or an object with content and flags")
  flags = {key: value[key] for key in _FLAGS if key in value}
  odd = next((key for key, flag in flags.items() if not isinstance(flag, bool)), None)
  odd = odd or next((key for key in value if key not in (*_FLAGS, "content", "id", "__type")), None)
  if odd is not None:
    raise UserError(f"{where}: the token {value['content']!r:.60} has {odd} {value[odd]!r:.40}, which nobody reads")
  return tokenizers.AddedToken(value["content"], **{"special": False} | flags)


def _id(value: Any, where: str, *, is_key: bool = False) -> int:
  """An id, which is a key where tokens are listed by it."""
  if is_key and value.isascii() and value.isdigit() and len(value) < 10:
    value = int(value)
  if type(value) is not int or not 0 <= value < 2**31:
    raise UserError(f"{where}: {value!r:.40} is no id of an added token; expected a whole number")
  return value
