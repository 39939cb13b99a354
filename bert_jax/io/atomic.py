"""Files and folders that appear whole or not at all: written beside their place, and renamed into it."""

import contextlib
import ctypes
import errno
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import BinaryIO

from bert_jax.io import locks

# Of Linux's renameat2: paths are relative to the working directory; both names stay, each with the other's folder.
_HERE, _RENAME_EXCHANGE = -100, 2


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


@contextlib.contextmanager
def new_version(target: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A folder to fill, which takes the place of `target`, new or old, when the block ends well.

  Several processes may do so at once: each fills a folder of its own, and the last one to end stays. On Linux there is
  no moment in which neither the old folder nor the new one has the name.

  Args:
    target: the folder to make or replace; its parents are made as well.

  Yields:
    The folder to write into, on the same file system.

  Raises:
    OSError: it cannot be made or renamed; the old folder is still there.
  """
  target = pathlib.Path(target).absolute()
  target.parent.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as held:
    while True:
      partial = target.with_name(f".{target.name}.{os.getpid()}-{time.time_ns()}.partial")
      partial.mkdir()
      lock = held.enter_context(locks.FolderLock(partial))  # by it others know that this process lives
      lock.take(alone=True, wait=True)
      if partial.exists():  # nobody took it for a dead process's before it was locked
        break
    try:
      yield partial
      move_into_place(partial, target)
    finally:
      shutil.rmtree(partial, ignore_errors=True)


def move_into_place(folder: pathlib.Path, target: pathlib.Path) -> None:
  """`folder` takes the name `target`; the folder that had it is removed. What killed processes left of making `target`
  goes, too.

  Raises:
    OSError: it cannot be renamed; the older folder is still there.
  """
  _take_place(folder, target)
  shutil.rmtree(folder, ignore_errors=True)  # what has traded places with it
  left = re.compile(rf"\.{re.escape(target.name)}\.((\d+-\d+\.)?partial|replaced-\d+-\d+)")
  for path in target.parent.iterdir():
    if left.fullmatch(path.name):
      with contextlib.suppress(OSError), locks.FolderLock(path) as lock:
        if lock.take(alone=True, certainly=True):  # nobody is filling it
          shutil.rmtree(path, ignore_errors=True)


def _take_place(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Renames `folder`; another one that has the name gets that of `folder`, or is removed. Raises OSError."""
  while True:
    try:
      folder.rename(target)  # where there is nothing, or an empty folder
      return
    except OSError as error:
      if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
        raise
    with contextlib.suppress(FileNotFoundError):  # it has just gone
      if _exchange(folder, target) or _replace(folder, target):
        return


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
  """Two folders trade names in one step, see renameat2(2); False where the system or the file system cannot do that.

  Raises OSError.
  """
  call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
  if call is None:
    return False
  if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0:
    return True
  number = ctypes.get_errno()
  if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
    return False
  raise OSError(number, os.strerror(number), os.fspath(one), None, os.fspath(other))


def _replace(folder: pathlib.Path, target: pathlib.Path) -> bool:
  """As _exchange, in two steps: the older folder steps aside, and returns if the renaming fails. False: another one has
  taken the name in between.
  """
  old = _beside(target, "replaced")
  target.rename(old)
  try:
    folder.rename(target)
  except OSError as error:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
      shutil.rmtree(old, ignore_errors=True)
      return False
    old.rename(target)
    raise
  shutil.rmtree(old, ignore_errors=True)
  return True


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
