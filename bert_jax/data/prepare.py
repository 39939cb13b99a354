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
preparation that was stopped, however, goes on where it stood, and one that
changes nothing but how rows are made begins with stage two. The corpus gets its
final name by one rename when all is done; until then nothing that existed is
touched.
"""

import contextlib
import datetime
import glob
import itertools
import json
import os
import pathlib
import shutil
import time
from collections import Counter
from importlib import metadata
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

from bert_jax import atomic, locks
from bert_jax.data import chunk as chunks
from bert_jax.data import cleaning, corpus, pairs, rows, splits, statistics, words, workers
from bert_jax.data import documents as documents_lib
from bert_jax.data.files import compression
from bert_jax.data.sources import Document, parse_source, read_documents, source_files, source_versions
from bert_jax.data.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from bert_jax.data.vocabulary import sample_documents, train_wordpiece
from bert_jax.errors import UserError

# progress(phase, num_bytes, total): so many more bytes of text are done in "vocabulary" or "corpus", of a total
# that is None where it is not known.
Progress = Callable[[str, int, int | None], None]

# Text that a vocabulary is trained on, at most: some ten million words.
_VOCABULARY_SAMPLE_BYTES = 64 * 2**20
_VOCABULARY_SEED = 0  # not the seed of the rows: another order of rows is no reason for another vocabulary

_REMEDY = "free some space, or choose another --out; the same command then goes on from here"
_VERSIONS = ("numpy", "tokenizers")  # recorded in the manifest


class PrepareSettings(NamedTuple):
  """What shapes a corpus. Defaults stand in `bert_jax.config`, group `prepare`.

  Attributes:
    tokenizer: a vocab.txt or tokenizer folder; empty: train a vocabulary.
    vocab_size: entries of a vocabulary trained here.
    lowercase: lowercase and strip accents; for a trained vocabulary or a vocab.txt (a folder says it itself).
    seq_length: tokens in a row.
    objective: a key of `pairs.OBJECTIVES`.
    max_sequences: sequences in a row at most.
    validation_fraction: share of the documents held out.
    short_probability: share of NSP pairs with a random shorter target.
    seed: decides pairs and random sentences.
    workers: processes; 0: one per core.
    skip_bad: skip and count what cannot be read, instead of stopping.
    text_field: the name of the text in jsonl:, parquet: and tfds: sources.
    deduplicate: drop exact copies of a document.
    min_characters: drop shorter documents.
    word_segmenter: a key of `words.SEGMENTERS`, to store where words begin; empty: none.
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
  """Job `index` of `count`: it makes the shards index, index + count, … of each split."""

  index: int
  count: int


