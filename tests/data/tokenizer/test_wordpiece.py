"""BERT's tokenization, the files around it, and its agreement with transformers."""

import itertools
import json
import lzma

import pytest
import tokenizers
import transformers

from bert_jax.data.tokenizer.files import read_vocabulary
from bert_jax.data.tokenizer.template import SpecialIds
from bert_jax.data.tokenizer.wordpiece import (
  SPECIAL_TOKENS,
  build_backend,
  build_tokenizer,
  encode_batch,
  encode_with_offsets,
  load_tokenizer,
  save_tokenizer,
)
from bert_jax.errors import UserError

_SMALL = [
  *SPECIAL_TOKENS,
  "want",
  "##want",
  "##ed",
  "wa",
  "un",
  "runn",
  "##ing",
  ",",
  "[",
  "]",
  "mask",
  "sep",
  "!",
  "中",
]
_NAMES = {"uncased": True, "cased": False, "chinese": True}


@pytest.fixture(scope="module")
def small():
  return build_tokenizer(_SMALL, lowercase=True)


@pytest.fixture(scope="module")
def bert(shared_data):
  """The three BERT tokenizers, by name."""
  return {name: load_tokenizer(shared_data / "vocab" / f"bert-base-{name}-vocab.txt") for name in _NAMES}


def test_ids_come_without_special_tokens(small):
  assert encode_batch(small, ["UNwantéd,running", "", "中unwanted xyz"]) == [
    [9, 6, 7, 12, 10, 11],
    [],
    [18, 9, 6, 7, small.special.unk],
  ]


def test_special_tokens_in_a_corpus_are_plain_text(small):
  texts = ["want [MASK] want", "[SEP][CLS]", "[PAD] [UNK]"]
  plain = [encoding.ids for encoding in small.plain.encode_batch(texts, add_special_tokens=False)]
  marked = {small.special.pad, small.special.cls, small.special.sep, small.special.mask}
  assert plain[0] == [5, 13, 15, 14, 5]
  assert not marked & set(itertools.chain.from_iterable(plain))


def test_special_tokens_in_a_text_of_somebody_are_what_they_say(small):
  special = small.special
  texts = ["want [MASK] want[MASK]", "[SEP][CLS]", "[PAD] [UNK]", "[mask]"]
  assert encode_batch(small, texts) == [
    [5, special.mask, 5, special.mask],
    [special.sep, special.cls],
    [special.pad, special.unk],
    [13, 15, 14],
  ]
  # And the one way does not disturb the other.
  assert small.plain.encode(texts[0], add_special_tokens=False).ids == [5, 13, 15, 14, 5, 13, 15, 14]


def test_the_special_ids_are_where_the_vocabulary_has_them():
  tokenizer = build_tokenizer(["a", "[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]"], lowercase=True)
  assert tokenizer.special == SpecialIds(pad=5, unk=4, cls=3, sep=2, mask=1)


