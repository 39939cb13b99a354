"""The two stages of `prepare`: what is used again, what is made anew, and many processes on one corpus."""

import itertools
import json
import os
import pathlib
import random
import shutil
import threading
import time

import pytest

from bert_jax.data.corpus import chunk, prepare, splits
from bert_jax.data.corpus.folder import open_corpus
from bert_jax.errors import UserError
from bert_jax.io.locks import FolderLock
from tests.helpers.preparing import contents, sentence, sequences_of, settings, write_documents


@pytest.fixture
def source(tmp_path) -> str:
  return write_documents(tmp_path / "text.txt", 50)


@pytest.fixture
def small_chunks(monkeypatch):
  monkeypatch.setattr(splits, "CHUNK_BYTES", 2000)


class Log(list):
  """What `log` was told."""

  def __call__(self, line: str):
    self.append(line)

  def __contains__(self, part: str) -> bool:
    return any(part in line for line in self)


@pytest.fixture
def no_text_is_read(monkeypatch):
  """A function after whose call reading and tokenizing fail."""

  def fail(*_, **__):
    raise AssertionError("the text was read again")

  def forbid():
    monkeypatch.setattr(prepare, "read_documents", fail)
    monkeypatch.setattr(chunk, "tokenize", fail)

  return forbid


@pytest.mark.parametrize(
  "change",
  [
    {"objective": "none"},
    {"objective": "sop"},
    {"seq_length": 48, "workers": 2},
    {"seed": 1},
    {"max_sequences": 1},
    {"short_probability": 0.9},
  ],
)
def test_tokenized_documents_are_used_again_where_only_rows_change(
  source, vocab, tmp_path, small_chunks, no_text_is_read, change
):
  anew = prepare.prepare_corpus([source], tmp_path / "anew" / "out", settings(vocab, **change))
  first = prepare.prepare_corpus([source], tmp_path / "first", settings(vocab))
  assert first["corpus_id"] != anew["corpus_id"]
  no_text_is_read()
  said = Log()
  again = prepare.prepare_corpus([source], tmp_path / "again", settings(vocab, **change), log=said)
  assert "nothing is read or tokenized again" in said
  assert again["corpus_id"] == anew["corpus_id"]
  assert again["provenance"]["read"] == first["provenance"]["read"]


def test_a_trained_vocabulary_is_used_again(source, tmp_path, small_chunks, no_text_is_read):
  prepare.prepare_corpus([source], tmp_path / "one", settings("", vocab_size=90))
  no_text_is_read()
  two = prepare.prepare_corpus([source], tmp_path / "two", settings("", vocab_size=90, objective="none"))
  assert two["vocab_size"] == 90


@pytest.mark.parametrize(
  "change",
  [
    {"lowercase": False},
    {"deduplicate": True},
    {"min_characters": 20},
    {"validation_fraction": 0.4},
    {"skip_bad": True},
    {"word_segmenter": "jieba"},
    {"tokenizer": ""},
  ],
)
def test_what_changes_the_tokenized_documents_makes_them_anew(source, vocab, tmp_path, change):
  prepare.prepare_corpus([source], tmp_path / "one", settings(vocab, vocab_size=90))
  said = Log()
  prepare.prepare_corpus([source], tmp_path / "two", settings(vocab, vocab_size=90)._replace(**change), log=said)
  assert "Tokenized documents" not in said
  assert len(list(tmp_path.glob("documents-*"))) == 2


@pytest.mark.parametrize("alter", ["another size", "another time", "vocabulary"])
def test_text_and_vocabulary_that_changed_are_not_taken_for_the_old_ones(source, vocab, tmp_path, alter):
  one = prepare.prepare_corpus([source], tmp_path / "one", settings(vocab))
  text = pathlib.Path(source.removeprefix("text:"))
  before = text.stat().st_mtime_ns
  if alter == "another size":
    text.write_text(text.read_text() + " The dog.")
    os.utime(text, ns=(before, before))
  elif alter == "another time":
    text.write_text(text.read_text().replace("dog", "cat"))
    os.utime(text, ns=(before + 1000, before + 1000))
  else:
    vocab.write_text(vocab.read_text().replace("\ndog\n", "\nhorse\n"))
  two = prepare.prepare_corpus([source], tmp_path / "two", settings(vocab))
  assert one["corpus_id"] != two["corpus_id"] and len(list(tmp_path.glob("documents-*"))) == 2


