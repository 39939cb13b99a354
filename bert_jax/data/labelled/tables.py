"""Tables of text: CSV, TSV and JSON lines, with a header or without, read whole.

    .csv            commas; quotes may hold commas and line ends
    .tsv, .txt      tabs, and nothing else is special: quotes are text, as in GLUE
    .json, .jsonl   one object per line, or one array of objects, or one object of them

Compressed by suffix and decoded as everywhere (text_files.py). Columns are given by name or, without a header, by
number.
"""

import csv
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from bert_jax.data.text.files import compression
from bert_jax.data.text.text_files import MAX_RECORD_BYTES, read_whole
from bert_jax.errors import UserError
from bert_jax.io.json_files import parse_json

# Lines with too few or too many columns are left out and counted, as long as they are no more than this share: QQP has
# some.
RAGGED_SHARE = 0.01
_NO_TEXT = (".parquet", ".xlsx", ".xls", ".ods", ".feather", ".arrow", ".pkl", ".npy")
_AS_RECORDS = "expected one object per line, or one array of objects"
_END = ["end"]  # a line of ours behind the last one of a CSV: a quote that is never closed swallows it


class Table(NamedTuple):
  """Rows of text.

  Attributes:
    path: the file.
    columns: names; without a header "0", "1", …
    rows: each with a cell for every column; cells behind them are empty.
    lines: the line that each row begins in, from 1; for one JSON value its number.
    ragged: how many lines had too few columns or too many, and are not among `rows`.
    nested: columns of JSON that hold lists or objects, as JSON.
  """

  path: str
  columns: tuple[str, ...]
  rows: list[list[str]]
  lines: list[int]
  ragged: int
  nested: frozenset[str] = frozenset()

  def texts(self, name: str) -> list[str]:
    """The cells of a column of texts. Raises UserError as `column`, and where it holds lists or objects."""
    if name in self.nested:
      raise UserError(
        f"{self.path}: the column {name!r} holds lists or objects, and texts are expected; lists of words with a tag "
        "for each are read with --kind=token-classification"
      )
    return self.column(name)

  def column(self, name: str) -> list[str]:
    """The cells of a column. Raises UserError listing those that there are."""
    number = self.number(name)
    return [row[number] for row in self.rows]

  def number(self, name: str) -> int:
    """Where a column stands. Raises UserError listing those that there are, and where two are called so."""
    if self.columns.count(name) != 1:
      what = "has more than one column" if name in self.columns else "has no column"
      raise UserError(f"{self.path} {what} {name!r}; it has: {', '.join(self.columns)}")
    return self.columns.index(name)


def is_table(path: str, suffixes: Sequence[str] = (".csv", ".tsv", ".json", ".jsonl")) -> bool:
  """Whether a file, compressed or not, is called as tables are."""
  return _suffix(path) in suffixes


def _suffix(path: str) -> str:
  return pathlib.PurePath(path.removesuffix(compression(path) or "")).suffix.lower()


def read_table(path: str, names: Sequence[str] = ()) -> Table:
  """Reads a table.

  Args:
    path: the file.
    names: columns that will be asked for, or ways to call them; numbers are those of a table without a header. The
      first line of a CSV or TSV is its header where one of the names stands in it, or where none of them is a number;
      numbers are names where all of them stand in it, and more than one is asked for or it holds nothing but numbers.

  Raises:
    UserError: naming file and line: it cannot be read, is not UTF-8, not CSV or JSON, has no rows, or too many with
      other columns.
  """
  suffix = _suffix(path)
  if suffix in (".json", ".jsonl"):
    return _read_json(path)
  if suffix in _NO_TEXT:
    raise UserError(f"{path}: a {suffix} is not read; write the table as .csv, .tsv or .jsonl")
  lines = read_whole(path)
  found = _read_csv(path, lines) if suffix == ".csv" else [(number, text.split("\t")) for number, text in lines]
  found = [(number, row) for number, row in found if any(row)]
  if not found:
    raise UserError(f"{path} is empty; expected a table with a line for each text")
  first = [cell.strip() for cell in found[0][1]]
  if (
    suffix == ".csv"
    and len(first) == 1 < len(names)
    and (other := next((mark for mark in ";\t" if mark in first[0]), ""))
  ):
    raise UserError(
      f"{path}:{found[0][0]}: columns are separated by {'tabs' if other == chr(9) else 'semicolons'}, not by commas: "
      f"{'call the file .tsv' if other == chr(9) else 'save the table with commas, or with tabs as .tsv'}"
    )
  named = [name for name in names if not name.isdigit()]
  are_numbers = all(cell.isdigit() or not cell for cell in first)
  has_header = (
    any(name in first for name in named)
    or bool(named)
    and len(named) == len(names)
    or bool(names)
    and set(names) <= set(first)
    and (len(names) > 1 or are_numbers)
  )
  columns = tuple(first) if has_header else tuple(map(str, range(len(first))))
  rows = found[1:] if has_header else found
  return _checked(path, columns, rows)


