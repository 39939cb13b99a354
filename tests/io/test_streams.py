"""streams.py: what is printed only tells, and must not end what counts."""

import io
import os
import subprocess
import sys
import textwrap

import pytest

from bert_jax.io import streams

PRINTING = """
import sys
from bert_jax import __main__ as command_line
from bert_jax.commands import pretrain

def run(options):
  for _ in range(3):
    print("a line with …" * 1000, flush=True)
    print("and another one", file=sys.stderr, flush=True)
  open("done", "w").write("done")

pretrain.run = run
sys.exit(command_line.main(["pretrain", "--config=x", "--workdir=x"]))
"""


def run(folder, redirection, **environ):
  words = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-c", textwrap.dedent(PRINTING)]
  return subprocess.run(words, cwd=folder, env=os.environ | environ, capture_output=True, timeout=60)


@pytest.mark.parametrize(
  "redirection",
  [
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
    ">/dev/full 2>/dev/full",
    "| head -c 1; exit ${PIPESTATUS[0]}",
    "2>&1 >&- | head -c 1; exit ${PIPESTATUS[0]}",
  ],
)
def test_nobody_who_listens_is_no_reason_to_stop(tmp_path, redirection):
  done = run(tmp_path, redirection)
  assert done.returncode == 0, done
  assert (tmp_path / "done").read_text() == "done", "no file took the place of a stream that was closed"


def test_a_locale_without_a_letter_shows_its_number(tmp_path):
  done = run(tmp_path, "", PYTHONIOENCODING="ascii")
  assert done.returncode == 0 and rb"a line with \u2026" in done.stdout, done


def test_a_stream_that_has_failed_takes_everything_and_a_strict_one_gets_what_it_can_show():
  class Broken(io.StringIO):
    def write(self, text):
      raise OSError(5, "the terminal is gone")

  stream = streams.forgiving(Broken())
  assert stream.write("a") == 1
  stream.flush()
  closed = io.StringIO()
  closed.close()
  assert streams.forgiving(closed).write("ab") == 2
  strict = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  streams.forgiving(strict).write("…")
  strict.flush()
  assert strict.buffer.getvalue() == rb"\u2026"