def prepare_corpus(
    sources: Sequence[str], out: str | os.PathLike, settings: PrepareSettings, *, overwrite: bool = False,
    documents: str | os.PathLike = "", share: Share = Share(0, 1), run_shares: Callable[[Job, int], None] | None = None,
    progress: Progress | None = None, say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:  # fmt: skip
  """Makes a corpus folder of raw text, or goes on with one.

  Args:
    sources: specifications such as "text:books/*.txt", see `sources`.
    out: the folder to make. An empty one may exist, a finished corpus only with `overwrite`.
    settings: see `PrepareSettings`.
    overwrite: replace a finished corpus, after the new one is complete.
    documents: where the tokenized documents are kept; empty: beside `out`, under a name made of what shapes them.
    share: make these shards only; the job that completes the corpus finishes it.
    run_shares: (job, count): runs `make_share` for Share(0, count), …, Share(count - 1, count) somewhere else.
    progress: called now and then with the phase and the bytes of text done since the last call.
    say: takes one line of text for the user.

  Returns:
    The manifest, or None while shards of other shares are missing.

  Raises:
    UserError: for every mistake in settings, sources, text, tokenizer or disk; `out` is then as it was.
  """
  started = time.monotonic()
  job = plan(sources, out, settings, documents)
  job.out.parent.mkdir(parents=True, exist_ok=True)
  with _disk_errors(job), contextlib.ExitStack() as held:
    with _one_at_a_time(job):
      if share.count > 1 and (done := _made_by(job, job.out)):
        say(f"{job.out} is complete already")
        return done
      _check_target(job.out, overwrite)
      lock = held.enter_context(_opened(job, alone=share.count == 1, tidy=share.count == 1 and run_shares is None))
    if not _is_assembled(job):
      if _places(job, share, tokenized=True) is not None:
        say(f"Tokenized documents: {job.documents} (nothing is read or tokenized again)")
      elif any(job.documents.glob("*/[0-9]*")):
        say(f"Tokenized documents: going on with {job.documents}")
      if run_shares:
        _tokenizer(job, progress)
        run_shares(job, _num_workers(settings))
      else:
        make_share(job, share, progress)
    provenance = {
        "sources": list(sources),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "workers": _num_workers(settings),
        "documents": str(job.documents),
        "recipe": documents_lib.describe(job.rows_recipe),
        "versions": source_versions([parse_source(spec) for spec in sources])
                    | {name: metadata.version(name) for name in _VERSIONS},
    }  # fmt: skip
    with _one_at_a_time(job):
      if not lock.take(alone=True):
        say(f"Share {share.index} of {share.count} is done; others are at work, and the last of them finishes the corpus")
        return None
      missing = _missing(job)
      if missing:
        say(f"Share {share.index} of {share.count} is done; at least {missing} shards of others are missing, "
            "and the job that makes the last of them finishes the corpus")
        return None
      if not job.partial.exists():  # a job that ended in the same moment finished it
        return _made_by(job, job.out)
      return _finish(job, provenance)


def plan(
    sources: Sequence[str], out: str | os.PathLike, settings: PrepareSettings, documents: str | os.PathLike = ""
) -> Job:
  """What is to be done. Raises UserError for settings and sources that cannot work."""
  check_settings(settings)
  parsed = [parse_source(spec) for spec in sources]
  out = pathlib.Path(os.path.realpath(out))
  if settings.tokenizer:
    vocabulary = {"fingerprint": _given_tokenizer(settings).fingerprint}
  else:
    vocabulary = {"vocab_size": settings.vocab_size, "lowercase": settings.lowercase}
  shapes_text = ("text_field", "skip_bad", "deduplicate", "min_characters", "word_segmenter", "validation_fraction")
  documents_recipe = {
      "sources": list(sources),
      "files": [list(map(str, entry)) for entry in source_files(parsed, text_field=settings.text_field)],
      "tokenizer": vocabulary,
      "chunk_bytes": splits.CHUNK_BYTES,
      **{name: getattr(settings, name) for name in shapes_text},
  }
  key = documents_lib.describe(documents_recipe)
  rows_recipe = {"documents": key, **{name: getattr(settings, name) for name in rows.RowSettings._fields}}
  where = pathlib.Path(os.path.realpath(documents)) if documents else out.with_name(f"documents-{key}")
  return Job(tuple(sources), settings, out, where, out.with_name(f".{out.name}.partial"), documents_recipe, rows_recipe)


def check_settings(settings: PrepareSettings):
  """Raises UserError for settings that cannot work, naming the flag."""
  pairs.check_settings(settings.objective, settings.seq_length)
  if settings.max_sequences < 1:
    raise UserError(f"max_sequences: expected 1 (no packing) or more, found {settings.max_sequences}")
  if not 0 < settings.validation_fraction < 1:
    raise UserError("validation_fraction: expected a share between 0 and 1, found "
                    f"{settings.validation_fraction:g}: two documents are held out however small it is")
  if not 0 <= settings.short_probability <= 1:
    raise UserError(f"short_probability: expected a share from 0 to 1, found {settings.short_probability:g}")
  if not 0 <= settings.seed < 2**63:
    raise UserError(f"seed: expected 0 to 2^63 - 1, found {settings.seed}")
  if settings.min_characters < 0:
    raise UserError(f"min_characters: expected 0 or more, found {settings.min_characters}")
  words.check_segmenter(settings.word_segmenter)
  if settings.workers < 0:
    raise UserError(f"workers: expected 0 (one per core) or more, found {settings.workers}")


def make_share(job: Job, share: Share, progress: Progress | None = None) -> None:
  """Makes the shards of one share, those that are not there yet.

  Args:
    job: from `plan`.
    share: which shards.
    progress: see `prepare_corpus`.

  Raises:
    UserError: for mistakes in the text, and for a full disk.
  """
  tokenizer, kept = _tokenizer(job, progress)
  work = workers.Work(
      str(job.documents), str(job.partial), tokenizer.plain.to_str(), tokenizer.special._asdict(),
      tokenizer.vocab_size, job.settings.word_segmenter,
      rows.RowSettings(*(getattr(job.settings, name) for name in rows.RowSettings._fields)))
  contents = documents_lib.read_contents(job.documents)
  counts = kept.counts if kept else Counter()
  known = contents.num_bytes if contents else counts["bytes"]

  def advance(num_bytes: int):
    if progress:
      total = known or _expected_bytes(job, counts)
      progress("corpus", num_bytes, total // share.count if total else None)

  waiting = _own_chunks(job, share, kept, counts, advance)
  # A corpus of one chunk per split leaves processes nothing to share; the tokenizer's threads do better.
  first = list(itertools.islice(waiting, len(corpus.SPLITS) + 1))
  several = len(first) > len(corpus.SPLITS) and _num_workers(job.settings) > 1
  waiting = itertools.chain(first, waiting)
  del first, kept  # the chain lets go of the chunks once they are taken
  if several:
    workers.run_in_processes(waiting, work, _num_workers(job.settings), advance)
  else:
    workers.run_here(waiting, work, advance)


def _num_workers(settings: PrepareSettings) -> int:
  if hasattr(os, "sched_getaffinity"):  # Linux: fewer than there are in a container
    return settings.workers or len(os.sched_getaffinity(0))
  return settings.workers or os.cpu_count() or 1


def _own_chunks(job: Job, share: Share, kept: "_Kept | None", counts: Counter, advance) -> Iterator[chunks.Chunk]:
  """The chunks of a share that still need work; those that are tokenized come without their texts."""
  places = _places(job, share, tokenized=True)
  if places is not None:
    every = (chunks.Chunk(*place, [], [], [], 0) for place in places)
  else:
    every = _read_chunks(job, kept, counts)
  for chunk in every:
    if chunk.index % share.count == share.index:
      if not documents_lib.chunk_folder(job.documents, chunk.split, chunk.index).is_dir():
        yield chunk
      elif not rows.shard_folder(job.partial, chunk.split, chunk.index).is_dir():
        yield chunk._replace(texts=[])
      else:
        advance(documents_lib.chunk_bytes(job.documents, chunk.split, chunk.index))


def _places(job: Job, share: Share, *, tokenized: bool) -> list[tuple[str, int]] | None:
  """(split, index) of a share's chunks; None while that is not known, or, with `tokenized`, while one is not."""
  contents = documents_lib.read_contents(job.documents)
  if contents is None:
    return None
  places = [(split, index) for split, count in contents.chunks.items() for index in range(share.index, count, share.count)]
  if tokenized and not all(documents_lib.chunk_folder(job.documents, *place).is_dir() for place in places):
    return None
  return places


def _read_chunks(job: Job, kept: "_Kept | None", counts: Counter) -> Iterator[chunks.Chunk]:
  """All chunks of the sources, and, once they were taken, the contents noted in the folder of documents."""
  files: dict[str, int] = {}
  num_chunks = dict.fromkeys(corpus.SPLITS, 0)
  num_bytes = 0
  made = splits.make_chunks(
      kept.documents if kept else _read(job, counts), validation_fraction=job.settings.validation_fraction,
      objective=job.settings.objective, chunk_bytes=splits.CHUNK_BYTES, files=files)
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
      documents, deduplicate=settings.deduplicate, min_characters=settings.min_characters, counts=counts)


def _expected_bytes(job: Job, counts: Counter) -> int | None:
  """How much text there will be, told from the sizes of the files and how many of them were read; None if unknown."""
  sizes = [int(size) for _, size, _ in job.documents_recipe["files"]]
  if min(sizes) > 0 and all(_is_plain_text(path) for path, _, _ in job.documents_recipe["files"]):
    return sum(sizes)
  read = sum(sizes[: max(counts["files"] - 1, 0)])
  return counts["bytes"] * sum(sizes) // read if min(sizes) > 0 and read > 0.02 * sum(sizes) else None


def _is_plain_text(path: str) -> bool:
  return not compression(path) and not path.endswith(".parquet") and not path.startswith("tfds:")


def _given_tokenizer(settings: PrepareSettings) -> Tokenizer:
  is_folder = os.path.isdir(settings.tokenizer)
  return load_tokenizer(settings.tokenizer, lowercase=None if is_folder else settings.lowercase)


class _Kept(NamedTuple):
  """Documents that were read already, and what was counted in reading them."""

  documents: list[Document]
  counts: Counter


def _tokenizer(job: Job, progress: Progress | None) -> tuple[Tokenizer, _Kept | None]:
  """The tokenizer: as given, as trained before, or trained now.

  Training takes a pass over the sources. The documents of a corpus that fits into
  the sample are returned from that pass; a larger one is read a second time.
  """
  if job.settings.tokenizer:
    return _given_tokenizer(job.settings), None
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
  tokenizer = train_wordpiece(sample, job.settings.vocab_size, lowercase=job.settings.lowercase)
  with atomic.new_folder(folder) as made:
    save_tokenizer(tokenizer, made, max_length=job.settings.seq_length)
  return tokenizer, _Kept(kept, counts) if kept is not None else None


def _missing(job: Job) -> int:
  """How many shards are still to be made; at least one while it is not known."""
  places = _places(job, Share(0, 1), tokenized=False)
  if places is None:
    return 1
  if _is_assembled(job) or not job.partial.exists():
    return 0
  return sum(not rows.shard_folder(job.partial, *place).is_dir() for place in places)


def _is_assembled(job: Job) -> bool:
  """Whether all is made, and a preparation was stopped when nothing but the name was missing."""
  return (job.partial / "manifest.json").is_file()


def _finish(job: Job, provenance: dict[str, Any]) -> dict[str, Any]:
  """Shards -> corpus. Every step may be interrupted and done again."""
  manifest = corpus.read_manifest(job.partial) if _is_assembled(job) else _assemble(job, provenance)
  # From here on the manifest tells whose folder this is.
  shutil.rmtree(job.partial / "rows", ignore_errors=True)
  (job.partial / _RECIPE).unlink(missing_ok=True)
  _sweep(job.partial, ".*.partial-*")
  _move_into_place(job.partial, job.out)
  # What was replaced, and what killed processes left beside it.
  for folder, ending in ((job.out, "replaced"), (job.partial, "partial"), (job.documents, "partial")):
    _sweep(job.out.parent, f".{glob.escape(folder.name)}.{ending}-*")
  return manifest


def _assemble(job: Job, provenance: dict[str, Any]) -> dict[str, Any]:
  """Gives the shards their final names and writes the manifest, which comes last."""
  contents = documents_lib.read_contents(job.documents)
  tokenizer, _ = _tokenizer(job, None)
  counts_of, shards = {}, {}
  for split, num_chunks in contents.chunks.items():
    made = [rows.read_shard(job.partial, split, index) for index in range(num_chunks)]
    shards[split] = [shard for shard, _ in made]
    nothing = statistics.zero_counts(tokenizer.vocab_size, job.settings.seq_length)
    counts_of[split] = sum_counts = nothing
    for _, counts in made:
      counts_of[split] = sum_counts = statistics.add(sum_counts, counts)
    if not sum_counts.rows:
      if sum_counts.documents < pairs.OBJECTIVES[job.settings.objective].min_documents:
        splits.check_count(sum(one.documents for one in counts_of.values()), job.settings.objective)
      raise UserError(f"the {split} split came out empty: its documents hold nothing but control characters")
  for split, records in shards.items():
    (job.partial / split).mkdir(exist_ok=True)
    for index in range(len(records)):
      for path in sorted(rows.shard_folder(job.partial, split, index).glob("*.npy")):
        if not path.stem.endswith("_counts"):
          path.rename(job.partial / split / corpus.shard_name(path.stem, index, len(records)))
  save_tokenizer(tokenizer, job.partial / "tokenizer", max_length=job.settings.seq_length)
  shutil.copyfile(job.documents / "files.txt", job.partial / "files.txt")
  manifest = _manifest(counts_of, shards, tokenizer, job.settings)
  return corpus.finish(job.partial, manifest | {corpus.PROVENANCE: provenance | {"read": contents.read}})


def _manifest(counts, shards, tokenizer: Tokenizer, settings: PrepareSettings) -> dict[str, Any]:
  vocabulary = [tokenizer.backend.id_to_token(index) or "" for index in range(tokenizer.vocab_size)]
  special_ids = tokenizer.special._asdict()
  describe = lambda split: statistics.describe(counts[split], vocabulary=vocabulary, special_ids=special_ids)
  records = {split: describe(split) | {"shards": shards[split]} for split in corpus.SPLITS}
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
      "tokenizer_fingerprint": tokenizer.fingerprint,
      "special_ids": special_ids,
      "unigram_entropy": records[splits.TRAIN]["unigram_entropy"],
      "counts": statistics.totals(statistics.add(*counts.values())),
      "splits": records,
  }