def test_tokenized_documents_may_lie_anywhere_and_serve_several_corpora(source, vocab, tmp_path, no_text_is_read):
  kept = tmp_path / "elsewhere" / "kept"
  prepare.prepare_corpus([source], tmp_path / "one", settings(vocab), documents=kept)
  assert not list(tmp_path.glob("documents-*")) and (kept / "contents.json").is_file()
  no_text_is_read()
  two = prepare.prepare_corpus([source], tmp_path / "two", settings(vocab, seed=3), documents=kept)
  assert two["provenance"]["documents"] == str(kept)


def test_a_documents_folder_of_something_else_is_refused_and_left_alone(source, vocab, tmp_path):
  kept, mine = tmp_path / "kept", tmp_path / "mine"
  prepare.prepare_corpus([source], tmp_path / "one", settings(vocab), documents=kept)
  mine.mkdir()
  (mine / "thesis.txt").write_text("all my work")
  before = contents(tmp_path)
  with pytest.raises(
    UserError, match=r"kept: .* another preparation \(deduplicate, min_characters differ\).*--documents"
  ):
    prepare.prepare_corpus(
      [source], tmp_path / "two", settings(vocab, deduplicate=True, min_characters=9), documents=kept
    )
  with pytest.raises(UserError, match="mine: is not empty and holds no tokenized documents"):
    prepare.prepare_corpus([source], tmp_path / "two", settings(vocab), documents=mine)
  assert contents(tmp_path) == before


def test_an_altered_chunk_of_tokenized_documents_is_named(source, vocab, tmp_path, small_chunks):
  one = prepare.prepare_corpus([source], tmp_path / "one", settings(vocab))
  (documents,) = tmp_path.glob("documents-*")
  path = documents / "train" / "00001" / "tokens.npy"
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(bytes(data))
  with pytest.raises(UserError, match=rf"{path.parent}: cannot be read \(tokens.npy was altered\); delete {documents}"):
    prepare.prepare_corpus([source], tmp_path / "two", settings(vocab, seed=1))
  assert not (tmp_path / "two").exists()
  path.unlink()
  with pytest.raises(UserError, match=rf"{path.parent}: cannot be read .*No such file"):
    prepare.prepare_corpus([source], tmp_path / "two", settings(vocab, seed=1))
  (path.parent / "chunk.json").unlink()
  for rest in path.parent.iterdir():
    rest.unlink()
  path.parent.rmdir()  # the whole chunk is gone: it is made again
  two = prepare.prepare_corpus([source], tmp_path / "two", settings(vocab))
  assert two["corpus_id"] == one["corpus_id"]


class Stopped(BaseException):
  """Stands for whatever ends a preparation in the middle."""


def stop_after(num_calls: int):
  """A `progress` that stops the preparation once text was finished so often."""
  calls = itertools.count(1)

  def progress(phase, num_bytes, total):
    if phase == "corpus" and next(calls) == num_calls:
      raise Stopped

  return progress


def times(folder: pathlib.Path, name: str) -> dict[str, int]:
  return {str(path): path.stat().st_mtime_ns for path in folder.rglob(name)}


def chunks_made(tmp_path) -> dict[str, int]:
  (documents,) = tmp_path.glob("documents-*")
  return times(documents, "chunk.json")


@pytest.mark.parametrize("stage", ["both", "rows"])
def test_a_stopped_preparation_goes_on_where_it_stood(source, vocab, tmp_path, small_chunks, stage):
  whole = prepare.prepare_corpus([source], tmp_path / "whole" / "out", settings(vocab))
  if stage == "rows":
    prepare.prepare_corpus([source], tmp_path / "other", settings(vocab, seed=1))
  with pytest.raises(Stopped):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), progress=stop_after(5))
  assert not (tmp_path / "out").exists()
  num_chunks = sum(len(whole["splits"][split]["shards"]) for split in ("train", "validation"))
  tokenized = chunks_made(tmp_path)
  assert len(times(tmp_path / ".out.partial", "record.json")) == 4 < num_chunks
  assert len(tokenized) == (4 if stage == "both" else num_chunks)
  said, done = Log(), []
  manifest = prepare.prepare_corpus(
    [source],
    tmp_path / "out",
    settings(vocab),
    log=said,
    progress=lambda phase, num_bytes, total: done.append((phase, num_bytes, total)),
  )
  assert manifest["corpus_id"] == whole["corpus_id"] == open_corpus(tmp_path / "out").manifest["corpus_id"]
  assert ("resuming" in said) == (stage == "both")
  assert tokenized.items() <= chunks_made(tmp_path).items()  # no chunk was tokenized twice
  total = manifest["provenance"]["read"]["bytes"]
  assert sum(num_bytes for _, num_bytes, _ in done) == total  # the bar begins where it stood
  (expected,) = {one[2] for one in done}
  assert expected == total if stage == "rows" else total < expected < 1.05 * total  # told from the size of the file
  assert not (tmp_path / ".out.partial").exists()


