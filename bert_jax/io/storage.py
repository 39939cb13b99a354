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
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from etils import epath

from bert_jax.errors import StorageError, UserError
from bert_jax.io import atomic

REMOTE = "gs://"

# Between two tries of a read that storage refused. A file server that fails over takes longer than their sum; by then
# the run has ended with a code that launchers restart.
PAUSES_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0)
# What an OSError says of the path, not of the storage: nothing is there, or something of another kind.
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP))
_FORBIDDEN = frozenset((errno.EACCES, errno.EPERM))
_OS_ERROR = re.compile(r"\[OS error (\d+):")  # as TensorStore writes it
# How TensorStore says that an object store was not reached, or did not let us in.
_UNREACHED = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CURL")
_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "Forbidden")

_Result = TypeVar("_Result")

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
    UserError: another store than gs://, its client is not installed, or it lets nobody in.
    StorageError: it does not answer.
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
    raise (UserError if _is_refusal(error) else StorageError)(
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


def patiently(read: Callable[[], _Result], path: str | os.PathLike, pauses: Sequence[float] | None = None) -> _Result:
  """read(), tried again after pauses where storage fails: what could not be read is not damaged.

  Args:
    read: changes nothing; called once or several times.
    path: what is read, for the message and to tell where it lies.
    pauses: seconds before each further try; None: PAUSES_SECONDS.

  Raises:
    StorageError: storage still fails at the last try.
    UserError: it still refuses permission at the last try.
    Exception: whatever else read() raises, at once. FileNotFoundError is among these: it says what is there.
  """
  for pause in (*(PAUSES_SECONDS if pauses is None else pauses), None):
    try:
      return read()
    except Exception as error:
      if not is_failure(error, path):
        raise
      if pause is None:
        raise _unreadable(error, path) from error
    time.sleep(pause)
  raise AssertionError("the last try returns or raises")


def is_failure(error: BaseException, path: str | os.PathLike) -> bool:
  """Whether an error says that storage failed (ESTALE, EIO, a timeout, no permission), not what lies at the path."""
  if isinstance(error, UserError | StorageError | MemoryError):
    return False
  number = _errno_of(error)
  if number is not None:
    return number not in _ABSENT
  if isinstance(error, TimeoutError | ConnectionError):
    return True
  if not is_remote(path) or isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
    return False
  return isinstance(error, OSError) or any(sign in str(error) for sign in (*_UNREACHED, *_REFUSED))


def _errno_of(error: BaseException) -> int | None:
  """The number of an error of the operating system, which TensorStore has in its text only; None for any other."""
  if isinstance(error, OSError):
    return error.errno
  found = _OS_ERROR.search(str(error))
  return int(found[1]) if found else None


def _unreadable(error: Exception, path: str | os.PathLike) -> Exception:
  """What is raised when the last try has failed."""
  said = _what(error)
  if _errno_of(error) in _FORBIDDEN or any(sign in str(error) for sign in _REFUSED):
    return UserError(f"{path} cannot be read: {said}; grant this user read access, nothing was changed")
  return StorageError(f"{path} cannot be read: {said}; tried for {sum(PAUSES_SECONDS):.0f} s, nothing was changed")


def exists(path: str | os.PathLike) -> bool:
  """Whether something lies at a path; unlike Path.exists(), storage that fails is not taken for "no".

  Raises:
    StorageError, UserError: as `patiently`.
  """
  return patiently(lambda: _mode(path) is not None, path)


def is_folder(path: str | os.PathLike) -> bool:
  """Whether a folder lies at a path; errors as of `exists`."""
  if is_remote(path):
    return patiently(lambda: epath.Path(path).is_dir(), path)
  mode = patiently(lambda: _mode(path), path)
  return mode is not None and stat.S_ISDIR(mode)


def _mode(path: str | os.PathLike) -> int | None:
  """st_mode; None where nothing is there. Of objects: whatever is true."""
  if is_remote(path):
    return 0 if epath.Path(path).exists() else None
  try:
    return os.stat(path).st_mode
  except OSError as error:
    if error.errno in _ABSENT:
      return None
    raise


def listing(folder: str | os.PathLike) -> list[epath.Path]:
  """What lies in a folder, sorted by name; nothing where there is no folder. Errors as of `exists`."""

  def read() -> list[epath.Path]:
    return sorted(epath.Path(folder).iterdir(), key=lambda path: path.name) if _mode(folder) is not None else []

  return patiently(read, folder)


def read_text(path: str | os.PathLike) -> str:
  """A UTF-8 file.

  Raises:
    FileNotFoundError: it is not there.
    StorageError, UserError: as `patiently`.
    UnicodeDecodeError: it is not UTF-8.
  """

  def read() -> str:
    # A pipe would be waited for, and a device never ends.
    if not is_remote(path) and stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
      raise UserError(f"{os.fspath(path)}: a pipe or a device, expected a file; restore it from a copy")
    return epath.Path(path).read_text(encoding="utf-8")

  return patiently(read, path)


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
    number = errno.EACCES if _is_refusal(error) else errno.EIO
    raise OSError(number, _what(error), os.fspath(path)) from error


def _is_refusal(error: Exception) -> bool:
  """Whether a store did answer, and let nobody in: a person has to mend that, while a network mends itself."""
  told = f"{type(error).__name__} {error}".lower()
  words = ("credential", "forbidden", "unauthorized", "permission", "access denied")
  return getattr(error, "code", None) in (401, 403) or any(word in told for word in words)


def _what(error: Exception) -> str:
  """The first line of an error."""
  return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]
