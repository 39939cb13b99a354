"""A machine that is about to be taken away: all processes stop after the same step.

Clouds and schedulers announce it by SIGTERM, to one process or to all. JAX's
preemption service tells the others and names a moment that all of them have yet
to reach. It catches the signal in C++; a Python handler for SIGTERM would switch
it off without a word, so there must be none.

A moment is a tick: every step and every batch of an evaluation is one, in the same
order on every process, so that a long evaluation does not use up the time that is
left for a last checkpoint. Before training there are no steps: there the ticks come by the clock.

A Ctrl-C while a run trains is the same wish, of a person: it saves, too, and the command is not started again.
"""

import concurrent.futures
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from bert_jax.cluster import agreement, termination
from bert_jax.errors import print_at_once

TICK_SECONDS = 1.0  # before training
# A moment is a number that every process has to pass: so many ticks, then, are before training, be they ticked or not.
_TICKS_BEFORE_TRAINING = 100_000
# What is under way is given so long to clean up; a call into C++ that waits for another process hears of nothing.
_GRACE_SECONDS = 10.0
_INTERRUPT = signal.SIGUSR2  # not SIGINT, which a shell lets its background jobs ignore


class Preempted(Exception):
  """The run was told to stop, and has.

  Attributes:
    step: the step that was saved, or 0 where there was nothing to save yet.
  """

  def __init__(self, step: int):
    super().__init__(f"step {step:,} is saved" if step else "nothing was trained yet")
    self.step = step


class Preemption:
  """Whether the processes have been told to stop. One object per run."""

  def __init__(self):
    self._ticks, self._noticed, self._interrupted = 0, False, False

  @contextlib.contextmanager
  def while_starting(self, leave: Callable[[], None]) -> Iterator[None]:
    """Interrupts the main thread in this block as soon as the processes are told to stop.

    A corpus may be prepared or copied here, for hours. What is under way sees a KeyboardInterrupt, and leaves what it
    has finished.

    Args:
      leave: called in a thread, and has to end the process, where that does not end the block in time.

    Raises:
      Preempted: told to stop, and the block has ended.
    """
    ended = threading.Event()
    ticking = threading.Thread(target=self._tick, args=(ended, leave), name="bert_jax-preemption", daemon=True)
    before = signal.signal(_INTERRUPT, signal.default_int_handler)
    try:
      ticking.start()
      try:
        yield
      except Exception as error:
        if isinstance(error.__cause__, concurrent.futures.BrokenExecutor):
          time.sleep(3 * TICK_SECONDS)  # a SIGTERM to all processes of a group ends the workers before we hear of it
        raise
      finally:
        ended.set()
        ticking.join()
    except BaseException as error:
      if not self._noticed:
        raise
      raise Preempted(0) from error
    finally:
      signal.signal(_INTERRUPT, before)
    if self._noticed:
      raise Preempted(0)
    while self._ticks < _TICKS_BEFORE_TRAINING:
      self.poll()

  @contextlib.contextmanager
  def while_training(self, leave: Callable[[], None]) -> Iterator[None]:
    """A Ctrl-C in this block stops the processes as a SIGTERM does; a second one ends this process at once.

    A thread hears of them: the main one may be compiling for minutes.

    Args:
      leave: called in that thread at the second Ctrl-C; has to end the process.

    Raises:
      Preempted: raised in the block.
      KeyboardInterrupt: the same where a Ctrl-C was the reason, on every process; its text says what was saved.
    """
    with contextlib.ExitStack() as stack:
      # One that is ignored, as in the background of a shell, or is answered by somebody else stays what it is.
      if termination.is_plain_ctrl_c():
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        listening = threading.Thread(target=self._listen, args=(reader, leave), name="bert_jax-interrupts", daemon=True)
        listening.start()
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        plain = signal.signal(signal.SIGINT, lambda number, frame: None)
        for end in (os.close, reader), (listening.join,), (os.close, writer), (signal.set_wakeup_fd, before):
          stack.callback(*end)
        stack.callback(signal.signal, signal.SIGINT, plain)
      try:
        yield
      except Preempted as stop:
        if agreement.on_any(self._interrupted):
          raise KeyboardInterrupt(str(stop)) from stop
        raise
      if self._interrupted:
        raise KeyboardInterrupt

  def _listen(self, reader: int, leave: Callable[[], None]) -> None:
    for number in iter(lambda: os.read(reader, 1), b""):
      if number[0] == signal.SIGINT and self._interrupted:
        leave()
      elif number[0] == signal.SIGINT:
        self._interrupted = True
        print_at_once("interrupted: this step is saved, then the run ends; another Ctrl-C ends it at once")
        if jax.process_count() == 1:
          self._noticed = True
        else:
          os.kill(os.getpid(), signal.SIGTERM)

  def _tick(self, ended: threading.Event, leave: Callable[[], None]) -> None:
    while self._ticks < _TICKS_BEFORE_TRAINING and not ended.wait(TICK_SECONDS):
      if self.poll():
        signal.pthread_kill(threading.main_thread().ident or 0, _INTERRUPT)
        if not ended.wait(_GRACE_SECONDS):
          leave()
        return

  def poll(self) -> bool:
    """One tick; True from the moment that all processes agree on. Costs about a tenth of a microsecond."""
    self._ticks += 1
    self._noticed = self._noticed or multihost_utils.reached_preemption_sync_point(self._ticks)
    return self._noticed
