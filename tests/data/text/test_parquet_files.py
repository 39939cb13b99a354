"""Parquet to documents: every type of text, bounded memory, and what is said of files that are wrong."""

import collections
import gc

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from bert_jax.data.text.sources import parse_source, read_documents
from bert_jax.errors import UserError

_TEXTS = ["One.\r\n\nTwo 中文.", None, "", " \n", "NUL\0s.", "Last."]
_EXPECTED = [(0, "One.\nTwo 中文."), (4, "NULs."), (5, "Last.")]


def read(spec, *, skip_bad=False, text_field="text"):
  counts = collections.Counter()
  documents = read_documents([parse_source(spec)], skip_bad=skip_bad, counts=counts, text_field=text_field)
  return list(documents), counts


def write(path, values, kind=None, name="text", **options):
  table = pa.table({"id": list(range(len(values))), name: pa.array(values, kind or pa.string())})
  parquet.write_table(table, path, **options)
  return path


@pytest.mark.parametrize(
  "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_every_type_of_text_is_read_and_nulls_are_empty_documents(tmp_path, kind):
  path = tmp_path / "a.parquet"
  values = pa.array(_TEXTS).dictionary_encode() if pa.types.is_dictionary(kind) else _TEXTS
  write(path, values, kind)
  documents, counts = read(f"parquet:{path}")
  assert [(d.position, d.text) for d in documents] == _EXPECTED
  assert {d.file for d in documents} == {str(path)} and documents[0].origin == f"{path}:0"
  assert counts == {
    "files": 1,
    "documents": 3,
    "empty_documents": 3,
    "nul_bytes": 1,
    "bytes": sum(len(text.encode()) for _, text in _EXPECTED),
  }


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
def test_rows_are_numbered_through_row_groups_and_batches(tmp_path, compression):
  texts = [f"Document {number}." for number in range(5000)] + ["long " * 100_000] * 3 + ["end"]
  write(tmp_path / "a.parquet", texts, row_group_size=4990, compression=compression)
  documents, _ = read(f"parquet:{tmp_path}/a.parquet")
  assert [(d.position, d.text) for d in documents] == [(row, text.strip()) for row, text in enumerate(texts)]


def test_another_column_is_named_by_text_field(tmp_path):
  write(tmp_path / "a.parquet", ["One."], name="body.text")
  assert read(f"parquet:{tmp_path}/a.parquet", text_field="body.text")[0][0].text == "One."


def test_a_file_without_the_column_is_named_with_the_columns_it_has(tmp_path):
  write(tmp_path / "a.parquet", ["One."])
  write(tmp_path / "b.parquet", ["Two."], name="body")
  write(tmp_path / "c.parquet", ["Three."])
  message = r"b.parquet: no column 'text' \(columns: id, body\); .*--text_field=body.*--skip_bad"
  with pytest.raises(UserError, match=message):
    read(f"parquet:{tmp_path}/*.parquet")
  documents, counts = read(f"parquet:{tmp_path}/*.parquet", skip_bad=True)
  assert [d.text for d in documents] == ["One.", "Three."] and counts["bad_files"] == 1


@pytest.mark.parametrize(
  "values, kind, message",
  [
    ([1, 2], pa.int64(), "'text' holds int64, not text"),
    ([b"x"], pa.binary(), "'text' holds binary, not text"),
    ([["x"]], pa.list_(pa.string()), "'text' holds list<.*string>, not text"),
  ],
)
def test_a_column_of_something_else_than_text_is_an_error(tmp_path, values, kind, message):
  write(tmp_path / "a.parquet", values, kind)
  with pytest.raises(UserError, match=f"a.parquet: column {message}"):
    read(f"parquet:{tmp_path}/a.parquet")


def test_an_empty_file_among_good_ones_is_counted(tmp_path):
  write(tmp_path / "a.parquet", ["One."])
  (tmp_path / "b.parquet").write_bytes(b"")
  write(tmp_path / "c.parquet", [])
  write(tmp_path / "d.parquet", ["Two."])
  documents, counts = read(f"parquet:{tmp_path}/*.parquet")
  assert [d.text for d in documents] == ["One.", "Two."]
  assert counts["empty_files"] == 2 and counts["files"] == 4


@pytest.mark.parametrize("damage", ["cut off", "not parquet", "footer"])
def test_a_file_that_is_not_whole_is_named(tmp_path, damage):
  path = write(tmp_path / "a.parquet", [f"Document {number}." for number in range(1000)])
  data = path.read_bytes()
  damaged = {"cut off": data[:-100], "not parquet": b"Just text, no Parquet.", "footer": data[:-30] + data[-20:]}
  path.write_bytes(damaged[damage])
  write(tmp_path / "b.parquet", ["Good."])
  with pytest.raises(UserError, match=r"a.parquet: not a whole Parquet file \(.*--skip_bad"):
    read(f"parquet:{tmp_path}/*.parquet")
  documents, counts = read(f"parquet:{tmp_path}/*.parquet", skip_bad=True)
  assert [d.text for d in documents] == ["Good."] and counts["bad_files"] == 1


def test_damage_in_the_middle_names_the_row_and_keeps_what_came_before(tmp_path):
  texts = [f"Document {number} {number**5}." for number in range(30_000)]
  path = write(tmp_path / "a.parquet", texts, row_group_size=10_000, use_dictionary=False, write_page_checksum=True)
  chunk = parquet.ParquetFile(path).metadata.row_group(1).column(1)
  data = bytearray(path.read_bytes())
  data[chunk.data_page_offset + 200] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(UserError, match=r"a.parquet: damaged or cut off after row 9999 \(.*--skip_bad"):
    read(f"parquet:{path}")
  documents, counts = read(f"parquet:{path}", skip_bad=True)
  assert [d.text for d in documents] == texts[:10_000] and counts["bad_files"] == 1


def test_a_row_that_is_not_utf8_is_named(tmp_path):
  bad = pa.StringArray.from_buffers(3, *pa.array([b"One.", b"half \xed\xa0\xbd", b"Three."]).buffers()[1:])
  parquet.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
  with pytest.raises(UserError, match=r"a.parquet: row 1: not UTF-8: byte 0xed at byte 6 .*--skip_bad"):
    read(f"parquet:{tmp_path}/a.parquet")
  documents, counts = read(f"parquet:{tmp_path}/a.parquet", skip_bad=True)
  assert [(d.position, d.text) for d in documents] == [(0, "One."), (2, "Three.")] and counts["bad_documents"] == 1


def test_memory_does_not_grow_with_the_row_group(tmp_path):
  text = pa.array(["word " * 2000] * 100)  # 1 MB
  schema = pa.schema([("text", pa.string())])
  peaks = []
  for megabytes in (20, 200):
    path = tmp_path / f"{megabytes}.parquet"
    table = pa.table({"text": pa.chunked_array([text] * megabytes)})
    with parquet.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
      writer.write_table(table, row_group_size=table.num_rows)
    del table
    gc.collect()
    pool = pa.default_memory_pool()
    most, before = 0, pool.bytes_allocated()
    last = 0
    for document in read_documents([parse_source(f"parquet:{path}")], skip_bad=False, counts=collections.Counter()):
      most, last = max(most, pool.bytes_allocated() - before), document.position
    assert last == megabytes * 100 - 1
    peaks.append(most)
  assert peaks[1] < 2 * peaks[0] < 100 * 2**20


def test_what_datatrove_writes_is_read(tmp_path):
  """The columns of its ParquetWriter: text, id, metadata; extensions beside them."""
  rows = [
    {
      "text": "First document.\n\nWith two paragraphs.",
      "id": "0/0",
      "metadata": {"url": "https://example.org", "date": "2024-01-01", "token_count": 7},
    },
    {"text": "Second.", "id": "0/1", "metadata": {"url": "https://example.org/2", "date": None, "token_count": 1}},
  ]
  parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
  documents, _ = read(f"parquet:{tmp_path}/*.parquet")
  assert [d.text for d in documents] == ["First document.\nWith two paragraphs.", "Second."]


def test_parquet_behind_a_protocol_is_read(tmp_path):
  system = fsspec.filesystem("memory")
  path = write(tmp_path / "a.parquet", [f"Document {number}." for number in range(9000)], row_group_size=4000)
  data = path.read_bytes()
  system.pipe("/parquet_of_this_test/a.parquet", data)
  system.pipe("/parquet_of_this_test/cut/b.parquet", data[:-50])
  documents, _ = read("parquet:memory:///parquet_of_this_test/*.parquet")
  assert [d.position for d in documents] == list(range(9000))
  assert documents[3].origin == "memory:///parquet_of_this_test/a.parquet:3"
  with pytest.raises(UserError, match="b.parquet: not a whole Parquet file"):
    read("parquet:memory:///parquet_of_this_test/cut/*.parquet")
