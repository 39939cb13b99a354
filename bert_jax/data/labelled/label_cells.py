"""What the cells of a label column name: a class each, or several labels in the ways that tools write them.

    red|round                 names, separated by a bar
    ["red", "round"]          a list, as JSON or as Python prints it, {'red', 'round'} too
    {"red": 1, "round": 0}    those that are 1
    [0, 1, 1]   0 1 1         vectors of 0 and 1: the places of the ones, from 0

Whatever else looks like several labels is refused, so that no combination of labels becomes a class of its own.
"""

import ast
import collections
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from bert_jax.errors import UserError

SEPARATOR = "|"  # between the labels of a text that has several

_LIST_CHARACTERS = 20_000  # a longer cell is no list of labels
_BITS = re.compile(r"[01](?:\.0?)?(?:[\s,;|]+[01](?:\.0?)?)+")
_COMMA_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")
_SURE = ",;，；、｜\n\t"  # between labels where a text has several and no bar stands anywhere
_MAY_BE = (*_SURE, "/", "&", "+", " ")
_NAMES = {"\n": "line ends", "\t": "tabs", " ": "spaces"}
_ONE_WAY = "write a bar between labels, as red|round"


class LabelCells(NamedTuple):
  """Labels as texts, several of one text with SEPARATOR between them; the kind that follows; what people are told."""

  labels: list[str]
  kind: str
  notes: tuple[str, ...] = ()


def names_in(label, kind: str) -> list[str]:
  """The classes or tags that the label of one example names."""
  if kind == "multi-label":
    return [name.strip() for name in label.split(SEPARATOR) if name.strip()]
  return label if kind == "token-classification" else [label]


def read_cells(cells: Sequence[str], lines: Sequence[int], path: str, kind: str, *, asked: bool = True) -> LabelCells:
  """Reads a label column.

  Args:
    cells: as they stand in the file, lists and objects of JSON as JSON.
    lines: where each stands.
    path: the file.
    kind: that was asked for, or empty; the result has it, or what follows from lists, or none.
    asked: texts that read as several labels are asked about.

  Raises:
    UserError: naming the line: lists beside texts, lists of something else than names, several labels where there is
      one class for each text.
  """
  # What pandas makes of a cell without a value.
  cells = ["" if cell.strip() in ("nan", "NaN") else cell for cell in cells]
  values = _vectors(cells, kind) or [_value(cell) for cell in cells]
  if all(isinstance(value, str) for value in values):
    if asked and kind in ("", "multi-label"):
      _check_separators(cells, lines, path, kind)
    return LabelCells(list(cells), kind)
  refuse = lambda row, what: UserError(f"{path}:{lines[row]}: the label {cells[row][:80]!r} {what}; {_ONE_WAY}")
  for row, value in enumerate(values):
    if isinstance(value, str) and value.strip():
      raise refuse(row, "is a text, and others are lists")
  lists = [[] if isinstance(value, str) else value for value in values]
  notes: tuple[str, ...] = ()
  if all(bit in (0, 1) for bits in lists if isinstance(bits, list) for bit in bits) and _are_vectors(lists):
    given = collections.Counter(len(bits) for bits in lists if bits)
    ((length, _),) = given.most_common(1)
    odd = next((row for row, bits in enumerate(lists) if bits and len(bits) != length), None)
    if odd is not None:
      raise refuse(odd, f"has {len(lists[odd])} places, and other vectors of 0 and 1 have {length}")
    names = [[str(place) for place, bit in enumerate(bits) if bit] for bits in lists]
    notes = (
      f"the labels of {path} are vectors of 0 and 1: a text has the labels whose places hold 1, counted from 0 to "
      f"{length - 1}",
    )
  else:
    names = [_names(value, lambda what, row=row: refuse(row, what)) for row, value in enumerate(lists)]
  one_each = all(len(own) == 1 for own, value in zip(names, values) if not isinstance(value, str))
  if kind == "classification" and not one_each:
    row = next(row for row, own in enumerate(names) if len(own) != 1 and not isinstance(values[row], str))
    raise UserError(
      f"{path}:{lines[row]}: the label {cells[row][:80]!r} names {len(names[row])} classes, and each text has one: "
      "--kind=multi-label"
    )
  return LabelCells(
    [SEPARATOR.join(own) for own in names], kind or ("classification" if one_each else "multi-label"), notes
  )


def check_spelling(names: Sequence[str], lines: Sequence[int], path: str) -> None:
  """Raises UserError, naming the line, where two labels differ only in capitals, spaces or how a letter is coded."""
  first: dict[str, str] = {}
  line_of: dict[str, int] = {}
  for name, line in zip(names, lines):
    line_of.setdefault(name, line)
  for name, line in line_of.items():
    plain = unicodedata.normalize("NFKC", name).casefold()
    plain = " ".join("".join(one for one in plain if unicodedata.category(one) != "Cf").split())
    if first.setdefault(plain, name) != name:
      raise UserError(
        f"{path}:{line}: the labels {first[plain]!a} and {name!a} differ only in how they are written, and would be "
        "two classes: write them alike, or give one another name"
      )


