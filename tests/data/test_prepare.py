"""From raw text to a corpus folder: the same for any number of workers, whole or not at all."""

import json
import multiprocessing
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_jax import config
from bert_jax.data import prepare, splits
from bert_jax.data.corpus import open_corpus
from bert_jax.data.tokenizer import load_tokenizer
from bert_jax.errors import UserError

WORDS = "the a dog cat house tree runs sleeps sees finds old small green never often and then".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", "document", *"0123456789", *"bcxyz",
              *(f"##{digit}" for digit in "0123456789")]


def settings(vocab: pathlib.Path | str, **changes) -> prepare.PrepareSettings:
  base = config.default_config().prepare.to_dict() | {
      "tokenizer": str(vocab), "seq_length": 32, "max_sequences": 4, "validation_fraction": 0.2, "workers": 1}
  return prepare.PrepareSettings(**(base | changes))


@pytest.fixture
def vocab(tmp_path) -> pathlib.Path:
  path = tmp_path / "vocab.txt"
  path.write_text("".join(f"{token}\n" for token in VOCABULARY))
  return path


def sentence(rng: random.Random) -> str:
  return " ".join(rng.choices(WORDS, k=rng.randint(3, 12))).capitalize() + "."


@pytest.fixture
def source(tmp_path) -> str:
  """120 documents; the first line of each tells its number."""
  rng = random.Random(0)
  sentences = lambda: [sentence(rng) for _ in range(rng.randint(1, 20))]
  documents = [[f"Document {number}.", *sentences()] for number in range(120)]
  (tmp_path / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in documents))
  return f"text:{tmp_path}/text.txt"


@pytest.fixture
def small_chunks(monkeypatch):
  monkeypatch.setattr(splits, "CHUNK_BYTES", 6000)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_number_of_workers_and_the_place_do_not_change_the_corpus(source, vocab, tmp_path, small_chunks):
  one = prepare.prepare_corpus([source], tmp_path / "one", settings(vocab))
  copy = tmp_path / "other.txt"
  copy.write_bytes(pathlib.Path(source.removeprefix("text:")).read_bytes())
  two = prepare.prepare_corpus([f"text:{copy}"], tmp_path / "deep" / "er" / "two", settings(vocab, workers=2))
  assert len(one["splits"]["train"]["shards"]) > 4
  assert one["corpus_id"] == two["corpus_id"]
  left, right = contents(tmp_path / "one"), contents(tmp_path / "deep/er/two")
  assert left.keys() == right.keys()
  assert [name for name in left if left[name] != right[name]] == ["manifest.json"]  # provenance
  assert two["provenance"]["workers"] == 2 and two["provenance"]["sources"] == [f"text:{copy}"]


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"seq_length": 48}, {"objective": "none"}, {"max_sequences": 1},
    {"validation_fraction": 0.4}, {"lowercase": False}, {"short_probability": 0.0}])
def test_settings_change_the_corpus_id(source, vocab, tmp_path, change):
  base = prepare.prepare_corpus([source], tmp_path / "base", settings(vocab))
  other = prepare.prepare_corpus([source], tmp_path / "other", settings(vocab, **change))
  assert base["corpus_id"] != other["corpus_id"]


def sequences_of(corpus, split):
  """(text of A, text of B, label, document of A, document of B) of every sequence."""
  tokens = [line.strip() for line in open(corpus.folder / "tokenizer/vocab.txt")]
  rows = np.arange(getattr(corpus, split).num_rows)
  data, documents = getattr(corpus, split).gather(rows), getattr(corpus, split).gather_documents(rows)
  for ids, table, sources in zip(data["tokens"], data["sequences"], documents):
    start = 0
    for (length, first, label), (of_a, of_b) in zip(table, sources):
      if length:
        words = [tokens[index] for index in ids[start : start + length]]
        assert words[0] == "[CLS]" and words[first - 1] == words[-1] == "[SEP]"
        yield words[1 : first - 1], words[first:-1], label, of_a, of_b
      start += length


def test_labels_tell_the_truth_about_the_text(source, vocab, tmp_path, small_chunks):
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, seq_length=64))
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
      else:
        assert of_a != of_b
  assert 50 < sum(labels) < len(labels) - 50


