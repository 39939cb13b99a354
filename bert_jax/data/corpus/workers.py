"""Chunks -> shards, in this process or in several: the part of `prepare` that takes the time.

A worker process imports this module and what it needs, and nothing else: no JAX,
no TensorFlow. It starts in a fraction of a second and stays small. It gets
everything as plain values: the tokenizer comes as its JSON text.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from typing import NamedTuple

import tokenizers

from bert_jax.data.corpus import chunk as chunks
from bert_jax.data.corpus import documents as documents_lib
from bert_jax.data.corpus import rows as rows_lib
from bert_jax.data.corpus.chunk import Advance, Chunk
from bert_jax.data.corpus.rows import RowSettings
from bert_jax.data.text import words
from bert_jax.data.tokenizer.template import Template
from bert_jax.errors import UserError


class Work(NamedTuple):
  """What every chunk of a corpus has in common.

  Attributes:
    documents: folder of tokenized documents.
    corpus: the corpus folder in the making.
    tokenizer: JSON text of `Tokenizer.plain`.
    template: of the tokenizer.
    vocab_size: number of ids.
    word_segmenter: a key of `words.SEGMENTERS`, or empty.
    rows: see `RowSettings`.
    documents_made_of, rows_made_of: see `job.keys`.
  """

  documents: str
  corpus: str
  tokenizer: str
  template: Template
  vocab_size: int
  word_segmenter: str
  rows: RowSettings
  documents_made_of: str = ""
  rows_made_of: str = ""


class _Tools(NamedTuple):
  """What a process loads once."""

  backend: tokenizers.Tokenizer
  segmenter: words.Segmenter | None


def _load_tools(work: Work) -> _Tools:
  segmenter = words.load_segmenter(work.word_segmenter) if work.word_segmenter else None
  return _Tools(tokenizers.Tokenizer.from_str(work.tokenizer), segmenter)


def make_shard(work: Work, tools: _Tools, chunk: Chunk, advance: Advance) -> None:
  """Both stages for one chunk; what is on the disk already is left as it is.

  Args:
    work: the settings.
    tools: `_load_tools(work)`.
    chunk: its documents; without texts where they are tokenized already.
    advance: called with the bytes of text finished since the last call.

  Raises:
    UserError: a file cannot be written or read.
  """
  place = chunk.split, chunk.shard
  documents = None
  try:
    if chunk.texts and not documents_lib.chunk_folder(work.documents, *place).is_dir():
      documents = chunks.tokenize(
        tools.backend, chunk, dtype=chunks.token_dtype(work.vocab_size), segmenter=tools.segmenter, advance=advance
      )
      documents_lib.write_chunk(work.documents, *place, documents, chunk.num_bytes, work.documents_made_of)
    if not rows_lib.shard_folder(work.corpus, *place).is_dir():
      if documents is None:
        documents, num_bytes = documents_lib.read_chunk(work.documents, *place, work.documents_made_of)
        advance(num_bytes)
      rows, counts = rows_lib.make_rows(documents, work.rows, vocab_size=work.vocab_size, template=work.template)
      rows_lib.write_shard(work.corpus, *place, rows, counts, work.rows_made_of)
  except OSError as error:
    raise UserError(
      f"{error.filename or work.corpus}: cannot be written: {error.strerror or error}; free some space, "
      "or choose another --out; the same command then resumes from here"
    ) from error


def run_here(waiting: Iterable[Chunk], work: Work, advance: Advance) -> None:
  """Makes the shards one after the other; the tokenizer uses its own threads."""
  tools = _load_tools(work)
  before = os.environ.get("TOKENIZERS_PARALLELISM")
  os.environ["TOKENIZERS_PARALLELISM"] = "true"
  try:
    for chunk in waiting:
      make_shard(work, tools, chunk, advance)
  finally:
    os.environ.pop("TOKENIZERS_PARALLELISM")
    if before is not None:
      os.environ["TOKENIZERS_PARALLELISM"] = before


def run_in_processes(waiting: Iterable[Chunk], work: Work, workers: int, advance: Advance) -> None:
  """Keeps `workers` processes busy, with one chunk in reserve.

  Processes are spawned and not forked: the tokenizer and JAX run threads, and
  a forked child of a threaded process may hang.

  Raises:
    UserError: of `make_shard`, or when a worker died.
  """
  waiting = iter(waiting)
  running: set[concurrent.futures.Future] = set()
  others = multiprocessing.active_children()
  pool = concurrent.futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(work,)
  )
  try:
    while True:
      for chunk in itertools.islice(waiting, workers + 1 - len(running)):
        running.add(pool.submit(_make_shard_in_worker, chunk))
      if not running:
        return
      done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
      for future in done:
        advance(future.result())
  except BaseException as error:
    # Whatever it is, nobody waits for what the others still do, and nothing is written any more.
    for child in multiprocessing.active_children():
      if child not in others:
        child.terminate()
    if not isinstance(error, concurrent.futures.BrokenExecutor):
      raise
    raise UserError(
      f"a worker process died, most likely out of memory (each of the {workers} takes up "
      "to 1 GB): use fewer, for example --workers=1; the same command then resumes from here"
    ) from error
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[Work, _Tools] | None = None  # set in worker processes only


def _start_worker(work: Work) -> None:
  """Runs once in every worker process, before its first chunk."""
  global _worker
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
  # The processes are the parallelism; threads inside each would only fight over the cores.
  os.environ["TOKENIZERS_PARALLELISM"] = "false"
  threading.Thread(target=_leave_with_parent, daemon=True).start()
  _worker = work, _load_tools(work)


def _leave_with_parent() -> None:
  """Ends this process when its parent is gone, even killed: it would wait for work for ever."""
  parent = multiprocessing.parent_process()
  assert parent  # this runs in workers only
  parent.join()
  os._exit(1)


def _make_shard_in_worker(chunk: Chunk) -> int:
  """Returns the bytes of text that were finished."""
  assert _worker
  finished: list[int] = []
  make_shard(*_worker, chunk, finished.append)
  return sum(finished)
