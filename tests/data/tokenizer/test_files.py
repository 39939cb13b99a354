"""Every file and key of a tokenizer is read as transformers reads it, or refused by name; what is saved keeps it."""

import json

import pytest
import transformers

from bert_jax.data.tokenizer.casing import decided_by
from bert_jax.data.tokenizer.template import SPECIAL_TOKENS
from bert_jax.data.tokenizer.wordpiece import load_tokenizer, save_tokenizer
from bert_jax.errors import UserError
from tests.helpers.hard_texts import assert_as_transformers, hard_texts

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCABULARY = [*SPECIAL_TOKENS, *_LETTERS, *(f"##{c}" for c in _LETTERS), *".!'[]", "the", "##the", "今", "天"]
SIZE = len(VOCABULARY)
_CONFIG = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
_MODEL = {"model_type": "bert"}


def write(folder, **files):
  """A folder with files of these names, dots written as underscores: JSON of what is no text."""
  for name, content in {
    "config_json": _MODEL,
    "tokenizer_config_json": _CONFIG,
    "vocab_txt": VOCABULARY,
    **files,
  }.items():
    stem, _, ending = name.rpartition("_")
    if isinstance(content, list):
      content = "".join(f"{line}\n" for line in content)
    if content is not None:
      text = content if isinstance(content, str) else json.dumps(content)
      (folder / f"{stem}.{ending}").write_text(text, encoding="utf-8")
  return folder


def token(content, **flags):
  return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | {
    "special": False,
    **flags,
  }


def tokenizer_json(*added, vocabulary=VOCABULARY, **normalizer):
  """A tokenizer.json with BERT's five tokens, and (id, token)."""
  roles = [(number, token(name, special=True, normalized=False)) for number, name in enumerate(SPECIAL_TOKENS)]
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{"id": number, **one} for number, one in (*roles, *added)],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    | {"lowercase": True, **normalizer},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    | {"max_input_chars_per_word": 100, "vocab": {word: number for number, word in enumerate(vocabulary)}},
  }


