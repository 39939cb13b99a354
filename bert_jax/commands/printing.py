"""How commands print: what files of others hold must not reach a terminal as commands of its own."""

import sys
from typing import IO

from bert_jax.errors import printable


def show(
  text: str, *more: str, file: IO[str] | None = None, sep: str = " ", end: str = "\n", flush: bool = False
) -> None:
  """As print, with control characters as escapes, which JSON reads too: tokens, labels, names of files and of hosts."""
  print(printable(sep.join((text, *more))), file=file or sys.stdout, end=end, flush=flush)
