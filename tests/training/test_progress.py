"""The line on the terminal, with and without one."""

import contextlib
import io
import itertools
import math
import os
import re
import termios

import pytest

from bert_jax.objectives.pretraining import SHOWN
from bert_jax.training.progress import Progress

TRAIN = {
  "train/mlm_loss": 6.1234,
  "train/mlm_accuracy": 0.123,
  "train/nsp_loss": 0.65,
  "train/nsp_accuracy": 0.567,
  "learning_rate": 1e-4,
  "tokens_per_second": 25_123.4,
}
EVAL = {"eval/mlm_loss": 6.0, "eval/mlm_accuracy": 0.13, "eval/nsp_accuracy": 0.58, "eval/nsp_majority": 0.52}


@contextlib.contextmanager
def terminal(columns: int):
  """Yields (stream, read): a pseudo-terminal, and a function that returns what it was sent."""
  reader, writer = os.openpty()
  termios.tcsetwinsize(writer, (24, columns))
  stream = os.fdopen(writer, "w", encoding="utf-8")

  def read():
    stream.flush()
    os.set_blocking(reader, False)
    chunks = []
    with contextlib.suppress(BlockingIOError):
      while chunk := os.read(reader, 4096):
        chunks.append(chunk)
    return b"".join(chunks).decode()

  yield stream, read
  stream.close()
  os.close(reader)


def shown(stream, steps, *, total=4000, start=0, **progress):
  clock = itertools.count(0, 60).__next__  # a minute passes between two looks at the clock
  with Progress(total, SHOWN, stream=stream, clock=clock, **progress) as display:
    display.begin(start)
    for step in steps:
      display.update(step, TRAIN)
      if step % 1000 == 0:
        display.evaluation(step, EVAL)


def test_without_a_terminal_there_is_one_aligned_line_per_update():
  stream = io.StringIO()
  shown(stream, range(100, 2600, 100))
  lines = stream.getvalue().splitlines()
  assert lines[0].split() == ["step", "mlm", "loss", "mlm", "acc", "nsp", "acc", "tok/s", "left"]
  assert lines[1].split() == ["100/4,000", "6.123", "12.3%", "56.7%", "25.1k", "…"]
  assert lines[2].split()[-1] == "0:38:00"
  assert [line.split()[0] for line in lines].count("step") == 2  # the header comes back after 20 lines
  assert lines[11] == "eval at 1,000   mlm loss 6.000   mlm acc 13.0%   nsp acc 58.0%   majority 52.0%"
  assert len({len(line) for line in lines if "eval" not in line}) == 1
  assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("columns", [80, 100])
def test_on_a_terminal_the_bar_stays_on_one_line(columns):
  with terminal(columns) as (stream, read):
    shown(stream, range(10_000, 100_001, 10_000), total=100_000)
    text = read()
  bars = [part for part in re.split("[\r\n]+", text) if "tok/s" in part]
  assert max(map(len, bars)) < columns  # a full line would wrap on some terminals
  for needed in ("20,000/100,000 |", "loss 6.123 mlm 12.3% nsp 56.7% 25.1k tok/s 0:08:00 left"):
    assert any(needed in bar for bar in bars), needed
  assert "compiling" in text and not re.search(r"\|[^|]* \|", bars[-1])  # the bar of the last step is full
  above, _, below = text.partition("eval at 10,000")
  assert "\n" not in above.lstrip("\r\n") and "20,000/100,000" in below


def test_time_left_leaves_out_compiling_and_the_steps_before_a_resume():
  times = iter([500.0, 510.0, 520.0])
  stream = io.StringIO()
  with Progress(2000, SHOWN, stream=stream, clock=lambda: next(times)) as display:
    display.begin(1000)
    for step in (1100, 1200, 1300):
      display.update(step, TRAIN)
  # 100 steps took 10 s after the first update, and 700 are left.
  assert stream.getvalue().splitlines()[-1].split()[-1] == "0:01:10"


def test_an_objective_without_nsp_has_no_column_for_it():
  stream = io.StringIO()
  with Progress(10, SHOWN, stream=stream) as display:
    display.begin(0)
    display.update(5, {"train/mlm_loss": math.nan, "train/mlm_accuracy": 0.0, "tokens_per_second": 12.0})
  header, line = stream.getvalue().splitlines()
  assert "nsp" not in header and line.split()[1:4] == ["nan", "0.0%", "12"]


def test_other_processes_show_nothing():
  stream = io.StringIO()
  shown(stream, range(100, 2100, 100), active=False)
  assert stream.getvalue() == ""
  with terminal(80) as (stream, read):
    shown(stream, range(100, 2100, 100), active=False)
    assert read() == ""
