"""Which host keeps the others waiting.

All processes take a step together, so the time of a step is the same on every one of them and
names nobody. What differs is the time that a host spends for itself before it
joins: waiting for rows, copying them, Python. Every process tells its own to the coordination
service, and the first one compares; no collective, and nobody waits.
"""

import json
import statistics
from typing import NamedTuple

import jax

from bert_jax.cluster import distributed
from bert_jax.internals.jax import coordination_client

_FOLDER = "bert_jax/host_seconds"


class HostTimes(NamedTuple):
  """Own seconds per step of the hosts.

  Attributes:
    process: the slowest one.
    host: its name.
    seconds: its own seconds per step.
    median: of the others.
  """

  process: int
  host: str
  seconds: float
  median: float

  def is_slow(self, step_seconds: float) -> bool:
    """Whether the slowest stands out, and by enough to matter beside a step of `step_seconds`."""
    return self.seconds > 2 * self.median and self.seconds - self.median > 0.1 * step_seconds


def share(own_seconds: float) -> HostTimes | None:
  """Tells this process's own seconds per step; on the first process, what all have told last (None elsewhere, and
  alone).
  """
  if jax.process_count() == 1:
    return None
  client = coordination_client()
  record = json.dumps({"host": distributed.host_name(), "seconds": own_seconds})
  client.key_value_set(f"{_FOLDER}/{jax.process_index()}", record, allow_overwrite=True)
  if jax.process_index() != 0:
    return None
  records = {int(key.rpartition("/")[2]): json.loads(value) for key, value in client.key_value_dir_get(_FOLDER)}
  return slowest(records) if len(records) > 1 else None


def slowest(records: dict[int, dict]) -> HostTimes:
  """HostTimes of {process: {"host": …, "seconds": …}}, two of them at least."""
  process = max(records, key=lambda number: records[number]["seconds"])
  median = statistics.median(record["seconds"] for number, record in records.items() if number != process)
  return HostTimes(process, records[process]["host"], records[process]["seconds"], median)
