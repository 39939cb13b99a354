"""What a person sees of a corpus must be what is in it."""

import json

import numpy as np
import pytest

from bert_jax import config
from bert_jax.data.corpus import folder as corpus_lib
from bert_jax.data.corpus import npy
from bert_jax.data.tokenizer import wordpiece as tokenizer_lib
from bert_jax.errors import UserError
from bert_jax.tools.explore import corpus as inspect

VOCABULARY = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  "un",
  "##like",
  "me",
  ",",
  ".",
  "你",
  "好",
  "。",
  "dog",
  *[f"word{number}" for number in range(40)],
]


def opened(folder):
  corpus = corpus_lib.open_corpus(folder, verify=False)
  return corpus, corpus_lib.tokenizer_of(corpus)


@pytest.fixture
def folder(tmp_path):
  return make_corpus(tmp_path / "corpus")


def make_corpus(out, objective="nsp", word_starts=None):
  """Two rows: a pair that follows and a random one in the first, a long plain one in the second. Returns `out`."""
  tokenizer = tokenizer_lib.build_tokenizer(VOCABULARY, lowercase=True)
  ids = {token: index for index, token in enumerate(VOCABULARY)}
  rows = [
    "[CLS] un ##like me . [SEP] dog . [SEP] [CLS] 你 好 。 [SEP] word1 , [UNK] [SEP]",
    "[CLS] " + " ".join(f"word{number}" for number in range(20)) + " [SEP] dog [SEP]",
  ]
  tokens = np.zeros((2, 24), "uint16")
  for place, row in enumerate(rows):
    tokens[place, : len(row.split())] = [ids[token] for token in row.split()]
  sequences = np.array([[(9, 6, 0), (9, 5, 1)], [(24, 22, 0), (0, 0, 0)]], "uint16")
  documents = np.array([[(3, 3), (4, 71)], [(5, 5), (0, 0)]], "uint32")
  origins = np.array([(3, 0, 17), (4, 1, 1), (5, 1, 8), (71, 1, 300)], "uint64")
  splits = {}
  for split in corpus_lib.SPLITS:
    (out / split).mkdir(parents=True)
    arrays = {"tokens": tokens, "sequences": sequences, "documents": documents, "origins": origins}
    if word_starts is not None:
      arrays["word_starts"] = np.packbits(word_starts, axis=1, bitorder="little")
    hashes = {name: npy.write(out / split / corpus_lib.shard_name(name, 0, 1), array) for name, array in arrays.items()}
    splits[split] = {
      "counts": {
        "documents": 5,
        "sentences": 1234,
        "tokens": 40,
        "row_tokens": 42,
        "sequences": 3,
        "rows": 2,
        "packing_efficiency": 0.875,
      },
      "label_counts": [2, 1],
      "majority_label_share": 0.666667,
      "unigram_entropy": 3.21,
      "tokens_per_word": 1.05,
      "unknown_rate": 0.025,
      "length_counts": {"1-12": 2, "13-24": 1},
      "frequent_tokens": [["dog", 2]],
      "shards": [{"rows": 2, "origins_rows": 4, **hashes}],
    }
  tokenizer_lib.save_tokenizer(tokenizer, out / "tokenizer", max_length=24)
  (out / "files.txt").write_text("a.txt\nb.txt\n")
  corpus_lib.write_manifest(
    out,
    {
      "objective": objective,
      "word_segmenter": "" if word_starts is None else "jieba",
      "seq_length": 24,
      "max_sequences": 2,
      "token_dtype": "uint16",
      "splits": splits,
      "vocab_size": len(VOCABULARY),
      "lowercase": True,
      "tokenizer_fingerprint": tokenizer.fingerprint,
      "provenance": {"sources": ["text:here"], "created": "today", "read": {"documents": 5, "bad_lines": 7}},
    },
  )
  return out


def test_a_row_shows_a_b_label_documents_and_padding(folder):
  corpus, tokenizer = opened(folder)
  assert inspect.show_row(corpus, tokenizer, "train", 0).split("\n") == [
    "row 0 of train: 2 sequences, 18 tokens, 6 of padding",
    "  1. 9 tokens, label 0: B follows A",
    "     A, document 3 (a.txt:17): unlike me.",
    "     B, document 3 (a.txt:17): dog.",
    "  2. 9 tokens, label 1: B is random",
    "     A, document 4 (b.txt:1): 你好。",
    "     B, document 71 (b.txt:300): word1, [UNK]",
  ]


def test_a_row_that_is_not_there_is_named(folder):
  corpus, tokenizer = opened(folder)
  with pytest.raises(UserError, match="row 2: expected 0 to 1"):
    inspect.show_row(corpus, tokenizer, "train", 2)


