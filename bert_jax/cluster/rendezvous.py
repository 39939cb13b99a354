"""All processes of a run meet before JAX is started, and see whether they are of one kind.

JAX's own start ends a process that waits in vain with a stack trace that does
not say who was missing. So the processes first meet on the coordinator's port,
over plain TCP: everyone sends one line of JSON about itself (its config, its
code, its versions) and a digest of the job's token to process 0, which waits
until all are there and sends everybody the whole list, or the reason why not.
Each then comes to the same verdict, so that a mistake is the same message on
every process. Whoever says anything else, or does not know the token, is sent
away and ends nothing: a port scanner, a health check, a process of another job.
The port is free again when JAX takes it; the connections may stay open (peers.py).
"""

import contextlib
import hashlib
import hmac
import importlib.metadata
import json
import pathlib
import platform
import selectors
import socket
import time
from typing import Any, cast

import bert_jax
from bert_jax.cluster.distributed import TOKENS, Cluster, host_name, job_token, listening_host
from bert_jax.errors import UserError, printable

_MAX_INTRODUCTION = 2**18  # bytes; a config has 5,000
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_SEND_SECONDS = 5.0  # of a connection that takes no answer
# Of strangers: how many may wait at the port besides as many as there are processes, and how long, for whoever is ours
# introduces itself at once.
_STRANGERS, _INTRODUCTION_SECONDS, _LOOK_SECONDS = 64, 10.0, 0.5
_ANSWER_SECONDS = 10  # what process 0 is given to answer when its own time is up


def introduce(config: dict[str, Any], workdir: str) -> dict[str, Any]:
  """What a process says of itself.

  Args:
    config: flat, see config.flatten.
    workdir: the run folder as it was given.
  """
  versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
  return {
    "host": host_name(),
    "config": config,
    "workdir": printable(workdir),
    "code": code_fingerprint(),
    "versions": versions,
    "time": time.time(),
  }


