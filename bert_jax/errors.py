"""How the command ends: the one exception that a user should ever see, and the exit codes that schedulers act on."""

import errno
import sys

# A scheduler starts the same command again after any of these, and the run resumes from its newest checkpoint.
EXIT_UNKNOWN = 70  # an error that the program does not know, with its traceback; EX_SOFTWARE of sysexits.h
EXIT_STORAGE = 74  # storage could not be read or written for a while; EX_IOERR of sysexits.h
EXIT_PREEMPTED = 75  # told to stop (SIGTERM), and the step was saved; EX_TEMPFAIL of sysexits.h
EXIT_PEER_LOST = 76  # another process of the run has died or gone silent
EXIT_STALLED = 77  # the watchdog ended a run that made no progress
# A restart would not help: the run has ended, and what it trained is not finite, or hardly trained at all.
EXIT_NOT_FINITE = 79


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


def print_at_once(message: str) -> None:
  """Writes a message to standard error in one piece: print() may write the newline separately, after a line of JAX's
  log.
  """
  sys.stderr.write(message + "\n")
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


def refusal_of_disk(error: Exception) -> str | None:
  """What a file system refused, and what helps; None for any other error."""
  if not isinstance(error, OSError) or error.errno not in _DISK_REMEDIES:
    return None
  name = error.filename2 or error.filename  # of a copy: the new file
  return f"{f'{name}: ' if name else ''}{error.strerror}; {_DISK_REMEDIES[error.errno]}"
