"""The last step of `prepare`: shards in the making -> a finished corpus."""

import glob
import hashlib
import shutil
from typing import Any

from bert_jax.data.corpus import chunk as chunks
from bert_jax.data.corpus import documents as documents_lib
from bert_jax.data.corpus import folder as corpus
from bert_jax.data.corpus import pairs, rows, splits, statistics, suitability, work_folders
from bert_jax.data.corpus.job import Job, PrepareSettings, keys
from bert_jax.data.tokenizer.wordpiece import Tokenizer, save_tokenizer
from bert_jax.errors import UserError
from bert_jax.io import atomic


def is_assembled(job: Job) -> bool:
  """Whether all is made, and a preparation was stopped when nothing but the name was missing."""
  return (job.partial / "manifest.json").is_file()


def assemble_corpus(job: Job, tokenizer: Tokenizer, provenance: dict[str, Any]) -> dict[str, Any]:
  """Shards -> corpus. Every step may be interrupted and done again."""
  manifest = corpus.read_corpus_manifest(job.partial) if is_assembled(job) else _assemble(job, tokenizer, provenance)
  # From here on the manifest tells whose folder this is.
  shutil.rmtree(job.partial / "rows", ignore_errors=True)
  (job.partial / work_folders.RECIPE).unlink(missing_ok=True)
  work_folders.remove_leftovers(job.partial, ".*.partial-*")
  atomic.move_into_place(job.partial, job.out)
  for folder in (job.out, job.partial, job.documents):  # what killed processes left beside it
    for ending in ("replaced", "partial"):
      work_folders.remove_leftovers(job.out.parent, f".{glob.escape(folder.name)}.{ending}-*")
  return manifest


def _assemble(job: Job, tokenizer: Tokenizer, provenance: dict[str, Any]) -> dict[str, Any]:
  """Gives the shards their final names and writes the manifest, which comes last."""
  contents = documents_lib.read_contents(job.documents)
  assert contents  # the text is complete before its rows are
  _, made_of = keys(job, tokenizer)
  files = (job.documents / "files.txt").read_bytes()
  if contents.files and hashlib.sha256(files).hexdigest() != contents.files:
    raise UserError(
      f"{job.documents / 'files.txt'}: was altered; delete {job.documents} and prepare again, which tokenizes the text "
      "again"
    )
  counts_of: dict[str, rows.Counts] = {}
  shards: dict[str, list[dict[str, Any]]] = {}
  for split, num_chunks in contents.chunks.items():
    shards[split], total = [], statistics.zero_counts(tokenizer.vocab_size, job.settings.seq_length)
    for index in range(num_chunks):  # one at a time: counts are as long as the vocabulary
      final = lambda name: job.partial / split / corpus.shard_name(name, index, num_chunks)
      shard, counts = rows.read_shard(job.partial, split, index, made_of, final)
      shards[split].append(shard)
      total = statistics.add(total, counts)
    counts_of[split] = total
  for split, total in counts_of.items():
    if not total.rows:
      if total.documents < pairs.PAIRINGS[job.settings.objective].min_documents:
        splits.check_count(sum(one.documents for one in counts_of.values()), job.settings.objective)
      if total.tokens:
        raise UserError(
          f"the {split} split came out empty: its {total.documents:,} documents hold {total.tokens:,} tokens, which "
          "make no pair; text without spaces is one unknown word, so put spaces between words, or use --objective=none"
        )
      raise UserError(f"the {split} split came out empty: its documents contain only control characters")
  manifest = _manifest(counts_of, shards, tokenizer, job.settings)
  # Not a part of what `corpus_id` covers: corpora made before this was counted keep theirs.
  unused = {split: total.unused for split, total in counts_of.items()}
  manifest[corpus.PROVENANCE] = provenance | {
    "read": contents.read,
    "unused_tokens": unused,
    "files": hashlib.sha256(files).hexdigest(),
  }
  suitability.check(manifest, f"{', '.join(job.sources)}: no corpus is made")
  for split, records in shards.items():
    (job.partial / split).mkdir(exist_ok=True)
    for index in range(len(records)):
      for path in sorted(rows.shard_folder(job.partial, split, index).glob("*.npy")):
        if not path.stem.endswith("_counts"):
          path.rename(job.partial / split / corpus.shard_name(path.stem, index, len(records)))
  save_tokenizer(tokenizer, job.partial / "tokenizer", max_length=job.settings.seq_length)
  (job.partial / "files.txt").write_bytes(files)
  return corpus.write_manifest(job.partial, manifest)


def _manifest(counts, shards, tokenizer: Tokenizer, settings: PrepareSettings) -> dict[str, Any]:
  records = {
    split: statistics.describe_split(counts[split], tokenizer) | {"shards": shards[split]} for split in corpus.SPLITS
  }
  strips = tokenizer.normalisation["strip_accents"]
  return {
    "objective": settings.objective,
    "seq_length": settings.seq_length,
    "max_sequences": settings.max_sequences,
    "token_dtype": chunks.token_dtype(tokenizer.vocab_size),
    "seed": settings.seed,
    "short_probability": settings.short_probability,
    "validation_fraction": settings.validation_fraction,
    "deduplicate": settings.deduplicate,
    "min_characters": settings.min_characters,
    "word_segmenter": settings.word_segmenter,
    "vocab_size": tokenizer.vocab_size,
    "lowercase": tokenizer.lowercase,
    **({} if strips == tokenizer.lowercase else {"strip_accents": strips}),
    "tokenizer_fingerprint": tokenizer.fingerprint,
    "special_ids": tokenizer.special._asdict(),
    "unigram_entropy": records[splits.TRAIN]["unigram_entropy"],
    "counts": statistics.totals(statistics.add(*counts.values())),
    "splits": records,
  }
