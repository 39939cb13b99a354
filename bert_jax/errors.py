"""How the command ends: the one exception that a user should ever see, and the exit codes that schedulers act on."""

import contextlib
import errno
import re
import sys
from typing import IO

# A scheduler starts the same command again after any of these, and the run resumes from its newest checkpoint.
EXIT_UNKNOWN = 70  # an error that the program does not know, with its traceback; EX_SOFTWARE of sysexits.h
EXIT_STORAGE = 74  # storage could not be read or written for a while; EX_IOERR of sysexits.h
EXIT_PREEMPTED = 75  # told to stop (SIGTERM), and the step was saved; EX_TEMPFAIL of sysexits.h
EXIT_PEER_LOST = 76  # another process of the run has died or gone silent
EXIT_STALLED = 77  # the watchdog ended a run that made no progress
# A restart would not help: the run has ended, and what it trained is not finite, or hardly trained at all.
EXIT_NOT_FINITE = 79


# Control characters but line ends and tabs, line separators, marks of direction, and halves of surrogate pairs.
_COMMANDING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
  """A mistake that the user can fix: bad input, a wrong key, a full disk.

  The message is one clear text: which file and line (or key), what was
  expected, what came, and the remedy. The command line prints it without a
  traceback and exits with code 1.
  """


class StorageError(Exception):
  """Storage that failed while it was read or written, after retries: ESTALE, EIO, a timeout.

  What was not read is not damage: nothing is changed, and the command exits with EXIT_STORAGE, which a launcher
  restarts. The message names the path and what the system said.
  """


class NotFiniteError(Exception):
  """A run has come to its end, and what it trained is no result: NaN, infinite, or hardly trained at all.

  The command prints the message and exits with EXIT_NOT_FINITE.
  """


def printable(text: str) -> str:
  """A text that may hold what others have written, for a terminal: characters that could move its cursor, hide lines or
  turn their direction, as escapes. JSON stays JSON, since there only those above ASCII are left.
  """
  return _COMMANDING.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
  one = found[0]
  return f"\\u{ord(one):04x}" if ord(one) >= 0x7F else one.encode("unicode_escape").decode()


def show(
  text: str, *more: str, file: IO[str] | None = None, sep: str = " ", end: str = "\n", flush: bool = False
) -> None:
  """As print, of text that is `printable`: whatever is printed may hold tokens, labels, names of files and of hosts."""
  print(printable(sep.join((text, *more))), file=file or sys.stdout, end=end, flush=flush)


def print_at_once(message: str) -> None:
  """Writes a message to standard error in one piece: print() may write the newline separately, after a line of JAX's
  log.
  """
  with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or not there: nobody to tell
    sys.stderr.write(printable(message) + "\n")
    sys.stderr.flush()


_FULL, _FORBIDDEN, _MISPLACED = (
  "free some space, then run the same command again",
  "choose a path that you can read and write",
  "a file stands where a folder is expected, or a folder where a file is expected: choose another name",
)
_DISK_REMEDIES = (
  dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL)
  | dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _FORBIDDEN)
  | dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), _MISPLACED)
  | {errno.ENAMETOOLONG: "choose a shorter name"}
)


def refusal_of_disk(error: BaseException) -> str | None:
  """What a file system refused, and what helps; None for any other error."""
  if not isinstance(error, OSError) or error.errno not in _DISK_REMEDIES:
    return None
  return f"{_name_in(error)}{error.strerror}; {_DISK_REMEDIES[error.errno]}"


# Storage, or the way to it, that did not answer or answered with an error: nobody's mistake, and often gone a minute
# later. Read by name, because a system may lack some.
_STORAGE_ERRNOS = {
  getattr(errno, name)
  for name in (
    *("EIO", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENOLCK", "ENODEV", "ENXIO", "EUCLEAN", "EBADMSG", "EAGAIN", "EBUSY"),
    *("ENOTCONN", "ESHUTDOWN", "ENOLINK", "ECOMM", "EPROTO", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
    *("ENETRESET", "ECONNABORTED", "ECONNRESET", "ECONNREFUSED"),
  )
  if hasattr(errno, name)
}


def is_storage_failure(error: BaseException | None) -> bool:
  """Whether storage failed, be it said by an OSError, a StorageError, or a message that was raised from one of them."""
  while error is not None:
    if isinstance(error, (StorageError, TimeoutError)):
      return True
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
      return True
    error = error.__cause__
  return False


def ending_of(error: BaseException) -> tuple[int, str | None]:
  """How the command ends with an error: its exit code, and the one message, or None where a traceback has to tell.

  Code 1 is only what a person must mend: a launcher does not start that again.
  """
  if is_storage_failure(error):
    message = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
      message = f"{_name_in(error)}{error.strerror}"
    return EXIT_STORAGE, message if isinstance(error, UserError) or _AGAIN in message else f"{message}; {_AGAIN}"
  if isinstance(error, UserError):
    return 1, str(error)
  if isinstance(error, NotFiniteError):
    return EXIT_NOT_FINITE, str(error)
  refused = refusal_of_disk(error)
  return (EXIT_UNKNOWN, None) if refused is None else (1, refused)


_AGAIN = "storage failed, not the run: start the same command again"


def _name_in(error: OSError) -> str:
  """The file that an error names, with a colon; empty where it names none."""
  name = error.filename2 or error.filename  # of a copy: the new file
  return f"{name}: " if name else ""
