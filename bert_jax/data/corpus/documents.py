"""Tokenized documents on disk: what stage one of `prepare` leaves, and stage two makes rows of.

    FOLDER/
      recipe.json              what shaped the documents, and nothing that shapes rows; see `prepare`
      tokenizer/               in Hugging Face's files
      train/00000/ …           one folder for every chunk, complete as soon as it has this name
      validation/00000/ …
        tokens.npy             uint16 or uint32 [T], the ids of all sentences, end to end
        sentence_starts.npy    int64 [N + 1]
        document_starts.npy    int64 [D + 1]
        numbers.npy            uint32 [D]
        origins.npy            uint64 [D, 2]
        word_starts.npy        uint8 [ceil(T / 8)], bits; only with a word segmenter
        chunk.json             bytes of text, and the SHA-256 of every file
      files.txt                the files that origins count, one to a line
      contents.json            how many chunks there are, and what was read; written when all text was seen

The folder belongs to the machine that made it, as a cache does: it may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus import npy
from bert_jax.errors import UserError
from bert_jax.io import atomic
from bert_jax.io.json_files import MAX_TABLE_BYTES, read_object


class Documents(NamedTuple):
  """Tokenized documents of one chunk. No sentence and no document is empty.

  Attributes:
    tokens: integer [T], the ids of all sentences end to end, no special tokens among them.
    sentence_starts: int64 [N + 1], where each sentence begins in `tokens`, then T.
    document_starts: int64 [D + 1], where each document begins in `sentence_starts`, then N.
    numbers: uint32 [D], the number of each document in the corpus, in reading order.
    origins: uint64 [D, 2], which file it came from, and where in it (a line or a row).
    word_starts: bool [T], where a word begins; None where the vocabulary tells by itself.
  """

  tokens: np.ndarray
  sentence_starts: np.ndarray
  document_starts: np.ndarray
  numbers: np.ndarray
  origins: np.ndarray
  word_starts: np.ndarray | None = None


def chunk_folder(folder: str | os.PathLike, split: str, index: int) -> pathlib.Path:
  """FOLDER/train/00003"""
  return pathlib.Path(folder, split, f"{index:05d}")


def write_chunk(
  folder: str | os.PathLike, split: str, index: int, documents: Documents, num_bytes: int, made_of: str = ""
) -> None:
  """Writes one chunk, which appears whole.

  Args:
    folder: of all documents.
    split, index: which chunk this is.
    documents: its content.
    num_bytes: of text that it was made of.
    made_of: see `job.keys`.

  Raises:
    OSError: it cannot be written.
  """
  with atomic.new_folder(chunk_folder(folder, split, index)) as made:
    hashes = {}
    for name, value in documents._asdict().items():
      if value is not None:
        value = np.packbits(value, bitorder="little") if name == "word_starts" else value
        hashes[name] = npy.write(made / f"{name}.npy", value)
    atomic.write_text(
      made / "chunk.json", json.dumps({"bytes": num_bytes, "files": hashes} | label(split, index, made_of))
    )


def label(split: str, index: int, made_of: str) -> dict[str, str]:
  """Which chunk or shard it is, and what it was made of."""
  return {"place": f"{split}/{index:05d}", "made_of": made_of}


def check_label(record: dict[str, Any], split: str, index: int, made_of: str) -> None:
  """Raises ValueError where a chunk or a shard belongs elsewhere: it was moved, or copied from another preparation."""
  for name, expected in label(split, index, made_of).items():
    if record[name] != expected:
      raise ValueError(f"expected {name} {expected!r}, found {record[name]!r}: it belongs elsewhere")


def read_chunk(folder: str | os.PathLike, split: str, index: int, made_of: str = "") -> tuple[Documents, int]:
  """Reads what `write_chunk` wrote: the documents, and the bytes of text they were made of.

  Raises:
    UserError: a file is missing or altered, or it is another chunk than this one.
  """
  where = chunk_folder(folder, split, index)
  with _readable(where, folder):
    record = read_object(where / "chunk.json", max_bytes=MAX_TABLE_BYTES)
    check_label(record, split, index, made_of)
    found = {name: npy.read(where / f"{name}.npy", digest) for name, digest in record["files"].items()}
    if "word_starts" in found:
      found["word_starts"] = np.unpackbits(found["word_starts"], count=len(found["tokens"]), bitorder="little").astype(
        bool
      )
    return Documents(**found), record["bytes"]


def chunk_bytes(folder: str | os.PathLike, split: str, index: int) -> int:
  """The bytes of text that a chunk was made of. Raises UserError as `read_chunk` does."""
  where = chunk_folder(folder, split, index)
  with _readable(where, folder):
    return read_object(where / "chunk.json", max_bytes=MAX_TABLE_BYTES)["bytes"]


@contextlib.contextmanager
def _readable(where: pathlib.Path, folder: str | os.PathLike) -> Iterator[None]:
  """Turns whatever a damaged file leads to into one message."""
  try:
    yield
  except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
    raise UserError(
      f"{where}: cannot be read ({error}); delete {folder} and prepare again, which tokenizes the text again"
    ) from error


class Contents(NamedTuple):
  """What stage one found.

  Attributes:
    chunks: how many there are, by split.
    num_bytes: UTF-8 bytes of text.
    read: what was counted while reading, see `sources.read_documents`.
    files: SHA-256 of files.txt.
  """

  chunks: dict[str, int]
  num_bytes: int
  read: dict[str, int]
  files: str = ""


def write_contents(folder: str | os.PathLike, contents: Contents, files: list[str]) -> None:
  """Notes that all text was seen. Raises OSError."""
  text = "".join(f"{name}\n" for name in files)
  contents = contents._replace(files=hashlib.sha256(text.encode("utf-8")).hexdigest())
  atomic.write_text(pathlib.Path(folder, "files.txt"), text)
  atomic.write_text(pathlib.Path(folder, "contents.json"), json.dumps(contents._asdict()))


def read_contents(folder: str | os.PathLike) -> Contents | None:
  """What `write_contents` noted, or None while text is missing. Raises UserError where it is damaged."""
  path = pathlib.Path(folder, "contents.json")
  if not path.exists():
    return None
  with _readable(path, folder):
    return Contents(**read_object(path, max_bytes=MAX_TABLE_BYTES))


def recipe_key(recipe: dict[str, Any]) -> str:
  """A short name for a recipe: the first 12 digits of the SHA-256 of its JSON text."""
  return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode("utf-8")).hexdigest()[:12]
