"""Files and folders that appear whole or not at all: written beside their place, and renamed into it."""

import contextlib
import glob
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import BinaryIO


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
  partial = _beside(target, "partial")
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


def move_into_place(folder: pathlib.Path, target: pathlib.Path) -> None:
  """`folder` takes the name `target`; a folder of that name steps aside first, and returns if the renaming fails.

  Raises:
    OSError: it cannot be renamed.
  """
  old = _beside(target, "replaced")
  if target.exists():
    target.rename(old)
  try:
    folder.rename(target)
  except OSError:
    if old.exists():
      old.rename(target)
    raise
  for old in target.parent.glob(f".{glob.escape(target.name)}.replaced-*"):  # those of killed processes, too
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: pathlib.Path) -> None:
  """Removes a folder, which first loses its name: half of it must never be taken for the whole."""
  old = _beside(folder, "replaced")
  folder.rename(old)
  shutil.rmtree(old, ignore_errors=True)


def _beside(path: pathlib.Path, ending: str) -> pathlib.Path:
  """A name that no other process has, on the same file system."""
  return path.with_name(f".{path.name}.{ending}-{os.getpid()}-{time.time_ns()}")


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a UTF-8 file that appears whole, through to the disk; an older one is replaced.

  Raises:
    OSError: it cannot be written. It names the file.
  """
  with new_file(path) as file:
    file.write(text.encode())


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """A file to fill, which takes the name `path` when the block ends well and it is on the disk, as write_text."""
  path = pathlib.Path(path)
  partial = _beside(path, "partial")
  try:
    with named_errors(path), open(partial, "wb") as file:
      yield file
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
