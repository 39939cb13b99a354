"""A run that stands still is ended, with the stacks of all threads, so that it can be started again.

A collective whose peer hangs, a file system that does not answer, a driver that
is stuck: none of these raises anything, and a pod that waits for ever costs as much as
one that works. The loop says when something has been done; a thread watches the clock.
"""

import contextlib
import faulthandler
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from bert_jax.errors import EXIT_STALLED, print_at_once

# A step may take so many times as long as the slowest so far before it counts as stuck.
PATIENCE = 10
# The thread needs Python's lock. Where native code holds it for ever, C code ends the process, so much later and with
# exit code 1.
_LAST_RESORT_SECONDS = 60.0


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
    self._last, self._longest, self._armed = time.monotonic(), 0.0, 0.0
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._watch, name="bert_jax-watchdog", daemon=True)

  def beat(self) -> None:
    """Something has been done."""
    now = time.monotonic()
    self._longest = max(self._longest, now - self._last)
    self._last, self._limit = now, max(self._step_seconds, PATIENCE * self._longest)
    if now - self._armed > 1.0:  # arming starts a thread; once a second is enough
      self._arm(now)

  def __enter__(self) -> "Watchdog":
    self._last = time.monotonic()
    self._arm(self._last)
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._stopped.set()
    faulthandler.cancel_dump_traceback_later()
    self._thread.join()

  def _arm(self, now: float) -> None:
    self._armed = now
    # A standard error may be missing, or have no file behind it.
    with contextlib.suppress(ValueError, AttributeError, OSError):
      faulthandler.dump_traceback_later(self._limit + _LAST_RESORT_SECONDS, exit=True, file=_stderr())

  def _watch(self) -> None:
    while not self._stopped.wait(min(1.0, self._limit / 10)):
      silence = time.monotonic() - self._last
      if silence > self._limit:
        self._stall(silence)
        return

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
