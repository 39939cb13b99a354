"""What `prepare` is to do: its settings, where everything lies, and what shapes it."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from bert_jax.data.corpus import documents as documents_lib
from bert_jax.data.corpus import folder as corpus
from bert_jax.data.corpus import pairs, rows, splits
from bert_jax.data.text import words
from bert_jax.data.text.sources import parse_source, source_files
from bert_jax.data.tokenizer.wordpiece import Tokenizer, load_tokenizer
from bert_jax.errors import UserError

# What another version of this code began is not gone on with: counted up when other sentences or splits, or other rows,
# come out of the same text and settings.
_TEXT_VERSION, _ROWS_VERSION = 2, 2


class PrepareSettings(NamedTuple):
  """What shapes a corpus. Defaults stand in `bert_jax.config`, group `prepare`.

  Attributes:
    tokenizer: a vocab.txt or tokenizer folder; empty: train a vocabulary.
    vocab_size: entries of a vocabulary trained here.
    lowercase: for a trained vocabulary or a vocab.txt (a folder says it itself).
    seq_length: tokens in a row.
    objective: a key of `pairs.PAIRINGS`.
    max_sequences: sequences in a row at most.
    validation_fraction: share of the text held out, see `splits`.
    short_probability: share of NSP pairs with a random shorter target.
    seed: decides pairs and random sentences.
    workers: processes; 0: one per core.
    skip_bad: skip and count what cannot be read, instead of stopping.
    text_field: the name of the text in jsonl:, parquet: and tfds: sources.
    deduplicate: drop exact copies of a document.
    min_characters: drop shorter documents.
    word_segmenter: a key of `words.SEGMENTERS`, to store where words begin; empty: none.
    strip_accents: of accents and other marks; None: where lowercase, and vocabulary or text can do without.
  """

  tokenizer: str
  vocab_size: int
  lowercase: bool
  seq_length: int
  objective: str
  max_sequences: int
  validation_fraction: float
  short_probability: float
  seed: int
  workers: int
  skip_bad: bool
  text_field: str
  deduplicate: bool
  min_characters: int
  word_segmenter: str
  strip_accents: bool | None


class Job(NamedTuple):
  """A preparation as plain values, which may travel to other machines that see the same files.

  Attributes:
    sources: specifications, see `sources`.
    settings: see `PrepareSettings`.
    out: the corpus folder.
    documents: the folder of tokenized documents.
    partial: the corpus folder in the making, beside `out`.
    documents_recipe, rows_recipe: all that shapes the one and the other.
  """

  sources: tuple[str, ...]
  settings: PrepareSettings
  out: pathlib.Path
  documents: pathlib.Path
  partial: pathlib.Path
  documents_recipe: dict[str, Any]
  rows_recipe: dict[str, Any]


class Share(NamedTuple):
  """Job `job` of `jobs`: it makes the shards job, job + jobs, … of each split."""

  job: int
  jobs: int


def plan(
  sources: Sequence[str], out: str | os.PathLike, settings: PrepareSettings, documents: str | os.PathLike = ""
) -> Job:
  """What is to be done. Raises UserError for settings and sources that cannot work."""
  check_settings(settings)
  parsed = [parse_source(spec) for spec in sources]
  out = pathlib.Path(os.path.realpath(out))
  if settings.tokenizer:
    vocabulary = {"fingerprint": given_tokenizer(settings).fingerprint}
  else:
    vocabulary = {"vocab_size": settings.vocab_size, "lowercase": settings.lowercase}
    if settings.strip_accents is not None:
      vocabulary["strip_accents"] = settings.strip_accents
  shapes_text = ("text_field", "skip_bad", "deduplicate", "min_characters", "word_segmenter", "validation_fraction")
  documents_recipe = {
    "sources": list(sources),
    "files": [list(map(str, entry)) for entry in source_files(parsed, text_field=settings.text_field)],
    "tokenizer": vocabulary,
    "chunk_bytes": splits.CHUNK_BYTES,
    "version": _TEXT_VERSION,
    **{name: getattr(settings, name) for name in shapes_text},
  }
  key = documents_lib.recipe_key(documents_recipe)
  rows_recipe = {"documents": key, "version": _ROWS_VERSION, **rows.row_settings(settings)._asdict()}
  where = pathlib.Path(os.path.realpath(documents)) if documents else out.with_name(f"documents-{key}")
  return Job(tuple(sources), settings, out, where, out.with_name(f".{out.name}.partial"), documents_recipe, rows_recipe)


def keys(job: Job, tokenizer: Tokenizer) -> tuple[str, str]:
  """What every chunk and every shard in the making say they were made of: recipe and tokenizer."""
  recipes = (job.documents_recipe, job.rows_recipe)
  documents, shards = (f"{documents_lib.recipe_key(recipe)} {tokenizer.fingerprint}" for recipe in recipes)
  return documents, shards


def check_settings(settings: PrepareSettings):
  """Raises UserError for settings that cannot work, naming the flag."""
  pairs.pairing_of(settings.objective, settings.seq_length)
  if settings.max_sequences < 1:
    raise UserError(f"max_sequences: expected 1 (no packing) or more, found {settings.max_sequences}")
  if not 0 < settings.validation_fraction < 1:
    raise UserError(
      f"validation_fraction: expected a number between 0 and 1, found {settings.validation_fraction:g}: two documents "
      "are held out however small it is"
    )
  if not 0 <= settings.short_probability <= 1:
    raise UserError(f"short_probability: expected a number from 0 to 1, found {settings.short_probability:g}")
  if not 0 <= settings.seed < 2**63:
    raise UserError(f"seed: expected 0 to 2^63 - 1, found {settings.seed}")
  if settings.min_characters < 0:
    raise UserError(f"min_characters: expected 0 or more, found {settings.min_characters}")
  words.check_segmenter(settings.word_segmenter)
  if settings.workers < 0:
    raise UserError(f"workers: expected 0 (one per core) or more, found {settings.workers}")


def num_workers(settings: PrepareSettings) -> int:
  """How many processes that is."""
  return settings.workers or num_cores()


def num_cores() -> int:
  """Cores that this process may use: on Linux, in a container, fewer than there are."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def given_tokenizer(settings: PrepareSettings) -> Tokenizer:
  """The tokenizer that `settings.tokenizer` names. Raises UserError."""
  if not os.path.isdir(settings.tokenizer):
    return load_tokenizer(settings.tokenizer, lowercase=settings.lowercase, strip_accents=settings.strip_accents)
  tokenizer = load_tokenizer(settings.tokenizer)
  folder = pathlib.Path(settings.tokenizer).absolute().parent
  if (folder / "manifest.json").is_file() and pathlib.Path(settings.tokenizer).name == "tokenizer":
    corpus.check_tokenizer(folder, corpus.read_corpus_manifest(folder), tokenizer)
  if settings.strip_accents not in (None, tokenizer.normalisation["strip_accents"]):
    its = "kept" if settings.strip_accents else "stripped"
    raise UserError(
      f"{settings.tokenizer}: says itself that accents are {its}: leave out "
      "--strip_accents and --keep_accents (prepare.strip_accents), or give its vocab.txt"
    )
  return tokenizer
