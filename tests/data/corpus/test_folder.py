"""The corpus folder, written and read back; and every way in which it can be damaged."""

import copy
import json
import os
import pathlib
import resource
import shutil

import numpy as np
import pytest

from bert_jax.data.corpus import folder as corpus_lib
from bert_jax.data.corpus import npy
from bert_jax.errors import UserError

SEQ_LENGTH, MAX_SEQUENCES = 12, 2


def make_corpus(folder: pathlib.Path, shard_rows=(3, 0, 5), token_dtype="uint16", word_segmenter="") -> dict:
  """Row r of the train split holds the tokens r, r + 1, … of document 100,000 + r, which is line r + 1 of file r % 2.

  A word begins where the token is a multiple of 3. There is one validation row.
  """
  splits = {}
  for split, sizes in (("train", shard_rows), ("validation", (1,))):
    (folder / split).mkdir(parents=True)
    first, shards = 0, []
    for index, rows in enumerate(sizes):
      row = np.arange(first, first + rows)[:, None]
      sequences = np.zeros((rows, MAX_SEQUENCES, 3), "uint16")
      sequences[:, 0] = (SEQ_LENGTH, 5, 1)
      documents = np.broadcast_to(row[:, :, None] + 100_000, (rows, MAX_SEQUENCES, 2)).astype("uint32")
      arrays = {
        "tokens": (row + np.arange(SEQ_LENGTH)).astype(token_dtype),
        "sequences": sequences,
        "documents": documents,
        "origins": np.hstack([row + 100_000, row % 2, row + 1]).astype("uint64"),
      }
      if word_segmenter:
        arrays["word_starts"] = np.packbits((row + np.arange(SEQ_LENGTH)) % 3 == 0, axis=1, bitorder="little")
      name = lambda array: folder / split / corpus_lib.shard_name(array, index, len(sizes))
      hashes = {array: npy.write(name(array), value) for array, value in arrays.items()}
      shards.append({"rows": rows, "origins_rows": rows, **hashes})
      first += rows
    splits[split] = {"rows": first, "shards": shards}
  (folder / "files.txt").write_text("even.txt\nodd.txt\n")
  return corpus_lib.write_manifest(
    folder,
    {
      "seq_length": SEQ_LENGTH,
      "max_sequences": MAX_SEQUENCES,
      "token_dtype": token_dtype,
      "splits": splits,
      "word_segmenter": word_segmenter,
      "provenance": {"sources": ["text:here"], "workers": 1},
    },
  )


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  make_corpus(tmp_path / "corpus")
  return tmp_path / "corpus"


def test_rows_come_back_in_the_order_asked_for_across_shards(folder):
  corpus = corpus_lib.open_corpus(folder)
  rows = np.array([7, 0, 3, 3, 2, 6], np.int64)
  got = corpus.train.gather(rows)
  assert corpus.train.num_rows == 8 and corpus.validation.num_rows == 1
  np.testing.assert_array_equal(got["tokens"], rows[:, None] + np.arange(SEQ_LENGTH))
  assert got["tokens"].dtype == np.int32 and got["sequences"].dtype == np.int32
  assert got["sequences"].shape == (6, MAX_SEQUENCES, 3)
  np.testing.assert_array_equal(got["sequences"][:, 0], [[SEQ_LENGTH, 5, 1]] * 6)
  documents = corpus.train.gather_documents(rows)
  assert documents.dtype == np.uint32
  np.testing.assert_array_equal(documents[:, 0, 1], rows + 100_000)


