"""errors.py: how the command ends."""

import sys

from bert_jax.errors import print_at_once


def test_a_message_and_the_end_of_its_line_are_one_write(monkeypatch):
  """Between two, JAX's own log may come: with PYTHONUNBUFFERED, as in our images, print() makes two."""
  writes = []

  class Unbuffered:
    write, flush = staticmethod(writes.append), staticmethod(lambda: None)

  monkeypatch.setattr(sys, "stderr", Unbuffered)
  print_at_once("error: gone")
  assert writes == ["error: gone\n"]
