"""What several processes must decide alike, through the coordination service: no devices are needed, and nothing hangs
in a collective.

Every function here is called by all processes in the same order; the calls are
numbered, and the number is part of the key. A process that is alone decides
alone. A peer that dies while others wait here is noticed by JAX's heartbeats.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax

from bert_jax.cluster import distributed
from bert_jax.errors import EXIT_STORAGE, StorageError, UserError, ending_of
from bert_jax.internals.jax import coordination_client

# A hung process that still sends heartbeats would be waited for so long; the watchdog is there before.
_TIMEOUT_MS = 24 * 3600 * 1000

_calls = itertools.count()


class OtherProcessFailed(Exception):
  """This process is fine, another one is not."""


def from_first(value: Any) -> Any:
  """The first process's value (anything that JSON can hold), on every process."""
  if jax.process_count() == 1:
    return value
  key, client = f"bert_jax/first/{next(_calls)}", coordination_client()
  if jax.process_index() == 0:
    client.key_value_set(key, json.dumps(value))
    return value
  return json.loads(client.blocking_key_value_get(key, _TIMEOUT_MS))


def together(work: Callable[[], Any]) -> Any:
  """work(), or an exception on every process when it failed on one.

  Raises:
    UserError: of this process, or the message of the other one that made a mistake or met a full disk.
    StorageError: the same where storage failed.
    OtherProcessFailed: another process failed in another way.
    Exception: whatever work() raised here.
  """
  result = failure = None
  try:
    result = work()
  except Exception as error:
    failure = error if jax.process_count() == 1 else _plainly(error)
  if jax.process_count() > 1:
    others = _failures(failure)
    if failure is None and others:
      number, failed = min(others.items())
      message = f"process {number} on {failed['host']}: {failed['message']}"
      raise _KINDS.get(failed["code"], OtherProcessFailed)(message)
  if failure is not None:
    raise failure
  return result


def on_first(work: Callable[[], Any]) -> Any:
  """work() on the first process alone, while the others wait; its result, or its failure, on every process."""
  result = together(lambda: work() if jax.process_index() == 0 else None)
  return from_first(result)


def on_any(flag: bool) -> bool:
  """Whether it is true on any process, on every process."""
  if jax.process_count() == 1:
    return flag
  client, folder = coordination_client(), f"bert_jax/any/{next(_calls)}"
  if flag:
    client.key_value_set(f"{folder}/{jax.process_index()}", "true")
  client.wait_at_barrier(folder.replace("/", "-"), _TIMEOUT_MS)
  return bool(client.key_value_dir_get(folder))


# What every process raises alike, by the exit code that it ends with.
_KINDS: dict[int, type[Exception]] = {1: UserError, EXIT_STORAGE: StorageError}


def _plainly(error: Exception) -> Exception:
  """An error of the disk as what the other processes raise because of it; any other as it is."""
  code, message = ending_of(error)
  return error if isinstance(error, tuple(_KINDS.values())) or code not in _KINDS else _KINDS[code](message)


def _failures(mine: Exception | None) -> dict[int, dict[str, Any]]:
  """Process number -> what failed there."""
  client, folder = coordination_client(), f"bert_jax/together/{next(_calls)}"
  if mine is not None:
    code, message = ending_of(mine)
    record = {"host": distributed.host_name(), "message": message or str(mine) or type(mine).__name__, "code": code}
    client.key_value_set(f"{folder}/{jax.process_index()}", json.dumps(record))
  client.wait_at_barrier(folder.replace("/", "-"), _TIMEOUT_MS)
  return {int(key.rpartition("/")[2]): json.loads(value) for key, value in client.key_value_dir_get(folder)}