def test_word_starts_come_as_bits_the_lowest_first_where_there_are_any(folder, tmp_path):
  plain = corpus_lib.open_corpus(folder).train
  assert not plain.has_word_starts and "word_starts" not in plain.gather(np.arange(3))
  make_corpus(tmp_path / "words", word_segmenter="jieba")
  split = corpus_lib.open_corpus(tmp_path / "words").train
  rows = np.array([7, 0, 3], np.int64)
  bits = split.gather(rows)["word_starts"]
  assert split.has_word_starts and bits.dtype == np.uint8 and bits.shape == (3, 2)
  starts = [[byte >> bit & 1 for byte in line for bit in range(8)][:SEQ_LENGTH] for line in bits.tolist()]
  np.testing.assert_array_equal(starts, (rows[:, None] + np.arange(SEQ_LENGTH)) % 3 == 0)


def test_every_row_tells_the_files_and_lines_of_the_documents_in_its_shard(folder):
  corpus, files = corpus_lib.open_corpus(folder), corpus_lib.read_files(folder)
  assert corpus.train.origins(1) == {100_000: (0, 1), 100_001: (1, 2), 100_002: (0, 3)}
  file, line = corpus.train.origins(7)[100_007]  # in the third shard; the second is empty
  assert (files[file], line) == ("odd.txt", 8)


def test_gathering_no_rows_gives_empty_arrays(folder):
  got = corpus_lib.open_corpus(folder).train.gather(np.zeros(0, np.int64))
  assert got["tokens"].shape == (0, SEQ_LENGTH) and got["sequences"].shape == (0, MAX_SEQUENCES, 3)


@pytest.mark.parametrize("row", [-1, 8])
def test_a_row_outside_the_split_is_refused(folder, row):
  with pytest.raises(IndexError, match="8"):
    corpus_lib.open_corpus(folder).train.gather(np.array([0, row]))


def test_a_split_without_rows_opens(tmp_path):
  make_corpus(tmp_path / "corpus", shard_rows=())
  assert corpus_lib.open_corpus(tmp_path / "corpus").train.num_rows == 0


def test_token_ids_above_16_bits_survive(tmp_path):
  make_corpus(tmp_path / "corpus", token_dtype="uint32")
  shard = np.load(tmp_path / "corpus/train/tokens-00002-of-00003.npy", allow_pickle=False)
  assert shard.dtype == np.uint32 and shard[0, 0] == 3


def test_corpus_id_covers_shards_and_settings_but_not_provenance(folder):
  manifest = corpus_lib.read_corpus_manifest(folder)

  def id_with(change):
    changed = copy.deepcopy(manifest)
    change(changed)
    return corpus_lib.canonical_id(changed)

  assert id_with(lambda m: m["provenance"].update(workers=9, sources=["elsewhere"])) == manifest["corpus_id"]
  assert id_with(lambda m: m["splits"]["train"]["shards"][0].update(tokens="0" * 64)) != manifest["corpus_id"]
  assert id_with(lambda m: m.update(max_sequences=3)) != manifest["corpus_id"]
  assert id_with(lambda m: m.pop("token_dtype")) != manifest["corpus_id"]


def test_a_truncated_shard_is_named_with_both_sizes_even_unverified(folder):
  path = folder / "train/tokens-00002-of-00003.npy"
  size = path.stat().st_size
  path.write_bytes(path.read_bytes()[:-6])
  for verify in (True, False):
    with pytest.raises(UserError, match=rf"tokens-00002.*npy: expected {size} bytes, found {size - 6}"):
      corpus_lib.open_corpus(folder, verify=verify)


