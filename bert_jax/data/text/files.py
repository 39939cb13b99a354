"""Files by pattern, on this machine or behind a protocol (`gs://`, `s3://`, `https://`, `hf://` …).

What stands in front of `://` is handed to fsspec, which knows the packages for
it; a missing package is named. Everything above this module sees paths and
streams of bytes, wherever they come from.
"""

import collections
import contextlib
import glob
import hashlib
import importlib.util
import io
import os
import re
from collections.abc import Iterator
from typing import Any

from bert_jax.errors import UserError
from bert_jax.io.plain_files import open_plain

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar")
_WEB = ("http://", "https://")
_REMOTE = re.compile(r"[A-Za-z][\w+.:-]+://")
_BUFFER_BYTES = 2**20

# What the file systems of fsspec call the mark of a file's contents, the surest first.
_MARKS = (
  "etag",
  "md5hash",
  "content_md5",
  "blob_id",
  "checksum",
  "crc32c",
  "generation",
  "mtime",
  "lastmodified",
  "last_modified",
  "updated",
  "modified",
  "created",
)


def matching_files(pattern: str) -> list[str]:
  """The files that a pattern names, sorted by path, so that the order is the same everywhere.

  Args:
    pattern: a path or a glob (`*`, `?`, `[…]`, `**` for any depth); `~` is the home folder. With a protocol in
      front, as in `gs://bucket/wiki/*.jsonl.gz`, files of that store.

  Raises:
    UserError: where nothing matches, where only folders match, for archives (.tar, .zip, …), for a
      protocol whose package is not installed, and for a store that does not answer.
  """
  found, folders = _remote_matches(pattern) if has_protocol(pattern) else _local_matches(pattern)
  if not found and folders:
    raise UserError(f"{pattern}: names only folders ({folders[0]}); name files, as in {os.path.join(pattern, '*')}")
  if not found and has_protocol(pattern):
    raise UserError(f"{pattern}: no such file, or no answer from the server; check the address")
  if not found:
    raise UserError(
      f"{pattern}: no such file (working folder: {os.getcwd()}); check the path, and quote patterns so that the shell "
      "leaves them alone"
    )
  for path in found:
    stem = path.lower()
    for suffix in COMPRESSED:
      stem = stem.removesuffix(suffix)
    if stem.endswith(_ARCHIVES):
      raise UserError(f"{path}: an archive of several files; unpack it first and name the files inside")
  return found


def has_protocol(path: str) -> bool:
  """Whether a path or pattern begins with a protocol."""
  return bool(_REMOTE.match(path))


def compression(path: str) -> str:
  """The suffix that names the compression of a file, one of COMPRESSED, or ''."""
  name = path.partition("?")[0] if path.startswith(_WEB) else path  # the query of a web address
  suffix = os.path.splitext(name)[1].lower()
  return suffix if suffix in COMPRESSED else ""


def open_file(path: str, *, seekable: bool = False) -> io.BufferedReader:
  """The bytes of a file as they are stored, as a buffered stream, read from front to back or, if `seekable`, anywhere.

  Use it within `reading`. Raises UserError for a pipe, a socket or a device in the place of a file.
  """
  if not has_protocol(path):
    return open_plain(path)
  system, inside = _file_system(path)
  # A web server need not know about parts of files; a stream asks it for none.
  options = {"block_size": 0} if path.startswith(_WEB) and not seekable else {}
  return io.BufferedReader(system.open(inside, "rb", **options), _BUFFER_BYTES)


def file_stamp(path: str) -> tuple[int, int]:
  """(size in bytes, time of the last change in ns) of a file, without reading it.

  For a file behind a protocol the second number is a hash of what the store
  tells of its contents: an etag, a checksum, a time.
  """
  with reading(path):
    if not has_protocol(path):
      status = os.stat(path)
      return status.st_size, status.st_mtime_ns
    system, inside = _file_system(path)
    told = {key.lower().replace("-", "_"): value for key, value in system.info(inside).items()}
    mark = next((f"{key} {told[key]}" for key in _MARKS if told.get(key)), "")
    size = told.get("size")
    return -1 if size is None else int(size), int.from_bytes(hashlib.sha256(mark.encode()).digest()[:8]) >> 1


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
  """Turns what goes wrong in opening or reading a file into a UserError that names it."""
  try:
    yield
  except UserError:
    raise
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror or _first_line(error)}") from error
  except Exception as error:  # the clients of object stores raise exceptions of their own
    if not has_protocol(path):
      raise
    raise UserError(f"{path}: cannot be read: {_first_line(error)}") from error


SKIP_REMEDY = "; fix it, or pass --skip_bad to skip and count such places"


def note_bad(message: str, *, skip_bad: bool, counts: collections.Counter, key: str):
  """Counts a defect when they are to be skipped, else raises it with the remedy."""
  if not skip_bad:
    raise UserError(message + SKIP_REMEDY)
  counts[key] += 1


def _first_line(error: Exception) -> str:
  return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _local_matches(pattern: str) -> tuple[list[str], list[str]]:
  found = sorted(glob.glob(pattern, recursive=True))
  folders = [path for path in found if os.path.isdir(path)]
  return [path for path in found if path not in set(folders)], folders


def _remote_matches(pattern: str) -> tuple[list[str], list[str]]:
  if "::" in pattern:
    raise UserError(f"{pattern}: chained addresses (::) are not read; name the files themselves")
  with reading(pattern):
    system, inside = _file_system(pattern)
    if glob.has_magic(inside.replace("?", "") if pattern.startswith(_WEB) else inside):
      found = system.glob(inside, detail=True)
    else:
      try:
        found = {inside: system.info(inside)}
      except FileNotFoundError:
        found = {}
  protocol = pattern.partition("://")[0]
  # Some file systems give back their addresses whole, most without the protocol.
  named = {path if has_protocol(path) else f"{protocol}://{path}": info["type"] for path, info in found.items()}
  return (
    sorted(path for path, kind in named.items() if kind != "directory"),
    sorted(path for path, kind in named.items() if kind == "directory"),
  )


def _file_system(address: str) -> tuple[Any, str]:
  """The fsspec file system of an address, and the path inside of it."""
  protocol = address.partition("://")[0].lower()
  if importlib.util.find_spec("fsspec") is None:
    raise UserError(f"{address}: reading {protocol}:// needs the package fsspec: pip install fsspec")
  import fsspec
  from fsspec.registry import known_implementations

  if protocol not in fsspec.available_protocols():
    raise UserError(f"{address}: fsspec knows no protocol {protocol}://; among those it knows are gs, s3, hf, https")
  try:
    return fsspec.url_to_fs(address)
  except ImportError as error:
    package = known_implementations[protocol]["class"].partition(".")[0]
    if package == "fsspec":  # the module is fsspec's own, but stands on a package that is missing
      package = getattr(error.__cause__ or error, "name", None) or protocol
    raise UserError(
      f"{address}: reading {protocol}:// needs the package {package}, which is not installed: pip install {package}"
    ) from error