@pytest.mark.parametrize(
  "vocabulary, message",
  [
    ([token for token in _SMALL if token != "[MASK]"], r"no \[MASK\] in it; .*--vocab_size"),
    (["a", "[CLS]", "[MASK]"], r"no \[PAD\] and no \[UNK\] and no \[SEP\]"),
    ([*_SMALL, "want"], "token 'want' stands in line 6 and again in line 20"),
    ([], "empty"),
    ([""], "empty"),
  ],
)
@pytest.mark.parametrize("form", ["list", "file"])
def test_vocabularies_that_cannot_work_are_refused(tmp_path, vocabulary, message, form):
  with pytest.raises(UserError, match=message):
    if form == "list":
      build_tokenizer(vocabulary, lowercase=True)
    else:
      (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
      load_tokenizer(tmp_path / "vocab.txt")


def test_casing_comes_from_the_argument_then_the_config_then_the_vocabulary(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join([*_SMALL, "A", "Want"]) + "\n", encoding="utf-8")
  assert not load_tokenizer(path).lowercase
  (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
  assert load_tokenizer(path).lowercase and load_tokenizer(tmp_path).lowercase
  assert not load_tokenizer(path, lowercase=False).lowercase
  with pytest.raises(UserError, match="2 of its 21 tokens hold capital letters.*--cased"):
    load_tokenizer(path, lowercase=True)
  path.write_text("\r\n".join(_SMALL) + "\r\n", encoding="utf-8")
  (tmp_path / "tokenizer_config.json").unlink()
  assert load_tokenizer(path).lowercase and load_tokenizer(path).vocab_size == len(_SMALL)
  assert load_tokenizer(path, lowercase=True).lowercase


def test_the_casing_of_the_bert_vocabularies_is_guessed_right(bert):
  assert {name: tokenizer.lowercase for name, tokenizer in bert.items()} == _NAMES
  assert {name: tokenizer.vocab_size for name, tokenizer in bert.items()} == {
    "uncased": 30_522,
    "cased": 28_996,
    "chinese": 21_128,
  }


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
@pytest.mark.parametrize("chinese", [True, False])
def test_a_saved_tokenizer_comes_back_the_same(tmp_path, lowercase, strip_accents, chinese):
  tokenizer = build_tokenizer(_SMALL, lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese)
  save_tokenizer(tokenizer, tmp_path / "new" / "folder", max_length=77)
  folder = tmp_path / "new" / "folder"
  assert sorted(path.name for path in folder.iterdir()) == [
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
  ]
  loaded = load_tokenizer(folder)
  (folder / "tokenizer.json").unlink()
  for again in (loaded, load_tokenizer(folder), load_tokenizer(folder / "vocab.txt")):
    assert again.fingerprint == tokenizer.fingerprint
    assert again[2:] == tokenizer[2:]


def test_the_fingerprint_changes_with_whatever_changes_ids():
  prints = [
    build_tokenizer(_SMALL, lowercase=True).fingerprint,
    build_tokenizer(_SMALL, lowercase=False).fingerprint,
    build_tokenizer(_SMALL, lowercase=True, strip_accents=False).fingerprint,
    build_tokenizer(_SMALL, lowercase=True, handle_chinese_chars=False).fingerprint,
    build_tokenizer([*_SMALL, "x"], lowercase=True).fingerprint,
    build_tokenizer([*_SMALL[:-2], _SMALL[-1], _SMALL[-2]], lowercase=True).fingerprint,
  ]
  assert len(set(prints)) == len(prints)
  # A value once published: it must not change with the library, the machine or this code.
  assert prints[0] == "3edca7b1c1f106171e5ab5de857ad702f978e4ffbe63d8b93498c74121ef2c21"


def test_saved_files_are_the_same_every_time(tmp_path, small):
  for folder in ("a", "b"):
    save_tokenizer(small, tmp_path / folder, max_length=128)
  save_tokenizer(load_tokenizer(tmp_path / "a"), tmp_path / "c", max_length=128)
  for path in (tmp_path / "a").iterdir():
    for folder in ("b", "c"):
      assert (tmp_path / folder / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(
  "files, message",
  [
    ({}, "no tokenizer.json and no vocab.txt"),
    (
      {"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizerFast"}, "tokenizer.json": {}},
      "a RobertaTokenizerFast",
    ),
    ({"tokenizer.json": {"model": {"type": "BPE"}}}, "its model is BPE"),
    (
      {"tokenizer.json": {"model": {"type": "WordPiece"}, "normalizer": {"type": "Lowercase"}}},
      "its normalizer is Lowercase",
    ),
    ({"tokenizer.json": {"model": {"type": "WordPiece"}, "normalizer": None}}, "its normalizer is none"),
    ({"tokenizer.json": b"{broken"}, "tokenizer.json: not JSON"),
    ({"tokenizer.json": [1]}, "expected a JSON object"),
    ({"vocab.txt": b"\xff\xfe"}, "not a vocabulary in UTF-8"),
  ],
)
def test_other_tokenizers_are_refused_by_name(tmp_path, files, message):
  for name, value in files.items():
    (tmp_path / name).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
  with pytest.raises(UserError, match=message):
    load_tokenizer(tmp_path)


def test_a_tokenizer_json_that_differs_from_bert_in_a_detail_is_refused(tmp_path, small):
  save_tokenizer(small, tmp_path, max_length=8)
  path = tmp_path / "tokenizer.json"
  whole = json.loads(path.read_text(encoding="utf-8"))
  for part, key, value in (
    ("model", "continuing_subword_prefix", "@@"),
    ("model", "max_input_chars_per_word", 50),
    ("normalizer", "clean_text", False),
  ):
    changed = {**whole, part: {**whole[part], key: value}}
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match=key):
      load_tokenizer(tmp_path)
  added = {**whole["added_tokens"][0], "id": len(_SMALL), "content": "<new>"}
  path.write_text(json.dumps({**whole, "added_tokens": [*whole["added_tokens"], added]}), encoding="utf-8")
  assert load_tokenizer(tmp_path).vocab_size == len(_SMALL) + 1
  holes = {**whole["model"], "vocab": {**whole["model"]["vocab"], "far": 99}}
  path.write_text(json.dumps({**whole, "model": holes}), encoding="utf-8")
  with pytest.raises(UserError, match="do not run from 0 to"):
    load_tokenizer(tmp_path)


def test_a_missing_path_is_named(tmp_path):
  with pytest.raises(UserError, match="nowhere: no such tokenizer"):
    load_tokenizer(tmp_path / "nowhere")


# --- Against transformers ---

_TEXTS = [
  "Hello World! naïve café, [MASK] 3.14",
  "今天天气很好，我们去Beijing玩。ＡＢＣ　… ﬁ",
  "Ünïcödé\u200b soft\xadhyphen",
  "x" * 120 + " ok",
  "[SEP] in the [CLS] middle[MASK]",
  "",
  " \t\n",
  "日本語テスト 한국어",
  "it's 10% \U0001f600 ℝ",
]


@pytest.mark.parametrize("name", _NAMES)
def test_transformers_reads_the_saved_folder_and_gives_the_same_ids(tmp_path, bert, name):
  save_tokenizer(bert[name], tmp_path, max_length=384)
  auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert auto.model_max_length == 384
  assert (
    SpecialIds(auto.pad_token_id, auto.unk_token_id, auto.cls_token_id, auto.sep_token_id, auto.mask_token_id)
    == bert[name].special
  )
  ours = encode_batch(bert[name], _TEXTS)
  assert [auto(text, add_special_tokens=False)["input_ids"] for text in _TEXTS] == ours
  special = bert[name].special
  batch = auto(_TEXTS[:2], padding=True)
  longest = max(len(ids) for ids in ours[:2]) + 2
  for row, ids in enumerate(ours[:2]):
    padding = longest - len(ids) - 2
    assert batch["input_ids"][row] == [special.cls, *ids, special.sep] + [special.pad] * padding
    assert batch["attention_mask"][row] == [1] * (len(ids) + 2) + [0] * padding
  pair = auto(_TEXTS[0], _TEXTS[1])
  assert pair["token_type_ids"] == [0] * (len(ours[0]) + 2) + [1] * (len(ours[1]) + 1)


@pytest.mark.parametrize("name", _NAMES)
def test_the_files_written_for_older_programs_say_the_same(tmp_path, bert, name):
  save_tokenizer(bert[name], tmp_path, max_length=512)
  theirs = transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=bert[name].lowercase)
  ours = encode_batch(bert[name], _TEXTS)
  assert [theirs(text, add_special_tokens=False)["input_ids"] for text in _TEXTS] == ours
  library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  assert library.get_vocab() == bert[name].backend.get_vocab()
  special_tokens = json.loads((tmp_path / "special_tokens_map.json").read_text())
  assert set(special_tokens.values()) == set(SPECIAL_TOKENS)