def test_shards_that_are_there_are_not_made_again(source, vocab, tmp_path, small_chunks):
  with pytest.raises(Stopped):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), progress=stop_after(5))
  before = times(tmp_path / ".out.partial", "record.json")
  with pytest.raises(Stopped):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), progress=stop_after(8))
  after = times(tmp_path / ".out.partial", "record.json")
  assert before and before.items() < after.items()


def test_other_settings_over_an_unfinished_preparation_begin_with_stage_two(source, vocab, tmp_path, small_chunks):
  anew = prepare.prepare_corpus([source], tmp_path / "anew" / "out", settings(vocab, seed=1))
  with pytest.raises(Stopped):
    prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), progress=stop_after(5))
  tokenized = chunks_made(tmp_path)
  manifest = prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, seed=1))
  assert manifest["corpus_id"] == anew["corpus_id"]
  assert tokenized.items() <= chunks_made(tmp_path).items()


def test_a_failure_before_the_first_chunk_leaves_nothing(source, vocab, tmp_path, small_chunks):
  before = contents(tmp_path)
  (tmp_path / "bad.txt").write_bytes(b"\xff\n")
  for chosen in (vocab, ""):
    with pytest.raises(UserError, match="bad.txt:1: not UTF-8"):
      prepare.prepare_corpus([f"text:{tmp_path}/bad.txt", source], tmp_path / "out", settings(chosen))
  (tmp_path / "bad.txt").unlink()
  assert contents(tmp_path) == before and sorted(tmp_path.iterdir()) == [tmp_path / "text.txt", vocab]


def share(source, out, vocab, index, count, **how):
  return prepare.prepare_corpus([source], out, settings(vocab), share=prepare.Share(index, count), **how)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_shares_of_a_job_array_make_one_corpus_in_any_order(source, vocab, tmp_path, small_chunks, order):
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab), documents=tmp_path / "a")
  out = tmp_path / "out"
  said = Log()
  for index in order[:2]:
    assert share(source, out, vocab, index, 3, documents=tmp_path / "b", log=said) is None and not out.exists()
  assert {index for index in range(3) if f"Share {index} of 3 is done; at least" in said} == set(order[:2])
  manifest = share(source, out, vocab, order[2], 3, documents=tmp_path / "b")
  assert manifest["corpus_id"] == whole["corpus_id"]
  left, right = contents(tmp_path / "whole"), contents(out)
  assert [name for name in left.keys() | right if left.get(name) != right.get(name)] == ["manifest.json"]
  assert share(source, out, vocab, order[0], 3, documents=tmp_path / "b", log=said) == manifest
  assert "is complete already" in said and not (tmp_path / ".out.partial").exists()


def test_more_shares_than_chunks_do_no_harm(source, vocab, tmp_path):
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab))
  made = [share(source, tmp_path / "out", vocab, index, 3) for index in (2, 1, 0)]  # one chunk in each split
  assert made[:2] == [None, None] and made[2]["corpus_id"] == whole["corpus_id"]


def test_a_share_that_was_stopped_goes_on(source, vocab, tmp_path, small_chunks):
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab), documents=tmp_path / "a")
  out, kept = tmp_path / "out", tmp_path / "b"
  with pytest.raises(Stopped):
    share(source, out, vocab, 0, 2, documents=kept, progress=stop_after(2))
  assert share(source, out, vocab, 1, 2, documents=kept) is None
  assert share(source, out, vocab, 0, 2, documents=kept)["corpus_id"] == whole["corpus_id"]


@pytest.mark.parametrize("other", [{}, {"seed": 1}])
def test_a_second_preparation_of_the_same_corpus_at_the_same_time_is_refused(
  source, vocab, tmp_path, small_chunks, other
):
  refused = []

  def meanwhile(phase, num_bytes, total):
    with pytest.raises(UserError, match="out: another process is preparing it right now") as error:
      prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, **other))
    refused.append(error)

  manifest = prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), progress=meanwhile)
  assert len(refused) > 4 and open_corpus(tmp_path / "out").manifest == manifest


