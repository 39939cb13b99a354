"""Texts out of Parquet files, batch by batch: memory does not grow with the file or its row groups."""

import collections
from collections.abc import Iterator

from bert_jax.data.text.files import has_protocol, note_bad, open_file, reading

_BATCH_BYTES = 4 * 2**20
_MAX_BATCH_ROWS = 4096
_READ_BYTES = 2**20


def read_parquet_texts(
  path: str, column: str, *, skip_bad: bool, counts: collections.Counter
) -> Iterator[tuple[int, str]]:
  """The texts of one column.

  Args:
    path: the file, on this machine or behind a protocol.
    column: the name of a column of strings at the top of the schema.
    skip_bad: skip and count files that are damaged or have no such column
      (`bad_files`) and rows that are not UTF-8 (`bad_documents`), instead of raising.
    counts: receives `files`, `empty_files`, `empty_documents` (nulls), `bad_files` and `bad_documents`.

  Yields:
    (row in the file from 0, text).

  Raises:
    UserError: naming file and row, for the defects above and for files that cannot be read.
  """
  import pyarrow

  counts["files"] += 1
  row = 0
  with reading(path), open_file(path, seekable=True) as stream:
    if not stream.peek(1):
      counts["empty_files"] += 1
      return
    try:
      for values in _columns(path, stream, column):
        for value in _strings(values):
          if value is None:
            counts["empty_documents"] += 1
          elif isinstance(value, UnicodeDecodeError):
            note_bad(
              f"{path}: row {row}: not UTF-8: byte 0x{value.object[value.start]:02x} at byte {value.start + 1} of the "
              "text",
              skip_bad=skip_bad,
              counts=counts,
              key="bad_documents",
            )
          else:
            yield row, value
          row += 1
      if not row:
        counts["empty_files"] += 1
    except _WrongColumn as error:
      note_bad(f"{path}: {error}", skip_bad=skip_bad, counts=counts, key="bad_files")
    except (pyarrow.ArrowException, OSError) as error:
      if isinstance(error, OSError) and (error.errno is not None or has_protocol(path) and type(error) is not OSError):
        raise
      where = f"damaged or cut off after row {row - 1}" if row else "not a whole Parquet file"
      note_bad(
        f"{path}: {where} ({str(error).strip().partition(chr(10))[0]})",
        skip_bad=skip_bad,
        counts=counts,
        key="bad_files",
      )


class _WrongColumn(Exception):
  """The column is not there, or holds something else than text."""


def _columns(path, stream, name):
  """The column as Arrow arrays of strings, some MiB each."""
  import pyarrow
  from pyarrow import parquet

  # Arrow reads a file of this machine by itself, faster than through Python. The buffer keeps it from reading
  # the whole column of a row group at once.
  file = parquet.ParquetFile(
    stream if has_protocol(path) else path, buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True
  )
  with file:
    schema = file.schema_arrow
    place = schema.get_field_index(name)
    if place < 0:
      strings = [field.name for field in schema if _is_text(field.type)]
      raise _WrongColumn(
        f"no column {name!r} (columns: {', '.join(schema.names) or 'none'}); name one of text with "
        f"--text_field{'=' + strings[0] if strings else ''}"
      )
    if not _is_text(schema.field(place).type):
      raise _WrongColumn(f"column {name!r} holds {schema.field(place).type}, not text")
    for group in range(file.num_row_groups):
      metadata = file.metadata.row_group(group)
      chunks = (metadata.column(number) for number in range(metadata.num_columns))
      num_bytes = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == name)
      rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * metadata.num_rows // max(1, num_bytes)))
      for batch in file.iter_batches(rows, row_groups=[group], columns=[name], use_threads=False):
        array = batch.column(0)
        yield array.dictionary_decode() if pyarrow.types.is_dictionary(array.type) else array


def _is_text(kind) -> bool:
  from pyarrow import types

  kind = kind.value_type if types.is_dictionary(kind) else kind
  return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _strings(array) -> list:
  """The values as strings, None for nulls, and the error itself for bytes that are no UTF-8."""
  try:
    return array.to_pylist()
  except UnicodeDecodeError:
    pass
  values = []
  for value in array:
    try:
      values.append(value.as_py())
    except UnicodeDecodeError as error:
      values.append(error)
  return values
