"""Text files as streams of lines: compression, encodings, and what is wrong with them.

Every source of lines in `sources.py` reads through `read_text_lines`. Whatever can
be wrong with bytes on a disk is met here, once: each defect is one clear message
that names the file and the line, or, with `skip_bad`, one count. Memory is bounded
whatever comes: a line without end arrives in pieces.
"""

import bz2
import codecs
import collections
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from bert_jax.data.text.files import SKIP_REMEDY, compression, note_bad, open_file, reading
from bert_jax.errors import UserError

# A longer line is cut at the end of a sentence.
MAX_LINE_BYTES = 4 * 2**20

# A line that cannot be cut because it is one JSON record. Decoded, parsed and cut it takes at most ten times
# as much memory, and usually three times.
MAX_RECORD_BYTES = 64 * 2**20

_BLOCK_BYTES = 2**18
_OPENERS: dict[str, Callable[[Any], Any]] = {
  ".gz": lambda stream: gzip.GzipFile(fileobj=stream),
  ".bz2": bz2.BZ2File,
  ".xz": lzma.LZMAFile,
}

# Where long text may be cut, the best first, and how far back from the limit such a place is looked for.
_CUTS = (r"\n+", r"""[.!?]["')\]]*\s+|(?:。|！|？)(?:”|’|」|』|）)*""", r"\s+")
_STR_CUTS, _BYTES_CUTS = [re.compile(cut) for cut in _CUTS], [re.compile(cut.encode()) for cut in _CUTS]
_CUT_WINDOW = 2**16


class _Damaged(Exception):
  """A compressed stream that ends too early or does not decode."""


def cut_place(text: str | bytearray, limit: int) -> int:
  """Where to cut text that is longer than `limit`, in characters or in bytes of UTF-8.

  Behind a newline, the end of a sentence or white space, if there is one in the
  last 64 Ki before the limit; else at the limit, between two characters.
  """
  cuts: Sequence[re.Pattern] = _STR_CUTS if isinstance(text, str) else _BYTES_CUTS
  for cut in cuts:
    places = [found.end() for found in cut.finditer(text, max(0, limit - _CUT_WINDOW), limit)]
    if places:
      return places[-1]
  if not isinstance(text, str):
    # The bytes of a character behind its first one look like 0b10xxxxxx; there are three at most.
    return next((place for place in range(limit, limit - 4, -1) if place > 0 and text[place] & 0xC0 != 0x80), limit)
  return limit


