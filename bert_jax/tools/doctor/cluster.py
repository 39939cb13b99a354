"""Do the processes of the run find each other, and do they fit their machines and one another?"""

import collections
import contextlib
import errno
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bert_jax.cluster import rendezvous
from bert_jax.cluster.distributed import Cluster, host_name
from bert_jax.errors import UserError, show
from bert_jax.tools.doctor import row, storage
from bert_jax.tools.doctor.context import Accelerators, Context
from bert_jax.tools.doctor.row import Row

# How long a process waits for what another one has to say; reading every shard of a large corpus takes its time.
# A process that dies is noticed long before, by JAX's heartbeat.
_PATIENCE_MS = 3_600_000
_TELL_MS = 5_000
_PINGS = 3
_PORT_SECONDS = 2.0  # an attempt that has just ended may hold its port a moment longer
# Beyond these, times in events mislead; and Kerberos (its default) and object stores refuse requests.
CLOCK_WARNING_SECONDS, CLOCK_FAILURE_SECONDS = 1.0, 300.0


def coordinator(
  cluster: Cluster, introduction: dict[str, Any], seconds: float
) -> tuple[Row | list[Row], list[dict[str, Any]] | None]:
  """Meets the other processes at the coordinator's port.

  Args:
    cluster: who is expected.
    introduction: what this process says of itself.
    seconds: how long to wait for the others.

  Returns:
    What was found, and what every process says of itself, or None where they did not all come.
  """
  if cluster.num_processes == 1:
    return row.ok("not needed: there is only this process"), [introduction]
  rows = _own_address(cluster) if cluster.process_id == 0 else []
  if any(one.status == row.FAIL for one in rows):
    return rows, None
  began = time.monotonic()
  try:
    introductions = rendezvous.meet(cluster, introduction, seconds=seconds)
  except UserError as error:
    return [*rows, row.refused(error)], None
  waited = time.monotonic() - began
  met = row.ok(f"{cluster.coordinator}: all {cluster.num_processes} processes met there, the last after {waited:.1f} s")
  return rows or met, introductions


def _own_address(cluster: Cluster) -> list[Row]:
  """What process 0 finds of the address that the others are to reach it at."""
  host, _, port = cluster.coordinator.rpartition(":")
  host = host.strip("[]")
  try:
    family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
  except OSError as error:
    return [
      row.fail(
        f"the coordinator's name {host} has no address here ({error.strerror or error})",
        "give the name or address by which the others reach process 0",
      )
    ]
  rows = []
  with socket.socket(family) as attempt:
    try:
      attempt.bind((address[0], 0, *address[2:]))
    except OSError:
      rows.append(
        row.warn(
          f"{host} ({address[0]}) is not an address of {host_name()}, where process 0 runs",
          "give an address of process 0's machine, unless this one is forwarded to it",
        )
      )
  deadline = time.monotonic() + _PORT_SECONDS
  while (error := _bind(int(port))) and time.monotonic() < deadline:
    time.sleep(0.1)
  if error:
    taken = "is taken by another process" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    rows.append(
      row.fail(
        f"port {port} of {host_name()} {taken}",
        f"choose another port, or stop the process that holds it (ss -ltnp 'sport = :{port}')",
      )
    )
  return rows


def _bind(port: int) -> OSError | None:
  """Why a server could not have this port; None where it could.

  Tried without SO_REUSEPORT, which JAX's server sets: two runs of one user would both get the port, and each other's
  processes.
  """
  with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as attempt:
    attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      attempt.bind(("", port))
    except OSError as error:
      return error
  return None


