"""watchdog.py: a run that stands still is ended with its stacks; one that works is left alone."""

import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from bert_jax.cluster.watchdog import Watchdog
from bert_jax.errors import EXIT_STALLED

pytestmark = pytest.mark.alone


class Ended(threading.Event):
  """Stands for the end of the process."""

  def __call__(self, code):
    self.code = code
    self.set()


def watchdog(tmp_path, ended, start=30.0, step=30.0, **more):
  return Watchdog(start_seconds=start, step_seconds=step, dump=tmp_path / "stalls" / "stacks.txt", end=ended, **more)


def test_a_start_that_takes_too_long_is_ended_with_the_stacks_of_all_threads(tmp_path, capfd):
  ended, told = Ended(), []
  with watchdog(tmp_path, ended, start=0.3, on_stall=told.append):
    stand_still(ended)
  assert ended.code == EXIT_STALLED and 0.3 < told[0] < 3
  stacks = (tmp_path / "stalls" / "stacks.txt").read_text()
  assert "stand_still" in stacks and "test_watchdog.py" in stacks
  shown = capfd.readouterr().err
  assert "error: no progress for" in shown and "watchdog.start_seconds" in shown and "stand_still" in shown


def stand_still(ended):
  assert ended.wait(10), "the watchdog did not notice"


def test_a_step_that_takes_too_long_is_ended(tmp_path):
  ended = Ended()
  with watchdog(tmp_path, ended, step=0.3) as dog:
    dog.beat()
    dog.beat()
    stand_still(ended)


def test_beats_in_time_keep_a_run_alive_longer_than_any_limit(tmp_path):
  ended = Ended()
  with watchdog(tmp_path, ended, start=0.5, step=0.5) as dog:
    for _ in range(20):
      time.sleep(0.05)
      dog.beat()
  time.sleep(0.8)  # and none is needed when the run has ended
  assert not ended.is_set()


def test_a_slow_machine_gets_ten_times_its_slowest_step(tmp_path):
  ended = Ended()
  with watchdog(tmp_path, ended, step=0.1) as dog:
    time.sleep(0.2)
    dog.beat()
    time.sleep(1.0)
    assert not ended.is_set()
    dog.beat()


def test_telling_others_may_fail(tmp_path):
  ended = Ended()

  def fail(seconds):
    raise RuntimeError("the others are gone")

  with watchdog(tmp_path, ended, start=0.2, on_stall=fail):
    stand_still(ended)


def test_native_code_that_never_gives_back_the_lock_is_ended_too(tmp_path):
  """The thread of the watchdog cannot run then."""
  code = textwrap.dedent(f"""
      import ctypes, pathlib
      from bert_jax.cluster import watchdog
      watchdog._LAST_RESORT_SECONDS = 0.5
      with watchdog.Watchdog(start_seconds=1.0, step_seconds=1.0, dump=pathlib.Path({str(tmp_path)!r}) / "stacks.txt"):
        ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the lock
  """)
  began = time.monotonic()
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
  assert done.returncode == -signal.SIGABRT and time.monotonic() - began < 30, "as a crash, which is started again"
  assert "Aborted" in done.stderr and "<string>" in done.stderr


def test_time_in_which_the_process_was_stopped_does_not_count(tmp_path):
  """Neither for the watchdog nor for its last resort: a stopped process has done nothing wrong."""
  code = textwrap.dedent(f"""
      import pathlib, time
      from bert_jax.cluster import watchdog
      watchdog._LAST_RESORT_SECONDS = 1.0
      with watchdog.Watchdog(start_seconds=2.0, step_seconds=2.0, dump=pathlib.Path({str(tmp_path)!r}) / "x") as dog:
        dog.beat()
        print("begun", flush=True)
        for _ in range(8):
          time.sleep(0.1)
          dog.beat()
        time.sleep(0.5)
      print("limit", dog._limit)
  """)
  with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    process.send_signal(signal.SIGCONT)
    rest, _ = process.communicate(timeout=30)
  assert process.returncode == 0 and float(rest.split()[1]) < 60, "ten times a step, not ten times the stop"