def test_no_document_serves_both_splits_not_even_as_a_random_b(source, vocab, tmp_path, small_chunks):
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))
  corpus = open_corpus(tmp_path / "out")
  used = {split: {number for *_, of_a, of_b in sequences_of(corpus, split) for number in (of_a, of_b)}
          for split in ("train", "validation")}
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
  progress = lambda phase, num_bytes: done.update({phase: done[phase] + num_bytes})
  manifest = prepare.prepare_corpus(
      [source], tmp_path / "out", settings("", vocab_size=90), progress=progress)
  assert manifest["counts"]["documents"] == manifest["provenance"]["read"]["documents"] == 120
  assert done["vocabulary"] == done["corpus"] == manifest["provenance"]["read"]["bytes"]


def test_special_tokens_written_in_a_text_are_only_text(vocab, tmp_path):
  documents = (f"The [SEP] dog [MASK] runs {number}.\nA [CLS] cat." for number in range(8))
  (tmp_path / "text.txt").write_text("\n\n".join(documents))
  prepare.prepare_corpus([f"text:{tmp_path}/text.txt"], tmp_path / "out", settings(vocab, objective="none"))
  for a, *_ in sequences_of(open_corpus(tmp_path / "out"), "train"):
    assert not {"[SEP]", "[MASK]", "[CLS]"} & set(a)


def test_a_document_without_a_single_token_is_left_out(vocab, tmp_path, small_chunks):
  texts = [f"Document {number}.\nThe dog runs." for number in range(10)] + ["\u200b", "\u200e\u200f"]
  (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
  manifest = prepare.prepare_corpus([f"jsonl:{tmp_path}/text.jsonl"], tmp_path / "out", settings(vocab))
  assert manifest["counts"]["documents"] == 10


@pytest.mark.parametrize("change, message", [
    ({"seq_length": 7}, "seq_length: expected 8"),
    ({"max_sequences": 0}, "max_sequences"),
    ({"validation_fraction": 0.0}, "validation_fraction"),
    ({"validation_fraction": 1.0}, "validation_fraction"),
    ({"short_probability": 1.5}, "short_probability"),
    ({"seed": -1}, "seed"),
    ({"workers": -1}, "workers"),
    ({"objective": "sop2"}, "unknown objective"),
    ({"tokenizer": "/nowhere/vocab.txt"}, "no such tokenizer"),
])
def test_unusable_settings_are_refused_and_nothing_is_made(source, vocab, tmp_path, change, message):
  before = sorted(tmp_path.iterdir())
  with pytest.raises(UserError, match=message):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, **change))
  assert sorted(tmp_path.iterdir()) == before


def test_one_document_is_refused_for_nsp_and_taken_without(vocab, tmp_path):
  rng = random.Random(0)
  (tmp_path / "book.txt").write_text("\n".join(sentence(rng) for _ in range(200)))
  with pytest.raises(UserError, match="found 1;.*--objective=none"):
    prepare.prepare_corpus([f"text:{tmp_path}/book.txt"], tmp_path / "out", settings(vocab))
  assert not (tmp_path / "out").exists()
  prepare.prepare_corpus([f"text:{tmp_path}/book.txt"], tmp_path / "out", settings(vocab, objective="none"))
  corpus = open_corpus(tmp_path / "out")
  assert corpus.train.num_rows > corpus.validation.num_rows > 0


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
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.txt", "vocab.txt"]


def test_a_folder_that_is_no_corpus_is_never_touched(source, vocab, tmp_path):
  (tmp_path / "out").mkdir()
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))  # an empty one may be there
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("all my work")
  for overwrite in (False, True):
    with pytest.raises(UserError, match="no finished corpus folder"):
      prepare.prepare_corpus([source], tmp_path / "mine", settings(vocab), overwrite=overwrite)
  assert contents(tmp_path / "mine") == {"thesis.txt": b"all my work"}


def test_what_a_killed_process_left_behind_is_cleared_away_and_a_running_one_is_not(source, vocab, tmp_path):
  dead, alive = tmp_path / ".out.partial-1-1", tmp_path / ".out.partial-2-2"
  dead.mkdir()
  alive.mkdir()
  with prepare._locked(alive):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))
  assert not dead.exists() and alive.exists()


ENVIRONMENT = os.environ | {"PYTHONPATH": str(pathlib.Path(prepare.__file__).parents[2])}
IN_SMALL_CHUNKS = ("import sys; from bert_jax.data import splits; from bert_jax.__main__ import main; "
                   "splits.CHUNK_BYTES = 6000; sys.exit(main(['prepare'] + sys.argv[1:]))")