def code_fingerprint() -> str:
  """SHA-256 over the source of this package, 12 hexadecimal digits: the same code gives the same, wherever it is
  installed.
  """
  root = pathlib.Path(bert_jax.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
  return digest.hexdigest()[:12]


def meet(
  cluster: Cluster,
  introduction: dict[str, Any],
  *,
  seconds: float,
  keep: dict[int, socket.socket] | None = None,
  token: str | None = None,
) -> list[dict[str, Any]]:
  """What all processes say of themselves, in the order of their numbers.

  Args:
    cluster: who is expected.
    introduction: what this process says, any JSON.
    seconds: how long to wait.
    keep: takes the open connections by process number, on process 0 those to all others, on the others that to process
      0; None: they are closed.
    token: of the job: whoever does not know it is none of its processes; None: what the launcher gives, see
      distributed.job_token.

  Raises:
    UserError: process 0 could not be reached, or somebody did not come; the same on every process that came.
  """
  if cluster.num_processes == 1:
    return [introduction]
  meet_others = _gather if cluster.process_id == 0 else _report
  digest = hashlib.sha256((job_token() if token is None else token).encode("utf-8", "surrogateescape")).hexdigest()
  introductions, connections = meet_others(cluster, introduction, seconds, digest)
  if keep is None:
    for connection in connections.values():
      connection.close()
  else:
    keep.update(connections)
  return introductions


def check_alike(introductions: list[dict[str, Any]]) -> None:
  """Raises UserError where processes were started with another config, run folder, code or version than process 0."""
  first, different = introductions[0], []
  for number, other in enumerate(introductions[1:], 1):
    who = f"process {number} on {other['host']}"
    for key in sorted(first["config"].keys() | other["config"].keys()):
      ours, theirs = first["config"].get(key), other["config"].get(key)
      if ours != theirs:
        different.append(f"{who} has {key}={theirs!r}, process 0 {ours!r}")
    if other["workdir"] != first["workdir"]:
      different.append(f"{who} has --workdir={other['workdir']}, process 0 {first['workdir']}")
    if other["versions"] != first["versions"]:
      packages = [
        f"{name} {other['versions'].get(name)} (process 0: {version})"
        for name, version in first["versions"].items()
        if other["versions"].get(name) != version
      ]
      different.append(f"{who} has {', '.join(packages)}")
    elif other["code"] != first["code"]:
      different.append(
        f"{who} runs a different version of bert_jax, fingerprint {other['code']}, process 0 {first['code']}"
      )
  if different:
    more = f"\n  … and {len(different) - 8} more" if len(different) > 8 else ""
    listed = "".join(f"\n  {line}" for line in different[:8])
    raise UserError(
      f"the processes of this run were started differently:{listed}{more}\n"
      "Start all of them with the same command and the same installation"
    )


Met = tuple[
  list[dict[str, Any]], dict[int, socket.socket]
]  # what all say of themselves, and open connections by process number


def _gather(cluster: Cluster, introduction: dict[str, Any], seconds: float, token: str) -> Met:
  """Process 0: waits for everybody, then answers everybody. Whoever else comes is sent away."""
  deadline, refusal = time.monotonic() + seconds, ""
  here: dict[socket.socket | None, dict[str, Any]] = {
    None: {"process": 0, "processes": cluster.num_processes, "about": introduction}
  }
  with _listen(cluster, deadline) as listener, selectors.DefaultSelector() as selector:
    door = _Door(listener, selector, token, most=cluster.num_processes + _STRANGERS)
    while len(here) < cluster.num_processes and not refusal and (left := deadline - time.monotonic()) > 0:
      for key, _ in selector.select(min(left, _LOOK_SECONDS)):
        if key.fileobj is listener:
          door.open()
          continue
        connection = cast(socket.socket, key.fileobj)
        if connection not in here:
          if message := door.hear(connection):
            refusal = refusal or _refusal(message, list(here.values()), cluster.num_processes)
            here[connection] = message
        elif not _receive(connection):  # it has ended again
          selector.unregister(connection)
          connection.close()
          del here[connection]
      door.close_late()
    door.close()
  numbers = {message["process"]: message["about"] for message in here.values()}
  missing = [number for number in range(cluster.num_processes) if number not in numbers]
  if missing and not refusal:
    there = ", ".join(f"{number} ({about['host']})" for number, about in sorted(numbers.items()))
    refusal = (
      f"waited {seconds:.0f} s at {cluster.coordinator} for {_numbers(missing)} of {cluster.num_processes}; {there} "
      f"came.{door.told()} Look at the logs of those that are missing, and whether they can reach that address"
    )
  introductions = [] if refusal else [numbers[number] for number in range(cluster.num_processes)]
  connections = {}
  for connection, message in here.items():
    if connection is None:
      continue
    _send_line(connection, {"token": token, **({"refusal": refusal} if refusal else {"about": introductions})})
    if refusal:
      connection.close()
    else:
      connections[message["process"]] = connection
  if refusal:
    raise UserError(refusal)
  return introductions, connections


class _Door:
  """Those that have come to the port of process 0 and not introduced themselves yet; anybody may come to a port."""

  def __init__(self, listener: socket.socket, selector: selectors.BaseSelector, token: str, most: int):
    self._listener, self._selector, self._token, self._most = listener, selector, token, most
    self._received: dict[socket.socket, bytearray] = {}  # the one that has waited longest first
    self._until: dict[socket.socket, float] = {}
    self._sent_away, self._last = 0, ""
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)

  def open(self) -> None:
    """Lets one in; of too many the one that has waited longest goes."""
    try:
      connection, (self._last, *_) = self._listener.accept()
    except OSError:  # gone again; or this process may hold no more connections
      if self._received:
        self._send_away(next(iter(self._received)))
      return
    connection.settimeout(_SEND_SECONDS)
    self._received[connection] = bytearray()
    self._until[connection] = time.monotonic() + _INTRODUCTION_SECONDS
    self._selector.register(connection, selectors.EVENT_READ)
    if len(self._received) > self._most:
      self._send_away(next(iter(self._received)))

  def hear(self, connection: socket.socket) -> dict[str, Any] | None:
    """What a process says of itself, once it is complete. Whoever says anything else is sent away."""
    part, received = _receive(connection), self._received[connection]
    received += part
    message = _introduction(received, self._token) if received.endswith(b"\n") else None
    if message is not None:
      del self._received[connection], self._until[connection]
    elif not part or received.endswith(b"\n") or len(received) > _MAX_INTRODUCTION or not received.startswith(b"{"):
      self._send_away(connection)
    return message

  def close_late(self) -> None:
    """Sends those away that have had their time."""
    now = time.monotonic()
    for connection in [connection for connection, until in self._until.items() if until < now]:
      self._send_away(connection)

  def close(self) -> None:
    """Sends away all that are left."""
    for connection in list(self._received):
      self._send_away(connection)

  def told(self) -> str:
    """How many were sent away, in a sentence; empty where nobody was."""
    if not self._sent_away:
      return ""
    return (
      f" {self._sent_away:,} other connections, the last from {self._last}, were none of this job: they did not "
      f"introduce themselves with its token ({', '.join(TOKENS)})."
    )

  def _send_away(self, connection: socket.socket) -> None:
    self._sent_away += 1
    self._selector.unregister(connection)
    connection.close()
    del self._received[connection], self._until[connection]


def _knows(message: dict[str, Any], token: str) -> bool:
  """Whether a message holds the digest of the job's token; LookupError or TypeError where it is none of ours."""
  return hmac.compare_digest(str(message["token"]).encode("utf-8", "replace"), token.encode())


def _introduction(line: bytes | bytearray, token: str) -> dict[str, Any] | None:
  """What a process of this job has sent; None for anything that no process of ours would send."""
  try:
    message = json.loads(line)
    process, processes, about = message["process"], message["processes"], message["about"]
    ours = _knows(message, token) and type(process) is type(processes) is int and 0 <= process < processes
    if not (ours and isinstance(about["host"], str)):
      return None
  except (ValueError, LookupError, TypeError, RecursionError):
    return None
  return message | {"about": about | {"host": printable(about["host"])}}