def test_a_trained_vocabulary_works_in_transformers(tmp_path, small):
  save_tokenizer(small, tmp_path, max_length=16)
  auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert auto("Unwanted [MASK]")["input_ids"] == [2, 9, 6, 7, 4, 3]
  assert auto("unwanted " * 20, truncation=True)["input_ids"][-1] == 3
  assert len(auto("unwanted " * 20, truncation=True)["input_ids"]) == 16
  assert auto.decode([2, 9, 6, 7, 4, 3], skip_special_tokens=True) == "unwanted"


@pytest.mark.parametrize(
  "file, name", [("enwiki_AA_00-49", "uncased"), ("enwiki_AA_00-49", "cased"), ("zhwiki_AA_00-49", "chinese")]
)
def test_wikipedia_gets_the_ids_that_transformers_gives(shared_data, bert, file, name):
  with lzma.open(shared_data / "pretraining" / f"{file}.txt.xz", "rt", encoding="utf-8") as lines:
    texts = [line for line in itertools.islice(lines, 3000) if line.strip()]
  theirs = transformers.BertTokenizerFast(
    vocab=str(shared_data / "vocab" / f"bert-base-{name}-vocab.txt"), do_lower_case=_NAMES[name]
  )
  ours = encode_batch(bert[name], texts)
  assert theirs(texts, add_special_tokens=False)["input_ids"] == ours
  plain = bert[name].plain.encode_batch(texts, add_special_tokens=False)
  assert [encoding.ids for encoding in plain] == ours, "no special token stands in these lines"
  assert sum(map(len, ours)) > 80_000


# --- The shared cases ---

# Cases that are not about BERT.
_SKIPPED = dict.fromkeys(range(58, 63), "byte-level BPE of RoBERTa, another kind of tokenizer")


def _split(case, text):
  """Words of a text by BERT's normaliser and pre-tokenizer alone."""
  backend = _backend(case, {"[UNK]": 0})
  # `never_split` of the reference implementation is, here, tokens that are recognised as special.
  backend.add_special_tokens(case.get("never_split", []))
  spans = [(text, False)]
  for token in case.get("never_split", []):
    spans = [(part, part == token) for span, _ in spans for part in _partition(span, token)]
  words = []
  for span, whole in spans:
    normalised = backend.normalizer.normalize_str(span)
    words += [span] if whole else [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalised)]
  return words


def _partition(text, token):
  before, found, after = text.partition(token)
  return [part for part in (before, found) if part] + (_partition(after, token) if after else [])