def slurm(environ: Mapping[str, str], cluster: Cluster, accelerators: Accelerators | None) -> list[Row]:
  """One task per GPU, each seeing all GPUs of its node: what JAX's own start takes for granted under Slurm.

  Sources: jax issues 16788, 23452 and 28194, MaxText issues 865 and 3433; jax/_src/clusters/slurm_cluster.py.

  Args:
    environ: the environment variables.
    cluster: who takes part.
    accelerators: what is built into this machine.

  Returns:
    What is wrong; empty where nothing is, or this is no Slurm job.
  """
  if "SLURM_JOB_ID" not in environ:
    return []
  tasks_in_all = int(environ.get("SLURM_NTASKS", 1))
  if cluster.num_processes == 1 and tasks_in_all > 1:
    return [
      row.fail(
        f"one process, in an allocation of {tasks_in_all} tasks", "start it with srun: srun python -m bert_jax …"
      )
    ]
  gpus = int(
    environ.get("SLURM_GPUS_ON_NODE") or (accelerators.chips if accelerators and accelerators.kind == "gpu" else 0)
  )
  tasks = _tasks_on_node(environ)
  if not gpus or tasks is None or cluster.num_processes == 1:
    return []
  visible = environ.get("CUDA_VISIBLE_DEVICES")
  seen = len(visible.split(",")) if visible else gpus
  remedy = f"#SBATCH --ntasks-per-node={gpus}"
  if tasks < gpus:
    return [
      row.fail(
        f"{tasks} task{'s' * (tasks > 1)} on a node with {gpus} GPUs: under Slurm JAX takes one GPU per task, "
        f"and {gpus - tasks} would idle",
        remedy,
      )
    ]
  if tasks > gpus:
    return [
      row.fail(f"{tasks} tasks on a node with {gpus} GPU{'s' * (gpus > 1)}: under Slurm each needs its own GPU", remedy)
    ]
  if tasks > 1 and seen < tasks:
    return [
      row.fail(
        f"each of the {tasks} tasks on this node sees {seen} of its {gpus} GPUs; JAX lets task i take the i-th GPU "
        "that it sees",
        f"ask for GPUs by node (#SBATCH --gres=gpu:{gpus}), not with --gpus-per-task or --gpu-bind",
      )
    ]
  return []


def _tasks_on_node(environ: Mapping[str, str]) -> int | None:
  """Tasks of this step on this node, of "8(x3),4", which means 8, 8, 8, 4; None if Slurm does not say."""
  counts: list[int] = []
  for entry in (environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "").split(","):
    count, _, times = entry.rstrip(")").partition("(x")
    if count.isdigit():
      counts += [int(count)] * int(times or 1)
  node = int(environ.get("SLURM_NODEID", 0))
  return counts[node] if node < len(counts) else None


def processes(
  cluster: Cluster, introductions: list[dict[str, Any]], devices: Sequence[int | None], gpus: Sequence[int]
) -> Row | list[Row]:
  """Whether the processes were started alike, and share their machines well. For process 0, after all have met.

  Args:
    cluster: who takes part.
    introductions: what every process says of itself.
    devices: how many devices of its own each has; None where it could not tell.
    gpus: how many GPUs are built into the machine of each.
  """
  if cluster.num_processes == 1:
    return row.ok("1; no launcher announces others" if cluster.source == "alone" else f"1, by {cluster.source}")
  hosts, rows = [about["host"] for about in introductions], []
  try:
    rendezvous.check_alike(introductions)
  except UserError as error:
    rows.append(row.refused(error))
  known = {number: count for number, count in enumerate(devices) if count is not None}
  few = [number for number, count in known.items() if count < max(known.values())]
  if few:
    least, most = min(known.values()), max(known.values())
    rows.append(
      row.fail(
        f"{row.name_processes(few, hosts)} {'see' if len(few) > 1 else 'sees'} {least} devices, the others {most}",
        "give every process the same number of devices",
      )
    )
  by_host = collections.defaultdict(list)
  for number, host in enumerate(hosts):
    by_host[host].append(number)
  for host, numbers in by_host.items():
    taken, built_in = sum(known.get(number, 0) for number in numbers), gpus[numbers[0]]
    if len(numbers) > 1 and built_in and taken > built_in:
      rows.append(
        row.fail(
          f"{len(numbers)} processes on {host} take {taken} GPUs, and it has {built_in}",
          "start one process per machine, or give each its own with CUDA_VISIBLE_DEVICES",
        )
      )
  spread = ", ".join(f"{len(numbers)} on {host}" for host, numbers in list(by_host.items())[:4]) + ", …" * (
    len(by_host) > 4
  )
  return rows or row.ok(f"{cluster.num_processes} by {cluster.source}: {spread}; same config, code and versions")


