"""Tokenized documents on disk: what was written comes back, and what was altered is named."""

import json

import numpy as np
import pytest

from bert_jax.data.corpus import documents as documents_lib
from bert_jax.data.corpus.documents import Contents, Documents
from bert_jax.errors import UserError


def some_documents(words: bool = False, dtype="uint16") -> Documents:
  """Three documents of 2, 1 and 3 sentences."""
  starts = np.array([0, 3, 4, 9, 10, 12, 13])
  return Documents(
    np.arange(100, 113, dtype=dtype),
    starts,
    np.array([0, 2, 3, 6]),
    np.array([7, 8, 2**32 - 1], np.uint32),
    np.array([[0, 1], [0, 17], [3, 2**40]], np.uint64),
    np.arange(13) % 3 == 0 if words else None,
  )


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_chunk_comes_back_as_it_was(tmp_path, words, dtype):
  documents = some_documents(words, dtype)
  documents_lib.write_chunk(tmp_path, "train", 3, documents, 1234)
  found, num_bytes = documents_lib.read_chunk(tmp_path, "train", 3)
  assert num_bytes == documents_lib.chunk_bytes(tmp_path, "train", 3) == 1234
  for name, value in documents._asdict().items():
    if value is None:
      assert getattr(found, name) is None
    else:
      np.testing.assert_array_equal(getattr(found, name), value)
      assert getattr(found, name).dtype == value.dtype


def test_a_chunk_without_a_document_comes_back_too(tmp_path):
  nothing = Documents(
    np.zeros(0, np.uint16),
    np.zeros(1, np.int64),
    np.zeros(1, np.int64),
    np.zeros(0, np.uint32),
    np.zeros((0, 2), np.uint64),
    np.zeros(0, bool),
  )
  documents_lib.write_chunk(tmp_path, "train", 0, nothing, 3)
  found, _ = documents_lib.read_chunk(tmp_path, "train", 0)
  assert found.origins.shape == (0, 2) and found.tokens.shape == found.word_starts.shape == (0,)


def test_chunks_have_the_names_that_the_module_describes(tmp_path):
  documents_lib.write_chunk(tmp_path, "validation", 12, some_documents(True), 1)
  assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
    f"validation/00012/{name}"
    for name in (
      "chunk.json",
      "document_starts.npy",
      "numbers.npy",
      "origins.npy",
      "sentence_starts.npy",
      "tokens.npy",
      "word_starts.npy",
    )
  ]


def test_word_starts_are_bits_the_lowest_first(tmp_path):
  documents_lib.write_chunk(tmp_path, "train", 0, some_documents(True), 1)
  stored = np.load(tmp_path / "train/00000/word_starts.npy", allow_pickle=False)
  assert stored.tolist() == [0b01001001, 0b00010010]  # places 0, 3, 6; 9, 12


@pytest.mark.parametrize("name", ["tokens", "sentence_starts", "document_starts", "numbers", "origins", "word_starts"])
def test_an_altered_or_missing_array_is_named_with_the_remedy(tmp_path, name):
  documents_lib.write_chunk(tmp_path, "train", 0, some_documents(True), 1)
  path = tmp_path / "train/00000" / f"{name}.npy"
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(
    UserError, match=rf"{path.parent}: cannot be read \({name}.npy was altered\); delete {tmp_path} and"
  ):
    documents_lib.read_chunk(tmp_path, "train", 0)
  path.unlink()
  with pytest.raises(UserError, match=f"{path.parent}: cannot be read .*{name}.npy"):
    documents_lib.read_chunk(tmp_path, "train", 0)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"bytes": 1}', '{"bytes": 1, "files": {}}'])
def test_a_damaged_record_is_told(tmp_path, text):
  documents_lib.write_chunk(tmp_path, "train", 0, some_documents(), 1)
  (tmp_path / "train/00000/chunk.json").write_text(text)
  with pytest.raises(
    UserError, match=f"{tmp_path}/train/00000: cannot be read .*; delete {tmp_path} and prepare again"
  ):
    documents_lib.read_chunk(tmp_path, "train", 0)
  (tmp_path / "contents.json").write_text(text)
  with pytest.raises(
    UserError, match=f"{tmp_path}/contents.json: cannot be read .*; delete {tmp_path} and prepare again"
  ):
    documents_lib.read_contents(tmp_path)


def test_a_chunk_that_cannot_be_written_does_not_appear(tmp_path, monkeypatch):
  def full(path, array):
    if path.name == "origins.npy":
      raise OSError(28, "No space left on device", str(path))
    return write(path, array)

  write = documents_lib.npy.write
  monkeypatch.setattr(documents_lib.npy, "write", full)
  with pytest.raises(OSError):
    documents_lib.write_chunk(tmp_path, "train", 0, some_documents(), 1)
  assert list((tmp_path / "train").iterdir()) == []


def test_contents_come_back_and_are_unknown_until_all_text_was_seen(tmp_path):
  assert documents_lib.read_contents(tmp_path) is None
  contents = Contents({"train": 3, "validation": 1}, 12345, {"documents": 9})
  documents_lib.write_contents(tmp_path, contents, ["a.txt", "文档.txt"])
  found = documents_lib.read_contents(tmp_path)
  assert found._replace(files="") == contents and len(found.files) == 64
  assert (tmp_path / "files.txt").read_text(encoding="utf-8") == "a.txt\n文档.txt\n"


def test_a_recipe_has_one_name_whatever_the_order_of_its_keys():
  one, other = {"a": 1, "b": ["ü"]}, {"b": ["ü"], "a": 1}
  assert documents_lib.recipe_key(one) == documents_lib.recipe_key(json.loads(json.dumps(other)))
  assert (
    documents_lib.recipe_key(one) != documents_lib.recipe_key(one | {"a": 2})
    and len(documents_lib.recipe_key(one)) == 12
  )
