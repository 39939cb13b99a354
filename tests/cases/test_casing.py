"""Vocabularies of scripts without capitals: their marks are letters."""

import json
import pathlib

import pytest
import transformers

from bert_jax.data.corpus.prepare import prepare_corpus
from bert_jax.data.tokenizer.wordpiece import load_tokenizer
from tests.helpers.preparing import settings

_CASES = pathlib.Path(__file__).resolve().parents[3] / "shared" / "cases"


@pytest.fixture(scope="module")
def cases():
  if not _CASES.is_dir():
    pytest.skip(f"the folder of cases is not at {_CASES}")
  return _CASES


@pytest.mark.parametrize("corpus, vocabulary, word", [("korean", "ko", "안녕"), ("hindi", "hi", "में")])
def test_a_vocabulary_that_holds_marks_keeps_those_of_the_text(cases, tmp_path, corpus, vocabulary, word):
  said: list[str] = []
  source, out = f"text:{cases / 'corpora' / f'{corpus}.txt'}", tmp_path / "corpus"
  given = settings(cases / "vocab" / f"{vocabulary}-vocab.txt", objective="none", seq_length=128)
  manifest = prepare_corpus([source], out, given, log=said.append)
  assert all(split["unknown_rate"] < 0.01 for split in manifest["splits"].values())
  assert any(line.startswith("Accents and marks are kept: stripping would change") for line in said), said
  # And transformers does the same with what is written.
  (out / "tokenizer" / "config.json").write_text(json.dumps({"model_type": "bert"}))
  theirs = transformers.AutoTokenizer.from_pretrained(out / "tokenizer")(word)["input_ids"]
  assert theirs[1:-1] == load_tokenizer(out / "tokenizer").plain.encode(word, add_special_tokens=False).ids


@pytest.mark.parametrize("strip_accents, lost", [(None, False), (True, True), (False, False)])
def test_a_vocabulary_of_hindi_keeps_its_vowels_unless_told_otherwise(cases, tmp_path, strip_accents, lost):
  said: list[str] = []
  given = settings("", objective="none", vocab_size=300, strip_accents=strip_accents)
  source = f"text:{cases / 'corpora' / 'hindi.txt'}"
  prepare_corpus([source], tmp_path / "corpus", given, log=said.append)
  tokenizer = load_tokenizer(tmp_path / "corpus" / "tokenizer")
  assert ("में" not in tokenizer.plain.get_vocab()) == lost
  assert any("में -> म" in line and ("stripped, which changes" in line) == lost for line in said), said