def _check_target(out: pathlib.Path, overwrite: bool):
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  if not (out / "manifest.json").is_file():
    raise UserError(f"{out}: exists and is no finished corpus folder, so nothing is changed; "
                    "choose another --out")
  if not overwrite:
    raise UserError(f"{out}: holds a finished corpus; use it as it is, choose another --out, or pass "
                    "--overwrite, which replaces it once the new one is complete")


_RECIPE = "recipe.json"


def _made_by(job: Job, folder: pathlib.Path) -> dict[str, Any] | None:
  """The manifest of a folder, if this very preparation made it."""
  try:
    manifest = corpus.read_manifest(folder)
  except UserError:
    return None
  made_by = manifest[corpus.PROVENANCE].get("recipe")
  return manifest if made_by == documents_lib.describe(job.rows_recipe) else None


@contextlib.contextmanager
def _disk_errors(job: Job) -> Iterator[None]:
  """What the disk has to say, as one line with the remedy."""
  try:
    yield
  except OSError as error:
    raise UserError(f"{error.filename or job.out}: {error.strerror or error}; {_REMEDY}") from error


@contextlib.contextmanager
def _one_at_a_time(job: Job) -> Iterator[None]:
  """While a process takes up or finishes a corpus, no other one does so in the same folder."""
  with locks.FolderLock(job.out.parent) as lock:
    lock.take(alone=True, wait=True)
    yield


