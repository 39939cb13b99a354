"""Lines out of files: compression, encodings, and every defect with its file and line."""

import bz2
import collections
import gzip
import lzma

import pytest
import zstandard

from bert_jax.data.text import text_files
from bert_jax.data.text.text_files import read_text_lines
from bert_jax.errors import UserError

_TEXT = "first line\nzweite Zeile: äöü\n第三行\n" * 50
_COMPRESS = {
  "": lambda data: data,
  ".gz": gzip.compress,
  ".bz2": bz2.compress,
  ".xz": lzma.compress,
  ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def read(path, data, *, skip_bad=False, whole=False):
  path.write_bytes(data)
  counts = collections.Counter()
  return list(read_text_lines(str(path), skip_bad=skip_bad, counts=counts, whole=whole)), counts


@pytest.mark.parametrize("suffix", _COMPRESS)
def test_every_compression_gives_the_same_lines(tmp_path, suffix):
  lines, _ = read(tmp_path / f"a.txt{suffix}", _COMPRESS[suffix](_TEXT.encode()))
  assert lines == list(enumerate(_TEXT.splitlines(), start=1))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_streams_written_one_after_the_other_are_all_read(tmp_path, suffix):
  compress = _COMPRESS[suffix]
  lines, _ = read(tmp_path / f"a{suffix}", compress(b"one\n") + compress(b"two\n"))
  assert lines == [(1, "one"), (2, "two")]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_compressed_file_is_an_error_that_names_it(tmp_path, suffix, damage):
  data = _COMPRESS[suffix]("".join(f"line {i} {i * i}\n" for i in range(5000)).encode())
  data = data[:-20] if damage == "cut off" else b"not compressed at all"
  with pytest.raises(UserError, match=rf"a{suffix}: damaged .*--skip_bad"):
    read(tmp_path / f"a{suffix}", data)
  lines, counts = read(tmp_path / f"a{suffix}", data, skip_bad=True)
  assert counts["bad_files"] == 1
  assert all(text == f"line {number - 1} {(number - 1) ** 2}" for number, text in lines)


def test_bytes_that_are_not_utf8_name_file_and_line_and_the_remedy(tmp_path):
  data = b"fine\ncaf\xe9 au lait\nfine too\n"
  with pytest.raises(UserError, match=r"a.txt:2: not UTF-8: byte 0xe9 at byte 4 .*iconv.*--skip_bad"):
    read(tmp_path / "a.txt", data)
  lines, counts = read(tmp_path / "a.txt", data, skip_bad=True)
  assert lines == [(1, "fine"), (3, "fine too")]
  assert counts["bad_lines"] == 1


def test_utf16_is_recognised_in_the_message(tmp_path):
  with pytest.raises(UserError, match="begins like UTF-16"):
    read(tmp_path / "a.txt", "hello\n".encode("utf-16"))


def test_byte_order_mark_windows_line_ends_and_nul_bytes_vanish(tmp_path):
  lines, counts = read(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\r\nt\x00wo\x00\r\nthree\rfour")
  assert lines == [(1, "one"), (2, ""), (3, "two"), (4, "three\nfour")]
  assert counts["nul_bytes"] == 2


@pytest.mark.parametrize(
  "text",
  [
    "One sentence. Another one! " * 100,
    "words without any end " * 100,
    "一句话。另一句话！" * 100,
    "x" * 3000,
    "没有句号" * 500,
    "äöü€𝄞" * 300,
  ],
)
@pytest.mark.parametrize("around", [("", ""), ("one\n", "\nthree\n")])
def test_a_line_without_end_comes_in_pieces_that_lose_nothing(tmp_path, monkeypatch, text, around):
  monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1000)
  whole = None
  for size in (64, 500, 999):
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", size)
    lines, _ = read(tmp_path / "a.txt", (around[0] + text + around[1]).encode())
    number = 2 if around[0] else 1
    pieces = [piece for at, piece in lines if at == number]
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= 1000 for piece in pieces) and len(pieces) < 8
    assert [line for at, line in lines if at != number] == [part.strip() for part in around if part]
    assert whole is None or lines == whole, "the pieces depend on where blocks end"
    whole = lines


def test_a_long_line_is_cut_behind_sentences(tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 100)
  lines, _ = read(tmp_path / "a.txt", ("This is a sentence of some length. " * 20).encode())
  assert {text for _, text in lines} == {"This is a sentence of some length. " * 2}
  lines, _ = read(tmp_path / "a.txt", "“这是一个有一定长度的句子。”".encode() * 20)
  assert {text for _, text in lines} == {"“这是一个有一定长度的句子。”" * 2}


def test_a_long_line_that_is_not_text_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1000)
  monkeypatch.setattr(text_files, "_BLOCK_BYTES", 64)
  data = b"one\n" + b"\xff" * 5000 + b"\nthree\n"
  with pytest.raises(UserError, match="a.txt:2: not UTF-8"):
    read(tmp_path / "a.txt", data)
  lines, counts = read(tmp_path / "a.txt", data, skip_bad=True)
  assert lines == [(1, "one"), (3, "three")] and counts["bad_lines"] == 5


def test_a_record_too_long_for_memory_is_refused_and_the_next_ones_are_read(tmp_path, monkeypatch):
  monkeypatch.setattr(text_files, "MAX_RECORD_BYTES", 1000)
  monkeypatch.setattr(text_files, "_BLOCK_BYTES", 64)
  for long in (1001, 5000):
    data = b"one\n" + b"x" * long + b"\nthree\n"
    with pytest.raises(UserError, match=r"a.txt:2: a line longer than .*--skip_bad"):
      read(tmp_path / "a.txt", data, whole=True)
    lines, counts = read(tmp_path / "a.txt", data, skip_bad=True, whole=True)
    assert lines == [(1, "one"), (3, "three")] and counts["bad_lines"] == 1
  lines, counts = read(tmp_path / "a.txt", b"x" * 1000 + b"\n" + b"y" * 5000, skip_bad=True, whole=True)
  assert lines == [(1, "x" * 1000)] and counts["bad_lines"] == 1


@pytest.mark.parametrize("suffix", _COMPRESS)
def test_an_empty_file_holds_nothing_and_is_counted(tmp_path, suffix):
  for data in (b"", _COMPRESS[suffix](b"")):
    lines, counts = read(tmp_path / f"a{suffix}", data)
    assert not lines and counts["empty_files"] == counts["files"] == 1


def test_lines_do_not_depend_on_where_blocks_end(tmp_path, monkeypatch):
  whole, _ = read(tmp_path / "a.txt", _TEXT.encode())
  for size in (1, 7, 64):
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", size)
    assert read(tmp_path / "a.txt", _TEXT.encode())[0] == whole
