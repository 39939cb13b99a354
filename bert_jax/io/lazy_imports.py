"""Importing a heavy library without what it would import besides, and never two of them at once.

A later import does not help where a library imports another one itself: tensorflow imports keras (2.2 of
5.9 seconds of CPU), tensorboardX imports torch where that is installed (1.7 of 2.2), and neither has a switch
for it. Only runs import these two; nothing is hidden from a user of `load`.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from typing import Any, cast

_ONE_AT_A_TIME = threading.Lock()


class LazyModule:
  """Stands for a module, which is imported when an attribute of it is first read."""

  def __init__(self, name: str):
    self._name = name

  def __getattr__(self, attribute: str) -> Any:
    return getattr(importlib.import_module(self._name), attribute)


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
  """While something is imported here, the module `name` is as if it were not installed, unless it is imported already.

  One thread at a time: what is hidden is hidden from all of them, and two imports that meet in modules
  which import each other may find them half made.
  """
  with _ONE_AT_A_TIME:
    hide = name not in sys.modules
    if hide:
      sys.modules[name] = cast(Any, None)  # import then finds no such module
    try:
      yield
    finally:
      if hide:
        del sys.modules[name]