@contextlib.contextmanager
def _opened(job: Job, *, alone: bool, tidy: bool) -> Iterator[locks.FolderLock]:
  """Makes or takes up both folders of a job, locked while this process works in them.

  What was begun under another recipe in the place of `job.partial` is removed. On
  failure what is done stays for the next attempt.

  Args:
    job: from `plan`.
    alone: no other process may work on this corpus; else those of other shares may.
    tidy: remove what killed processes left, and on failure folders without a single chunk.
  """
  recipe = json.dumps(job.rows_recipe, sort_keys=True)
  begun = job.partial.is_dir()
  if begun and _text(job.partial / _RECIPE) != recipe and not _made_by(job, job.partial):
    with locks.FolderLock(job.partial) as lock:
      _require(lock.take(alone=True), job)
      _remove(job.partial, job)
    begun = False
  _take_up_documents(job)
  if not begun:
    with atomic.new_folder(job.partial) as made:
      atomic.write_text(made / _RECIPE, recipe)
  with locks.FolderLock(job.partial) as lock, locks.FolderLock(job.documents) as documents_lock:
    _require(lock.take(alone=alone), job)
    if tidy and documents_lock.take(alone=True, certainly=True):
      _sweep(job.documents, ".*.partial-*")
      _sweep(job.documents, "*/.*.partial-*")
    documents_lock.take(alone=False)  # other corpora may be made of them at the same time
    try:
      yield lock
    except BaseException:
      if tidy and not any(job.partial.glob("rows/*/[0-9]*")):
        _remove(job.partial, job)
      if tidy and not any(job.documents.glob("*/[0-9]*")) and documents_lock.take(alone=True):
        _remove(job.documents, job)
      raise


