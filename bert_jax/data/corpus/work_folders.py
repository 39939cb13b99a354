"""The two folders that `prepare` works in: taken up, locked, swept, and the finished one named.

DOCUMENTS/            tokenized documents, which other corpora may use at the same time
.CORPUS.partial/      the corpus in the making, beside its place; a recipe says what is being made
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from bert_jax.data.corpus import documents as documents_lib
from bert_jax.data.corpus import folder as corpus
from bert_jax.data.corpus.job import Job
from bert_jax.errors import UserError
from bert_jax.io import atomic, locks
from bert_jax.io.json_files import MAX_BYTES, parse_json
from bert_jax.io.plain_files import read_bounded

RECIPE = "recipe.json"

_REMEDY = "free some space or choose another --out that is writable; the same command then resumes from here"


def check_target(out: pathlib.Path, overwrite: bool) -> None:
  """Raises UserError where a corpus may not be put."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  if not (out / "manifest.json").is_file():
    raise UserError(f"{out}: exists and is not a finished corpus folder, so nothing is changed; choose another --out")
  if not overwrite:
    raise UserError(
      f"{out}: holds a finished corpus; use it as it is, choose another --out, or pass "
      "--overwrite, which replaces it once the new one is complete"
    )


def made_by(job: Job, folder: pathlib.Path) -> dict[str, Any] | None:
  """The manifest of a folder, if this very preparation made it."""
  try:
    manifest = corpus.read_corpus_manifest(folder)
  except UserError:
    return None
  made_by = manifest[corpus.PROVENANCE].get("recipe")
  return manifest if made_by == documents_lib.recipe_key(job.rows_recipe) else None


@contextlib.contextmanager
def disk_errors(job: Job) -> Iterator[None]:
  """What the disk has to say, as one line with the remedy."""
  try:
    yield
  except OSError as error:
    raise UserError(f"{error.filename or job.out}: {error.strerror or error}; {_REMEDY}") from error


@contextlib.contextmanager
def one_at_a_time(job: Job) -> Iterator[None]:
  """While a process takes up or finishes a corpus, no other one does so in the same folder."""
  with locks.FolderLock(job.out.parent) as lock:
    lock.take(alone=True, wait=True)
    yield


@contextlib.contextmanager
def opened(job: Job, *, alone: bool, tidy: bool) -> Iterator[locks.FolderLock]:
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
  if begun and _text(job.partial / RECIPE) != recipe and not made_by(job, job.partial):
    with locks.FolderLock(job.partial) as lock:
      _require(lock.take(alone=True), job)
      atomic.remove_folder(job.partial)
    begun = False
  _take_up_documents(job)
  if not begun:
    with atomic.new_folder(job.partial) as made:
      atomic.write_text(made / RECIPE, recipe)
  with locks.FolderLock(job.partial) as lock, locks.FolderLock(job.documents) as documents_lock:
    _require(lock.take(alone=alone), job)
    if tidy and documents_lock.take(alone=True, certainly=True):
      remove_leftovers(job.documents, ".*.partial-*")
      remove_leftovers(job.documents, "*/.*.partial-*")
    documents_lock.take(alone=False)  # other corpora may be made of them at the same time
    try:
      yield lock
    except BaseException:
      if tidy and not any(job.partial.glob("rows/*/[0-9]*")):
        atomic.remove_folder(job.partial)
      if tidy and not any(job.documents.glob("*/[0-9]*")) and documents_lock.take(alone=True):
        atomic.remove_folder(job.documents)
      raise


def _require(is_free: bool, job: Job) -> None:
  if not is_free:
    raise UserError(f"{job.out}: another process is preparing it right now; wait for that one, or choose another --out")


def remove_leftovers(folder: pathlib.Path, pattern: str) -> None:
  """Removes files and folders that nobody writes any more."""
  for path in folder.glob(pattern):
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)


def _take_up_documents(job: Job) -> None:
  """Makes the folder of tokenized documents, or checks that the one that is there belongs to this job."""
  recipe = json.dumps(job.documents_recipe, sort_keys=True, ensure_ascii=False)
  path = job.documents / RECIPE
  found = _text(path)
  if found is None and any(not one.name.startswith(f".{RECIPE}.partial-") for one in job.documents.glob("*")):
    raise UserError(f"{job.documents}: is not empty and holds no tokenized documents; choose another --documents")
  if found is not None and found != recipe:
    before = parse_json(found, str(path))
    changed = [
      key for key, value in job.documents_recipe.items() if not isinstance(before, dict) or before.get(key) != value
    ]
    raise UserError(
      f"{job.documents}: holds the tokenized documents of another preparation ({', '.join(changed)} "
      "differ); choose another --documents, or delete it"
    )
  job.documents.mkdir(parents=True, exist_ok=True)
  if found is None:
    atomic.write_text(path, recipe)


def _text(path: pathlib.Path) -> str | None:
  try:
    return read_bounded(path, MAX_BYTES).decode("utf-8", "replace")
  except FileNotFoundError:
    return None
