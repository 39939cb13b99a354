"""Where a run folder may lie, and what can be done there: a file system, or Google's object store (gs://).

An object store has neither append nor rename, no locks and no memory maps, and
its folders are no more than names with a "/" in them. But an object appears
whole or not at all. So whatever a run writes is written as whole files of
moderate size, and this is the only file that knows how the two kinds differ.

For gs:// the package gcsfs does the work, as it does for sources (data/files.py);
the arrays of checkpoints go through TensorStore, which brings its own client.
"""

import contextlib
import errno
import functools
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from etils import epath

from bert_jax.errors import UserError
from bert_jax.io import atomic

REMOTE = "gs://"

# etils, and through it Orbax, takes TensorFlow as its client for gs:// wherever that is installed: it keeps lists for
# seconds, raises errors of its own, and costs seconds to import. etils asks once, at the first path that is looked at.
if importlib.util.find_spec("gcsfs") is not None:
  os.environ.setdefault("EPATH_USE_TF", "false")

_copies: list[tempfile.TemporaryDirectory] = []  # of `fetch`; gone with this process


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path names objects of a store, where nothing can be appended to or renamed."""
  return "://" in os.fspath(path)


def are_same(one: str, other: str) -> bool:
  """Whether two paths name one place, links and the working directory considered."""
  where = lambda path: path if is_remote(path) else os.path.realpath(path)
  return where(one) == where(other)


def folder(path: str | os.PathLike) -> epath.Path:
  """A run folder, or one within, as a path that can be read and written wherever it lies; it need not exist.

  Raises:
    UserError: another store than gs://, its client is not installed, or it does not answer.
  """
  text = os.fspath(path)
  if not is_remote(text):
    return epath.Path(text)
  if not text.startswith(REMOTE):
    raise UserError(
      f"{text}: a run folder is on a file system or in {REMOTE}; mount other stores as a folder (s3fs, a volume "
      "of the pod) and name that folder"
    )
  _connect()
  place = epath.Path(text)
  try:
    place.exists()
  except Exception as error:
    raise UserError(
      f"{text} cannot be reached: {_what(error)}; check the address and this machine's credentials "
      "(`gcloud auth application-default login`)"
    ) from error
  return place


@functools.cache
def _connect() -> None:
  if importlib.util.find_spec("gcsfs") is None:
    raise UserError(f"{REMOTE} needs the package gcsfs, which is not installed: pip install gcsfs")
  import fsspec.config

  # gcsfs would go on believing listings that are older than what TensorStore and other processes have written.
  fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Replaces a file as a whole: a reader, or a crash of this process, finds the old contents or the new ones.

  On a file system it is not forced to the disk, which costs too much for what is written every few seconds.

  Raises:
    OSError: it cannot be written; also for whatever else a store's client raises.
  """
  path = epath.Path(path)
  with failures(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
      path.write_bytes(data)
    else:
      partial = pathlib.Path(f"{path}.partial")
      partial.write_bytes(data)
      os.replace(partial, path)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a UTF-8 file that appears whole, on a file system through to the disk; an older one is replaced.

  Raises:
    OSError: as write_bytes.
  """
  if is_remote(path):
    write_bytes(path, text.encode())
  else:
    atomic.write_text(path, text)


def fetch(path: str | os.PathLike) -> pathlib.Path:
  """A folder on this machine with the same files: itself, or a copy that lives as long as this process.

  Raises:
    OSError: it cannot be read.
  """
  path = epath.Path(path)
  return _copy_of(os.fspath(path)) if is_remote(path) else pathlib.Path(path)


@functools.cache
def _copy_of(text: str) -> pathlib.Path:
  _copies.append(tempfile.TemporaryDirectory(prefix="bert_jax-"))
  target = pathlib.Path(_copies[-1].name)
  with failures(text):
    copy_folder(epath.Path(text), target)
  return target


def copy_folder(source: epath.Path, target: pathlib.Path) -> None:
  """Copies the files of a folder, and of the folders in it, into a local one, which may exist."""
  target.mkdir(parents=True, exist_ok=True)
  for path in source.iterdir():
    if path.is_dir():
      copy_folder(path, target / path.name)
    else:
      with path.open("rb") as there, open(target / path.name, "wb") as here:
        shutil.copyfileobj(there, here, 1 << 20)


def send(source: pathlib.Path, target: str | os.PathLike, *, last: str = "") -> None:
  """Writes the files of a local folder as objects below `target`.

  Args:
    source: the folder; what it holds in folders goes, too.
    target: a folder of a store. Other objects there are left alone.
    last: the file without which the folder does not count: taken away first, written last.

  Raises:
    OSError: as write_bytes.
  """
  target = epath.Path(target)
  files = sorted((path for path in source.rglob("*") if path.is_file()), key=lambda path: (path.name == last, path))
  with failures(target):
    if last:
      (target / last).unlink(missing_ok=True)
    for path in files:
      write_bytes(target / path.relative_to(source).as_posix(), path.read_bytes())


@contextlib.contextmanager
def failures(path: str | os.PathLike) -> Iterator[None]:
  """Whatever a store's client raises as an OSError that names the path; on a file system they are that already."""
  try:
    yield
  except OSError:
    raise
  except Exception as error:
    if not is_remote(path):
      raise
    raise OSError(errno.EIO, _what(error), os.fspath(path)) from error


def _what(error: Exception) -> str:
  """The first line of an error."""
  return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]