def _backend(case, ids):
  return build_backend(
    ids,
    lowercase=case.get("do_lower_case", True),
    strip_accents=case.get("strip_accents"),
    handle_chinese_chars=case.get("tokenize_chinese_chars", True),
  )


def _encode(case, tokenizer):
  pair = (case["pair"],) if "pair" in case else ()
  return tokenizer.backend.encode(case["input"], *pair, add_special_tokens=case["add_special_tokens"])


def _check(case, bert, vocab):
  """Asserts whatever a case states."""
  kind, text = case["kind"], case.get("input")
  ids = {token: number for number, token in enumerate(case.get("vocab", ()))}
  if kind in ("full", "wordpiece"):
    encoding = _backend(case, ids).encode(text, add_special_tokens=False)
    assert encoding.tokens == case["tokens"]
    assert "ids" not in case or encoding.ids == case["ids"]
  elif kind == "basic":
    assert _split(case, text) == case["tokens"]
  elif kind == "convert_tokens_to_ids":
    assert [_backend(case, ids).token_to_id(token) for token in case["input_tokens"]] == case["ids"]
  elif kind == "is_whitespace":
    # White space parts words and disappears; anything else stays.
    assert (_split({}, f"a{text}b") == ["a", "b"]) == case["value"]
  elif kind == "is_control":
    # Control characters vanish without parting words.
    assert (_split({"do_lower_case": False}, f"a{text}b") == ["ab"]) == case["value"]
  elif kind == "is_punctuation":
    # Punctuation is a word of its own.
    assert (_split({}, f"a{text}b") == ["a", text, "b"]) == case["value"]
  elif kind in ("pretokenize_bert", "pretokenize_bert_chinese"):
    backend = _backend({"do_lower_case": False}, {"[UNK]": 0})
    encoding = backend.encode(text)
    offsets = [tuple(len(text[:place].encode()) for place in span) for span in encoding.offsets]
    assert offsets == [tuple(span) for span in case["byte_offsets"]]
    assert [text.encode()[start:end].decode() for start, end in offsets] == case["tokens"]
  elif kind in ("encode", "encode_pair"):
    name = case["pretrained"].removeprefix("bert-base-")
    tokenizer = bert[name]
    if case.get("tokenize_chinese_chars") is False:
      tokenizer = build_tokenizer(vocab(name), lowercase=tokenizer.lowercase, handle_chinese_chars=False)
    assert case.get("do_lower_case", tokenizer.lowercase) == tokenizer.lowercase
    encoding = _encode(case, tokenizer)
    computed = {
      "ids": encoding.ids,
      "tokens": encoding.tokens,
      "type_ids": encoding.type_ids,
      "offsets": [list(span) for span in encoding.offsets],
      "sequence_ids": encoding.sequence_ids,
    }
    expected = {key: case[key] for key in computed if key in case}
    assert expected and expected == {key: computed[key] for key in expected}
  elif kind == "special_ids":
    tokenizer = bert[case["pretrained"].removeprefix("bert-base-")]
    assert (tokenizer.special.cls, tokenizer.special.sep) == (case["cls_id"], case["sep_id"])
    single, pair = tokenizer.backend.encode("a").tokens, tokenizer.backend.encode("a", "b").tokens
    assert " ".join(single).replace("a", "A") == case["single"]
    assert " ".join(pair).replace("a", "A").replace("b", "B") == case["pair_template"]
  else:
    raise AssertionError(f"a kind of case that no branch checks: {kind}")


def test_every_case_of_the_public_test_suites_agrees(shared_data, bert):
  folder = shared_data / "vocab"
  cases = json.loads((folder / "tokenization_cases.json").read_text(encoding="utf-8"))["cases"]

  def vocab(name):
    return read_vocabulary(folder / f"bert-base-{name}-vocab.txt")

  run = []
  for case in cases:
    if case["id"] in _SKIPPED:
      assert case.get("pretrained", "roberta-base") == "roberta-base"
      continue
    try:
      _check(case, bert, vocab)
    except AssertionError as error:
      raise AssertionError(f"case {case['id']} ({case['kind']}): {error}") from error
    run.append(case["id"])
  assert len(cases) == 63
  assert run == list(range(58)), "every case of BERT is run"


@pytest.mark.parametrize("encode", [encode_batch, encode_with_offsets])
@pytest.mark.parametrize(
  "texts, message",
  [
    (["fine", "half \ud83d of it"], r"text 2, 'half \\ud83d of it', holds half of a surrogate pair"),
    (["caf\udce9"], "text 1, .*bytes that are not UTF-8"),  # as Python has an argument in Latin-1
    (["fine", 3], "text 2 is a int, and a text is expected"),
  ],
)
def test_what_is_no_text_is_named_by_its_number(small, encode, texts, message):
  with pytest.raises(UserError, match=message):
    encode(small, texts)