def _refusal(message: dict[str, Any], here: list[dict[str, Any]], num_processes: int) -> str:
  """Why process 0 cannot take a process in beside those that are here (itself the first); empty where it can."""
  number, count, host = message["process"], message["processes"], message["about"]["host"]
  if count != num_processes:
    return (
      f"process {number} on {host} was told of {count} processes, process 0 on {here[0]['about']['host']} of "
      f"{num_processes}; give all of them the same number"
    )
  twin = next((other["about"]["host"] for other in here if other["process"] == number), None)
  if twin is not None:
    first, second = sorted((twin, host))  # whichever came first
    return f"both {first} and {second} are process {number}; every process needs a number of its own"
  return ""


def _report(cluster: Cluster, introduction: dict[str, Any], seconds: float, token: str) -> Met:
  """The others: tell process 0 that they are there, and wait for its answer."""
  host, _, port = cluster.coordinator.rpartition(":")
  began, reason = time.monotonic(), "nobody answers"
  while (left := began + seconds - time.monotonic()) > 0:
    try:
      connection = socket.create_connection((host.strip("[]"), int(port)), timeout=min(5.0, left))
    except OSError as error:
      reason = error.strerror or str(error) or type(error).__name__
    else:
      numbers = {"process": cluster.process_id, "processes": cluster.num_processes}
      _send_line(connection, {"token": token, **numbers, "about": introduction})
      # Process 0 may have begun to wait later than this one.
      line = _read_line(
        connection, seconds=seconds + _ANSWER_SECONDS, most=_MAX_INTRODUCTION * (cluster.num_processes + 1)
      )
      answer = _answer(line, token, cluster.num_processes)
      if isinstance(answer, list):
        return answer, {0: connection}
      connection.close()
      if answer:
        raise UserError(answer)
      reason = (
        "whatever answers there is not a process of this run, or knows another token of the job "
        f"({', '.join(TOKENS)}), or ended while waiting for the others"
      )
    time.sleep(min(0.2, max(0.0, left)))
  raise UserError(
    f"process {cluster.process_id} of {cluster.num_processes} on {introduction['host']} waited {seconds:.0f} s for "
    f"process 0 at {cluster.coordinator}: {reason}. Look whether process 0 runs, whether that is its address, and "
    "whether a firewall closes the port"
  )


def _listen(cluster: Cluster, deadline: float) -> socket.socket:
  """A listening socket on the coordinator's port; waits while an earlier attempt still holds it."""
  port = cluster.coordinator.rpartition(":")[2]
  where = listening_host(cluster.coordinator)
  options: dict[str, Any] = {"family": socket.AF_INET6} if ":" in where else {}
  if not where and socket.has_dualstack_ipv6():
    options = {"family": socket.AF_INET6, "dualstack_ipv6": True}
  while True:
    try:
      return socket.create_server((where, int(port)), backlog=1024, **options)
    except OSError as error:
      if time.monotonic() > deadline:
        raise UserError(
          f"process 0 cannot listen at port {port} ({error.strerror or error}); choose another port, or end what "
          "holds it"
        ) from error
    time.sleep(0.2)


def _send_line(connection: socket.socket, message: dict[str, Any]) -> None:
  with contextlib.suppress(OSError):  # it has gone; whoever waits for it will say so
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> bytes:
  """What has come; nothing where the connection has closed."""
  try:
    return connection.recv(65536)
  except OSError:
    return b""


def _read_line(connection: socket.socket, *, seconds: float, most: int) -> bytes:
  """One line, or nothing where none comes in time, or more than `most` bytes."""
  until = time.monotonic() + seconds
  received = bytearray()
  try:
    while not received.endswith(b"\n"):
      connection.settimeout(max(0.01, until - time.monotonic()))
      part = connection.recv(65536)
      if not part or len(received) > most or time.monotonic() > until:
        return b""
      received += part
  except OSError:
    return b""
  return bytes(received)


def _answer(line: bytes, token: str, count: int) -> list[dict[str, Any]] | str | None:
  """What process 0 answers: the introductions of all, or why not; None for anything that it would not send."""
  try:
    message = json.loads(line)
    if not _knows(message, token):
      return None
    if "refusal" in message:
      return str(message["refusal"])
    about = message["about"]
    if not isinstance(about, list) or len(about) != count:
      return None
    return [one | {"host": printable(one["host"])} for one in about]
  except (ValueError, LookupError, TypeError, RecursionError):
    return None


def _numbers(numbers: list[int]) -> str:
  """process 3, or processes 1, 2 and 5."""
  if len(numbers) == 1:
    return f"process {numbers[0]}"
  shown = numbers if len(numbers) <= 12 else numbers[:11]
  rest = "" if shown is numbers else f" and {len(numbers) - 11} more"
  listed = ", ".join(map(str, shown)) if rest else f"{', '.join(map(str, shown[:-1]))} and {shown[-1]}"
  return f"processes {listed}{rest}"
