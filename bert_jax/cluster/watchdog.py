"""A run that stands still is ended, with the stacks of all threads, so that it can be started again.

A collective whose peer hangs, a file system that does not answer, a driver that
is stuck: none of these raises anything, and a pod that waits for ever costs as much as
one that works. The loop says when something has been done; a thread watches the clock. Time in which the process was
stopped from outside (Ctrl-Z, SIGSTOP, a machine that slept) does not count: then nothing could be done.
"""

import contextlib
import faulthandler
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from bert_jax.errors import EXIT_STALLED, print_at_once

# A step may take so many times as long as the slowest so far before it counts as stuck.
PATIENCE = 10
# The thread needs Python's lock. Where native code holds it for ever, a process that does nothing else ends this one,
# so much later. It is told how long to wait, does not count the time of a stopped process either, and leaves with us.
_LAST_RESORT_SECONDS = 60.0
_LAST_RESORT = """
import os, select, signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
  signal.signal(number, signal.SIG_IGN)
parent, left, unread = os.getppid(), float("inf"), b""
while os.getppid() == parent:
  if select.select([0], [], [], 0.5)[0]:
    unread += (read := os.read(0, 4096))
    if not read:
      break
    *lines, unread = unread.split(b"\\n")
    left = float(lines[-1]) if lines else left
    continue
  with open(f"/proc/{parent}/stat") as file:
    left -= 0.5 * (file.read().rpartition(")")[2].split()[0] not in "Tt")
  if left < 0:
    os.kill(parent, signal.SIGABRT)
    break
"""


def _stderr() -> TextIO:
  """The standard error that the process began with."""
  if sys.__stderr__ is None:
    raise OSError("there is no standard error")
  return sys.__stderr__


class Watchdog:
  """Ends the process where `beat` is not called in time. Use as a context manager around a run.

  with Watchdog(start_seconds=3600, step_seconds=600, dump=path, on_stall=tell) as watchdog:
    …                # loading, compiling: may take start_seconds
    watchdog.beat()  # the first step is done; the next beat may take step_seconds
  """

  def __init__(
    self,
    *,
    start_seconds: float,
    step_seconds: float,
    dump: pathlib.Path,
    on_stall: Callable[[float], None] = lambda seconds: None,
    end: Callable[[int], None] = os._exit,
  ):
    """
    Args:
      start_seconds: what the time to the first beat is limited to.
      step_seconds: what the time between two beats is limited to; at least PATIENCE times the longest so far.
      dump: the file that the stacks are written to, besides standard error.
      on_stall: told the seconds of silence, before the process ends; it may fail.
      end: what is called with EXIT_STALLED.
    """
    self._limit, self._step_seconds = start_seconds, step_seconds
    self._dump, self._on_stall, self._end = pathlib.Path(dump), on_stall, end
    self._clock = 0.0, time.monotonic()  # seconds that count, and when they were counted last
    self._last, self._longest = 0.0, 0.0
    self._last_resort: subprocess.Popen | None = None
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._watch, name="bert_jax-watchdog", daemon=True)

  def beat(self) -> None:
    """Something has been done."""
    now = self._now()
    self._longest = max(self._longest, now - self._last)
    self._last, self._limit = now, max(self._step_seconds, PATIENCE * self._longest)

  def __enter__(self) -> "Watchdog":
    self._clock, self._last = (0.0, time.monotonic()), 0.0
    with contextlib.suppress(ValueError, AttributeError, OSError):  # a standard error may have no file behind it
      if not faulthandler.is_enabled():
        faulthandler.enable(_stderr())  # the last resort is a SIGABRT, which then shows all stacks
    with contextlib.suppress(OSError):  # where no process can be started, there is no last resort
      # A session of its own: a Ctrl-C or a hang-up of the terminal is not meant for it.
      self._last_resort = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _LAST_RESORT],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
      )
    self._put_off_last_resort(self._limit)
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._stopped.set()
    self._thread.join()
    if self._last_resort is not None:
      self._last_resort.kill()
      self._last_resort.communicate()

  @property
  def _poll_seconds(self) -> float:
    return min(1.0, self._limit / 10)

  def _now(self) -> float:
    """Seconds that count: the thread looks often, so a long time between two looks is one in which nothing ran."""
    counted, when = self._clock
    return counted + min(time.monotonic() - when, 3 * self._poll_seconds)

  def _watch(self) -> None:
    while not self._stopped.wait(self._poll_seconds):
      self._clock = self._now(), time.monotonic()
      silence = self._clock[0] - self._last
      if silence > self._limit:
        self._stall(silence)
        return
      self._put_off_last_resort(self._limit - silence)

  def _put_off_last_resort(self, seconds: float) -> None:
    if self._last_resort is not None and self._last_resort.stdin is not None:
      with contextlib.suppress(OSError):
        self._last_resort.stdin.write(b"%f\n" % (seconds + _LAST_RESORT_SECONDS))
        self._last_resort.stdin.flush()

  def _stall(self, silence: float) -> None:
    print_at_once(
      f"error: no progress for {silence:.0f} s (limit {self._limit:.0f} s): this process is ended, so that "
      f"the run can be started again. The stacks of its threads follow, and are in {self._dump}. Keys: "
      "watchdog.start_seconds, watchdog.step_seconds"
    )
    with contextlib.suppress(Exception):
      faulthandler.dump_traceback(file=_stderr(), all_threads=True)
    with contextlib.suppress(Exception):
      self._dump.parent.mkdir(parents=True, exist_ok=True)
      with open(self._dump, "w", encoding="utf-8") as file:
        file.write(f"no sign of life for {silence:.0f} s\n")
        file.flush()
        faulthandler.dump_traceback(file=file, all_threads=True)
    with contextlib.suppress(Exception):
      self._on_stall(silence)
    self._end(EXIT_STALLED)
