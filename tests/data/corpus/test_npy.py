"""Arrays as files: what NumPy reads, and the hash of every byte."""

import hashlib

import numpy as np
import pytest

from bert_jax.data.corpus import npy

ARRAYS = {
  "uint16": np.arange(12, dtype=np.uint16).reshape(3, 4),
  "uint32, one place": np.array([2**32 - 1], np.uint32),
  "int64, turned": np.arange(12).reshape(3, 4).T,
  "every other one": np.arange(12, dtype=np.uint64)[::2],
  "nothing": np.zeros((0, 3), np.uint64),
  "bits": np.packbits(np.array([True, False, True]), bitorder="little"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_and_its_hash_is_that_of_the_file(tmp_path, name):
  array, path = ARRAYS[name], tmp_path / "array.npy"
  digest = npy.write(path, array)
  assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
  for found in (npy.read(path, digest), np.load(path, allow_pickle=False)):
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype and found.shape == array.shape


def test_the_same_array_makes_the_same_bytes(tmp_path):
  array = np.arange(12, dtype=np.uint16).reshape(3, 4)
  assert npy.write(tmp_path / "one.npy", array) == npy.write(tmp_path / "two.npy", np.asfortranarray(array))


@pytest.mark.parametrize("place", [0, 20, -1])
def test_one_altered_bit_is_told(tmp_path, place):
  path = tmp_path / "array.npy"
  digest = npy.write(path, np.arange(10))
  data = bytearray(path.read_bytes())
  data[place] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match="array.npy was altered"):
    npy.read(path, digest)


def test_a_file_that_is_cut_off_is_told(tmp_path):
  path = tmp_path / "array.npy"
  digest = npy.write(path, np.arange(10))
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match="altered"):
    npy.read(path, digest)


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(28, "No space left on device")  # as write() tells it: without a name

  monkeypatch.setattr(npy.os, "fsync", full)
  with pytest.raises(OSError) as error:
    npy.write(tmp_path / "array.npy", np.arange(10))
  assert error.value.filename == str(tmp_path / "array.npy")