def test_a_share_does_not_work_beside_a_whole_preparation_and_the_other_way_round(
  source, vocab, tmp_path, small_chunks
):
  def share_meanwhile(phase, num_bytes, total):
    with pytest.raises(UserError, match="another process is preparing it right now"):
      share(source, tmp_path / "whole", vocab, 0, 2)

  def whole_meanwhile(phase, num_bytes, total):
    with pytest.raises(UserError, match="another process is preparing it right now"):
      prepare.prepare_corpus([source], tmp_path / "shares", settings(vocab))

  prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab), progress=share_meanwhile)
  share(source, tmp_path / "shares", vocab, 0, 2, progress=whole_meanwhile)
  assert share(source, tmp_path / "shares", vocab, 1, 2, progress=whole_meanwhile) is not None


def test_a_share_beside_another_leaves_the_end_to_it(source, vocab, tmp_path, small_chunks):
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab))
  said, made = Log(), []

  def meanwhile(phase, num_bytes, total):
    if not made:
      made.append(share(source, tmp_path / "out", vocab, 1, 2, log=said))

  manifest = share(source, tmp_path / "out", vocab, 0, 2, progress=meanwhile)
  assert made == [None] and "others are at work" in said
  assert manifest["corpus_id"] == whole["corpus_id"]


def test_shares_with_other_settings_are_refused_while_one_is_at_work(source, vocab, tmp_path, small_chunks):
  def meanwhile(phase, num_bytes, total):
    with pytest.raises(UserError, match="another process is preparing it right now"):
      prepare.prepare_corpus([source], tmp_path / "out", settings(vocab, seed=9), share=prepare.Share(1, 2))

  assert share(source, tmp_path / "out", vocab, 0, 2, progress=meanwhile) is None
  assert share(source, tmp_path / "out", vocab, 1, 2) is not None


def test_a_share_begins_only_when_no_other_one_is_beginning_or_finishing(source, vocab, tmp_path):
  made = []
  with FolderLock(tmp_path) as door:  # the lock that a process holds meanwhile
    assert door.take(alone=True)
    beginning = threading.Thread(target=lambda: made.append(share(source, tmp_path / "out", vocab, 1, 2)))
    beginning.start()
    time.sleep(0.3)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "text.txt", vocab]
  beginning.join()
  assert made == [None] and (tmp_path / ".out.partial").is_dir()


def test_a_corpus_is_finished_only_when_no_other_process_is_beginning_or_finishing(source, vocab, tmp_path):
  elsewhere, seen = [], []

  def hold():
    with FolderLock(tmp_path) as door:
      elsewhere.append(door.take(alone=True))
      time.sleep(0.5)
      seen.append((tmp_path / "out").exists())

  def begin_elsewhere(phase, num_bytes, total):
    thread = threading.Thread(target=hold)
    if not elsewhere:
      thread.start()
      while not elsewhere:
        time.sleep(0.01)

  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab), progress=begin_elsewhere)
  assert elsewhere[0] and seen[0] is False and (tmp_path / "out").exists()


def flip(path: pathlib.Path):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)


def swap(one: pathlib.Path, other: pathlib.Path):
  kept = one.with_name("kept")
  one.rename(kept), other.rename(one), kept.rename(other)


@pytest.mark.parametrize("name", ["tokens.npy", "origins.npy", "unigram_counts.npy", "record.json"])
def test_an_altered_shard_in_the_making_is_named_and_made_again_once_it_is_deleted(
  source, vocab, tmp_path, small_chunks, name
):
  share(source, tmp_path / "whole", vocab, 0, 1)
  share(source, tmp_path / "out", vocab, 0, 2)
  shard = tmp_path / ".out.partial/rows/train/00000"
  if name == "record.json":
    record = json.loads((shard / name).read_text())
    record["counts"]["tokens"] += 1
    (shard / name).write_text(json.dumps(record))
  else:
    flip(shard / name)
  for _ in range(2):  # and nothing is finished in spite of it
    with pytest.raises(UserError, match=rf"train/00000: cannot be used \(.*{name} was altered\); delete it"):
      share(source, tmp_path / "out", vocab, 1, 2)
  assert not (tmp_path / "out").exists()
  shutil.rmtree(shard)
  assert share(source, tmp_path / "out", vocab, 0, 2)
  assert open_corpus(tmp_path / "out").manifest["corpus_id"] == open_corpus(tmp_path / "whole").manifest["corpus_id"]


def test_a_shard_under_another_ones_name_or_of_another_preparation_is_refused(source, vocab, tmp_path, small_chunks):
  share(source, tmp_path / "out", vocab, 0, 2)
  rows = tmp_path / ".out.partial/rows/train"
  swap(rows / "00000", rows / "00002")
  with pytest.raises(UserError, match="expected place 'train/00000', found 'train/00002': it belongs elsewhere"):
    share(source, tmp_path / "out", vocab, 1, 2)
  swap(rows / "00000", rows / "00002")
  prepare.prepare_corpus([source], tmp_path / "other", settings(vocab, seed=99), share=prepare.Share(0, 2))
  swap(rows / "00000", tmp_path / ".other.partial/rows/train/00000")
  with pytest.raises(UserError, match="expected made_of .*: it belongs elsewhere"):
    share(source, tmp_path / "out", vocab, 1, 2)