@pytest.mark.parametrize("name", ["tokens", "sequences", "documents", "origins", "word_starts"])
def test_one_altered_byte_is_named_with_both_hashes(tmp_path, name):
  folder = tmp_path / "corpus"
  make_corpus(folder, word_segmenter="jieba")
  path = folder / f"train/{name}-00000-of-00003.npy"
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(bytes(data))
  with pytest.raises(UserError, match=rf"{name}-00000-of-00003.npy: expected SHA-256 [0-9a-f]{{64}}, found"):
    corpus_lib.open_corpus(folder)


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda path: path.unlink(), "no such file"),
    (lambda path: path.write_bytes(b""), "damaged header"),
    (lambda path: path.write_bytes(b"rubbish" * 30), "damaged header"),
    (lambda path: np.save(path, np.zeros((3, 5), "uint16")), r"uint16 \[3, 12\], found uint16 \[3, 5\]"),
    (lambda path: np.save(path, np.zeros((3, 12), "int64")), r"uint16 \[3, 12\], found int64 \[3, 12\]"),
    (lambda path: path.write_bytes(path.read_bytes() + b"x"), "too long"),
  ],
)
def test_a_shard_that_does_not_fit_the_manifest_is_named(folder, damage, message):
  damage(folder / "train/tokens-00000-of-00003.npy")
  with pytest.raises(UserError, match=f"tokens-00000-of-00003.npy: .*{message}"):
    corpus_lib.open_corpus(folder, verify=False)


def test_a_folder_that_is_not_there_names_the_command_that_makes_it(tmp_path):
  with pytest.raises(UserError, match="no such corpus folder; make it with .*prepare"):
    corpus_lib.open_corpus(tmp_path / "nowhere")


def test_a_half_copied_folder_is_told_apart(folder):
  (folder / "manifest.json").unlink()
  with pytest.raises(UserError, match="manifest.json: .*its copy is incomplete"):
    corpus_lib.open_corpus(folder)


@pytest.mark.parametrize(
  "text, message",
  [
    ("{", "manifest.json: not JSON .*prepare it again"),
    ("[" * 100_000, "manifest.json: JSON nested more than"),
    ('{"format": "bert_jax corpus", "format_version": 2}', "manifest was altered"),
    ('{"format": "bert_jax corpus", "format_version": 2, "splits": [1], "sources": 3}', "manifest was altered"),
    ("[]", "belongs to something else"),
    ('{"format": "other"}', "belongs to something else"),
    ('{"format": "bert_jax corpus", "format_version": 1}', "expected format_version 2, found 1"),
    ('{"format": "bert_jax corpus", "format_version": 99}', "expected format_version 2, found 99"),
  ],
)
def test_a_foreign_manifest_gets_its_own_message(folder, text, message):
  (folder / "manifest.json").write_text(text)
  with pytest.raises(UserError, match=message):
    corpus_lib.open_corpus(folder)


def test_an_altered_manifest_is_refused(folder):
  path = folder / "manifest.json"
  manifest = json.loads(path.read_text())
  manifest["max_sequences"] = 7
  path.write_text(json.dumps(manifest))
  with pytest.raises(UserError, match="manifest was altered"):
    corpus_lib.open_corpus(folder)


def test_a_corpus_can_be_moved(folder, tmp_path):
  shutil.move(folder, tmp_path / "elsewhere")
  assert corpus_lib.open_corpus(tmp_path / "elsewhere").train.num_rows == 8


def test_more_shards_than_the_soft_limit_of_open_files_can_be_opened(tmp_path):
  make_corpus(tmp_path / "corpus", shard_rows=(1,) * 40)
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
  try:
    corpus = corpus_lib.open_corpus(tmp_path / "corpus")
    assert corpus.train.gather(np.arange(40))["tokens"][39, 0] == 39
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("content", [None, b"\xff\n"])
def test_a_list_of_files_that_cannot_be_read_is_named_with_the_remedy(tmp_path, content):
  if content is not None:
    (tmp_path / "files.txt").write_bytes(content)
  with pytest.raises(UserError, match="files.txt: cannot be read .*prepare it again"):
    corpus_lib.read_files(tmp_path)


def test_a_pipe_in_the_place_of_a_shard_is_refused_at_once(folder):
  shard = sorted((folder / "train").glob("tokens-*.npy"))[0]
  shard.unlink()
  os.mkfifo(shard)
  with pytest.raises(UserError, match=f"{shard.name}: a named pipe, expected a file"):
    corpus_lib.open_corpus(folder)
