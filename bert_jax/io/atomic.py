"""Folders that appear whole or not at all: written beside their place, and renamed into it."""

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterator


@contextlib.contextmanager
def new_folder(target: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A folder to fill, which takes the name `target` when the block ends well, and is removed when it does not.

  Where another process was quicker and `target` is there already, the new one is
  dropped: for folders whose content is decided by their name.

  Args:
    target: the folder to make; its parents are made as well.

  Yields:
    The folder to write into, on the same file system.

  Raises:
    OSError: it cannot be made or renamed.
  """
  target = pathlib.Path(target)
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(f".{target.name}.partial-{os.getpid()}-{time.time_ns()}")
  partial.mkdir()
  try:
    yield partial
    try:
      partial.rename(target)
    except OSError:
      if not target.is_dir():
        raise
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a UTF-8 file that appears whole, through to the disk; an older one is replaced.

  Raises:
    OSError: it cannot be written. It names the file.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{time.time_ns()}")
  try:
    with named_errors(path), open(partial, "w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: str | os.PathLike) -> Iterator[None]:
  """Gives an OSError in writing a file the file's name, which a full disk does not tell."""
  try:
    yield
  except OSError as error:
    error.filename = error.filename or os.fspath(path)
    raise
