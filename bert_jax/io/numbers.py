"""Numbers as people read them, on the terminal, in messages and on charts; and those that are none."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bert_jax.errors import UserError


def check_finite(arrays: Mapping[str, Any], where: str) -> None:
  """Checks weights once, where they are read. Costs a sum: as little as reading them from memory.

  Args:
    arrays: name -> NumPy array of any dtype.
    where: they come from, for the message.

  Raises:
    UserError: NaN or infinity in one of them; it is named.
  """
  for name, array in arrays.items():
    array = np.asarray(array)
    if array.dtype.kind in "biuSU":
      continue
    with np.errstate(over="ignore", invalid="ignore"):
      # Whatever is not finite makes the sum so. A sum of large numbers may overflow: only then all are looked at.
      total = np.sum(array, dtype=np.float32 if array.dtype.itemsize < 4 else None)
    if np.isfinite(total):
      continue
    bad = int(np.sum(~np.isfinite(array.astype(np.float64))))
    if bad:
      raise UserError(
        f"{where}: {name} holds {bad:,} numbers of {array.size:,} that are NaN or infinite: nothing that is computed "
        "with it means anything. Take another copy of these weights, or an earlier checkpoint"
      )


def duration(seconds: float) -> str:
  """1:02:03 (hours, minutes, seconds)."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def count(value: float) -> str:
  """987, 9,870, 25.1k, 1.53M: whole numbers, short."""
  for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= max(0.9995 * size, 1e4):
      return f"{value / size:.3g}{unit}"
  return f"{value:,.0f}"
