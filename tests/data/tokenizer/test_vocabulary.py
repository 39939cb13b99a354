"""Vocabularies that come out the same every time, and the sample they are trained on."""

import os
import random
import subprocess
import sys

import pytest

from bert_jax.data.tokenizer import vocabulary
from bert_jax.data.tokenizer.vocabulary import sample_documents, train_wordpiece
from bert_jax.data.tokenizer.wordpiece import SPECIAL_TOKENS, encode_batch
from bert_jax.errors import UserError


def english(seed=0, documents=60):
  rng = random.Random(seed)
  syllables = [
    "ba",
    "be",
    "bi",
    "lo",
    "lu",
    "mo",
    "na",
    "ne",
    "ri",
    "ro",
    "sa",
    "so",
    "ta",
    "ti",
    "to",
    "un",
    "ing",
    "er",
    "est",
    "The",
    "Zo",
    "é",
    "ü",
  ]
  words = ["".join(rng.choices(syllables, k=rng.randrange(1, 4))) for _ in range(400)]
  return [" ".join(rng.choices(words, k=120)) + ". 3,14!" for _ in range(documents)]


def chinese(seed=0, documents=60):
  rng = random.Random(seed)
  # Many characters with the same count: ties are where training varies.
  characters = [chr(0x4E00 + number) for number in range(900)]
  return ["".join(rng.choices(characters, k=200)) + "。Python 3。" for _ in range(documents)]


def vocabulary_of(tokenizer):
  ids = tokenizer.backend.get_vocab()
  return sorted(ids, key=ids.get)


def test_three_processes_with_different_threads_train_the_same_vocabularies():
  code = (
    f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
    "import test_vocabulary as t\n"
    "print([t.train_wordpiece(texts, 700).fingerprint for texts in (t.english(), t.chinese())])"
  )
  settings = (
    {"TOKENIZERS_PARALLELISM": "false"},
    {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "1"},
    {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "4"},
  )
  runs = [
    subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **setting}, stdout=subprocess.PIPE, text=True)
    for setting in settings
  ]
  printed = {run.communicate()[0] for run in runs}
  assert len(printed) == 1 and printed.pop().count("'") == 4


@pytest.mark.parametrize("texts", [english(), chinese()], ids=["english", "chinese"])
def test_the_order_of_the_texts_does_not_matter(texts):
  assert train_wordpiece(texts, 500).fingerprint == train_wordpiece(texts[::-1], 500).fingerprint


def test_a_vocabulary_is_special_tokens_then_characters_then_merges():
  tokenizer = train_wordpiece(english(), 300)
  tokens = vocabulary_of(tokenizer)
  assert tuple(tokens[:5]) == tuple(SPECIAL_TOKENS) and tuple(tokenizer.special) == (0, 1, 2, 3, 4)
  assert len(tokens) == tokenizer.vocab_size == 300
  lengths = [len(token.removeprefix("##")) for token in tokens[5:]]
  characters = lengths.index(2)
  assert set(lengths[:characters]) == {1} and min(lengths[characters:]) >= 2
  assert "b" in tokens and "##b" in tokens and "." in tokens and "##." not in tokens


def test_lower_case_is_a_choice():
  cased = vocabulary_of(train_wordpiece(english(), 300, lowercase=False))
  uncased = vocabulary_of(train_wordpiece(english(), 300, lowercase=True))
  assert any("T" in token for token in cased[5:]) and any("é" in token for token in cased)
  assert not any("T" in token or "é" in token for token in uncased[5:])


def test_every_text_of_the_sample_is_covered_by_a_vocabulary_that_is_large_enough():
  for texts in (english(), chinese()):
    report = {}
    tokenizer = train_wordpiece(texts, 3000, report=report)
    ids = encode_batch(tokenizer, texts)
    assert tokenizer.special.unk not in {number for row in ids for number in row}
    assert report["coverage"] >= 0.9999
    assert report["characters_kept"] <= report["characters"]


def test_rare_characters_do_not_eat_the_vocabulary():
  texts = english() + ["".join(chr(0x3400 + number) for number in range(3000))]
  report = {}
  tokens = vocabulary_of(train_wordpiece(texts, 300, report=report))
  characters = [token for token in tokens[5:] if len(token.removeprefix("##")) == 1]
  assert len(characters) <= 0.75 * 295
  assert report["characters"] > 3000 and report["coverage"] < 1
  assert {"e", "##e", "t", "##t"} <= set(tokens)
  # Among characters met once, those with the lowest code are kept.
  rare = sorted(token for token in characters if "\u3400" <= token < "\u4000")
  assert rare == [chr(0x3400 + number) for number in range(len(rare))]


def test_the_alphabet_stops_where_the_text_is_covered(monkeypatch):
  monkeypatch.setattr(vocabulary, "_COVERAGE", 0.99)
  report = {}
  tokens = vocabulary_of(train_wordpiece(["aaaa bbbb " * 200 + "z"], 64, report=report))
  assert report == {"characters": 3, "characters_kept": 2, "coverage": 1600 / 1601}
  assert not any("z" in token for token in tokens)


def test_training_on_nothing_or_for_too_few_tokens_is_refused():
  with pytest.raises(UserError, match="no text to train"):
    train_wordpiece([" \n", ""], 100)
  with pytest.raises(UserError, match="vocab_size is 10; expected at least 64"):
    train_wordpiece(english(), 10)


def test_a_small_text_yields_a_smaller_vocabulary():
  assert train_wordpiece(["one two two"], 1000).vocab_size < 50


def test_a_sample_does_not_depend_on_the_order_and_keeps_to_its_budget():
  texts = [f"document {number} " + "x" * (number * 7919 % 400) for number in range(300)]
  whole = sample_documents(texts, max_bytes=10**9, seed=3)
  assert sorted(whole) == sorted(texts)
  for budget in (500, 2000, 20_000):
    sample = sample_documents(texts, max_bytes=budget, seed=3)
    assert sum(map(len, sample)) <= budget
    # The longest beginning of the order by hash that fits: nothing depends on what came when.
    assert sample == whole[: len(sample)]
    assert sum(map(len, whole[: len(sample) + 1])) > budget
    for seed in range(5):
      shuffled = random.Random(seed).sample(texts, len(texts))
      assert sample_documents(shuffled, max_bytes=budget, seed=3) == sample
  assert sample_documents(texts, max_bytes=2000, seed=4) != sample_documents(texts, max_bytes=2000, seed=3)


def test_a_sample_holds_at_least_one_document():
  assert sample_documents(["x" * 1000], max_bytes=10, seed=0) == ["x" * 1000]
  assert sample_documents([], max_bytes=10, seed=0) == []