@pytest.mark.parametrize(
  "tokens, text",
  [
    ("play ##ing foot ##ball", "playing football"),
    ("he said : yes , it is 3 . 5 % .", "he said: yes, it is 3.5%."),
    ("it ' s a best - selling book", "it's a best-selling book"),
    ("at 23 : 40 ( or so ) .", "at 23:40 (or so)."),
    ("a - , b ' c", "a -, b ' c"),
    ("中 国 2015 年 （ 北 京 ） ， gdp 好", "中国 2015 年（北京）， gdp 好"),
    ("##ing is a piece that begins a row", "ing is a piece that begins a row"),
    ("[MASK] [UNK] ##", "[MASK] [UNK] ##"),
    ("- begins", "- begins"),
    ("", ""),
  ],
)
def test_text_reads_as_people_write_it(tokens, text):
  assert inspect.readable(tokens.split()) == text


def test_marks_show_the_token_and_what_the_model_sees():
  marks = {0: inspect.Mark("[MASK]"), 2: inspect.Mark("dog")}
  assert inspect.readable(["foot", "##ball", "cup"], marks) == "⟦foot→[MASK]⟧ball ⟦cup→dog⟧"


def test_the_summary_holds_what_a_corpus_is_judged_by(folder):
  manifest = corpus_lib.read_corpus_manifest(folder)
  text = inspect.corpus_summary(folder, manifest)
  for part in (
    str(folder),
    manifest["corpus_id"],
    "1,234",
    "87.5%",
    "1.050",
    "2.500%",
    "3.210 nats",
    "66.7%",
    "dog",
    "7 bad lines",
    "13-24",
    "objective nsp",
    f"{len(VOCABULARY)} entries",
  ):
    assert part in text, part
  assert max(map(len, text.split("\n"))) <= 110
  table = text.split("\n\n")[1].split("\n")
  assert len({len(line) for line in table}) == 1  # aligned


def test_the_masks_shown_are_those_of_training(folder):
  corpus, tokenizer = opened(folder)
  masking = config.default_config().masking
  draw = lambda **change: inspect.draw_marks(
    corpus, tokenizer, "train", [0, 1], masking=masking, **({"seed": 0, "epoch": 0} | change)
  )
  first, again, epoch, seed = draw(), draw(), draw(epoch=1), draw(seed=1)
  assert first == again and first != epoch and first != seed
  assert len(first[1]) == round(0.15 * 21)
  ids = corpus.train.gather(np.array([0, 1]))["tokens"]
  for row, marks in enumerate(first):
    assert marks and not {VOCABULARY[ids[row, at]] for at in marks} & set(tokenizer_lib.SPECIAL_TOKENS)


def test_a_tokenizer_that_did_not_make_the_corpus_is_refused(folder):
  other = tokenizer_lib.build_tokenizer(VOCABULARY + ["more"], lowercase=True)
  tokenizer_lib.save_tokenizer(other, folder / "tokenizer", max_length=24)
  with pytest.raises(UserError, match="is not the tokenizer that made this corpus"):
    opened(folder)


def test_words_that_the_corpus_knows_are_set_apart_and_masked_whole(tmp_path):
  starts = np.ones((2, 24), bool)
  starts[0, 11] = False  # 你好 is one word
  corpus, tokenizer = opened(make_corpus(tmp_path / "zh", word_starts=starts))
  assert "A, document 4 (b.txt:1): 你好。" in inspect.show_row(corpus, tokenizer, "train", 0)
  masking = config.default_config().masking
  masking.unit, masking.rate = "word", 0.3
  seen = [
    set(inspect.draw_marks(corpus, tokenizer, "train", [0], masking=masking, seed=seed, epoch=0)[0])
    for seed in range(60)
  ]
  assert any(10 in one for one in seen) and all((10 in one) == (11 in one) for one in seen)
  starts[0, 11] = True
  apart, _ = opened(make_corpus(tmp_path / "apart", word_starts=starts))
  assert "你·好。" in inspect.show_row(apart, tokenizer, "train", 0)


def test_sentence_order_has_labels_of_its_own(tmp_path):
  folder = make_corpus(tmp_path / "sop", objective="sop")
  corpus, tokenizer = opened(folder)
  shown = inspect.show_row(corpus, tokenizer, "train", 0)
  assert "label 0: in order" in shown and "label 1: swapped" in shown
  summary = inspect.corpus_summary(folder, corpus.manifest)
  assert "in order" in summary and "B follows A" not in summary


def test_the_objective_none_has_no_labels(folder):
  manifest = json.loads((folder / "manifest.json").read_text()) | {"objective": "none"}
  manifest["corpus_id"] = corpus_lib.canonical_id(manifest)
  (folder / "manifest.json").write_text(json.dumps(manifest))
  corpus, tokenizer = opened(folder)
  assert "label" not in inspect.show_row(corpus, tokenizer, "train", 0)
  assert "B follows A" not in inspect.corpus_summary(folder, manifest)


def test_a_list_of_files_that_is_too_short_is_named(folder):
  (folder / "files.txt").write_text("")
  with pytest.raises(UserError, match="files.txt of this corpus names 0 files, and document "):
    inspect.show_row(*opened(folder), "train", 0)
