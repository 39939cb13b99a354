"""Stage one for one chunk: every sentence is found again, and nothing depends on how the work was cut."""

import random

import numpy as np
import pytest

from bert_jax.data.corpus import chunk as chunks
from bert_jax.data.corpus.chunk import Chunk
from bert_jax.data.text.sentences import split_sentences
from bert_jax.data.tokenizer.wordpiece import Tokenizer, build_tokenizer, load_tokenizer
from tests.helpers.preparing import VOCABULARY

TEXTS = [
  "The dog runs. A cat sleeps.\nThe tree.",
  "The house sees.",
  "\u200b",
  "Document 12. A [SEP] dog.\n\u200e\nOld cats.",
]


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
  (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
  return load_tokenizer(tmp_path / "vocab.txt")


def chunk_of(texts: list[str]) -> Chunk:
  """Numbered from 5 on; document n is line 10 n of file n % 2."""
  numbers = list(range(5, 5 + len(texts)))
  return Chunk(
    "train",
    0,
    numbers,
    texts,
    [(number % 2, 10 * number) for number in numbers],
    sum(len(text.encode()) for text in texts),
  )


def sentences_of(documents) -> list[list[list[int]]]:
  """Ids by document and sentence."""
  pieces = np.split(documents.tokens, documents.sentence_starts[1:-1])
  starts = documents.document_starts.tolist()
  return [[piece.tolist() for piece in pieces[begin:end]] for begin, end in zip(starts, starts[1:])]


def test_the_sentences_of_every_document_are_those_of_the_tokenizer(tokenizer):
  documents = chunks.tokenize(tokenizer.plain, chunk_of(TEXTS), dtype="uint16")
  plain = lambda sentence: tokenizer.plain.encode(sentence, add_special_tokens=False).ids
  expected = [[ids for ids in map(plain, split_sentences(text)) if ids] for text in TEXTS]
  assert sentences_of(documents) == [one for one in expected if one]
  assert [len(one) for one in expected] == [3, 1, 0, 3] and documents.word_starts is None
  assert documents.tokens.dtype == np.uint16 and documents.sentence_starts.dtype == np.int64


def test_a_document_without_a_token_takes_its_number_and_origin_along(tokenizer):
  documents = chunks.tokenize(tokenizer.plain, chunk_of(TEXTS), dtype="uint16")
  assert documents.numbers.tolist() == [5, 6, 8] and documents.numbers.dtype == np.uint32
  assert documents.origins.tolist() == [[1, 50], [0, 60], [0, 80]] and documents.origins.dtype == np.uint64


def test_a_special_token_in_a_text_is_brackets_and_a_word(tokenizer):
  documents = chunks.tokenize(tokenizer.plain, chunk_of(TEXTS), dtype="uint16")
  assert not set(documents.tokens.tolist()) & {tokenizer.special.cls, tokenizer.special.sep, tokenizer.special.mask}


@pytest.mark.parametrize("batch", [1, 30, 10**6])
def test_how_much_goes_to_the_tokenizer_at_once_changes_nothing(tokenizer, monkeypatch, batch):
  many = chunk_of(TEXTS * 5)
  expected = chunks.tokenize(tokenizer.plain, many, dtype="uint16")
  monkeypatch.setattr(chunks, "_BATCH_CHARACTERS", batch)
  for left, right in zip(expected, chunks.tokenize(tokenizer.plain, many, dtype="uint16")):
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("batch", [1, 30, 10**6])
def test_every_byte_of_text_is_reported_once(tokenizer, monkeypatch, batch):
  monkeypatch.setattr(chunks, "_BATCH_CHARACTERS", batch)
  done, chunk = [], chunk_of([*TEXTS, "Über die Brücke."])
  chunks.tokenize(tokenizer.plain, chunk, dtype="uint16", advance=done.append)
  assert sum(done) == chunk.num_bytes and len(done) == {1: 5, 30: 3, 10**6: 1}[batch]


def test_a_chunk_of_nothing_is_empty_documents_of_the_right_shapes(tokenizer):
  documents = chunks.tokenize(tokenizer.plain, chunk_of(["\u200b"]), dtype="uint32", segmenter=lambda text: [0])
  assert [len(one) for one in documents] == [0, 1, 1, 0, 0, 0]
  assert (
    documents.origins.shape == (0, 2) and documents.tokens.dtype == np.uint32 and documents.word_starts.dtype == bool
  )


def test_word_starts_follow_the_segmenter(tokenizer):
  """A segmenter that takes two characters for a word."""
  pairs = lambda text: list(range(0, len(text), 2))
  documents = chunks.tokenize(tokenizer.plain, chunk_of(["a 12345\nThe 98."]), dtype="uint16", segmenter=pairs)
  tokens = [VOCABULARY[index] for index in documents.tokens.tolist()]
  # "a ", "12", "34", "5"; "Th", "e ", "98", "."
  assert list(zip(tokens, documents.word_starts.tolist())) == [
    ("a", True),
    ("1", True),
    ("##2", False),
    ("##3", True),
    ("##4", False),
    ("##5", True),
    ("the", True),
    ("9", True),
    ("##8", False),
    (".", True),
  ]


@pytest.mark.parametrize("size, dtype", [(10, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")])
def test_ids_take_as_few_bytes_as_the_vocabulary_allows(size, dtype):
  assert chunks.token_dtype(size) == dtype and np.iinfo(dtype).max >= size - 1


# A vocabulary of little else than letters: a word is many tokens, and few are unknown.
LETTERS = [*"abAÉé中国。，.,-!'\"$[]_1", "ab", "abc", "12"]
SPELLED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in "abcdeéEÉ1中")]
NORMALISATIONS = {
  "lowercase": {"lowercase": True},
  "cased": {"lowercase": False},
  "lowercase with accents": {"lowercase": True, "strip_accents": False},
  "Chinese not apart": {"lowercase": False, "handle_chinese_chars": False},
}
# White space of all kinds, marks that belong to the character before, invisible ones, letters that become two, and
# relatives of the characters at which sentences are cut.
ODD = [
  *" \t\u00a0\u3000\u2028\u200b\u200d\u00ad\x00\x07\x1c\ufeff\ufffd\u0301\ufe0f",
  "\u0327\u0301",
  "e\u0301",
  "か\u3099",
  "क्षि",
  *"ﬁİßΣς각が豈兀𠀀𪚥㐀\u4dbf\u9fff、·€😀!#$%&()*+/:;<=>?@\\^`{|}~",
]


def odd_texts(seed: int) -> list[str]:
  rng = random.Random(seed)
  return ["".join(rng.choices([*LETTERS, *ODD, " ", " ", " "], k=rng.randrange(60))) for _ in range(40)]


def assert_ids_of_whole_sentences(backend, texts):
  """The definition: every sentence goes to the tokenizer as it is."""
  encoded = [backend.encode_batch(split_sentences(text), add_special_tokens=False) for text in texts]
  expected = [[one.ids for one in own if one.ids] for own in encoded]
  found = chunks.tokenize(backend, chunk_of(texts), dtype="uint16")
  assert sentences_of(found) == [one for one in expected if one]
  assert found.numbers.tolist() == [number for number, one in enumerate(expected, 5) if one]


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_ids_are_those_of_whole_sentences_whatever_the_text(name):
  backend = build_tokenizer(SPELLED, **NORMALISATIONS[name]).plain
  for seed in range(50):
    assert_ids_of_whole_sentences(backend, odd_texts(seed))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_any_character_may_stand_where_sentences_are_cut(name):
  codes = [*range(0x2100), *range(0x2100, 0x110000, 101)]
  texts = [f"a{one}中{one}b-{one}a {one}c" for one in map(chr, codes) if not 0xD800 <= ord(one) < 0xE000]
  assert_ids_of_whole_sentences(build_tokenizer(SPELLED, **NORMALISATIONS[name]).plain, texts)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_every_character_at_which_sentences_are_cut_is_a_word_of_its_own(name):
  """All of them, within a word."""
  alone = "".join(map(chr, [*range(0x21, 0x7F), *range(0x3400, 0x4DC0), *range(0x4E00, 0xA000)]))
  assert_ids_of_whole_sentences(build_tokenizer(SPELLED, **NORMALISATIONS[name]).plain, [f"a{one}b" for one in alone])


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_word_starts_are_those_of_whole_sentences_whatever_the_text(name):
  backend = build_tokenizer(SPELLED, **NORMALISATIONS[name]).plain
  # Words of one to three characters, with no regard for tokens.
  segmenter = lambda text: [start for start in range(len(text)) if start == 0 or (start * 7919 + len(text)) % 3]
  for seed in range(30):
    texts, expected = odd_texts(seed), []
    for sentence in (sentence for text in texts for sentence in split_sentences(text)):
      begins = segmenter(sentence)
      words = [
        max(word for word, begin in enumerate(begins) if begin <= place)
        for place, _ in backend.encode(sentence, add_special_tokens=False).offsets
      ]
      expected += [number == 0 or word != words[number - 1] for number, word in enumerate(words)]
    found = chunks.tokenize(backend, chunk_of(texts), dtype="uint16", segmenter=segmenter)
    assert found.word_starts.tolist() == expected
    np.testing.assert_array_equal(found.tokens, chunks.tokenize(backend, chunk_of(texts), dtype="uint16").tokens)


@pytest.mark.parametrize(
  "name, vocabulary", [("enwiki_AA_00-49", "bert-base-uncased"), ("zhwiki_AA_00-49", "bert-base-chinese")]
)
def test_real_text_gets_the_ids_of_whole_sentences(shared_data, name, vocabulary):
  import lzma

  with lzma.open(shared_data / "pretraining" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
    texts = file.read(1_000_000).split("</doc>")
  assert_ids_of_whole_sentences(load_tokenizer(shared_data / "vocab" / f"{vocabulary}-vocab.txt").plain, texts)
