"""From raw text to a corpus folder: the same for any number of workers, whole or not at all."""

import gzip
import json
import pathlib
import random

import numpy as np
import pytest

from bert_jax.data.corpus import folder as corpus_lib
from bert_jax.data.corpus import prepare
from bert_jax.data.corpus.folder import open_corpus
from bert_jax.errors import UserError
from tests.helpers.preparing import contents, sentence, sequences_of, settings, write_documents


def test_the_number_of_workers_and_the_place_do_not_change_the_corpus(source, vocab, tmp_path, small_chunks):
  one = prepare.prepare_corpus([source], tmp_path / "one", settings(vocab))
  copy = tmp_path / "other.txt"
  copy.write_bytes(pathlib.Path(source.removeprefix("text:")).read_bytes())
  two = prepare.prepare_corpus([f"text:{copy}"], tmp_path / "deep" / "er" / "two", settings(vocab, workers=2))
  assert len(one["splits"]["train"]["shards"]) > 4
  assert one["corpus_id"] == two["corpus_id"]
  left, right = contents(tmp_path / "one"), contents(tmp_path / "deep/er/two")
  assert left.keys() == right.keys()
  assert [name for name in left if left[name] != right[name]] == ["files.txt", "manifest.json"]  # names
  assert two["provenance"]["workers"] == 2 and two["provenance"]["sources"] == [f"text:{copy}"]


@pytest.mark.parametrize(
  "change",
  [
    {"seed": 1},
    {"seq_length": 48},
    {"objective": "none"},
    {"objective": "sop"},
    {"max_sequences": 1},
    {"validation_fraction": 0.4},
    {"lowercase": False},
    {"short_probability": 0.0},
  ],
)
def test_settings_change_the_corpus_id(source, vocab, tmp_path, change):
  base = prepare.prepare_corpus([source], tmp_path / "base", settings(vocab))
  other = prepare.prepare_corpus([source], tmp_path / "other", settings(vocab, **change))
  assert base["corpus_id"] != other["corpus_id"]


@pytest.mark.parametrize("objective", ["nsp", "sop"])
def test_labels_tell_the_truth_about_the_text(source, vocab, tmp_path, small_chunks, objective):
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, seq_length=64, objective=objective))
  raw = pathlib.Path(source.removeprefix("text:")).read_text().lower()
  plain = [" ".join(text.replace(".", " . ").split()) for text in raw.split("\n\n")]
  corpus, labels = open_corpus(tmp_path / "out"), []
  join = lambda words: " ".join(words).replace(" ##", "")
  for split in ("train", "validation"):
    for a, b, label, of_a, of_b in sequences_of(corpus, split):
      a, b = join(a), join(b)
      labels.append(label)
      if "##" in a + b:
        continue  # a number cut in two by truncation
      assert a in plain[of_a] and b in plain[of_b]
      if label == 0:
        assert of_a == of_b and plain[of_a].index(a) < plain[of_b].rindex(b)
      elif objective == "sop":
        assert of_a == of_b and plain[of_b].index(b) < plain[of_a].rindex(a)
      else:
        assert of_a != of_b
  assert 50 < sum(labels) < len(labels) - 50


def test_no_document_serves_both_splits_not_even_as_a_random_b(source, vocab, tmp_path, small_chunks):
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))
  corpus = open_corpus(tmp_path / "out")
  used = {
    split: {number for *_, of_a, of_b in sequences_of(corpus, split) for number in (of_a, of_b)}
    for split in ("train", "validation")
  }
  assert not used["train"] & used["validation"]
  assert used["train"] | used["validation"] == set(range(120))


def test_the_manifest_counts_what_is_there(source, vocab, tmp_path, small_chunks):
  manifest = prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))
  corpus = open_corpus(tmp_path / "out")
  train = manifest["splits"]["train"]
  found = list(sequences_of(corpus, "train"))
  assert train["counts"]["sequences"] == len(found) and train["counts"]["rows"] == corpus.train.num_rows
  assert train["counts"]["row_tokens"] == sum(len(a) + len(b) + 3 for a, b, *_ in found)
  assert train["label_counts"] == [sum(one[2] == label for one in found) for label in (0, 1)]
  assert manifest["counts"]["documents"] == 120
  assert manifest["unigram_entropy"] == train["unigram_entropy"] > 1
  assert train["counts"]["packing_efficiency"] > 0.9 and train["unknown_rate"] == 0
  assert manifest["provenance"]["read"]["documents"] == 120
  assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest


