"""Raw text -> corpus folder, in two stages that both work chunk by chunk.

    read documents -> clean -> choose the split by hash -> chunks     (one process, `splits`)
    1. chunk -> sentences -> ids -> a folder of tokenized documents    (worker processes, `chunk`)
    2. tokenized documents -> sequences -> packed rows -> one shard    (worker processes, `rows`)
    counts of all shards -> manifest                                  (`statistics`, `corpus`)

One chunk is one shard, and what is drawn at random for a document depends on
its number alone, so the same input, settings and seed give the same corpus for
any number of workers, for job arrays (job i of n makes the shards i, i + n, …)
and under Beam. At most one chunk more than there are workers is under way, so
memory does not grow with the corpus.

Every chunk of either stage appears whole, under a name that says which it is. A
preparation that was stopped, however, resumes where it stopped, and one that
changes nothing but how rows are made begins with stage two. The corpus gets its
final name by one rename when all is done; until then nothing that existed is
touched.
"""

import contextlib
import datetime
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from bert_jax.data.corpus import assemble, rows, splits, work_folders, workers
from bert_jax.data.corpus import chunk as chunks
from bert_jax.data.corpus import documents as documents_lib
from bert_jax.data.corpus import folder as corpus
from bert_jax.data.corpus.job import Job, PrepareSettings, Share, given_tokenizer, keys, num_workers, plan
from bert_jax.data.text import cleaning
from bert_jax.data.text.files import compression
from bert_jax.data.text.sources import Document, parse_source, read_documents, source_versions
from bert_jax.data.tokenizer import casing
from bert_jax.data.tokenizer.vocabulary import sample_documents, train_wordpiece
from bert_jax.data.tokenizer.wordpiece import Tokenizer, load_tokenizer, save_tokenizer
from bert_jax.io import atomic

# progress(phase, num_bytes, total): so many more bytes of text are done in "vocabulary" or "corpus", of a total
# that is None where it is not known.
ProgressCallback = Callable[[str, int, int | None], None]

# Text that a vocabulary is trained on, at most: some ten million words.
_VOCABULARY_SAMPLE_BYTES = 64 * 2**20
_VOCABULARY_SEED = 0  # not the seed of the rows: another order of rows is no reason for another vocabulary

_VERSIONS = ("numpy", "tokenizers")  # recorded in the manifest