def _read_csv(path: str, lines: list[tuple[int, str]]) -> list[tuple[int, list[str]]]:
  csv.field_size_limit(MAX_RECORD_BYTES)
  pieces = (piece + "\n" for _, text in lines for piece in text.split("\n"))  # a carriage return alone ends a line, too
  reader = csv.reader(itertools.chain(pieces, _END))
  found, begin = [], 1
  try:
    for row in reader:
      found.append((begin, row))
      begin = reader.line_num + 1
  except csv.Error as error:
    raise UserError(f"{path}:{begin}: not CSV ({error}); separate columns by tabs and call the file .tsv") from error
  number, last = found.pop()
  if last != _END:
    raise UserError(
      f'{path}:{number}: not CSV: a quote is opened that is never closed; a quote inside quotes is doubled, "". '
      "Where quotes are text, separate columns by tabs and call the file .tsv"
    )
  return found


def _checked(path: str, columns: tuple[str, ...], rows: Sequence[tuple[int, list[str]]]) -> Table:
  fits = lambda row: len(row) >= len(columns) and not any(row[len(columns) :])
  whole = [(number, row) for number, row in rows if fits(row)]
  ragged = len(rows) - len(whole)
  if ragged > RAGGED_SHARE * len(rows):
    number, row = next((number, row) for number, row in rows if not fits(row))
    raise UserError(
      f"{path}:{number}: {len(row)} columns, the first line has {len(columns)} ({', '.join(columns)}); a text with "
      "commas needs quotes in a .csv; a table with tabs is called .tsv"
    )
  if not whole:
    raise UserError(f"{path} has a header and no rows")
  return Table(path, columns, [row for _, row in whole], [number for number, _ in whole], ragged)


def read_records(path: str) -> list[tuple[int, dict[str, Any]]]:
  """The objects of a file of JSON lines, or of one array or object of them, with their lines or numbers.

  Raises UserError.
  """
  lines = [(number, text) for number, text in read_whole(path) if text.strip()]
  records: list[tuple[int, Any]] = []
  for number, text in lines:
    try:
      records.append((number, parse_json(text, f"{path}:{number}", remedy=_AS_RECORDS, nan=True)))
    except UserError as error:
      if records or not isinstance(error.__cause__, json.JSONDecodeError):
        raise
      records = [(number, parse_lines(path, lines, remedy=_AS_RECORDS, nan=True))]
      break
  if len(records) == 1:
    value = records[0][1]
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
      value = list(value.values())
    if isinstance(value, list):
      records = list(enumerate(value, 1))
  if not records:
    raise UserError(f"{path} is empty; expected a JSON object for each text")
  bad = next((number for number, record in records if not isinstance(record, dict)), None)
  if bad is not None:
    raise UserError(f"{path}:{bad}: expected a JSON object, {{column: value}}")
  return records


def _read_json(path: str) -> Table:
  records = read_records(path)
  columns = tuple(dict.fromkeys(name for _, record in records for name in record))
  rows = [[_cell(record.get(name)) for name in columns] for _, record in records]
  nested = frozenset(name for _, record in records for name, value in record.items() if isinstance(value, (list, dict)))
  return Table(path, columns, rows, [number for number, _ in records], 0, nested)


def parse_lines(path: str, lines: list[tuple[int, str]], *, remedy: str, nan: bool) -> Any:
  """The one JSON value that numbered lines are. Raises UserError naming the line, as json_files.parse_json."""
  try:
    return parse_json("\n".join(text for _, text in lines), path, remedy=remedy, nan=nan)
  except UserError as error:
    line = getattr(error.__cause__, "lineno", 1)
    where = f":{lines[min(line, len(lines)) - 1][0]}" if lines else ""
    raise UserError(f"{path}{where}{str(error).removeprefix(path)}") from error


def _cell(value: Any) -> str:
  if value is None or value != value:  # NaN: what pandas has for a cell without a value
    return ""
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
