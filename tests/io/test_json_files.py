import json
import os
import socket
import time

import pytest

from bert_jax.errors import UserError
from bert_jax.io.json_files import MAX_DEPTH, parse_json, read_json, read_object


@pytest.mark.parametrize(
  "data, message",
  [
    (b"[" * 200_000, "nested more than 64 levels"),
    (b'{"a":' * 200_000, "nested more than 64 levels"),
    (b'[{"a":' * 100_000 + b"1" + b"}]" * 100_000, "nested more than 64 levels"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested more than 64 levels"),
    (b'{"a": NaN}', "NaN"),
    (b'{"a": [-Infinity]}', "-Infinity"),
    (b'{"a": 1e999}', "1e999 is not finite"),
    (b"1" * 5000, "a number of 5,000 digits"),
    (b'{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' stands twice"),
    (b'{"x": 1, "text": "half \\ud83d of it"}', "'text' holds half of a surrogate pair"),
    (b'{"\\uDE00": 1}', "half of a surrogate pair"),
    (b'["\\ud83d"]', "half of a surrogate pair"),
    (b'"\\ud83d"', "half of a surrogate pair"),
    (b'{"a": "\xff"}', r"not UTF-8 \(byte 0xff at 7\)"),
    ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    (b"", "not JSON"),
    (b'{"a": 1} {"b": 2}', "not JSON"),
    (b"\0" * 100, "not JSON"),
  ],
)
def test_what_is_no_json_is_one_message_that_names_the_place(data, message):
  with pytest.raises(UserError, match=f"^file.json:3: .*{message}.*; mend it$"):
    parse_json(data, "file.json:3", remedy="mend it")


@pytest.mark.parametrize(
  "text, value",
  [
    ('{"a": "\\ud83d\\ude00", "b": [1, 2.5, 1e3, null, true]}', {"a": "😀", "b": [1, 2.5, 1e3, None, True]}),
    ("\ufeff[1]", [1]),
    ('{"model_max_length": 1000000000000000019884624838656}', {"model_max_length": 10**30 + 19884624838656}),
    ('"\\\\ud83d"', "\\ud83d"),
  ],
)
def test_json_is_read_as_it_stands(text, value):
  assert parse_json(text.encode(), "file") == value


def test_as_many_levels_as_are_allowed_are_read():
  assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "file") == json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def _pipe(path):
  os.mkfifo(path)


def _device(path):
  path.symlink_to("/dev/zero")


def _socket(path):
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path.name)


@pytest.mark.parametrize(
  "make, message",
  [
    (_pipe, "a named pipe, expected a file"),
    (_device, "a device, expected a file"),
    (_socket, "a socket, expected a file"),
    (lambda path: path.mkdir(), "a folder, expected a file"),
    (lambda path: None, "not there; expected a run folder"),
    (lambda path: path.write_bytes(b" " * 1001), "more than 0 MiB"),
  ],
)
def test_what_is_no_file_or_too_large_is_refused_at_once(make, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # the name of a socket has 107 bytes at most
  make(tmp_path / "c.json")
  began = time.monotonic()
  with pytest.raises(UserError, match=f"c.json: {message}"):
    read_json(tmp_path / "c.json", expected="a run folder", max_bytes=1000)
  assert time.monotonic() - began < 30


def test_a_file_below_a_file_is_not_there(tmp_path):
  (tmp_path / "a").write_text("{}")
  with pytest.raises(UserError, match="config.json: not there"):
    read_json(tmp_path / "a" / "config.json")


@pytest.mark.parametrize(
  "text, what", [("[1]", "a list"), ('"a"', "a string"), ("1", "a number"), ("null", "null"), ("true", "true or false")]
)
def test_another_value_than_an_object_is_called_by_its_name(text, what, tmp_path):
  (tmp_path / "c.json").write_text(text)
  with pytest.raises(UserError, match=f"c.json: expected a JSON object, found {what}"):
    read_object(tmp_path / "c.json")