def prepare_corpus(
  sources: Sequence[str],
  out: str | os.PathLike,
  settings: PrepareSettings,
  *,
  overwrite: bool = False,
  documents: str | os.PathLike = "",
  share: Share = Share(0, 1),
  run_shares: Callable[[Job, int], None] | None = None,
  progress: ProgressCallback | None = None,
  log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
  """Makes a corpus folder from raw text, or resumes making it.

  Args:
    sources: specifications such as "text:books/*.txt", see `sources`.
    out: the folder to make. An empty one may exist, a finished corpus only with `overwrite`.
    settings: see `PrepareSettings`.
    overwrite: replace a finished corpus, after the new one is complete.
    documents: where the tokenized documents are kept; empty: beside `out`, under a name made of what shapes them.
    share: make these shards only; the job that completes the corpus finishes it.
    run_shares: (job, count): runs `make_share` for Share(0, count), …, Share(count - 1, count) somewhere else.
    progress: called now and then with the phase and the bytes of text done since the last call.
    log: takes one line of text for the user.

  Returns:
    The manifest, or None while shards of other shares are missing.

  Raises:
    UserError: for every mistake in settings, sources, text, tokenizer or disk; `out` is then as it was.
  """
  started = time.monotonic()
  job = plan(sources, out, settings, documents)
  job.out.parent.mkdir(parents=True, exist_ok=True)
  with work_folders.disk_errors(job), contextlib.ExitStack() as held:
    with work_folders.one_at_a_time(job):
      if share.jobs > 1 and (done := work_folders.made_by(job, job.out)):
        log(f"{job.out} is complete already")
        return done
      work_folders.check_target(job.out, overwrite)
      lock = held.enter_context(
        work_folders.opened(job, alone=share.jobs == 1, tidy=share.jobs == 1 and run_shares is None)
      )
    if not assemble.is_assembled(job):
      if _places(job, share, tokenized=True) is not None:
        log(f"Tokenized documents: {job.documents} (nothing is read or tokenized again)")
      elif any(job.documents.glob("*/[0-9]*")):
        log(f"Tokenized documents: resuming {job.documents}")
      if run_shares:
        _tokenizer(job, progress, log)
        run_shares(job, num_workers(settings))
      else:
        make_share(job, share, progress, log)
    provenance = {
      "sources": list(sources),
      "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
      "seconds": round(time.monotonic() - started, 1),
      "workers": num_workers(settings),
      "documents": str(job.documents),
      "recipe": documents_lib.recipe_key(job.rows_recipe),
      "versions": source_versions([parse_source(spec) for spec in sources])
      | {name: metadata.version(name) for name in _VERSIONS},
    }
    with work_folders.one_at_a_time(job):
      if not lock.take(alone=True):
        log(f"Share {share.job} of {share.jobs} is done; others are at work, and the last of them finishes the corpus")
        return None
      missing = _missing(job)
      if missing:
        log(
          f"Share {share.job} of {share.jobs} is done; at least {missing} shards of others are missing, "
          "and the job that makes the last of them finishes the corpus"
        )
        return None
      if not job.partial.exists():  # a job that ended in the same moment finished it
        return work_folders.made_by(job, job.out)
      tokenizer, _ = _tokenizer(job)
      return assemble.assemble_corpus(job, tokenizer, provenance)


def make_share(
  job: Job, share: Share, progress: ProgressCallback | None = None, log: Callable[[str], None] = lambda line: None
) -> None:
  """Makes the shards of one share, those that are not there yet.

  Args:
    job: from `plan`.
    share: which shards.
    progress, log: see `prepare_corpus`.

  Raises:
    UserError: for mistakes in the text, and for a full disk.
  """
  tokenizer, kept = _tokenizer(job, progress, log)
  work = workers.Work(
    str(job.documents),
    str(job.partial),
    tokenizer.plain.to_str(),
    tokenizer.template,
    tokenizer.vocab_size,
    job.settings.word_segmenter,
    rows.row_settings(job.settings),
    *keys(job, tokenizer),
  )
  contents = documents_lib.read_contents(job.documents)
  counts = kept.counts if kept else Counter()
  known = contents.num_bytes if contents else counts["bytes"]

  def advance(num_bytes: int):
    if progress:
      total = known or _expected_bytes(job, counts)
      progress("corpus", num_bytes, total // share.jobs if total else None)

  waiting = _own_chunks(job, share, kept, counts, advance)
  # A corpus of one chunk per split leaves processes nothing to share; the tokenizer's threads do better.
  first = list(itertools.islice(waiting, len(corpus.SPLITS) + 1))
  several = len(first) > len(corpus.SPLITS) and num_workers(job.settings) > 1
  waiting = itertools.chain(first, waiting)
  del first, kept  # the chain lets go of the chunks once they are taken
  if several:
    workers.run_in_processes(waiting, work, num_workers(job.settings), advance)
  else:
    workers.run_here(waiting, work, advance)


def _own_chunks(job: Job, share: Share, kept: "_Kept | None", counts: Counter, advance) -> Iterator[chunks.Chunk]:
  """The chunks of a share that still need work; those that are tokenized come without their texts."""
  places = _places(job, share, tokenized=True)
  if places is not None:
    every = (chunks.Chunk(*place, [], [], [], 0) for place in places)
  else:
    every = _read_chunks(job, kept, counts)
  for chunk in every:
    if chunk.shard % share.jobs == share.job:
      if not documents_lib.chunk_folder(job.documents, chunk.split, chunk.shard).is_dir():
        yield chunk
      elif not rows.shard_folder(job.partial, chunk.split, chunk.shard).is_dir():
        yield chunk._replace(texts=[])
      else:
        advance(documents_lib.chunk_bytes(job.documents, chunk.split, chunk.shard))


def _places(job: Job, share: Share, *, tokenized: bool) -> list[tuple[str, int]] | None:
  """(split, index) of a share's chunks; None while that is not known, or, with `tokenized`, while one is not."""
  contents = documents_lib.read_contents(job.documents)
  if contents is None:
    return None
  places = [(split, index) for split, count in contents.chunks.items() for index in range(share.job, count, share.jobs)]
  if tokenized and not all(documents_lib.chunk_folder(job.documents, *place).is_dir() for place in places):
    return None
  return places


def _read_chunks(job: Job, kept: "_Kept | None", counts: Counter) -> Iterator[chunks.Chunk]:
  """All chunks of the sources, and, once they were taken, the contents noted in the folder of documents."""
  files: dict[str, int] = {}
  num_chunks = dict.fromkeys(corpus.SPLITS, 0)
  num_bytes = 0
  made = splits.make_chunks(
    kept.documents if kept else _read(job, counts),
    validation_fraction=job.settings.validation_fraction,
    objective=job.settings.objective,
    chunk_bytes=splits.CHUNK_BYTES,
    files=files,
    total_bytes=sum(int(size) for _, size, _ in job.documents_recipe["files"]),
  )
  for chunk in made:
    num_chunks[chunk.split] += 1
    num_bytes += chunk.num_bytes
    yield chunk
  read = dict(sorted(counts.items()))
  documents_lib.write_contents(job.documents, documents_lib.Contents(num_chunks, num_bytes, read), list(files))


def _read(job: Job, counts: Counter) -> Iterator[Document]:
  settings = job.settings
  parsed = [parse_source(spec) for spec in job.sources]
  documents = read_documents(parsed, skip_bad=settings.skip_bad, counts=counts, text_field=settings.text_field)
  return cleaning.clean(
    documents, deduplicate=settings.deduplicate, min_characters=settings.min_characters, counts=counts
  )


def _expected_bytes(job: Job, counts: Counter) -> int | None:
  """How much text there will be, told from the sizes of the files and how many of them were read; None if unknown."""
  sizes = [int(size) for _, size, _ in job.documents_recipe["files"]]
  if min(sizes) > 0 and all(_is_plain_text(path) for path, _, _ in job.documents_recipe["files"]):
    return sum(sizes)
  read = sum(sizes[: max(counts["files"] - 1, 0)])
  return counts["bytes"] * sum(sizes) // read if min(sizes) > 0 and read > 0.02 * sum(sizes) else None


def _is_plain_text(path: str) -> bool:
  return not compression(path) and not path.endswith(".parquet") and not path.startswith("tfds:")


class _Kept(NamedTuple):
  """Documents that were read already, and what was counted in reading them."""

  documents: list[Document]
  counts: Counter


def _tokenizer(
  job: Job, progress: ProgressCallback | None = None, log: Callable[[str], None] | None = None
) -> tuple[Tokenizer, _Kept | None]:
  """The tokenizer: as given, as trained before, or trained now. What its normalisation changes is said to `log`.

  Training takes a pass over the sources. The documents of a corpus that fits into
  the sample are returned from that pass; a larger one is read a second time.
  """
  if job.settings.tokenizer:
    tokenizer = given_tokenizer(job.settings)
    if log is not None and documents_lib.read_contents(job.documents) is None:
      _say_stripping(casing.stripping_of(document.text for document in _read(job, Counter())), tokenizer, log)
    return tokenizer, None
  folder = job.documents / "tokenizer"
  if folder.is_dir():
    return load_tokenizer(folder), None
  counts: Counter = Counter()
  kept: list[Document] | None = []

  def texts():
    nonlocal kept
    done = 0
    for document in _read(job, counts):
      if kept is not None:
        kept.append(document)
      yield document.text
      if progress:
        progress("vocabulary", counts["bytes"] - done, _expected_bytes(job, counts))
      done = counts["bytes"]
      if done > _VOCABULARY_SAMPLE_BYTES:
        kept = None

  sample = sample_documents(texts(), max_bytes=_VOCABULARY_SAMPLE_BYTES, seed=_VOCABULARY_SEED)
  lowercase, strips, stripping = job.settings.lowercase, job.settings.strip_accents, casing.stripping_of(sample)
  if strips is None:
    strips = lowercase and stripping.share <= casing.KEPT_ABOVE
  tokenizer = train_wordpiece(sample, job.settings.vocab_size, lowercase=lowercase, strip_accents=strips)
  _say_stripping(stripping, tokenizer, log or (lambda line: None))
  with atomic.new_folder(folder) as made:
    save_tokenizer(tokenizer, made, max_length=job.settings.seq_length)
  return tokenizer, _Kept(kept, counts) if kept is not None else None


def _say_stripping(found: casing.Stripping, tokenizer: Tokenizer, log: Callable[[str], None]) -> None:
  strips = tokenizer.normalisation["strip_accents"]
  note = casing.note_of_stripping(found, stripped=strips)
  if note and (strips or tokenizer.lowercase):  # cased texts keep their marks, as everybody expects
    log(note)


def _missing(job: Job) -> int:
  """How many shards are still to be made; at least one while it is not known."""
  places = _places(job, Share(0, 1), tokenized=False)
  if places is None:
    return 1
  if assemble.is_assembled(job) or not job.partial.exists():
    return 0
  return sum(not rows.shard_folder(job.partial, *place).is_dir() for place in places)
