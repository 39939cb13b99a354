"""Which processes make up this run, and JAX's coordination service among them.

The same command runs everywhere. Who takes part comes from arguments, from
three environment variables, or from the scheduler, as JAX detects it; a process
that finds none of these is alone. JAX's service is started even then, because
it is what notices a SIGTERM (preemption.py).
"""

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from bert_jax.errors import UserError, printable
from bert_jax.internals import jax as jax_internals

VARIABLES = ("BERT_JAX_COORDINATOR", "BERT_JAX_NUM_PROCESSES", "BERT_JAX_PROCESS_ID")
LOOPBACK = "127.0.0.1"
# What the processes of a job share and a stranger at its port does not know: given, or the name that its launcher has
# for the job.
TOKENS = ("BERT_JAX_TOKEN", "SLURM_JOB_ID", "JOBSET_NAME")
_ALONE_SECONDS = 10**8  # three years


class Cluster(NamedTuple):
  """The processes of a run, and which of them this one is.

  Attributes:
    coordinator: "HOST:PORT" of process 0.
    num_processes: how many there are.
    process_id: 0 <= process_id < num_processes.
    source: who says so: arguments, environment, slurm, kubernetes, tpu, ompi, alone.
    local_device_ids: the accelerators of this machine that are this process's (Slurm: one per task), or None for all.
  """

  coordinator: str
  num_processes: int
  process_id: int
  source: str
  local_device_ids: tuple[int, ...] | None = None


def detect(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  environ: Mapping[str, str] = os.environ,
) -> Cluster:
  """Finds out who takes part: from the arguments, else from VARIABLES, else from the scheduler, else alone.

  Raises:
    UserError: arguments or variables that are given in part, are no numbers or contradict each other; a scheduler
      that cannot be asked.
  """
  given = (coordinator, num_processes, process_id)
  if any(value is not None for value in given):
    return _checked(*given, "arguments", ("--coordinator", "--num_processes", "--process_id"))
  if any(environ.get(name) for name in VARIABLES):
    where, count, own = (environ.get(name) or None for name in VARIABLES)
    return _checked(where, count, own, "environment", VARIABLES)
  return _scheduled() or Cluster(f"{LOOPBACK}:{_free_port()}", 1, 0, "alone")


def job_token(environ: Mapping[str, str] = os.environ) -> str:
  """The token of this job, the first of TOKENS; empty where there is none."""
  return next((environ[name] for name in TOKENS if environ.get(name)), "")


def listening_host(coordinator: str) -> str:
  """The address of this machine that process 0 listens at: the one that `coordinator` names.

  Empty, for all addresses, where the name has none here that the others could mean: it belongs to something that
  passes connections on, or is this machine's loopback address here alone (/etc/hosts of Debian).
  """
  host = coordinator.rpartition(":")[0].strip("[]")
  if host in (LOOPBACK, "localhost"):
    return LOOPBACK
  try:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
  except OSError:
    return ""
  for family, kind, _, _, where in found:
    address = str(where[0])
    if host != address and ipaddress.ip_address(address.partition("%")[0]).is_loopback:
      continue
    with socket.socket(family, kind) as probe, contextlib.suppress(OSError):
      probe.bind((address, 0))
      return address
  return ""


def initialize(cluster: Cluster, *, connect_seconds: int, heartbeat_seconds: int) -> None:
  """Starts JAX's coordination service among the processes; to be called before JAX's first use.

  A process that is alone and has used JAX already (a notebook, a test) continues without it: a SIGTERM then ends it
  without a last checkpoint.

  Args:
    cluster: from `detect`; with several processes, all of them have met before (rendezvous.py).
    connect_seconds: after which JAX gives up.
    heartbeat_seconds: silence after which a process counts as lost. JAX ends the others with exit code 134.
  """
  where: dict[str, Any] = {}
  shutdown_seconds = heartbeat_seconds
  if cluster.num_processes == 1:
    # Gloo, which connects processes on CPU, would also stand between the virtual devices of this one: 20 times slower.
    jax.config.update("jax_cpu_collectives_implementation", None)
    # Nobody waits for its heartbeats, and a machine that sleeps, or a Ctrl-Z, must not end it.
    heartbeat_seconds = _ALONE_SECONDS
    where = {"coordinator_bind_address": cluster.coordinator, "cluster_detection_method": "deactivate"}
  elif cluster.process_id == 0 and (host := listening_host(cluster.coordinator)):
    port = cluster.coordinator.rpartition(":")[2]
    where = {"coordinator_bind_address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
  already_used = contextlib.nullcontext() if cluster.num_processes > 1 else contextlib.suppress(RuntimeError)
  with already_used:
    jax.distributed.initialize(
      cluster.coordinator,
      cluster.num_processes,
      cluster.process_id,
      local_device_ids=cluster.local_device_ids,
      initialization_timeout=connect_seconds,
      heartbeat_timeout_seconds=heartbeat_seconds,
      shutdown_timeout_seconds=shutdown_seconds,
      **where,
    )


def keep_stdout_for_python() -> None:
  """From now on nothing but Python writes to standard output: Gloo, which connects CPUs, has a line there for every
  connection.
  """
  sys.stdout.flush()
  own = os.dup(1)
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  sys.stdout = os.fdopen(own, "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def host_name() -> str:
  """This machine's name, for messages."""
  return printable(socket.gethostname())


def _checked(coordinator, num_processes, process_id, source: str, names: tuple[str, ...]) -> Cluster:
  """A Cluster of three values that belong together; `names` is what the user calls them."""
  values = (coordinator, num_processes, process_id)
  missing = [name for name, value in zip(names, values) if value is None]
  if missing:
    raise UserError(
      f"{', '.join(names)} belong together; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not given"
    )
  host, _, port = str(coordinator).rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise UserError(
      f"{names[0]}={coordinator}: expected HOST:PORT, a port of process 0 that the others can reach, as in node-0:8476"
    )
  try:
    count, own = int(num_processes), int(process_id)
  except ValueError:
    raise UserError(f"{names[1]}={num_processes}, {names[2]}={process_id}: expected whole numbers") from None
  if not 0 <= own < count:
    raise UserError(f"{names[2]}={own} must lie between 0 and {names[1]} - 1 = {count - 1}")
  return Cluster(str(coordinator), count, own, source)


def _scheduled() -> Cluster | None:
  """What Slurm, Kubernetes, Open MPI or TPU metadata say, or None where there is none of them (or only this
  process).
  """
  kind = jax_internals.scheduler()
  if kind is None:
    return None
  name = "tpu" if "tpu" in kind else {"k8s": "kubernetes"}.get(kind, kind)
  try:
    coordinator, count, own, local = jax_internals.ask_scheduler(timeout_seconds=60)
  except Exception as error:  # a metadata server or an API that does not answer as expected
    raise UserError(
      f"this looks like {name}, but asking it for the processes of the run failed ({type(error).__name__}: {error}); "
      f"say it yourself: {', '.join(VARIABLES)}"
    ) from error
  if coordinator is None or own is None or count is None or count == 1:
    return None
  return Cluster(coordinator, count, own, name, tuple(local) if local is not None else None)


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind((LOOPBACK, 0))
    return probe.getsockname()[1]