def _check_separators(cells: Sequence[str], lines: Sequence[int], path: str, kind: str) -> None:
  """Raises UserError, naming the line, for labels that are separated by something else than SEPARATOR.

  A comma, or the like, separates where a part of a label occurs as a label of its own, and in any case where texts are
  said to have several labels, and no bar stands anywhere; a space or a slash where every part does.
  """
  several = kind == "multi-label"
  refuse = lambda row, mark: UserError(
    f"{path}:{lines[row]}: the label {cells[row].strip()[:80]!r} reads as several labels, separated by "
    f"{_NAMES.get(mark, repr(mark))}: {_ONE_WAY}; or say --kind=classification, if it is one class"
  )
  if several and not any(SEPARATOR in cell for cell in cells):
    for row, cell in enumerate(cells):
      if mark := next((mark for mark in _SURE if mark in cell.strip()), ""):
        raise refuse(row, mark)
  given = [row for row, cell in enumerate(cells) if cell.strip()]
  comma = next((row for row in given if "," in cells[row]), None)
  if not several and comma is not None and all(_COMMA_NUMBER.fullmatch(cells[row].strip()) for row in given):
    raise UserError(
      f"{path}:{lines[comma]}: the label {cells[comma].strip()[:80]!r}: a number with a decimal comma, or several "
      "labels? Write numbers with a point, 3.5, and labels with a bar between them, red|round"
    )
  rows = {name: row for row in range(len(cells) - 1, -1, -1) for name in names_in(cells[row], "multi-label")}
  for name, row in rows.items():
    for mark in _MAY_BE:
      parts = [part.strip() for part in name.split(mark)]
      if len(parts) > 1 and (any if mark in _SURE else all)(part in rows for part in parts):
        raise refuse(row, mark)


def _vectors(cells: Sequence[str], kind: str) -> list[Any] | None:
  """Cells that all are vectors of 0 and 1 without brackets, as lists; None where they are something else."""
  given = {cell.strip() for cell in cells if cell.strip()}
  if given and all(map(_BITS.fullmatch, given)):
    read = lambda text: [int(bit[0]) for bit in re.split(r"[\s,;|]+", text)]
  elif kind == "multi-label" and given and all(re.fullmatch("[01]{2,}", one) for one in given):
    read = lambda text: [int(bit) for bit in text]
  else:
    return None
  vectors = [read(cell.strip()) if cell.strip() else "" for cell in cells]
  return vectors if len({len(one) for one in vectors if one}) == 1 else None


def _value(cell: str) -> Any:
  """The list, set or object that a cell is in JSON or Python; the cell where it is a text."""
  text = cell.strip()
  if text[:1] not in ("[", "(", "{") or text[-1] not in "])}" or len(text) > _LIST_CHARACTERS:
    return cell
  for read in (json.loads, ast.literal_eval, _array):
    try:
      value = read(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
      continue
    if isinstance(value, (list, tuple, set)):
      return sorted(value, key=str) if isinstance(value, set) else list(value)
    return value if isinstance(value, dict) else cell
  return cell


def _array(text: str) -> list[int]:
  """[0 1 0], as NumPy prints it."""
  if not _BITS.fullmatch(text[1:-1].strip()):
    raise ValueError(text)
  return [int(bit[0]) for bit in text[1:-1].split()]


def _are_vectors(lists: list[Any]) -> bool:
  """Whether lists of 0 and 1 alone are vectors: they are of one length, or hold a number twice, which no list of names
  does.
  """
  given = [bits for bits in lists if bits]
  if not given or not all(isinstance(bits, list) for bits in given) or max(map(len, given)) < 2:
    return False
  return len({len(bits) for bits in given}) == 1 or any(len(set(bits)) < len(bits) for bits in given)


def _names(value: Any, refuse) -> list[str]:
  """The names in a list, or those that an object says 1 of."""
  if isinstance(value, dict):
    if not all(bit in (0, 1) for bit in value.values()):
      raise refuse("is an object whose values are not 0 or 1")
    value = [name for name, bit in value.items() if bit]
  names = []
  for one in value:
    if isinstance(one, float) and one.is_integer():
      one = int(one)
    if isinstance(one, bool) or not isinstance(one, (str, int)):
      raise refuse("holds something else than names and whole numbers")
    names.append(str(one).strip())
    if not names[-1] or SEPARATOR in names[-1]:
      raise refuse("holds a name that is empty or has a bar in it")
  return list(dict.fromkeys(names))
