"""What several processes must decide alike: one process needs none of this, nor jax.distributed."""

from typing import Any, Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


class OtherProcessFailed(Exception):
  """This process is fine, another one is not."""


def from_first(values: list[int]) -> list[int]:
  """The first process's integers (0 <= value < 2^31, any number of them), on every process."""
  if jax.process_count() == 1:
    return values
  count = int(multihost_utils.broadcast_one_to_all(np.int32(len(values))))
  mine = np.asarray(values if jax.process_index() == 0 else [0] * count, np.int32)
  return multihost_utils.broadcast_one_to_all(mine).tolist() if count else []


def together(work: Callable[[], Any]) -> Any:
  """work(), or an exception on every process when it failed on one: its own, or OtherProcessFailed."""
  result = failure = None
  try:
    result = work()
  except Exception as error:
    failure = error
  failed = failure is not None
  if jax.process_count() > 1:
    failed = bool(np.any(multihost_utils.process_allgather(np.bool_(failed))))
  if failed:
    raise failure or OtherProcessFailed("another process failed at it")
  return result
