"""JSON files, of ours and from outside: read whole and in bounded time and memory, or refused with one message.

Python's reader takes what is no JSON (NaN, two values for one key), gives up in three different ways where it is
nested deeply, and hands on halves of surrogate pairs that no file can hold afterwards. Whoever reads JSON that
somebody else may have written reads it here.
"""

import collections
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from bert_jax.errors import UserError
from bert_jax.io.plain_files import read_bounded

MAX_BYTES = 16 * 2**20  # of settings; a list of 100,000 labels fits
MAX_TABLE_BYTES = 128 * 2**20  # of vocabularies and lists of files; the largest tokenizer.json there is has 35 MB
MAX_DEPTH = 64  # objects and lists within each other
_MAX_DIGITS = 100  # transformers writes 10^30 for "no limit"; a float ends at 10^308
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def read_json(
  path: str | os.PathLike,
  *,
  expected: str = "a Hugging Face model folder with config.json",
  remedy: str = "",
  max_bytes: int = MAX_BYTES,
  nan: bool = False,
  halves: bool = False,
) -> Any:
  """The content of a file.

  Args:
    path: on this machine or in a store.
    expected: what the file belongs to, for the message where it is not there.
    remedy: what helps where it is no JSON.
    max_bytes: a larger file is none of this kind.
    nan, halves: see parse_json.

  Raises:
    UserError: naming the file and what is wrong: it is not there, no file, may not be read, is too large, not UTF-8,
      or not JSON as `parse_json` has it.
    StorageError: it is there, and could not be read.
  """
  name = os.fspath(path)
  try:
    data = read_bounded(path, max_bytes)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(f"{name}: not there; expected {expected}") from error
  return parse_json(data, name, remedy=remedy, nan=nan, halves=halves)


def read_object(path: str | os.PathLike, **options: Any) -> dict[str, Any]:
  """The object that a file holds, see read_json. Raises UserError also where it holds something else."""
  value = read_json(path, **options)
  if not isinstance(value, dict):
    raise UserError(f"{os.fspath(path)}: expected a JSON object, found {json_type(value)}")
  return value


def check_types(content: dict[str, Any], where: str, types: Mapping[str, Any]) -> None:
  """Raises UserError where a key of an object is missing or its value is of another type than the reader relies on."""
  for key, expected in types.items():
    if key not in content:
      raise UserError(f"{where}: {key!r} is missing; the file was altered: restore it from a copy")
    value = content[key]
    if not isinstance(value, expected) or isinstance(value, bool) and expected is not bool:
      raise UserError(f"{where}: {key!r} is {json_type(value)}; the file was altered: restore it from a copy")


def read_if_there(path: pathlib.Path, **options: Any) -> dict[str, Any]:
  """The object that a file of this machine holds, see read_object; empty where nothing has that name.

  A link to nothing is something: caches of models consist of links, and a file that was lost is not one that never was.
  """
  return read_object(path, **options) if path.exists() or path.is_symlink() else {}


def parse_json(data: bytes | str, where: str, *, remedy: str = "", nan: bool = False, halves: bool = False) -> Any:
  """The value of a JSON text.

  Args:
    data: the text; bytes are UTF-8, with a byte-order mark or without.
    where: the file, or file and line.
    remedy: what helps where it is no JSON.
    nan: NaN and Infinity are read, which JSON does not have and pandas writes for a cell without a value.
    halves: of surrogate pairs are read: Python has them in the names of files that are not UTF-8.

  Raises:
    UserError: naming `where`: not UTF-8; not JSON; an object with two values for one key; more than MAX_DEPTH levels;
      a number that is not finite, or has more digits than any that means something; half a surrogate pair.
  """
  refuse = lambda what: UserError(f"{where}: {what}{f'; {remedy}' if remedy else ''}")
  try:
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    value = json.loads(
      text,
      object_pairs_hook=_object,
      parse_int=_whole_number,
      parse_float=None if nan else _number,
      parse_constant=None if nan else _constant,
    )
  except UnicodeDecodeError as error:
    raise refuse(f"not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start})") from error
  except RecursionError:
    raise refuse(f"JSON nested more than {MAX_DEPTH} levels deep") from None
  except ValueError as error:
    raise refuse(f"not JSON ({error})") from error
  if _is_deeper(value, MAX_DEPTH):
    raise refuse(f"JSON nested more than {MAX_DEPTH} levels deep")
  if not halves and _SURROGATE.search(text) and not _is_text(value):
    key = next((repr(key) for key in value if not _is_text({key: value[key]})), "") if isinstance(value, dict) else ""
    raise refuse(f"{key}{' ' if key else ''}holds half of a surrogate pair, which is not a character")
  return value


def json_type(value: Any) -> str:
  """What JSON calls a value: an object, a list, a string, a number, true or false, null."""
  return _NAMES.get(type(value), "a number")


def write_json(file: pathlib.Path, content: Any) -> None:
  """Writes a file, indented."""
  file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  made = dict(pairs)
  if len(made) < len(pairs):
    twice = next(key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1)
    raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
  return made


def _whole_number(text: str) -> int:
  if len(text) > _MAX_DIGITS:
    raise ValueError(f"a number of {len(text):,} digits, {text[:12]}…")
  return int(text)


def _number(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f"the number {text[:40]} is not finite")
  return value


def _constant(name: str) -> NoReturn:
  raise ValueError(f"{name} is no number that JSON has")


def _is_deeper(value: Any, depth: int) -> bool:
  level = [value] if isinstance(value, (dict, list)) else []
  while level and depth:
    depth -= 1
    level = [
      child
      for one in level
      for child in (one.values() if isinstance(one, dict) else one)
      if isinstance(child, (dict, list))
    ]
  return bool(level)


def _is_text(value: Any) -> bool:
  try:
    json.dumps(value, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    return False
  return True
