"""Files from outside, before a byte of them is read: what is no file at all would keep a reader waiting for ever.

A pipe without a writer never answers, and a device never ends. Both may stand where a file is expected: in a folder
that was unpacked, or behind a mistyped flag.
"""

import io
import os
import stat
from typing import cast

from etils import epath

from bert_jax.errors import UserError
from bert_jax.io import storage

_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a named pipe",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}


def check_plain(path: str | os.PathLike) -> None:
  """Raises UserError where something else than a file stands at a path of this machine; OSError as os.stat."""
  mode = os.stat(path).st_mode
  if not stat.S_ISREG(mode):
    what = _KINDS.get(stat.S_IFMT(mode), "something else")
    raise UserError(f"{os.fspath(path)}: {what}, expected a file; write what it holds into a file, and name that")


def open_plain(path: str | os.PathLike) -> io.BufferedReader:
  """A file of this machine or of a store, opened for reading.

  Raises:
    UserError: it is a folder, a pipe, a socket or a device.
    OSError: as open.
  """
  if storage.is_remote(path):
    return io.BufferedReader(cast(io.RawIOBase, epath.Path(path).open("rb")))
  check_plain(path)
  return open(path, "rb")


def read_bounded(path: str | os.PathLike, max_bytes: int) -> bytes:
  """The bytes of a file, of which there are few.

  Raises:
    UserError: as open_plain, and where there are more bytes than `max_bytes`.
    FileNotFoundError: it is not there.
    StorageError: storage failed, see storage.patiently.
  """

  def read() -> bytes:
    with open_plain(path) as file:
      return file.read(max_bytes + 1)

  data = storage.patiently(read, path)
  if len(data) > max_bytes:
    raise UserError(
      f"{os.fspath(path)}: more than {max_bytes >> 20} MiB, which no such file has; is it the right one, and whole?"
    )
  return data
