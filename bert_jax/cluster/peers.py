"""The other processes of the run: why one of them ended, and that the rest end with it.

JAX's processes share their fate: where one is missing, the next collective fails or waits. A process
that ends for a reason of its own tells it first; the others hear of it in the middle
of whatever they wait for, say the same, and end with the same exit code.
"""

import contextlib
import json
import os
import sys
import threading
import time
from typing import Callable

import jax

from bert_jax.cluster import distributed
from bert_jax.errors import EXIT_PEER_LOST, UserError

_KEY = "bert_jax/ended"
_LISTEN_SECONDS = 1.0
# The first process holds the coordination service: it stays until the others have heard.
_FAREWELL_SECONDS = 5 * _LISTEN_SECONDS
# How the loss of a peer reads in an error of the runtime: Gloo on CPU, NCCL on GPU, gRPC for the rest.
_SIGNS = ("Gloo", "NCCL", "Connection closed by peer", "Connection reset", "UNAVAILABLE", "heartbeat", "Socket closed", "CANCELLED", "ABORTED")


class PeerLost(Exception):
  """Another process of the run has died; the run has to be started again."""


class Peers:
  """Listens for processes that end. Use as a context manager around a run; alone, it does nothing."""

  def __init__(self):
    self.on_told: Callable[[str], None] = lambda message: None  # hears why another process ended, before this one does
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._listen, name="bert_jax-peers", daemon=True)

  def __enter__(self) -> "Peers":
    if jax.process_count() > 1:
      self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._stopped.set()
    if self._thread.is_alive():
      self._thread.join()

  def tell(self, message: str, code: int) -> None:
    """Tells the others why this process ends; returns when they have had the time to hear it."""
    if jax.process_count() == 1:
      return
    self._stopped.set()
    record = {"message": f"process {jax.process_index()} on {distributed.host_name()}: {message}", "code": code}
    try:
      distributed.client().key_value_set(_KEY, json.dumps(record))
    except Exception:  # somebody was first, or the service has gone: the others know
      return
    if jax.process_index() == 0:
      time.sleep(_FAREWELL_SECONDS)

  def explain(self, error: Exception) -> Exception:
    """PeerLost where an error of the runtime comes from a peer's death, after giving that peer's own words a chance; else the error."""
    if isinstance(error, (UserError, PeerLost)) or jax.process_count() == 1 or not any(sign in str(error) for sign in _SIGNS):
      return error
    first_line = " ".join(str(error).split())[:200]
    if "context initialization failed" in first_line:
      return UserError(f"the processes have met but cannot connect to each other ({first_line}). On CPU, each host's own name, here "
                       f"{distributed.host_name()}, must stand for an address that the others can reach: look at /etc/hosts on all of them")  # fmt: skip
    time.sleep(_FAREWELL_SECONDS)  # a peer that has told why ends this process here, by `_listen`
    return PeerLost(f"another process of this run is gone ({first_line}). Start the run again: it goes on from its newest checkpoint")

  def _listen(self) -> None:
    client = distributed.client()
    while not self._stopped.wait(_LISTEN_SECONDS):
      try:
        record = json.loads(client.key_value_try_get(_KEY))
      except Exception:  # nobody has ended
        continue
      if not self._stopped.is_set():
        print(f"error: {record['message']}", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
          self.on_told(record["message"])
        leave(record["code"])


def leave(code: int = EXIT_PEER_LOST) -> None:
  """Ends this process at once: a plain exit would wait for peers that do not come."""
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:
      pass
  os._exit(code)
