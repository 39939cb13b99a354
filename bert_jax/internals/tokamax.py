"""Tokamax' private names: its public attention takes no range of keys per query. Seen to work with tokamax 0.0.12."""

from typing import Any


def attention(kernel: str, query, key, value, first, last, *, scale: float) -> Any:
  """One kernel's attention, where each query sees a range of the keys.

  Args:
    kernel: a key of Tokamax' table of implementations.
    query, key, value: [B, L, N, D].
    first, last: int32 [B, L], the first key that a query sees, and the one after the last.
    scale: of the scores.

  Returns:
    [B, L, N, D].

  Raises:
    KeyError: this version has no such kernel.
    NotImplementedError: the kernel does not take these arrays on this device.
  """
  from absl import flags
  from tokamax._src.ops.attention import api
  from tokamax._src.ops.attention.base import Mask

  if not flags.FLAGS.is_parsed():  # else Tokamax takes this program's command line for its own, and refuses it
    flags.FLAGS.mark_as_parsed()
  mask = Mask(k_start=first[:, None, :], k_end=last[:, None, :])
  return api.IMPLEMENTATIONS[kernel](query, key, value, mask=mask, logits_scale=scale)