_COVID, _ENTITY = token("covid19"), token("[ENT]", special=True, normalized=False)
_FIRST, _SECOND = SIZE, SIZE + 1
FOLDERS = {
  "vocab.txt alone": {},
  "no tokenizer_config.json": {"tokenizer_config_json": None},
  "cased": {"tokenizer_config_json": {**_CONFIG, "do_lower_case": False}},
  "accents kept": {"tokenizer_config_json": {**_CONFIG, "strip_accents": False}},
  "Chinese not apart": {"tokenizer_config_json": {**_CONFIG, "tokenize_chinese_chars": False}},
  "added_tokens.json": {"added_tokens_json": {"covid19": _FIRST, "[ENT]": _SECOND}},
  "added_tokens.json, out of order": {"added_tokens_json": {"[ENT]": _SECOND, "covid19": _FIRST}},
  "added_tokens.json, one of them special": {
    "added_tokens_json": {"covid19": _FIRST, "[ENT]": _SECOND},
    "tokenizer_config_json": {**_CONFIG, "additional_special_tokens": ["[ENT]"]},
  },
  "additional_special_tokens": {"tokenizer_config_json": {**_CONFIG, "additional_special_tokens": ["[ENT]", "Mixed"]}},
  "extra_special_tokens": {"tokenizer_config_json": {**_CONFIG, "extra_special_tokens": ["[ENT]", "the"]}},
  "extra_special_tokens with names": {"tokenizer_config_json": {**_CONFIG, "extra_special_tokens": {"ent": "[ENT]"}}},
  "special_tokens_map.json": {
    "special_tokens_map_json": {"additional_special_tokens": ["[ENT]"], "bos_token": "[BOS]"}
  },
  "flags of a role": {"special_tokens_map_json": {"mask_token": {**token("[MASK]"), "lstrip": True, "special": True}}},
  "a token with a name of its own": {"tokenizer_config_json": {**_CONFIG, "entity_token": "[ENT]"}},
  "added_tokens_decoder": {
    "tokenizer_config_json": {
      **_CONFIG,
      "added_tokens_decoder": {str(_SECOND): {**_COVID, "single_word": True}, str(_FIRST): {**_ENTITY, "lstrip": True}},
    }
  },
  "inside the vocabulary": {
    "vocab_txt": None,
    "tokenizer_json": tokenizer_json(
      (5, token("[ENT]", special=True)), (6, _COVID), vocabulary=[*SPECIAL_TOKENS, "[ENT]", "covid19", *VOCABULARY[5:]]
    ),
    "tokenizer_config_json": {**_CONFIG, "extra_special_tokens": ["[ENT]"]},
  },
  "behind the vocabulary": {"tokenizer_json": tokenizer_json((_FIRST, _COVID), (_SECOND, _ENTITY))},
  "behind it, and said twice": {
    "tokenizer_json": tokenizer_json((_FIRST, _COVID), (_SECOND, _ENTITY)),
    "tokenizer_config_json": {
      **_CONFIG,
      "added_tokens_decoder": {_FIRST: _COVID, _SECOND: {**_ENTITY, "rstrip": True}},
    },
  },
  "tokenizer.json is contradicted": {
    "tokenizer_json": tokenizer_json(lowercase=True),
    "tokenizer_config_json": {**_CONFIG, "do_lower_case": False},
  },
  "tokenizer.json is contradicted about accents": {
    "tokenizer_json": tokenizer_json(strip_accents=False),
    "tokenizer_config_json": {**_CONFIG, "strip_accents": True},
  },
  "another class, which reads tokenizer.json alone": {
    "tokenizer_json": tokenizer_json((_FIRST, _COVID), lowercase=False),
    "tokenizer_config_json": {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "do_lower_case": True,
      "mask_token": "[MASK]",
      **{f"{role}_token": name for role, name in SPECIAL_TOKENS._asdict().items()},
      "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    },
  },
  "white space at the ends of lines": {"vocab_txt": [*VOCABULARY[:-1], "x1 \t", "y2\u3000", "\u2028"]},
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_gives_the_ids_of_transformers_and_keeps_them_when_saved(tmp_path, kind):
  more = ("covid19", "[ENT]", "Mixed", "[BOS]", "x1", "y2")
  folder, saved = write(tmp_path, **FOLDERS[kind]), tmp_path / "saved"
  assert_as_transformers(folder, more)
  tokenizer = load_tokenizer(folder)
  save_tokenizer(tokenizer, saved, max_length=64)
  write(saved, vocab_txt=None, tokenizer_config_json=None)
  again = load_tokenizer(saved)
  assert again.fingerprint == tokenizer.fingerprint and again[2:] == tokenizer[2:]
  before, after = map(transformers.AutoTokenizer.from_pretrained, (folder, saved))
  texts = hard_texts(more)
  assert before(texts)["input_ids"] == after(texts)["input_ids"]
  assert before.all_special_ids == after.all_special_ids or set(before.all_special_ids) == set(after.all_special_ids)
  (saved / "tokenizer.json").unlink()  # as programs that read vocab.txt do
  assert_as_transformers(saved, more)
  assert load_tokenizer(saved).fingerprint == tokenizer.fingerprint


_ROLE = "BERT's is .*only that is supported"
REFUSED = {
  "a gap": ({"added_tokens_json": {"covid19": _SECOND}}, "added_tokens.json: .*'covid19' has the id .* in id order"),
  "an id of the vocabulary": ({"added_tokens_json": {"covid19": 7}}, "'covid19' has the id 7"),
  "another id in another file": (
    {
      "added_tokens_json": {"covid19": _FIRST},
      "tokenizer_config_json": {**_CONFIG, "added_tokens_decoder": {_SECOND: _COVID, _FIRST: _ENTITY}},
    },
    "added_tokens.json: .*'covid19'",
  ),
  "a token that one version alone reads": (
    {
      "tokenizer_json": tokenizer_json((_FIRST, _COVID)),
      "tokenizer_config_json": {**_CONFIG, "added_tokens_decoder": {"4": token("[MASK]", special=True)}},
    },
    "tokenizer.json: the added token 'covid19'",
  ),
  "other special tokens for each version": (
    {"tokenizer_config_json": {**_CONFIG, "extra_special_tokens": ["[A]"], "additional_special_tokens": ["[B]"]}},
    "make them the same",
  ),
  "another mask": ({"tokenizer_config_json": {**_CONFIG, "mask_token": "<mask>"}}, f"mask_token is '<mask>'; {_ROLE}"),
  "another [CLS] in the older file": (
    {"special_tokens_map_json": {"cls_token": "<s>"}},
    f"cls_token is '<s>'; {_ROLE}",
  ),
  "no [SEP]": ({"tokenizer_config_json": {**_CONFIG, "sep_token": None}}, f"sep_token is None; {_ROLE}"),
  "special tokens split": (
    {"tokenizer_config_json": {**_CONFIG, "split_special_tokens": True}},
    "split_special_tokens",
  ),
  "cut at the beginning": ({"tokenizer_config_json": {**_CONFIG, "truncation_side": "left"}}, "truncation_side"),
  "another class in config.json": (
    {"config_json": {**_MODEL, "tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_config_json": {}},
    "a BertJapaneseTokenizer",
  ),
  "no word about capitals": (
    {"tokenizer_config_json": None, "vocab_txt": [*VOCABULARY, *"ABCDEF"]},
    "vocab.txt looks as if made with do_lower_case false, and .*tokenizer_config.json says nothing of it",
  ),
  "no word about marks": (
    {"tokenizer_config_json": None, "vocab_txt": [*VOCABULARY, *"한국어äöü"]},
    "vocab.txt looks as if made with strip_accents false",
  ),
  "no word about what tokenizer.json says otherwise": (
    {"tokenizer_config_json": None, "tokenizer_json": tokenizer_json(lowercase=False)},
    "tokenizer.json says do_lower_case false",
  ),
  "another frame": (
    {"tokenizer_json": {**tokenizer_json(), "post_processor": None}},
    "its post_processor does not frame texts as BERT does",
  ),
  "casing that is no truth value": ({"tokenizer_config_json": {**_CONFIG, "do_lower_case": "no"}}, "do_lower_case is"),
  "a token that is none": ({"added_tokens_json": {"covid19": "x"}}, "'x' is no id"),
  "a list of numbers": ({"tokenizer_config_json": {**_CONFIG, "extra_special_tokens": [7]}}, "7 is no token"),
  "a flag that nobody reads": (
    {"tokenizer_config_json": {**_CONFIG, "added_tokens_decoder": {"4": {**token("[MASK]"), "upper": True}}}},
    "has upper True",
  ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_as_transformers_does_is_refused_by_name(tmp_path, kind):
  files, message = REFUSED[kind]
  with pytest.raises(UserError, match=message):
    load_tokenizer(write(tmp_path, **files))


@pytest.mark.parametrize("inside", ["tokenizer", "0_Transformer"])
def test_the_tokenizer_of_a_run_and_of_an_old_folder_of_sentence_transformers_is_found(tmp_path, inside):
  (tmp_path / inside).mkdir()
  write(tmp_path / inside, added_tokens_json={"covid19": _FIRST})
  assert load_tokenizer(tmp_path).fingerprint == load_tokenizer(tmp_path / inside).fingerprint


def test_pairs_are_refused_where_transformers_does_not_tell_b_from_a(tmp_path):
  write(tmp_path, tokenizer_config_json={**_CONFIG, "model_input_names": ["input_ids", "attention_mask"]})
  tokenizer, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert tokenizer.template.frame([7])[0] == theirs("c")["input_ids"] and "token_type_ids" not in theirs("c", "a")
  save_tokenizer(tokenizer, tmp_path / "saved", max_length=64)
  for one in (tokenizer, load_tokenizer(tmp_path / "saved")):
    with pytest.raises(UserError, match="model_input_names"):
      one.template.frame([7], [8])


def test_a_corpus_holds_added_tokens_and_never_the_five(tmp_path):
  write(tmp_path, added_tokens_json={"covid19": _FIRST, "[ENT]": _SECOND})
  encoded = load_tokenizer(tmp_path).plain.encode("[SEP] covid19 [ENT]", add_special_tokens=False).ids
  assert _FIRST in encoded and _SECOND in encoded and SPECIAL_TOKENS.index("[SEP]") not in encoded


@pytest.mark.parametrize(
  "words, lowercase, strip_accents",
  [
    (["the", "cat", "##s"], True, True),
    (["The", "cat", "##s"], False, False),
    (["한국어", "안녕", "##에서"], True, False),
    (["में", "है", "##ों"], True, False),
    (["か", "が", "##ば"], True, False),
    (["schön", "und", "##er"], True, False),
    (["mà", "không", "được"], True, False),
    (["Schön", "Und", "##er"], False, False),
    (["क", "म"], True, True),
  ],
)
def test_the_vocabulary_shows_what_its_texts_kept(words, lowercase, strip_accents):
  assert decided_by([*SPECIAL_TOKENS, *words]) == (lowercase, strip_accents, True)
