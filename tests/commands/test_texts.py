"""texts: the lines that commands are given."""

import io
import os
import sys
import threading

import pytest

from bert_jax.commands import texts
from bert_jax.errors import UserError


def test_lines_end_as_in_any_text_file(tmp_path):
  (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n\nfour".encode())
  assert texts.read_input_lines(str(tmp_path / "a.txt")) == ["one", "two", "three", "", "four"]


def test_what_is_no_file_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UserError, match="pipe: a named pipe, expected a file"):
    texts.read_input_lines(str(tmp_path / "pipe"))
  with pytest.raises(UserError, match="/dev/zero: a device, expected a file"):
    texts.read_input_lines("/dev/zero")
  with pytest.raises(UserError, match=f"{tmp_path}: a folder, expected a file"):
    texts.read_input_lines(str(tmp_path))


def test_a_stream_without_line_ends_is_refused_before_it_fills_the_memory(monkeypatch):
  monkeypatch.setattr(texts, "_MAX_LINE_BYTES", 1000)
  with open("/dev/zero", "rb") as zeros:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(zeros))
    with pytest.raises(UserError, match="--input=-: a line longer than"):
      texts.read_input_lines("-")


def test_a_pipe_that_the_shell_has_opened_is_read():
  """As in --input=<(zcat FILE)."""
  end, other = os.pipe()
  writer = threading.Thread(target=lambda: os.write(other, b"one\ntwo\n") and os.close(other))
  writer.start()
  assert texts.read_input_lines(f"/dev/fd/{end}") == ["one", "two"]
  writer.join()
  os.close(end)