class Exchange:
  """What the processes tell each other through JAX's key-value store, once it is started.

  All call the same methods in the same order.
  """

  def __init__(self, context: Context, client):
    """
    Args:
      context: of this process.
      client: of JAX's coordination service.
    """
    self._context, self._client = context, client
    self._count, self._own = context.cluster.num_processes, context.cluster.process_id

  def _say(self, key: str, value: Any) -> None:
    self._client.key_value_set(f"bert_jax/doctor/{key}", json.dumps(value))

  def _hear(self, key: str) -> Any:
    return json.loads(self._client.blocking_key_value_get(f"bert_jax/doctor/{key}", _PATIENCE_MS))

  def gather(self, name: str, value: Any) -> list[Any] | None:
    """The values of all processes, on process 0; None on the others."""
    if self._own:
      self._say(f"{name}/{self._own}", value)
      return None
    return [value, *(self._hear_of(number, f"{name}/{number}") for number in range(1, self._count))]

  def _hear_of(self, number: int, key: str) -> Any:
    """As _hear; tells whom it is waiting for, since a corpus may take long to read."""
    try:
      return json.loads(self._client.blocking_key_value_get(f"bert_jax/doctor/{key}", _TELL_MS))
    except Exception:  # jaxlib's own, DEADLINE_EXCEEDED; whatever else it is comes again
      show(f"still waiting for {row.name_processes([number], self._context.hosts)}", file=sys.stderr, flush=True)
      return self._hear(key)

  def from_first(self, name: str, value: Any) -> Any:
    """Process 0's value, on every process."""
    if self._own == 0:
      self._say(name, value)
      return value
    return self._hear(name)

  def clocks(self) -> Row | list[Row]:
    """How far the other clocks are from process 0's: asked for over the network, the quickest answer of three
    counts.
    """
    self.gather("here", True)  # nobody is asked before it listens
    if self._own:
      for ping in range(_PINGS):
        self._hear(f"ask/{self._own}/{ping}")
        self._say(f"tell/{self._own}/{ping}", time.time())
      return []
    offsets = [
      0.0,
      *(
        min((self._ping(number, ping) for ping in range(_PINGS)), key=lambda pair: pair[1])[0]
        for number in range(1, self._count)
      ),
    ]
    return clock_rows(offsets, self._context.hosts)

  def _ping(self, number: int, ping: int) -> tuple[float, float]:
    """(seconds that the other clock is ahead, seconds that the answer took)."""
    asked = time.time()
    self._say(f"ask/{number}/{ping}", True)
    told = self._hear(f"tell/{number}/{ping}")
    answered = time.time()
    return told - (asked + answered) / 2, answered - asked

  def shared_folder(self) -> Row | list[Row]:
    """Whether all processes see one and the same run folder: process 0 puts a file there, the others look for it."""
    with contextlib.ExitStack() as stack:
      path, token = "", str(time.time_ns())
      if self._own == 0:
        with contextlib.suppress(OSError, UserError):  # the checkpoints row says why
          path = str(stack.enter_context(storage.scratch_folder(self._context.workdir)) / "seen")
          epath.Path(path).write_text(token)
      path, token = self.from_first("probe", [path, token])
      if not path:
        return []
      sees = False
      with contextlib.suppress(OSError):
        sees = epath.Path(path).read_text() == token
      seen = self.gather("sees", sees)  # process 0 leaves the block, and takes the file away, when all have looked
    blind = [number for number, value in enumerate(seen or []) if not value]
    if not blind:
      return []
    return [
      row.fail(
        f"{row.name_processes(blind, self._context.hosts)} does not see what process 0 writes at "
        f"{self._context.workdir}",
        "choose a --workdir on a file system that all machines share",
      )
    ]


def clock_rows(offsets: Sequence[float], hosts: Sequence[str]) -> Row | list[Row]:
  """What is said of the clocks.

  Args:
    offsets: seconds that each process's clock is ahead of process 0's.
    hosts: of each.
  """
  wrong = {number: ahead for number, ahead in enumerate(offsets) if abs(ahead) > CLOCK_WARNING_SECONDS}
  by_host = {hosts[number]: ahead for number, ahead in wrong.items()}  # one line for a machine
  if not by_host:
    return row.ok(f"those of all processes within {max(map(abs, offsets)):.3f} s of each other")
  rows = []
  for host, ahead in by_host.items():
    found = f"the clock of {host} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} that of {hosts[0]}"
    rows.append((row.fail if abs(ahead) > CLOCK_FAILURE_SECONDS else row.warn)(found, "set the clocks of both (NTP)"))
  return rows
