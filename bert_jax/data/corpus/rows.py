"""Stage two of `prepare`, for one chunk: tokenized documents -> sequences -> packed rows -> one shard."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus import documents as documents_lib
from bert_jax.data.corpus import npy, packing, pairs
from bert_jax.data.corpus.documents import Documents
from bert_jax.data.tokenizer.template import Template
from bert_jax.errors import UserError
from bert_jax.io import atomic
from bert_jax.io.json_files import read_object


class RowSettings(NamedTuple):
  """What shapes rows.

  Attributes:
    objective, seq_length, short_probability, seed: see `pairs.make_sequences`.
    max_sequences: see `packing.assign_rows`.
  """

  objective: str
  seq_length: int
  max_sequences: int
  short_probability: float
  seed: int


def row_settings(settings) -> RowSettings:
  """Those of `job.PrepareSettings` that shape rows."""
  return RowSettings(*(getattr(settings, name) for name in RowSettings._fields))


class Counts(NamedTuple):
  """What was counted in a chunk; those of several chunks are added field by field.

  Attributes:
    documents, sentences, tokens: of the text, without empty ones.
    rows: of the shard.
    unused: tokens of the text that are in no row.
    label_counts: int64 [2], sequences with label 0 and 1.
    length_counts: int64 [seq_length + 1], sequences by length.
    unigram_counts: int64 [vocab_size], tokens in the rows by id, padding left out.
  """

  documents: int
  sentences: int
  tokens: int
  rows: int
  unused: int
  label_counts: np.ndarray
  length_counts: np.ndarray
  unigram_counts: np.ndarray


def make_rows(
  documents: Documents, settings: RowSettings, *, vocab_size: int, template: Template
) -> tuple[dict[str, np.ndarray], Counts]:
  """The rows of a chunk.

  Args:
    documents: of the chunk.
    settings: see `RowSettings`.
    vocab_size: number of ids.
    template: of the tokenizer.

  Returns:
    The arrays of a shard, as `corpus` describes them, and what was counted.
  """
  counts = len(np.unique(documents.numbers)), len(documents.sentence_starts) - 1, len(documents.tokens)
  usable = documents
  if len(np.unique(documents.numbers)) < pairs.PAIRINGS[settings.objective].min_documents:
    # All others of the chunk were empty after tokenization (nothing but control characters, say).
    nothing = np.zeros(1, np.int64)
    usable = documents._replace(sentence_starts=nothing, document_starts=nothing, numbers=documents.numbers[:0])
  sequences = pairs.make_sequences(
    usable,
    settings.objective,
    template=template,
    seq_length=settings.seq_length,
    short_probability=settings.short_probability,
    seed=settings.seed,
  )
  rows = packing.fill_rows(
    usable,
    sequences,
    seq_length=settings.seq_length,
    max_sequences=settings.max_sequences,
    template=template,
    dtype=documents.tokens.dtype.name,
  )
  rows["origins"] = np.column_stack([documents.numbers.astype(np.uint64), documents.origins])
  unigram_counts = np.bincount(rows["tokens"].ravel(), minlength=vocab_size)
  unigram_counts[template.special.pad] = 0
  return rows, Counts(
    *counts,
    len(rows["tokens"]),
    pairs.unused_tokens(usable, sequences) if usable is documents else len(documents.tokens),
    np.bincount(sequences.labels, minlength=2),
    np.bincount(sequences.lengths, minlength=settings.seq_length + 1),
    unigram_counts,
  )


# A shard in the making is a folder ROWS/train/00003 with the arrays, what was counted as arrays, and record.json.


_TABLES = ("label_counts", "length_counts", "unigram_counts")


def shard_folder(folder: str | os.PathLike, split: str, index: int) -> pathlib.Path:
  """FOLDER/rows/train/00003"""
  return pathlib.Path(folder, "rows", split, f"{index:05d}")


def write_shard(
  folder: str | os.PathLike, split: str, index: int, rows: dict[str, np.ndarray], counts: Counts, made_of: str = ""
) -> None:
  """Writes a shard in the making, which appears whole; `made_of`: see `job.keys`. Raises OSError, UserError."""
  with atomic.new_folder(shard_folder(folder, split, index)) as made:
    record: dict[str, Any] = {"rows": len(rows["tokens"]), "origins_rows": len(rows["origins"])}
    record |= {name: npy.write(made / f"{name}.npy", array) for name, array in rows.items()}
    tables = {name: npy.write(made / f"{name}.npy", getattr(counts, name)) for name in _TABLES}
    numbers = {name: value for name, value in counts._asdict().items() if name not in _TABLES}
    whole = {"shard": record, "counts": numbers, "tables": tables} | documents_lib.label(split, index, made_of)
    atomic.write_text(made / "record.json", json.dumps(whole | {"sha256": _digest(whole)}))


def read_shard(
  folder: str | os.PathLike,
  split: str,
  index: int,
  made_of: str = "",
  moved: Callable[[str], pathlib.Path] | None = None,
) -> tuple[dict[str, Any], Counts]:
  """The entry in the manifest and the counts of a shard that `write_shard` wrote, every file compared with its digest.

  Args:
    folder: the corpus in the making.
    split, index: which shard.
    made_of: see `job.keys`.
    moved: array -> its file once it has its final name, as it may have already.

  Raises:
    UserError: a file is missing or altered, or it is another shard than this one.
  """
  made = shard_folder(folder, split, index)
  try:
    record = read_object(made / "record.json")
    if _digest({name: value for name, value in record.items() if name != "sha256"}) != record["sha256"]:
      raise ValueError("record.json was altered")
    documents_lib.check_label(record, split, index, made_of)
    tables: dict[str, Any] = {name: npy.read(made / f"{name}.npy", record["tables"][name]) for name in _TABLES}
    for name, digest in record["shard"].items():
      if isinstance(digest, str):
        path = made / f"{name}.npy"
        npy.check(moved(name) if moved and not path.exists() else path, digest)
    return record["shard"], Counts(**record["counts"], **tables)
  except (OSError, ValueError, KeyError, TypeError, UserError) as error:
    raise UserError(
      f"{made}: cannot be used ({error}); delete it and give the same command again, which makes this shard again"
    ) from error


def _digest(record: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8")).hexdigest()
