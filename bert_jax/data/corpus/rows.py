"""Stage two of `prepare`, for one chunk: tokenized documents -> sequences -> packed rows -> one shard."""

import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus import npy, packing, pairs
from bert_jax.data.corpus.documents import Documents
from bert_jax.data.tokenizer.template import Template
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


def shard_folder(folder: str | os.PathLike, split: str, index: int) -> pathlib.Path:
  """FOLDER/rows/train/00003"""
  return pathlib.Path(folder, "rows", split, f"{index:05d}")


def write_shard(folder: str | os.PathLike, split: str, index: int, rows: dict[str, np.ndarray], counts: Counts) -> None:
  """Writes a shard in the making, which appears whole. Raises OSError, UserError."""
  with atomic.new_folder(shard_folder(folder, split, index)) as made:
    record: dict[str, Any] = {"rows": len(rows["tokens"]), "origins_rows": len(rows["origins"])}
    record |= {name: npy.write(made / f"{name}.npy", array) for name, array in rows.items()}
    for name in ("label_counts", "length_counts", "unigram_counts"):
      npy.write(made / f"{name}.npy", getattr(counts, name))
    numbers = {name: getattr(counts, name) for name in ("documents", "sentences", "tokens", "rows", "unused")}
    atomic.write_text(made / "record.json", json.dumps({"shard": record, "counts": numbers}))


def read_shard(folder: str | os.PathLike, split: str, index: int) -> tuple[dict[str, Any], Counts]:
  """The entry in the manifest and the counts of a shard that `write_shard` wrote. Raises OSError, UserError."""
  made = shard_folder(folder, split, index)
  record = read_object(made / "record.json")
  tables = {
    name: np.load(made / f"{name}.npy", allow_pickle=False)
    for name in ("label_counts", "length_counts", "unigram_counts")
  }
  return record["shard"], Counts(**record["counts"], **tables)
