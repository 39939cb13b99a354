"""Importing a heavy library without what it would import besides, and never two of them at once."""

import contextlib
import sys
import threading
from collections.abc import Iterator

_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
  """While something is imported here, the module `name` is as if it were not installed, unless it is imported already.

  One thread at a time: what is hidden is hidden from all of them, and two imports that meet in modules
  which import each other may find them half made.
  """
  with _ONE_AT_A_TIME:
    hide = name not in sys.modules
    if hide:
      sys.modules[name] = None
    try:
      yield
    finally:
      if hide:
        del sys.modules[name]
