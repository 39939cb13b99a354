"""Where a run has left out data: after a rollback it goes on past the rows that made its updates void.

Steps and positions part there, and from then on the position is no longer step
x batch size. So that the run stays a function of what is written down, every
jump is recorded before it is taken, and a resumed run that comes by takes it again:

    WORKDIR/jumps.json   [{"step": 300, "position": 76800, "to": 81920}, …]

says that after step 300, which had consumed 76,800 rows, row 81,920 came next.
Of several jumps from the same place the last one counts: the bad data was longer
than it had seemed.
"""

import json
import os
from typing import NamedTuple

from etils import epath

from bert_jax.errors import UserError
from bert_jax.io import storage
from bert_jax.io.json_files import read_json

FILE = "jumps.json"


class DataSkip(NamedTuple):
  """One jump.

    Attributes:
      step: after this step,
      position: which had consumed this many rows,
  to: the run continued here.
  """

  step: int
  position: int
  to: int


def read_data_skips(workdir: str | os.PathLike) -> list[DataSkip]:
  """The jumps that a run folder records.

  Raises:
    UserError: the file is there and cannot be read: resuming without it would be another run.
  """
  path = epath.Path(workdir) / FILE
  try:
    with storage.failures(path):
      return [_skip(record) for record in read_json(path)] if storage.exists(path) else []
  except (OSError, ValueError, TypeError, UserError) as error:
    raise UserError(
      f"{path} cannot be read ({error}); it says where this run left out data. "
      "Repair it, or remove it if the run may see that data again"
    ) from error


def _skip(record: dict[str, int]) -> DataSkip:
  skip = DataSkip(**record)
  if not all(isinstance(number, int) for number in skip):
    raise TypeError(f"{record} are not three whole numbers")
  return skip


class DataSkips:
  """The jumps of a run: all processes know them, the first one writes them."""

  def __init__(self, workdir: str | os.PathLike, known: list[DataSkip]):
    """
    Args:
      workdir: the run folder.
      known: what `read_data_skips` found there on the first process.
    """
    self._path, self._jumps = epath.Path(workdir) / FILE, [DataSkip(*jump) for jump in known]

  def after(self, step: int, position: int) -> int | None:
    """Where the data goes on after `step` at `position`, or None: at `position`."""
    found = [jump.to for jump in self._jumps if (jump.step, jump.position) == (step, position)]
    return found[-1] if found else None

  def from_step(self, step: int) -> int:
    """How often the run has gone back to `step`."""
    return sum(jump.step == step for jump in self._jumps)

  def record(self, jump: DataSkip, *, write: bool) -> None:
    """Adds a jump; with `write` it is on disk when this returns."""
    self._jumps.append(jump)
    if write:
      storage.write_text(self._path, json.dumps([jump._asdict() for jump in self._jumps], indent=1) + "\n")
