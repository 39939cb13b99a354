"""A SIGTERM, SIGHUP or Ctrl-C while no run listens for it: the command ends with 75 or 130, from its first line on.

To process 1 of a container the system gives no default action: without a handler it would not hear a SIGTERM at all.
While a run starts and trains, JAX takes SIGTERM over (preemption.py); SIGHUP, with which a terminal takes its leave,
is handed on as a SIGTERM, unless it is ignored, as under nohup.
"""

import os
import signal
import threading
from types import FrameType

from bert_jax.errors import EXIT_PREEMPTED

# What is under way is given so long to clean up: a library may swallow an exception, or hear of nothing.
_GRACE_SECONDS = 10.0
_IMPORTING = "<frozen importlib._bootstrap>"


class Terminated(KeyboardInterrupt):
  """The command was told to stop by a SIGTERM or SIGHUP."""


def listen() -> None:
  """From now on the main thread raises Terminated at a SIGTERM or SIGHUP, unless somebody else listens for them.

  In the middle of an import the process ends at once instead: extension modules make errors of their own, or a crash,
  of an exception that is raised in them. There is nothing to clean up yet.
  """
  if threading.current_thread() is not threading.main_thread():
    return
  for number, answer, default in (
    (signal.SIGTERM, _terminate, signal.SIG_DFL),
    (signal.SIGHUP, _hand_on, signal.SIG_DFL),
    (signal.SIGINT, _interrupt, signal.default_int_handler),
  ):
    if signal.getsignal(number) is default:
      signal.signal(number, answer)


def is_plain_ctrl_c() -> bool:
  """Whether a Ctrl-C raises a KeyboardInterrupt: it is neither ignored nor answered by somebody else."""
  return signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt)


def _terminate(number: int, frame: FrameType | None) -> None:
  _leave_if_importing(frame, "stopped by a SIGTERM", EXIT_PREEMPTED)
  last = threading.Timer(_GRACE_SECONDS, os._exit, (EXIT_PREEMPTED,))
  last.daemon = True
  last.start()
  raise Terminated


def _interrupt(number: int, frame: FrameType | None) -> None:
  _leave_if_importing(frame, "interrupted", 130)
  raise KeyboardInterrupt


def _hand_on(number: int, frame: FrameType | None) -> None:
  os.kill(os.getpid(), signal.SIGTERM)


def _leave_if_importing(frame: FrameType | None, told: str, code: int) -> None:
  while frame is not None:
    if frame.f_code.co_filename == _IMPORTING:
      try:
        os.write(2, f"{told} while the program was loading; run the same command again\n".encode())
      finally:
        os._exit(code)
    frame = frame.f_back
