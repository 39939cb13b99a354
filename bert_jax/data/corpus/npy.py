"""Arrays as .npy files, written through to the disk, and the hashes that tell whether one was altered."""

import hashlib
import io
import os
import pathlib

import numpy as np

from bert_jax.io import atomic


def write(path: pathlib.Path, array: np.ndarray) -> str:
  """Writes an array and returns the file's SHA-256. Raises OSError, which names the file."""
  array = np.ascontiguousarray(array)
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
  data = array.data.cast("B") if array.size else b""
  with atomic.named_errors(path), open(path, "wb") as file:
    file.write(header.getvalue())
    file.write(data)
    file.flush()
    os.fsync(file.fileno())  # some file systems report a full disk only here
  digest = hashlib.sha256(header.getvalue())
  digest.update(data)
  return digest.hexdigest()


def check(path: pathlib.Path, digest: str) -> None:
  """Raises OSError, or ValueError where the file has another SHA-256."""
  with open(path, "rb") as file:
    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
      raise ValueError(f"{path.name} was altered")


def read(path: pathlib.Path, digest: str) -> np.ndarray:
  """Reads an array whose file has this SHA-256. Raises OSError, or ValueError for an altered file."""
  with open(path, "rb") as file:
    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
      raise ValueError(f"{path.name} was altered")
    file.seek(0)
    return np.load(file, allow_pickle=False)
