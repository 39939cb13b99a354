"""Text files as streams of lines: patterns, compression, encodings, and what is wrong with them.

Every file source of `data/sources.py` reads through `read_lines`. Whatever can be
wrong with bytes on a disk is met here, once: each defect is one clear message
that names the file and the line, or, with `skip_bad`, one count. Memory is
bounded by the longest line, which is bounded too.
"""

import bz2
import collections
import glob
import gzip
import lzma
import os
import zlib
from typing import Iterator

from bert_jax.errors import UserError

MAX_LINE_BYTES = 16 * 2**20
_BLOCK_BYTES = 2**20
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar")
_COMPRESSED = (*_OPENERS, ".zst")


class _Damaged(Exception):
  """A compressed stream that ends too early or does not decode."""


def matching_files(pattern: str) -> list[str]:
  """The files that a pattern names, sorted by path, so that the order is the same everywhere.

  Args:
    pattern: a path or a glob (`*`, `?`, `[…]`, `**` for any depth); `~` is the home folder.

  Raises:
    UserError: where nothing matches, where only folders match, and for archives (.tar, .zip, …).
  """
  found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
  files = [path for path in found if not os.path.isdir(path)]
  if not files and found:
    raise UserError(f"{pattern}: names only folders ({found[0]}); "
                    f"name files, as in {os.path.join(pattern, '*')}")
  if not files:
    raise UserError(
        f"{pattern}: no such file (working folder: {os.getcwd()}); "
        "check the path, and quote patterns so that the shell leaves them alone")
  for path in files:
    stem = path.lower()
    for suffix in _COMPRESSED:
      stem = stem.removesuffix(suffix)
    if stem.endswith(_ARCHIVES):
      raise UserError(f"{path}: an archive of several files; unpack it first and name the files inside")
  return files


def note_bad(message: str, *, skip_bad: bool, counts: collections.Counter, key: str):
  """Counts a defect when they are to be skipped, else raises it with the remedy."""
  if not skip_bad:
    raise UserError(f"{message}; mend it, or pass --skip_bad to skip and count such places")
  counts[key] += 1


def read_lines(path: str, *, skip_bad: bool, counts: collections.Counter) -> Iterator[tuple[int, str]]:
  """The lines of a UTF-8 file, decompressed by its suffix (.gz .bz2 .xz .zst), without line ends.

  A byte-order mark is dropped, `\\r\\n` ends a line as `\\n` does, a lone `\\r`
  becomes a newline inside its line, and NUL characters are dropped and counted
  (`nul_bytes`).

  Args:
    path: the file.
    skip_bad: skip and count lines that are not UTF-8 or too long (`bad_lines`),
      and the rest of a damaged compressed file (`bad_files`), instead of raising.
    counts: receives `files`, `nul_bytes`, `bad_lines` and `bad_files`.

  Yields:
    (line number from 1, text).

  Raises:
    UserError: naming file and line, for the defects above and for files that cannot be read.
  """
  counts["files"] += 1
  number = 0
  lines = _raw_lines(path)
  while True:
    try:
      raw = next(lines, b"")
    except (_Damaged, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
      note_bad(f"{path}: damaged or cut off after line {number} ({error}); expected a whole compressed file",
               skip_bad=skip_bad, counts=counts, key="bad_files")
      return
    except OSError as error:
      # bz2 reports damage as a plain OSError without a number; the rest is a file that cannot be read.
      if error.errno is not None:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
      note_bad(f"{path}: damaged after line {number} ({error}); expected a whole compressed file",
               skip_bad=skip_bad, counts=counts, key="bad_files")
      return
    if raw == b"":
      return
    number += 1
    if raw is None:
      note_bad(f"{path}:{number}: a line longer than {MAX_LINE_BYTES >> 20} MiB; "
               "break it into lines first, for example with `fold -s -w 1000`",
               skip_bad=skip_bad, counts=counts, key="bad_lines")
      continue
    try:
      line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
      hint = " (it begins like UTF-16)" if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
      note_bad(f"{path}:{number}: not UTF-8{hint}: byte 0x{raw[error.start]:02x} at byte {error.start + 1} "
               "of the line; convert the file with `iconv -t utf-8`",
               skip_bad=skip_bad, counts=counts, key="bad_lines")
      continue
    if number == 1:
      line = line.removeprefix("\ufeff")
    line = line.rstrip("\r\n")
    if "\0" in line:
      counts["nul_bytes"] += line.count("\0")
      line = line.replace("\0", "")
    yield number, line.replace("\r", "\n") if "\r" in line else line


def _raw_lines(path: str) -> Iterator[bytes | None]:
  """Lines as bytes with their newline; None in the place of a line that is too long."""
  tail, too_long = b"", False
  for block in _blocks(path):
    lines = (tail + block).split(b"\n")
    tail = lines.pop()
    for line in lines:
      yield None if too_long or len(line) > MAX_LINE_BYTES else line + b"\n"
      too_long = False
    if len(tail) > MAX_LINE_BYTES:
      tail, too_long = b"", True
  if too_long:
    yield None
  elif tail:
    yield tail


def _blocks(path: str) -> Iterator[bytes]:
  """The decompressed bytes of a file, in blocks of bounded size."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix == ".zst":
    yield from _zst_blocks(path)
    return
  with _OPENERS.get(suffix, open)(path, "rb") as stream:
    while block := stream.read(_BLOCK_BYTES):
      yield block


def _zst_blocks(path: str) -> Iterator[bytes]:
  """Zstandard frames, one after the other.

  By hand, because the stream reader of `zstandard` ends without a word where a
  file is cut off. Input goes in small pieces, so that the output of one call
  stays bounded.
  """
  try:
    import zstandard
  except ImportError as error:
    raise UserError(f"{path}: reading .zst needs the package zstandard: pip install zstandard") from error
  with open(path, "rb") as stream:
    frame = None
    while piece := stream.read(_BLOCK_BYTES // 16):
      while piece:
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        try:
          block = frame.decompress(piece)
        except zstandard.ZstdError as error:
          raise _Damaged(str(error)) from error
        if block:
          yield block
        piece = frame.unused_data if frame.eof else b""
        frame = None if frame.eof else frame
    if frame is not None:
      raise _Damaged("the last frame is not complete")