def test_a_trained_vocabulary_is_the_same_for_any_number_of_workers(source, tmp_path, small_chunks):
  one = prepare.prepare_corpus([source], tmp_path / "one", settings("", vocab_size=100))
  two = prepare.prepare_corpus([source], tmp_path / "two", settings("", vocab_size=100, workers=2))
  assert one["corpus_id"] == two["corpus_id"] and one["vocab_size"] == 100
  assert one["provenance"]["read"] == two["provenance"]["read"]


def test_a_corpus_larger_than_the_vocabulary_sample_is_read_again(source, tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, "_VOCABULARY_SAMPLE_BYTES", 3000)
  done = {"vocabulary": 0, "corpus": 0}
  progress = lambda phase, num_bytes, total: done.update({phase: done[phase] + num_bytes})
  manifest = prepare.prepare_corpus([source], tmp_path / "out", settings("", vocab_size=90), progress=progress)
  assert manifest["counts"]["documents"] == manifest["provenance"]["read"]["documents"] == 120
  assert done["vocabulary"] == done["corpus"] == manifest["provenance"]["read"]["bytes"]


def test_every_document_of_a_row_is_found_where_its_origin_says(vocab, tmp_path, small_chunks):
  """Two plain files, one of them compressed, and one of JSON lines, with blank lines here and there."""
  texts = tmp_path / "texts"
  texts.mkdir()
  write_documents(texts / "a.txt", 50)
  (texts / "b.txt.gz").write_bytes(gzip.compress(b"\n\n" + (texts / "a.txt").read_bytes().replace(b"\n\n", b"\n\n\n")))
  records = [json.dumps({"body": f"Document {number}.\nThe dog runs."}) for number in range(20)]
  (texts / "c.jsonl").write_text("\n" + "\n\n".join(records))
  out = tmp_path / "out"
  prepare.prepare_corpus(
    [f"text:{texts}/*.txt*", f"jsonl:{texts}/c.jsonl"], out, settings(vocab, text_field="body", validation_fraction=0.4)
  )
  files = corpus_lib.read_files(out)
  assert files == [str(texts / name) for name in ("a.txt", "b.txt.gz", "c.jsonl")]
  lines = [(gzip.open if name.endswith(".gz") else open)(name, "rt").read().split("\n") for name in files]
  seen = set()
  for split in (open_corpus(out).train, open_corpus(out).validation):
    for row, documents in enumerate(split.gather_documents(np.arange(split.num_rows))):
      used = split.gather(np.array([row]))["sequences"][0, :, 0] > 0
      for number in set(documents[used].ravel().tolist()):
        file, line = split.origins(row)[number]
        assert file == number // 50 and f"Document {number % 50}." in lines[file][line - 1], (number, files[file], line)
        seen.add(number)
  assert seen == set(range(120))


def test_copies_and_short_documents_are_dropped_when_asked_for(vocab, tmp_path):
  texts = [f"Document {number}.\nThe dog runs and the cat sleeps." for number in range(12)]
  (tmp_path / "text.txt").write_text("\n\n".join([*texts, *texts[:5], "A dog.", "A dog.", texts[0]]))
  made = {}
  for name, changes in {
    "all": {},
    "unique": {"deduplicate": True},
    "long": {"min_characters": 7},
    "both": {"deduplicate": True, "min_characters": 7},
  }.items():
    manifest = prepare.prepare_corpus([f"text:{tmp_path}/text.txt"], tmp_path / name, settings(vocab, **changes))
    read = manifest["provenance"]["read"]
    assert read["documents"] == 20
    made[name] = (manifest["counts"]["documents"], read.get("duplicate_documents", 0), read.get("short_documents", 0))
    assert (manifest["deduplicate"], manifest["min_characters"]) == (
      changes.get("deduplicate", False),
      changes.get("min_characters", 0),
    )
  assert made == {"all": (20, 0, 0), "unique": (13, 7, 0), "long": (18, 0, 2), "both": (12, 6, 2)}


