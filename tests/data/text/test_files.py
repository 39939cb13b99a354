"""Files by pattern: which are found, what is said where they are not, and the same behind a protocol."""

import bz2
import collections
import gzip
import importlib.util
import lzma
import os

import fsspec
import pytest
import zstandard

from bert_jax.data.text import files
from bert_jax.data.text.files import file_stamp, matching_files
from bert_jax.data.text.text_files import read_text_lines
from bert_jax.errors import UserError


@pytest.fixture
def memory():
  """A folder in fsspec's memory file system, and the address of it."""
  system = fsspec.filesystem("memory")
  folder = "/a_folder_of_this_test"
  yield system, f"memory://{folder}"
  if system.exists(folder):
    system.rm(folder, recursive=True)


def read(path):
  return list(read_text_lines(path, skip_bad=False, counts=collections.Counter()))


def test_files_come_sorted_and_folders_are_left_out(tmp_path):
  for name in ("b.txt", "a.txt", "c/d.txt"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
  assert matching_files(f"{tmp_path}/*") == [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]
  assert matching_files(f"{tmp_path}/**") == [f"{tmp_path}/{n}" for n in ("a.txt", "b.txt", "c/d.txt")]


@pytest.mark.parametrize(
  "pattern, message",
  [
    ("nothing*.txt", "no such file"),
    ("folder", "names only folders"),
    ("x.tar.xz", "unpack it first"),
    ("x.zip", "unpack it first"),
  ],
)
def test_patterns_that_name_no_text_are_refused(tmp_path, pattern, message):
  (tmp_path / "folder").mkdir()
  for name in ("x.tar.xz", "x.zip"):
    (tmp_path / name).write_bytes(b"x")
  with pytest.raises(UserError, match=message):
    matching_files(f"{tmp_path}/{pattern}")


def test_a_protocol_names_files_as_a_path_does(memory):
  system, address = memory
  for name in ("b.txt", "a.txt", "c/d.txt"):
    system.pipe(f"{address}/{name}", b"text of " + name.encode())
  assert matching_files(f"{address}/*.txt") == [f"{address}/a.txt", f"{address}/b.txt"]
  assert matching_files(f"{address}/**/*.txt") == [f"{address}/{n}" for n in ("a.txt", "b.txt", "c/d.txt")]
  assert matching_files(f"{address}/a.txt") == [f"{address}/a.txt"]
  assert read(f"{address}/c/d.txt") == [(1, "text of c/d.txt")]
  with pytest.raises(UserError, match="no such file, or no answer from the server; check the address"):
    matching_files(f"{address}/absent")
  with pytest.raises(UserError, match="no such file, or no answer from the server; check the address"):
    matching_files(f"{address}/*.jsonl")
  with pytest.raises(UserError, match="names only folders"):
    matching_files(f"{address}/c")


@pytest.mark.parametrize(
  "suffix, compress",
  [
    (".gz", gzip.compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
    (".zst", lambda data: zstandard.ZstdCompressor().compress(data)),
  ],
)
def test_compressed_files_behind_a_protocol_are_read_as_streams(memory, suffix, compress):
  system, address = memory
  data = compress("".join(f"Zeile {i} äöü\n" for i in range(5000)).encode())
  system.pipe(f"{address}/a{suffix}", data)
  system.pipe(f"{address}/cut{suffix}", data[:-20])
  assert read(f"{address}/a{suffix}") == [(i + 1, f"Zeile {i} äöü") for i in range(5000)]
  with pytest.raises(UserError, match=rf"cut{suffix}: damaged or cut off after line"):
    read(f"{address}/cut{suffix}")


def test_a_file_that_goes_away_is_named(memory):
  system, address = memory
  with pytest.raises(UserError, match="memory://.*gone.txt: cannot be read: FileNotFoundError"):
    read(f"{address}/gone.txt")
  with pytest.raises(UserError, match="/gone.txt: cannot be read: No such file"):
    read("/nowhere/gone.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.zst"])
def test_a_pipe_and_a_device_in_the_place_of_a_file_are_refused_at_once(tmp_path, name):
  os.mkfifo(tmp_path / name)
  with pytest.raises(UserError, match=f"{name}: a named pipe, expected a file"):
    read(str(tmp_path / name))
  (tmp_path / "zero").symlink_to("/dev/zero")
  with pytest.raises(UserError, match="zero: a device, expected a file"):
    read(str(tmp_path / "zero"))


@pytest.mark.parametrize(
  "address, package",
  [("gs://bucket/a.txt", "gcsfs"), ("s3://bucket/*.txt", "s3fs"), ("https://example.org/a.txt", "aiohttp")],
)
def test_a_protocol_whose_package_is_not_installed_names_the_package(address, package):
  if importlib.util.find_spec(package):
    pytest.skip(f"{package} is installed")
  with pytest.raises(UserError, match=rf"needs the package {package}, which is not installed: pip install {package}"):
    matching_files(address)


def test_a_protocol_that_nobody_knows_is_refused():
  with pytest.raises(UserError, match="knows no protocol gopher://"):
    matching_files("gopher://example.org/a.txt")
  with pytest.raises(UserError, match="chained"):
    matching_files("simplecache::memory://a/b.txt")


def test_the_stamp_of_a_file_changes_with_it(tmp_path, memory):
  path = tmp_path / "a.txt"
  path.write_text("one")
  before = file_stamp(str(path))
  assert before == (3, path.stat().st_mtime_ns) == file_stamp(str(path))
  os.utime(path, ns=(1, before[1] + 1))
  assert file_stamp(str(path)) == (3, before[1] + 1)
  system, address = memory
  system.pipe(f"{address}/a.txt", b"one")
  before = file_stamp(f"{address}/a.txt")
  assert before[0] == 3 and before == file_stamp(f"{address}/a.txt")
  system.pipe(f"{address}/a.txt", b"two")
  assert file_stamp(f"{address}/a.txt") != before


@pytest.mark.parametrize(
  "path, suffix",
  [
    ("a.txt.gz", ".gz"),
    ("A.XZ", ".xz"),
    ("a.txt", ""),
    ("https://x.org/a.bz2?download=1", ".bz2"),
    ("what?.gz", ".gz"),
  ],
)
def test_the_compression_shows_in_the_name(path, suffix):
  assert files.compression(path) == suffix