def read_text_lines(
  path: str, *, skip_bad: bool, counts: collections.Counter, whole: bool = False
) -> Iterator[tuple[int, str]]:
  """The lines of a UTF-8 file, decompressed by its suffix (.gz .bz2 .xz .zst), without line ends.

  A byte-order mark is dropped, `\\r\\n` ends a line as `\\n` does, a lone `\\r`
  becomes a newline inside its line, and NUL characters are dropped and counted
  (`nul_bytes`). A line longer than MAX_LINE_BYTES comes in pieces of the same
  number, each cut at the end of a sentence, wherever the blocks of the file end.

  Args:
    path: the file, on this machine or behind a protocol.
    skip_bad: skip and count lines that are not UTF-8 or, with `whole`, too long
      (`bad_lines`), and the rest of a damaged compressed file (`bad_files`),
      instead of raising.
    counts: receives `files`, `empty_files`, `nul_bytes`, `bad_lines` and `bad_files`.
    whole: lines are never cut; those longer than MAX_RECORD_BYTES are defects.

  Yields:
    (line number from 1, text).

  Raises:
    UserError: naming file and line, for the defects above and for files that cannot be read.
  """
  counts["files"] += 1
  number, goes_on = 0, False
  with reading(path):
    try:
      for span, unfinished in _spans(path, whole):
        number -= goes_on  # its first line is the rest of the one before
        goes_on = unfinished
        if span is None:
          number += 1
          note_bad(
            f"{path}:{number}: a line longer than {MAX_RECORD_BYTES >> 20} MiB; expected one JSON object "
            "per line (not one array of all); split the longest records",
            skip_bad=skip_bad,
            counts=counts,
            key="bad_lines",
          )
          continue
        if not number and span.startswith(codecs.BOM_UTF8):
          del span[: len(codecs.BOM_UTF8)]
        clean = b"\r" not in span and b"\0" not in span
        for raw in span.split(b"\n") if b"\n" in span else (span,):  # a long line is not copied
          number += 1
          try:
            line = raw.decode("utf-8")
          except UnicodeDecodeError as error:
            hint = " (it begins like UTF-16)" if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
            note_bad(
              f"{path}:{number}: not UTF-8{hint}: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the "
              f"line; convert the file, as with `iconv -f {'utf-16' if hint else 'gb18030'} -t utf-8 FILE > NEW`, -f "
              "being its encoding",
              skip_bad=skip_bad,
              counts=counts,
              key="bad_lines",
            )
            continue
          if not clean:
            counts["nul_bytes"] += line.count("\0")
            line = line.replace("\0", "").rstrip("\r").replace("\r", "\n")
          yield number, line
    except (_Damaged, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
      _note_damage(path, number, error, skip_bad, counts)
    except OSError as error:
      # bz2 reports damage as a plain OSError without a number; the rest is a file that cannot be read.
      if type(error) is not OSError or error.errno is not None or compression(path) != ".bz2":
        raise
      _note_damage(path, number, error, skip_bad, counts)
    else:
      if not number:
        counts["empty_files"] += 1


def _note_damage(path, number, error, skip_bad, counts):
  note_bad(
    f"{path}: damaged or cut off after line {number} ({error}); expected a whole compressed file",
    skip_bad=skip_bad,
    counts=counts,
    key="bad_files",
  )


def _spans(path: str, whole: bool) -> Iterator[tuple[bytearray | None, bool]]:
  """The bytes of a file as (lines, False), or as (a piece of a long line, True), whose rest begins the next span.

  Newlines stand between the lines of a span, not behind the last. None is a line too long to be kept whole.
  Where a line is cut depends on its own bytes alone, not on where blocks end.
  """
  limit = MAX_RECORD_BYTES if whole else MAX_LINE_BYTES
  line, dropped = bytearray(), False  # what there is of a line that has not ended yet
  for block in _blocks(path):
    end, last = block.find(b"\n"), block.rfind(b"\n")
    line += block if end < 0 else block[:end]
    if whole and len(line) > limit:
      dropped = True
    if dropped:
      line.clear()
    while len(line) > limit:
      place = cut_place(line, limit)
      yield line[:place], True
      del line[:place]
    if end < 0:
      continue
    if dropped:
      yield None, False
    if not dropped or last > end:
      line += block[end + dropped : last]  # without the newline behind what was dropped
      span, line = line, bytearray()
      yield span, False
    line, dropped = bytearray(block[last + 1 :]), False
  if dropped:
    yield None, False
  elif line:
    yield line, False


def _blocks(path: str) -> Iterator[bytes]:
  """The decompressed bytes of a file, in blocks of at most _BLOCK_BYTES."""
  suffix = compression(path)
  with open_file(path) as stored:
    if suffix == ".zst":
      yield from _zst_blocks(path, stored)
    # A file of no bytes is empty, compressed or not; the decompressors would call it cut off.
    elif suffix not in _OPENERS or stored.peek(1):
      stream = _OPENERS[suffix](stored) if suffix else stored
      while block := stream.read(_BLOCK_BYTES):
        yield block


def _zst_blocks(path: str, stored: BinaryIO) -> Iterator[bytes]:
  """Zstandard frames, one after the other.

  By hand, because the stream reader of `zstandard` ends without a word where a
  file is cut off. Input goes in small pieces, so that the output of one call
  stays bounded.
  """
  try:
    import zstandard
  except ImportError as error:
    raise UserError(f"{path}: reading .zst needs the package zstandard: pip install zstandard") from error
  frame = None
  while piece := stored.read(_BLOCK_BYTES // 16):
    while piece:
      frame = frame or zstandard.ZstdDecompressor().decompressobj()
      try:
        output = frame.decompress(piece)
      except zstandard.ZstdError as error:
        raise _Damaged(str(error)) from error
      for start in range(0, len(output), _BLOCK_BYTES):
        yield output[start : start + _BLOCK_BYTES]
      piece = frame.unused_data if frame.eof else b""
      frame = None if frame.eof else frame
  if frame is not None:
    raise _Damaged("the last frame is not complete")


def read_whole(path: str) -> list[tuple[int, str]]:
  """All lines of a file with their numbers, as of `read_text_lines`; nothing is skipped.

  Raises UserError naming the line.
  """
  try:
    return list(read_text_lines(path, skip_bad=False, counts=collections.Counter(), whole=True))
  except UserError as error:
    raise UserError(str(error).removesuffix(SKIP_REMEDY)) from error