def _require(is_free: bool, job: Job) -> None:
  if not is_free:
    raise UserError(f"{job.out}: another process is preparing it right now; wait for that one, or choose another --out")


def _remove(folder: pathlib.Path, job: Job) -> None:
  """Removes a folder, which first loses its name: half of it must never be taken for the whole."""
  old = folder.with_name(f".{job.out.name}.replaced-{os.getpid()}-{time.time_ns()}")
  folder.rename(old)
  shutil.rmtree(old, ignore_errors=True)


def _sweep(folder: pathlib.Path, pattern: str) -> None:
  """Removes files and folders that nobody writes any more."""
  for path in folder.glob(pattern):
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


def _take_up_documents(job: Job) -> None:
  """Makes the folder of tokenized documents, or checks that the one that is there belongs to this job."""
  recipe = json.dumps(job.documents_recipe, sort_keys=True, ensure_ascii=False)
  path = job.documents / _RECIPE
  found = _text(path)
  if found is None and any(not one.name.startswith(f".{_RECIPE}.partial-") for one in job.documents.glob("*")):
    raise UserError(f"{job.documents}: is not empty and holds no tokenized documents; choose another --documents")
  if found is not None and found != recipe:
    before = json.loads(found)
    changed = [key for key, value in job.documents_recipe.items() if before.get(key) != value]
    raise UserError(f"{job.documents}: holds the tokenized documents of another preparation ({', '.join(changed)} "
                    "differ); choose another --documents, or delete it")
  job.documents.mkdir(parents=True, exist_ok=True)
  if found is None:
    atomic.write_text(path, recipe)


def _text(path: pathlib.Path) -> str | None:
  try:
    return path.read_text(encoding="utf-8")
  except FileNotFoundError:
    return None


def _move_into_place(folder: pathlib.Path, out: pathlib.Path):
  """The finished folder takes its name; a corpus that it replaces is removed only after that, by `_sweep`."""
  if (out / "manifest.json").is_file():
    old = folder.with_name(f".{out.name}.replaced-{os.getpid()}-{time.time_ns()}")
    out.rename(old)
    try:
      folder.rename(out)
    except OSError:
      old.rename(out)
      raise
  else:
    folder.rename(out)
