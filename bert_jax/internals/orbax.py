"""Keeps Orbax's and TensorStore's chatter off the terminal: what matters of it reaches us as exceptions."""

import logging
import sys
import warnings


def silence_orbax() -> None:
  """Drops four kinds of messages, and nothing else; to be called once.

  Orbax tells its whole life through absl's logger. When one array of a
  checkpoint cannot be read, Orbax raises that error and forgets the reads of the
  others, so that asyncio complains of errors that nobody asked for, Python of
  coroutines that nobody awaited, and TensorStore's threads of an event loop that
  is gone.
  """
  logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
  logging.getLogger("asyncio").addFilter(_is_ours_to_show)
  warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning, r"orbax\.")
  show = sys.unraisablehook

  def hook(unraisable):
    if str(unraisable.exc_value) != "Event loop is closed":
      show(unraisable)

  sys.unraisablehook = hook


def _is_ours_to_show(record: logging.LogRecord) -> bool:
  text = record.getMessage()
  theirs = any(word in text for word in ("orbax", "tensorstore", "zarr", "OCDBT"))
  return not (theirs and "exception was never retrieved" in text)
