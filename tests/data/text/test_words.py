"""Where Chinese words begin: as jieba cuts them, from the text to the corpus."""

import random

import jieba
import numpy as np
import pytest

from bert_jax.data.corpus import prepare
from bert_jax.data.corpus.folder import open_corpus
from bert_jax.data.text import words
from bert_jax.data.text.sentences import split_sentences
from bert_jax.data.tokenizer.wordpiece import load_tokenizer
from bert_jax.errors import UserError
from tests.helpers.preparing import settings

TEXT = """自然语言处理是人工智能的一个重要方向。它研究人与计算机之间用自然语言进行有效通信的理论和方法！
小明硕士毕业于中国科学院计算所，后在日本京都大学深造。他用Python 3.11写程序，每天coding到很晚（真的）。
2023年，长江大桥上的车流量是10,000辆；北京大学的学生前来应聘。Ｆｕｌｌ ｗｉｄｔｈ也算，㍿、ﬁ和é也一样。"""
SINGLE = sorted(set("".join(TEXT.lower().split())) | set("0123456789abcdefghijklmnopqrstuvwxyz"))
VOCABULARY = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  "python",
  "cod",
  "##ing",
  "e",
  "10",
  "2023",
  *SINGLE,
  *(f"##{one}" for one in "0123456789abcdefghijklmnopqrstuvwxyz"),
]


@pytest.fixture
def vocab(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("".join(f"{token}\n" for token in dict.fromkeys(VOCABULARY)), encoding="utf-8")
  return path


def starts_by_jieba(sentence: str, tokens: list[str], offsets: list[tuple[int, int]]) -> list[bool]:
  """The definition, written out: a token begins a word where another word of jieba's is the one it begins in."""
  word_of = [number for number, word in enumerate(jieba.lcut(sentence)) for _ in word]
  before = [None, *(word_of[begin] for begin, _ in offsets)]
  return [now != last for last, now in zip(before, before[1:])]


def test_tokens_begin_words_where_jieba_does(vocab):
  backend, segmenter = load_tokenizer(vocab).plain, words.load_segmenter("jieba")
  seen = []
  for sentence in split_sentences(TEXT):
    encoded = backend.encode(sentence, add_special_tokens=False)
    found = words.token_starts(segmenter(sentence), [begin for begin, _ in encoded.offsets])
    assert found.dtype == bool and found.tolist() == starts_by_jieba(sentence, encoded.tokens, encoded.offsets)
    seen += zip(encoded.tokens, found.tolist())
  shown = "".join("|" * begins + token.removeprefix("##") for token, begins in seen)
  for part in (
    "|自然语言|处理|是|人工智能|的|",
    "|中国科学院|计算所|",
    "|长江大桥|",
    "|北京大学|的|学生|前来|应聘|",
    "|python|",
    "|coding|",
  ):
    assert part in shown, shown


def test_a_token_that_spans_two_words_begins_the_first_and_the_rest_of_the_second_begins_again():
  # Words "ab" and "cd"; tokens "abc" and "d".
  assert words.token_starts([0, 2], [0, 3]).tolist() == [True, True]
  assert words.token_starts([0, 2], [0, 1, 2]).tolist() == [True, False, True]
  assert words.token_starts([0], []).tolist() == []


@pytest.mark.parametrize("objective", ["nsp", "sop", "none"])
def test_the_corpus_keeps_the_words_of_the_text(vocab, tmp_path, objective):
  """Every token of every row against jieba's words of the sentence it stands in, found again by its ids."""
  rng = random.Random(0)
  pool = [one for one in split_sentences(TEXT) if len(one) > 8]
  documents = ["\n".join(rng.choices(pool, k=rng.randint(1, 6))) for _ in range(60)]
  (tmp_path / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
  prepare.prepare_corpus(
    [f"text:{tmp_path}/text.txt"],
    tmp_path / "out",
    settings(vocab, seq_length=93, objective=objective, word_segmenter="jieba"),
  )
  tokenizer = load_tokenizer(vocab)
  # Which starts a pair of neighbouring tokens may have, by the sentences; a word cut off at its front begins one.
  known = {}
  for sentence in pool:
    encoded = tokenizer.plain.encode(sentence, add_special_tokens=False)
    known[tuple(encoded.ids)] = starts_by_jieba(sentence, encoded.tokens, encoded.offsets)
  corpus = open_corpus(tmp_path / "out")
  assert corpus.manifest["word_segmenter"] == "jieba" and corpus.train.has_word_starts
  checked = 0
  for split in (corpus.train, corpus.validation):
    got = split.gather(np.arange(split.num_rows))
    starts = np.unpackbits(got["word_starts"], axis=1, bitorder="little", count=93).astype(bool)
    special = np.isin(got["tokens"], [tokenizer.special.pad, tokenizer.special.cls, tokenizer.special.sep])
    assert starts[special].all()
    for ids, begins in zip(got["tokens"].tolist(), starts.tolist()):
      for sentence, expected in known.items():
        for place in range(len(ids) - len(sentence) + 1):
          if tuple(ids[place : place + len(sentence)]) == sentence:
            assert begins[place : place + len(sentence)] == expected
            checked += 1
  assert checked > 60


def test_words_are_another_corpus(vocab, tmp_path):
  (tmp_path / "text.txt").write_text("\n\n".join(f"{TEXT}\n第{number}篇。" for number in range(8)), encoding="utf-8")
  source = f"text:{tmp_path}/text.txt"
  with_words = prepare.prepare_corpus([source], tmp_path / "words", settings(vocab, word_segmenter="jieba"))
  without = prepare.prepare_corpus([source], tmp_path / "plain", settings(vocab))
  assert with_words["corpus_id"] != without["corpus_id"]
  shards = [manifest["splits"]["train"]["shards"] for manifest in (with_words, without)]
  assert [one.pop("word_starts") != "" for one in shards[0]] == [True] and shards[0] == shards[1]


def test_an_unknown_segmenter_names_the_known_one_and_a_missing_package_the_command(monkeypatch):
  words.check_segmenter("")
  words.check_segmenter("jieba")
  with pytest.raises(UserError, match="expected one of jieba, or nothing; found 'spacy'"):
    words.check_segmenter("spacy")
  monkeypatch.setattr(words.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"jieba: the package is not installed; pip install 'bert_jax\[zh\]'"):
    words.check_segmenter("jieba")


def test_loading_jieba_says_nothing_on_the_terminal(capfd):
  words.load_segmenter("jieba")("研究生命的起源")
  assert capfd.readouterr() == ("", "")