def run_limited(arguments, limit_bytes: int, folder) -> subprocess.CompletedProcess:
  """`prepare` in a process that may write no file longer than `limit_bytes`: the disk is full, as it were."""
  limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))"
  code = f"{limit}; {IN_SMALL_CHUNKS}"
  return subprocess.run([sys.executable, "-c", code, *arguments], text=True, capture_output=True, timeout=120,
                        cwd=folder, env=ENVIRONMENT)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_clear_message_and_leaves_everything_as_it_was(source, vocab, tmp_path, workers):
  out = tmp_path / "out"
  prepare.prepare_corpus([source], out, settings(vocab))
  before = contents(tmp_path)
  # The tokenizer still fits, so that it is a shard that fails.
  limit = max(path.stat().st_size for path in (out / "tokenizer").iterdir()) + 100
  result = run_limited([f"--source={source}", f"--out={out}", f"--tokenizer={vocab}", "--overwrite",
                        "--seq_length=32", f"--workers={workers}"], limit, tmp_path)
  assert result.returncode == 1
  assert re.search(r"tokens-0000\d.npy: cannot be written: File too large; free some space", result.stderr)
  assert "Traceback" not in result.stderr
  assert contents(tmp_path) == before


def test_a_full_disk_while_the_tokenizer_is_saved_is_told_too(source, vocab, tmp_path):
  before = contents(tmp_path)
  result = run_limited([f"--source={source}", "--out=out", f"--tokenizer={vocab}"], 100, tmp_path)
  assert result.returncode == 1 and "free some space" in result.stderr and "Traceback" not in result.stderr
  assert contents(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_worker_that_dies_is_one_clear_message_and_no_hang(source, vocab, tmp_path, monkeypatch):
  monkeypatch.setattr(splits, "CHUNK_BYTES", 1500)

  def kill_one(phase, num_bytes):
    for child in multiprocessing.active_children():
      child.kill()

  with pytest.raises(UserError, match="worker process died.*--workers=1"):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, workers=2), progress=kill_one)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "vocab.txt"]


def start_long_run(vocab, tmp_path) -> tuple[subprocess.Popen, list[str]]:
  """`prepare` with two workers, caught in the middle, and the workers' process ids."""
  documents = (f"Document {number}. " + "The dog runs. " * 200 for number in range(9000))
  (tmp_path / "text.txt").write_text("\n\n".join(documents))
  parent = subprocess.Popen(
      [sys.executable, "-c", IN_SMALL_CHUNKS, f"--source=text:{tmp_path}/text.txt", f"--out={tmp_path}/out",
       f"--tokenizer={vocab}", "--workers=2"],
      env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)
  children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
  deadline = time.monotonic() + 60
  while not list(tmp_path.glob(".out.partial-*/train/tokens*")) and time.monotonic() < deadline:
    time.sleep(0.1)
  workers = children.read_text().split()
  assert len(workers) >= 2
  return parent, workers


def is_running(pid: str) -> bool:
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
  except OSError:
    return False


def end_within(seconds: float, pids: list[str]) -> bool:
  deadline = time.monotonic() + seconds
  while any(map(is_running, pids)) and time.monotonic() < deadline:
    time.sleep(0.1)
  return not any(map(is_running, pids))


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(vocab, tmp_path):
  parent, workers = start_long_run(vocab, tmp_path)
  parent.kill()
  parent.communicate()
  assert end_within(30, workers)
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupt_ends_everything_at_once_and_leaves_nothing(vocab, tmp_path):
  parent, workers = start_long_run(vocab, tmp_path)
  os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C does: to all of them
  _, shown = parent.communicate(timeout=30)
  assert parent.returncode == 130 and "Traceback" not in shown
  assert end_within(10, workers)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "vocab.txt"]


def test_a_bounded_number_of_chunks_is_under_way(vocab, tmp_path):
  for split in ("train", "validation"):
    (tmp_path / split).mkdir()
  recipe = prepare._recipe(tmp_path, load_tokenizer(vocab), settings(vocab))
  given = 0

  def stream():
    nonlocal given
    for index in range(12):
      given += 1
      yield prepare.chunks.Chunk("train", index, [2 * index, 2 * index + 1], ["The dog runs."] * 2, 26)

  most = done = 0
  for _ in prepare._run_in_processes(stream(), recipe, 2, lambda num_bytes: None):
    done += 1
    most = max(most, given - done + 1)
  assert done == 12 and most <= 3


def test_workers_import_neither_jax_nor_tensorflow():
  code = ("import sys, bert_jax.data.chunk; "
          "print([name for name in ('jax', 'tensorflow', 'torch') if name in sys.modules])")
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=ENVIRONMENT)
  assert result.stdout.strip() == "[]"
