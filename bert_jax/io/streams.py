"""Standard output and standard error: what goes there only tells, and must not end what counts.

A terminal hangs up, the reader of a pipe goes away, a disk behind a log is full, a locale has no letter for "…".
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any, cast


def open_closed_streams() -> None:
  """Sends nowhere what a command would print to a stream that it was started without (`>&-`).

  The next file that is opened would else take the number of the stream, and get what libraries print.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      nowhere = os.open(os.devnull, os.O_RDWR)
      if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):  # a locale without "…" shows its number
      stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def only_told() -> Iterator[None]:
  """In this block nothing that is printed can fail: the first failure sends all that follows nowhere."""
  with contextlib.redirect_stdout(forgiving(sys.stdout)), contextlib.redirect_stderr(forgiving(sys.stderr)):
    yield


def forgiving(stream: IO[str]) -> IO[str]:
  """A stream that writes to this one for as long as that works."""
  return cast(IO[str], _Forgiving(stream))


def _let_go(stream: Any) -> None:
  """Sends what a stream still holds, and all that follows, nowhere."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Forgiving:
  """A text stream that never fails."""

  def __init__(self, stream: IO[str]):
    self._stream = stream

  def write(self, text: str) -> int:
    try:
      return self._stream.write(text)
    except UnicodeError:
      return self.write(text.encode("ascii", "backslashreplace").decode())
    except (OSError, ValueError):
      _let_go(self._stream)
      return len(text)

  def flush(self) -> None:
    try:
      self._stream.flush()
    except (OSError, ValueError):
      _let_go(self._stream)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)
