"""Raw text -> corpus folder.

    read documents -> choose the split by hash -> chunks     (one process, `splits`)
    chunk -> sentences -> ids -> sequences -> rows -> shard  (worker processes, `chunk`)
    counts of all chunks -> manifest                         (`statistics`, `corpus`)

One chunk is one shard, and what is drawn at random for a document depends on
its number alone, so the same input, settings and seed give the same corpus for
any number of workers. At most one chunk more than there are workers is under
way, so memory does not grow with the corpus.

Everything is written to a folder beside the target, hidden by a dot, which gets
its final name by one rename when all is done. Until then nothing that existed
is touched, and on failure nothing stays behind.
"""

import concurrent.futures
import contextlib
import datetime
import fcntl
import itertools
import multiprocessing
import os
import pathlib
import shutil
import time
from collections import Counter
from importlib import metadata
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import tokenizers

from bert_jax.data import chunk as chunks
from bert_jax.data import corpus, pairs, splits, statistics
from bert_jax.data.sources import Document, Source, parse_source, read_documents, source_versions
from bert_jax.data.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from bert_jax.data.vocabulary import sample_documents, train_wordpiece
from bert_jax.errors import UserError

# progress(phase, num_bytes): so many more bytes of text are done in "vocabulary" or "corpus".
Progress = Callable[[str, int], None]

# Text that a vocabulary is trained on, at most: some ten million words.
_VOCABULARY_SAMPLE_BYTES = 64 * 2**20

_REMEDY = "free some space, or choose another --out"
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