def test_tokenized_documents_under_another_chunks_name_are_refused(source, vocab, tmp_path, small_chunks):
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))
  (documents,) = tmp_path.glob("documents-*")
  swap(documents / "train/00000", documents / "train/00001")
  with pytest.raises(UserError, match="it belongs elsewhere.*delete .* prepare again"):
    prepare.prepare_corpus([source], tmp_path / "again", settings(vocab, seed=3))


def test_another_vocabulary_in_the_folder_of_documents_is_refused(source, tmp_path, small_chunks):
  prepare.prepare_corpus([source], tmp_path / "out", settings("", vocab_size=100))
  (documents,) = tmp_path.glob("documents-*")
  prepare.prepare_corpus([source], tmp_path / "else", settings("", vocab_size=90))
  shutil.rmtree(documents / "tokenizer")
  shutil.copytree(tmp_path / "else/tokenizer", documents / "tokenizer")
  with pytest.raises(UserError, match="expected made_of"):
    prepare.prepare_corpus([source], tmp_path / "again", settings("", vocab_size=100, seed=3))


def test_an_altered_list_of_files_is_refused_before_and_after_the_end(source, vocab, tmp_path):
  prepare.prepare_corpus([source], tmp_path / "out", settings(vocab))
  (documents,) = tmp_path.glob("documents-*")
  for folder in (documents, tmp_path / "out"):
    (folder / "files.txt").write_text("another.txt\n")
  with pytest.raises(UserError, match="out/files.txt: expected SHA-256 .*altered"):
    open_corpus(tmp_path / "out", verify=False)
  with pytest.raises(UserError, match="documents-.*/files.txt: was altered; delete"):
    prepare.prepare_corpus([source], tmp_path / "again", settings(vocab, seed=3))


def test_the_tokenizer_of_a_corpus_is_compared_with_its_manifest_when_it_is_given_to_another(source, tmp_path):
  prepare.prepare_corpus([source], tmp_path / "out", settings("", vocab_size=100))
  prepare.prepare_corpus([source], tmp_path / "sound", settings(tmp_path / "out/tokenizer"))
  for name in ("tokenizer.json", "vocab.txt"):
    path = tmp_path / "out/tokenizer" / name
    path.write_text(path.read_text().replace("dog", "DOG").replace("cat", "dog").replace("DOG", "cat"))
  with pytest.raises(UserError, match="is not the tokenizer that made this corpus"):
    prepare.prepare_corpus([source], tmp_path / "again", settings(tmp_path / "out/tokenizer"))


def test_a_few_long_documents_are_cut_alike_by_any_number_of_workers_and_shares(vocab, tmp_path, monkeypatch):
  monkeypatch.setattr(splits, "CHUNK_BYTES", 30_000)
  rng = random.Random(0)
  for number in range(5):
    text = " ".join(sentence(rng) for _ in range(500 + 90 * number))
    (tmp_path / f"book{number}.txt").write_text(text)
  source, fraction = f"text+one-per-file:{tmp_path}/book*.txt", {"validation_fraction": 0.1}
  whole = prepare.prepare_corpus([source], tmp_path / "whole", settings(vocab, **fraction))
  assert whole["counts"]["documents"] == 10  # a part of each is in either split
  tokens = {split: record["counts"]["tokens"] for split, record in whole["splits"].items()}
  assert tokens["validation"] == pytest.approx(0.1 * sum(tokens.values()), rel=0.2)
  assert len(whole["splits"]["train"]["shards"]) > 1
  one = prepare.prepare_corpus(
    [source], tmp_path / "two", settings(vocab, workers=2, **fraction), documents=tmp_path / "elsewhere"
  )
  for index in (1, 0, 2):
    last = prepare.prepare_corpus(
      [source],
      tmp_path / "shares",
      settings(vocab, **fraction),
      share=prepare.Share(index, 3),
      documents=tmp_path / "third",
    )
  assert one["corpus_id"] == last["corpus_id"] == whole["corpus_id"]
  corpus = open_corpus(tmp_path / "whole")
  for split in ("train", "validation"):
    for *_, label, of_a, of_b in sequences_of(corpus, split):
      assert (of_a == of_b) == (label == 0)
