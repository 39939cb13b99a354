"""Tables of text: CSV, TSV and JSON lines, with a header or without, read whole.

    .csv            commas; quotes may hold commas and line ends
    .tsv, .txt      tabs, and nothing else is special: quotes are text, as in GLUE
    .json, .jsonl   one object per line, or one array of objects, or one object of them

Compressed by suffix and decoded as everywhere (text_files.py). Columns are told by name or, without a header, by number.
"""

import collections
import csv
import json
import pathlib
from typing import Any, NamedTuple, Sequence

from bert_jax.data.files import compression
from bert_jax.data.text_files import read_lines
from bert_jax.errors import UserError

# Lines with too few columns are left out and counted, as long as they are no more than this share: QQP has some.
SHORT_SHARE = 0.01


class Table(NamedTuple):
  """Rows of text.

  Attributes:
    path: the file.
    columns: names; without a header "0", "1", …
    rows: each with as many cells as there are columns at least.
    lines: the line that each row begins in, from 1; for one JSON value its number.
    short: how many lines had too few columns, and are not among `rows`.
  """

  path: str
  columns: tuple[str, ...]
  rows: list[list[str]]
  lines: list[int]
  short: int

  def column(self, name: str) -> list[str]:
    """The cells of a column. Raises UserError listing those that there are."""
    number = self.number(name)
    return [row[number] for row in self.rows]

  def number(self, name: str) -> int:
    """Where a column stands. Raises UserError listing those that there are."""
    if name not in self.columns:
      raise UserError(f"{self.path} has no column {name!r}; it has: {', '.join(self.columns)}")
    return self.columns.index(name)


def read_table(path: str, names: Sequence[str] = ()) -> Table:
  """Reads a table.

  Args:
    path: the file.
    names: columns that will be asked for, or ways to call them; numbers are those of a table without a header. The first line of a
      CSV or TSV is its header where one of the names stands in it, or where none of them is a number.

  Raises:
    UserError: naming file and line: it cannot be read, is not UTF-8, not JSON, has no rows, or too many with too few columns.
  """
  suffix = pathlib.PurePath(path.removesuffix(compression(path) or "")).suffix.lower()
  if suffix in (".json", ".jsonl"):
    return _read_json(path)
  lines = list(read_lines(path, skip_bad=False, counts=collections.Counter(), whole=True))
  if suffix == ".csv":
    reader = csv.reader(text + "\n" for _, text in lines)
    found, begin = [], 1
    try:
      for row in reader:
        found.append((begin, row))
        begin = reader.line_num + 1
    except csv.Error as error:
      raise UserError(f"{path}:{reader.line_num}: not CSV ({error}); a table with tabs is called .tsv") from error
  else:
    found = [(number, text.split("\t")) for number, text in lines]
  found = [(number, row) for number, row in found if any(row)]
  if not found:
    raise UserError(f"{path} is empty; expected a table with a line for each text")
  first = [cell.strip() for cell in found[0][1]]
  named = [name for name in names if not name.isdigit()]
  has_header = any(name in first for name in named) or bool(named) and len(named) == len(list(names))
  columns = tuple(first) if has_header else tuple(map(str, range(len(first))))
  rows = found[1:] if has_header else found
  return _checked(path, columns, rows)


def _checked(path: str, columns: tuple[str, ...], rows: Sequence[tuple[int, list[str]]]) -> Table:
  whole = [(number, row) for number, row in rows if len(row) >= len(columns)]
  short = len(rows) - len(whole)
  if short > SHORT_SHARE * len(rows):
    number, row = next((number, row) for number, row in rows if len(row) < len(columns))
    raise UserError(f"{path}:{number}: {len(row)} columns, the first line has {len(columns)} ({', '.join(columns)}); "
                    "a table with tabs is called .tsv, one with commas .csv")  # fmt: skip
  if not whole:
    raise UserError(f"{path} has a header and no rows")
  return Table(path, columns, [row for _, row in whole], [number for number, _ in whole], short)


def _read_json(path: str) -> Table:
  lines = list(read_lines(path, skip_bad=False, counts=collections.Counter(), whole=True))
  records: list[tuple[int, Any]] = []
  try:
    records = [(number, json.loads(text)) for number, text in lines if text.strip()]
  except ValueError as error:
    try:  # one value over many lines
      content = json.loads("\n".join(text for _, text in lines))
    except ValueError:
      number = next(number for number, text in lines if text.strip() and not _is_json(text))
      raise UserError(f"{path}:{number}: not JSON ({error}); expected one object per line, or one array of objects") from error
    records = list(enumerate(content.values() if isinstance(content, dict) else content, 1))
  if len(records) == 1 and isinstance(records[0][1], list):
    records = list(enumerate(records[0][1], 1))
  if not records:
    raise UserError(f"{path} is empty; expected a JSON object for each text")
  bad = next((number for number, record in records if not isinstance(record, dict)), None)
  if bad is not None:
    raise UserError(f"{path}:{bad}: expected a JSON object, {{column: value}}")
  columns = tuple(dict.fromkeys(name for _, record in records for name in record))
  rows = [[_cell(record.get(name)) for name in columns] for _, record in records]
  return Table(path, columns, rows, [number for number, _ in records], 0)


def _is_json(text: str) -> bool:
  try:
    json.loads(text)
  except ValueError:
    return False
  return True


def _cell(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, list):
    return "|".join(map(str, value))
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