def prepare_corpus(
    sources: Sequence[str], out: str | os.PathLike, settings: PrepareSettings, *, overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
  """Makes a corpus folder of raw text.

  Args:
    sources: specifications such as "text:books/*.txt", see `sources`.
    out: the folder to make. An empty one may exist, a finished corpus only with `overwrite`.
    settings: see `PrepareSettings`.
    overwrite: replace a finished corpus, after the new one is complete.
    progress: called now and then with the phase and the bytes of text done since the last call.

  Returns:
    The manifest.

  Raises:
    UserError: for every mistake in settings, sources, text, tokenizer or disk; `out` is then as it was.
  """
  check_settings(settings)
  parsed = [parse_source(spec) for spec in sources]
  out = pathlib.Path(os.path.realpath(out))
  _check_target(out, overwrite)
  started = time.monotonic()
  with _folder_in_the_making(out) as folder:
    tokenizer, documents, read = _tokenizer(parsed, settings, progress)
    save_tokenizer(tokenizer, folder / "tokenizer", max_length=settings.seq_length)
    counts_of, shards = _make_shards(documents, _recipe(folder, tokenizer, settings), settings, progress)
    provenance = {
        "sources": list(sources),
        "read": dict(sorted(read.items())),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "workers": _workers(settings),
        "versions": source_versions(parsed) | {name: metadata.version(name) for name in _VERSIONS},
    }
    manifest = _manifest(counts_of, shards, tokenizer, settings) | {corpus.PROVENANCE: provenance}
    manifest = corpus.finish(folder, manifest)
    _move_into_place(folder, out)
  return manifest


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
  if settings.workers < 0:
    raise UserError(f"workers: expected 0 (one per core) or more, found {settings.workers}")


def _workers(settings: PrepareSettings) -> int:
  return settings.workers or len(os.sched_getaffinity(0))


def _tokenizer(
    sources: Sequence[Source], settings: PrepareSettings, progress: Progress | None
) -> tuple[Tokenizer, Iterable[Document], Counter]:
  """The tokenizer, the documents to encode, and the counter that grows, or has grown, while reading them.

  A vocabulary takes a pass over the sources. A corpus that fits into the
  sample is kept from that pass; a larger one is read a second time.
  """
  read: Counter = Counter()
  documents = read_documents(sources, skip_bad=settings.skip_bad, counts=read)
  if settings.tokenizer:
    is_folder = os.path.isdir(settings.tokenizer)
    tokenizer = load_tokenizer(settings.tokenizer, lowercase=None if is_folder else settings.lowercase)
    return tokenizer, documents, read
  kept: list[Document] | None = []

  def texts():
    nonlocal kept
    done = 0
    for document in documents:
      if kept is not None:
        kept.append(document)
      yield document.text
      if progress:
        progress("vocabulary", read["bytes"] - done)
      done = read["bytes"]
      if done > _VOCABULARY_SAMPLE_BYTES:
        kept = None

  sample = sample_documents(texts(), max_bytes=_VOCABULARY_SAMPLE_BYTES, seed=settings.seed)
  tokenizer = train_wordpiece(sample, settings.vocab_size, lowercase=settings.lowercase)
  if kept is None:
    read = Counter()
    return tokenizer, read_documents(sources, skip_bad=settings.skip_bad, counts=read), read
  return tokenizer, kept, read


def _recipe(folder: pathlib.Path, tokenizer: Tokenizer, settings: PrepareSettings) -> chunks.Recipe:
  return chunks.Recipe(
      str(folder), tokenizer.plain.to_str(), tokenizer.special._asdict(), tokenizer.vocab_size,
      settings.objective, settings.seq_length, settings.max_sequences, settings.short_probability,
      settings.seed,
  )  # fmt: skip


def _make_shards(documents, recipe: chunks.Recipe, settings: PrepareSettings, progress):
  """Makes all shards. Returns, by split, the sum of the counts and the shards' entries in the manifest."""
  for split in corpus.SPLITS:
    pathlib.Path(recipe.folder, split).mkdir()
  waiting = splits.make_chunks(
      documents, validation_fraction=settings.validation_fraction, objective=settings.objective,
      chunk_bytes=splits.CHUNK_BYTES)
  advance = lambda num_bytes: progress("corpus", num_bytes) if progress else None
  # A corpus of one chunk per split leaves processes nothing to share; the tokenizer's threads do better.
  first = list(itertools.islice(waiting, len(corpus.SPLITS) + 1))
  workers = _workers(settings) if len(first) > len(corpus.SPLITS) else 1
  waiting = itertools.chain(first, waiting)
  del first  # the chain lets go of them once they are taken
  results = (_run_here(waiting, recipe, advance) if workers == 1
             else _run_in_processes(waiting, recipe, workers, advance))
  counts = {split: statistics.zero_counts(recipe.vocab_size, recipe.seq_length) for split in corpus.SPLITS}
  shards: dict[str, dict[int, dict]] = {split: {} for split in corpus.SPLITS}
  for made in results:
    counts[made.split] = statistics.add(counts[made.split], made.counts)
    shards[made.split][made.index] = made.shard
  for split in corpus.SPLITS:
    if not counts[split].rows:
      raise UserError(f"the {split} split came out empty: its documents hold nothing but control characters")
  return counts, {split: [record for _, record in sorted(shards[split].items())] for split in corpus.SPLITS}


def _run_here(waiting: Iterable[chunks.Chunk], recipe: chunks.Recipe, advance) -> Iterator[chunks.Made]:
  """One worker is this process; the tokenizer then uses its own threads."""
  backend = tokenizers.Tokenizer.from_str(recipe.tokenizer)
  before = os.environ.get("TOKENIZERS_PARALLELISM")
  os.environ["TOKENIZERS_PARALLELISM"] = "true"
  try:
    for chunk in waiting:
      yield chunks.make_shard(recipe, backend, chunk, advance)
  finally:
    os.environ.pop("TOKENIZERS_PARALLELISM")
    if before is not None:
      os.environ["TOKENIZERS_PARALLELISM"] = before


def _run_in_processes(
    waiting: Iterable[chunks.Chunk], recipe: chunks.Recipe, workers: int, advance) -> Iterator[chunks.Made]:
  """Keeps `workers` processes busy, with one chunk in reserve. The order of results is that of completion.

  Processes are spawned and not forked: the tokenizer and JAX run threads, and
  a forked child of a threaded process may hang.
  """
  waiting = iter(waiting)
  running: set[concurrent.futures.Future] = set()
  others = multiprocessing.active_children()
  pool = concurrent.futures.ProcessPoolExecutor(
      workers, multiprocessing.get_context("spawn"), initializer=chunks.start_worker, initargs=(recipe,))
  try:
    while True:
      for chunk in itertools.islice(waiting, workers + 1 - len(running)):
        running.add(pool.submit(chunks.make_shard_in_worker, chunk))
      if not running:
        return
      done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
      for future in done:
        made = future.result()
        advance(made.num_bytes)
        yield made
  except BaseException as error:
    # Whatever it is, nobody waits for what the others still do, and nothing is written any more.
    for child in multiprocessing.active_children():
      if child not in others:
        child.terminate()
    if not isinstance(error, concurrent.futures.BrokenExecutor):
      raise
    raise UserError(f"a worker process died, most likely for want of memory (each of the {workers} takes up "
                    "to 1 GB): use fewer, for example --workers=1") from error
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


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


@contextlib.contextmanager
def _folder_in_the_making(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder beside `out`, removed at the end whatever happens, unless it was moved away.

  It is locked while its process lives, so that the leftovers of a process that
  was killed can be told from the work of one that is running, and removed.
  """
  prefix = f".{out.name}.partial-"
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    for leftover in out.parent.glob(f"{prefix}*"):
      with contextlib.suppress(OSError), _locked(leftover):
        shutil.rmtree(leftover)
    folder = out.parent / f"{prefix}{os.getpid()}-{time.time_ns()}"
    folder.mkdir()
  except OSError as error:
    raise UserError(f"{error.filename or out}: cannot be written: {error.strerror}; {_REMEDY}") from error
  try:
    with contextlib.ExitStack() as stack:
      with contextlib.suppress(OSError):  # some network file systems have no locks; leftovers then stay
        stack.enter_context(_locked(folder))
      yield folder
  except OSError as error:
    raise UserError(f"{error.filename or folder}: {error.strerror}; {_REMEDY}") from error
  finally:
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path):
  """Holds a lock on a folder; OSError where another process does."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  finally:
    os.close(descriptor)


def _move_into_place(folder: pathlib.Path, out: pathlib.Path):
  """The finished folder takes its name; a corpus that it replaces is removed only after that."""
  if (out / "manifest.json").is_file():
    old = folder.with_name(f".{out.name}.replaced-{os.getpid()}-{time.time_ns()}")
    out.rename(old)
    try:
      folder.rename(out)
    except OSError:
      old.rename(out)
      raise
    shutil.rmtree(old, ignore_errors=True)
  else:
    folder.rename(out)
