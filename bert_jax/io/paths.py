"""Paths as a user gives them."""

import os
import re


def expanded(path: str) -> str:
  """A path, source or list of folders with the home folders that it names by "~" in full.

  A shell expands "~" at the beginning of a word alone, not in --workdir=~/run. So this happens once, where a flag or a
  config key is read, and nothing further on gives "~" a meaning of its own. It is expanded at the beginning, behind the
  name of a kind of source (text:~/books/*.txt) and between commas (~/a=1,~/b=2). The name of no user stays as it is.
  """
  return re.sub(r"(^|^\w+:|,)(~[^/,:=]*)(?=[/,:=]|$)", lambda found: found[1] + os.path.expanduser(found[2]), path)
