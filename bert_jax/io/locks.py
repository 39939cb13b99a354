"""Locks on folders. They end with the process that holds them, however it ends, and leave no file behind."""

import fcntl
import os


class FolderLock:
  """A lock that several processes hold together, or one holds alone. Use it as a context: it is given up at the end.

  Some network file systems have no locks. There nothing is held, and nothing refused.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = folder

  def __enter__(self) -> "FolderLock":
    self._descriptor = os.open(self._folder, os.O_RDONLY)
    return self

  def __exit__(self, *_) -> None:
    os.close(self._descriptor)

  def take(self, *, alone: bool, wait: bool = False, certainly: bool = False) -> bool:
    """Takes the lock, or takes it in another way than before.

    Args:
      alone: nobody else may hold it; else others may hold it together with this process.
      wait: until the others give it up.
      certainly: where there are no locks, the answer is no.

    Returns:
      Whether it was taken. Where it was not, what this process held before is given up.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    try:
      fcntl.flock(self._descriptor, kind if wait else kind | fcntl.LOCK_NB)
      return True
    except BlockingIOError:
      return False
    except OSError:
      return not certainly
