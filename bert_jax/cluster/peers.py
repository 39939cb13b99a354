"""The other processes of the run: that one of them has gone, why it ended, and that the rest end with it.

JAX's processes share their fate: where one is missing, the next collective fails or waits. So the
connections over which the processes have met (rendezvous.py) stay open, from process 0 to every other one,
and a thread of each process listens. What it may hear:

    a word      a process ends for a reason of its own: the others say the same and end with the same exit code
    goodbye     a process has come to its end; that its connection closes now means nothing
    the end     of a connection without either: that process was killed, or has crashed
    nothing     for a while: that process is named. Whether this is too long JAX decides, whose heartbeats come from a
                thread that needs not wait for Python; it ends this process with its own words and exit code 134

Process 0 passes on what it hears, so that everybody names the same process. A process that hears that
another one is gone ends at once, in the middle of whatever it waits for, with one message and exit code 76.
Where process 0 has died, which holds JAX's service, JAX may be quicker with its 134.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from bert_jax.cluster import distributed
from bert_jax.cluster.preemption import Preempted
from bert_jax.errors import EXIT_PEER_LOST, NotFiniteError, StorageError, UserError, ending_of, print_at_once

_BEAT_SECONDS = 1.0
# A process that hears why another one ends waits so long for its own verdict: often both have met the same mistake.
_OWN_VERDICT_SECONDS = 1.0
# Process 0 holds JAX's service: it stays until the others have heard. And others wait so long for its word.
_FAREWELL_SECONDS = 5.0
_MAX_WORD = 2**20
_EVENT_SECONDS = 2.0  # a file system may hang, too
# How the loss of a peer reads in an error of the runtime: Gloo on CPU, NCCL on GPU, gRPC for the rest.
_SIGNS = (
  "Gloo",
  "NCCL",
  "Connection closed by peer",
  "Connection reset",
  "UNAVAILABLE",
  "heartbeat",
  "Socket closed",
  "CANCELLED",
  "ABORTED",
)
_AGAIN = "Start the run again: it resumes from its newest checkpoint"
_GONE = "another process of this run is gone"
_GOODBYE = {"goodbye": True}


class PeerLost(Exception):
  """Another process of the run has died; the run has to be started again."""


class Peers:
  """Watches the other processes. Use as a context manager around a run; alone, it does nothing."""

  def __init__(
    self,
    number: int = 0,
    hosts: Sequence[str] = (),
    connections: Mapping[int, socket.socket] | None = None,
    silent_seconds: float = 15.0,
  ):
    """
    Args:
      number: of this process.
      hosts: the names of the machines of all processes.
      connections: by process number, open ones (rendezvous.meet): of process 0 to all others, of the others to process
        0.
      silent_seconds: after which a process that is not heard of is named.
    """
    # Hears why this process is about to end, and with which exit code, before it does.
    self.on_told: Callable[[str, int], None] = lambda message, code: None
    self._number, self._hosts, self._silent_seconds = number, hosts, silent_seconds
    self._connections = dict(connections or {})
    self._heard = dict.fromkeys(self._connections, time.monotonic())
    self._named: set[int] = set()  # the silent ones
    self._unfinished = dict.fromkeys(self._connections, b"")
    self._sending = threading.Lock()
    self._last_word = threading.Lock()  # whoever ends this process because of another one keeps it for ever
    self._stopped = threading.Event()  # this process ends in its own way
    self._thread = threading.Thread(target=self._watch, name="bert_jax-peers", daemon=True)

  def __enter__(self) -> "Peers":
    if self._connections:
      self._thread.start()
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if error is None or isinstance(error, Preempted):
      with self._last_word:
        self._stopped.set()
      self._send(_GOODBYE)
      if error is not None:  # this process may end without waiting for the others, who need JAX's service until then
        self._farewell()
    elif isinstance(error, KeyboardInterrupt):
      self.tell("interrupted by Ctrl-C", 130)
    else:
      self.tell(str(error) or type(error).__name__, ending_of(error)[0])
    if self._thread.is_alive():
      self._thread.join()
    for connection in self._connections.values():
      connection.close()

  def tell(self, message: str, code: int) -> None:
    """Tells the others why this process ends, once; returns when they have had the time to hear it."""
    with self._last_word:
      if self._stopped.is_set():
        return
      self._stopped.set()
    self._send({"message": f"{self._name(self._number)}: {message}", "code": code})
    self._farewell()

  def explain(self, error: Exception) -> Exception:
    """PeerLost where an error of the runtime comes from a peer's death, if nobody has come to know more about it; else
    the error.
    """
    if (
      isinstance(error, (UserError, StorageError, NotFiniteError, PeerLost))
      or jax.process_count() == 1
      or not any(sign in str(error) for sign in _SIGNS)
    ):
      return error
    first_line = " ".join(str(error).split())[:200]
    if "context initialization failed" in first_line:
      return UserError(
        f"the processes have met but cannot connect to each other ({first_line}). On CPU, each host's own name, here "
        f"{distributed.host_name()}, must resolve to an address that the others can reach: check /etc/hosts on "
        "all of them"
      )
    time.sleep(_FAREWELL_SECONDS)  # the thread ends this process here, if it finds out who is gone
    message = f"{_GONE} ({first_line}). {_AGAIN}"
    self.tell(message, EXIT_PEER_LOST)
    return PeerLost(message)

  def _watch(self) -> None:
    with selectors.DefaultSelector() as selector:
      for number, connection in self._connections.items():
        selector.register(connection, selectors.EVENT_READ, number)
      beat = time.monotonic()
      while not self._stopped.is_set():
        for key, _ in selector.select(_BEAT_SECONDS / 5):
          if not self._hear(key.data):
            selector.unregister(key.fileobj)
        self._name_the_silent()
        if time.monotonic() >= beat:
          beat = time.monotonic() + _BEAT_SECONDS
          self._send(None)

  def _hear(self, number: int) -> bool:
    """Reads what has come from a process; False where there will be no more."""
    try:
      received = self._connections[number].recv(65536)
    except OSError:
      received = b""
    self._heard[number] = time.monotonic()
    self._named.discard(number)
    *lines, rest = (self._unfinished[number] + received).split(b"\n")
    self._unfinished[number] = rest[:_MAX_WORD]  # no message is longer, and whatever is does not fill the memory
    for message in filter(None, map(_word, lines)):
      if message == _GOODBYE:
        del self._heard[number]
        return False
      self._send(message, besides=number)
      if not self._stopped.wait(_OWN_VERDICT_SECONDS):
        self._end(message["message"], message["code"])
    if not received:
      self._lost(number)
    return bool(received)

  def _name_the_silent(self) -> None:
    for number, heard in self._heard.items():
      silence = time.monotonic() - heard
      if silence > self._silent_seconds and number not in self._named:
        self._named.add(number)
        print_at_once(
          f"{self._name(number)} has been silent for {silence:.0f} s: it is frozen or cut off from the network. If "
          "that lasts, JAX ends this run"
        )

  def _lost(self, number: int) -> None:
    del self._heard[number]
    if not self._stopped.is_set():
      message = (
        f"{_GONE}: {self._name(number)}; its connection closed without a message: it was killed, it crashed, or its "
        f"machine went down. Check its log. {_AGAIN}"
      )
      self._send({"message": message, "code": EXIT_PEER_LOST})
      self._end(message, EXIT_PEER_LOST)

  def _end(self, message: str, code: int) -> None:
    """Ends this process, unless it ends in its own way: says why, and leaves the others the time to hear it."""
    self._last_word.acquire()
    if self._stopped.is_set():
      self._last_word.release()
      return
    print_at_once(f"error: {message}")
    event = threading.Thread(target=self.on_told, args=(message, code), daemon=True)
    event.start()
    event.join(_EVENT_SECONDS)
    self._farewell()
    leave(code)

  def _farewell(self) -> None:
    """Process 0 waits until the others have closed their connections."""
    deadline = time.monotonic() + _FAREWELL_SECONDS
    if self._number == 0:
      for number in list(self._heard):
        connection = self._connections[number]
        try:
          connection.shutdown(socket.SHUT_WR)
          while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(65536):
              break
        except OSError:  # closed, or time is up
          pass

  def _send(self, message: dict[str, Any] | None, besides: int = -1) -> None:
    """Sends a message, or a beat, to everybody this process is connected to."""
    line = (json.dumps(message) if message else "").encode() + b"\n"
    with self._sending:
      for number in set(self._heard) - {besides}:
        try:
          self._connections[number].settimeout(_BEAT_SECONDS)
          self._connections[number].sendall(line)
        except OSError:  # that it has gone will be heard
          pass

  def _name(self, number: int) -> str:
    return f"process {number} on {self._hosts[number]}" if self._hosts else f"process {number}"


def _word(line: bytes) -> dict[str, Any] | None:
  """What a line says; None for a beat, and for what none of ours would send: the listening goes on."""
  try:
    message = json.loads(line)
    return (
      message
      if message == _GOODBYE or (isinstance(message["message"], str) and isinstance(message["code"], int))
      else None
    )
  except (ValueError, LookupError, TypeError, RecursionError):
    return None


def leave(code: int = EXIT_PEER_LOST) -> None:
  """Ends this process at once: a plain exit would wait for peers that do not come."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(code)
