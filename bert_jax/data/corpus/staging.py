"""A copy of a corpus on this host's own disk, for corpora that lie on an object store or a slow shared one.

Rows are gathered through memory maps, which object stores do not have.
"""

import os
import pathlib

from etils import epath

from bert_jax.errors import UserError
from bert_jax.io import atomic, storage
from bert_jax.io.json_files import MAX_TABLE_BYTES, read_object


def stage(folder: str | os.PathLike, cache_dir: str | os.PathLike) -> pathlib.Path:
  """Copies a corpus folder to CACHE_DIR/CORPUS_ID, unless it is there already, and returns that folder.

  The copy appears whole or not at all; `open_corpus` then verifies it against its manifest.

  Args:
    folder: a corpus folder, local or gs://.
    cache_dir: a local folder; several runs and processes may share it.

  Raises:
    UserError: no corpus there, or no room here.
  """
  source = epath.Path(folder)
  try:
    corpus_id = str(read_object(source / "manifest.json", max_bytes=MAX_TABLE_BYTES)["corpus_id"])
  except (KeyError, UserError) as error:
    raise UserError(f"data.corpus={folder} holds no corpus (no readable manifest.json)") from error
  target = pathlib.Path(cache_dir) / corpus_id[:16]
  if target.exists():
    return target
  try:
    with atomic.new_folder(target) as copy, storage.failures(source):
      storage.copy_folder(source, copy)
  except OSError as error:
    raise UserError(
      f"cannot copy {folder} to data.cache_dir={cache_dir}: {error.strerror or error}; "
      "free some space there, or choose another folder"
    ) from error
  return target