def test_special_tokens_written_in_a_text_are_only_text(vocab, tmp_path):
  documents = (f"The old [SEP] dog [MASK] runs and sleeps {number}.\nA small green [CLS] cat." for number in range(8))
  (tmp_path / "text.txt").write_text("\n\n".join(documents))
  prepare.prepare_corpus([f"text:{tmp_path}/text.txt"], tmp_path / "out", settings(vocab, objective="none"))
  for a, *_ in sequences_of(open_corpus(tmp_path / "out"), "train"):
    assert not {"[SEP]", "[MASK]", "[CLS]"} & set(a)


def test_a_document_without_a_single_token_is_left_out(vocab, tmp_path, small_chunks):
  texts = [f"Document {number}.\nThe dog runs." for number in range(10)] + ["\u200b", "\u200e\u200f"]
  (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
  manifest = prepare.prepare_corpus([f"jsonl:{tmp_path}/text.jsonl"], tmp_path / "out", settings(vocab))
  assert manifest["counts"]["documents"] == 10


@pytest.mark.parametrize(
  "change, message",
  [
    ({"seq_length": 7}, "seq_length: expected 8"),
    ({"max_sequences": 0}, "max_sequences"),
    ({"validation_fraction": 0.0}, "validation_fraction"),
    ({"validation_fraction": 1.0}, "validation_fraction"),
    ({"short_probability": 1.5}, "short_probability"),
    ({"seed": -1}, "seed"),
    ({"workers": -1}, "workers"),
    ({"objective": "sop2"}, "unknown objective"),
    ({"min_characters": -1}, "min_characters"),
    ({"word_segmenter": "jeiba"}, "word_segmenter: expected one of jieba, or nothing; found 'jeiba'"),
    ({"tokenizer": "/nowhere/vocab.txt"}, "no such tokenizer"),
  ],
)
def test_unusable_settings_are_refused_and_nothing_is_made(source, vocab, tmp_path, change, message):
  before = sorted(tmp_path.iterdir())
  with pytest.raises(UserError, match=message):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, **change))
  assert sorted(tmp_path.iterdir()) == before


def test_one_document_is_refused_for_nsp_and_taken_without(vocab, tmp_path):
  rng = random.Random(0)
  (tmp_path / "book.txt").write_text("\n".join(sentence(rng) for _ in range(200)))
  with pytest.raises(UserError, match="found 1;.*--objective=sop or none"):
    prepare.prepare_corpus([f"text:{tmp_path}/book.txt"], tmp_path / "out", settings(vocab))
  assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt", "vocab.txt"]
  for objective in ("none", "sop"):
    prepare.prepare_corpus([f"text:{tmp_path}/book.txt"], tmp_path / objective, settings(vocab, objective=objective))
    corpus = open_corpus(tmp_path / objective)
    assert corpus.train.num_rows > corpus.validation.num_rows > 0
  with pytest.raises(UserError, match="objective nsp: expected at least 4 .*--objective=sop or none"):
    prepare.prepare_corpus([f"text:{tmp_path}/book.txt"], tmp_path / "out", settings(vocab))  # tokenized by now
  assert not (tmp_path / "out").exists()


def test_a_finished_corpus_is_kept_unless_told_otherwise(source, vocab, tmp_path):
  out = tmp_path / "out"
  prepare.prepare_corpus([source], out, settings(vocab))
  before = contents(out)
  with pytest.raises(UserError, match="--overwrite"):
    prepare.prepare_corpus([source], out, settings(vocab, seed=5))
  with pytest.raises(UserError, match="no such tokenizer"):
    prepare.prepare_corpus([source], out, settings("/nowhere"), overwrite=True)
  assert contents(out) == before
  prepare.prepare_corpus([source], out, settings(vocab, seed=5), overwrite=True)
  assert open_corpus(out).manifest["seed"] == 5
  (documents,) = tmp_path.glob("documents-*")
  assert sorted(tmp_path.iterdir()) == [documents, out, tmp_path / "text.txt", vocab]


def test_a_folder_that_is_no_corpus_is_never_touched(source, vocab, tmp_path):
  (tmp_path / "out").mkdir()
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))  # an empty one may be there
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("all my work")
  for overwrite in (False, True):
    with pytest.raises(UserError, match="not a finished corpus folder"):
      prepare.prepare_corpus([source], tmp_path / "mine", settings(vocab), overwrite=overwrite)
  assert contents(tmp_path / "mine") == {"thesis.txt": b"all my work"}
