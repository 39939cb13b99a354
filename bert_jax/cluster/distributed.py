"""Which processes make up this run, and JAX's coordination service among them.

The same command runs everywhere. Who takes part comes from arguments, from
three environment variables, or from the scheduler, as JAX detects it; a process
that finds none of these is alone. JAX's service is started even then, because
it is what notices a SIGTERM (preemption.py).

The only file that knows JAX's private names for clusters and for its
coordination service.
"""

import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax._src import clusters
from jax._src import distributed as jax_distributed

from bert_jax.errors import UserError

VARIABLES = ("BERT_JAX_COORDINATOR", "BERT_JAX_NUM_PROCESSES", "BERT_JAX_PROCESS_ID")
LOOPBACK = "127.0.0.1"


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
    return _checked(*(environ.get(name) or None for name in VARIABLES), "environment", VARIABLES)
  return _scheduled() or Cluster(f"{LOOPBACK}:{_free_port()}", 1, 0, "alone")


def initialize(
  cluster: Cluster, *, connect_seconds: int, heartbeat_seconds: int, on_lost: Callable[[], None] | None = None
) -> None:
  """Starts JAX's coordination service among the processes; to be called before JAX's first use.

  A process that is alone and has used JAX already (a notebook, a test) goes on without it: a SIGTERM then ends it
  without a last checkpoint.

  Args:
    cluster: from `detect`; with several processes, all of them have met before (rendezvous.py).
    connect_seconds: after which JAX gives up.
    heartbeat_seconds: silence after which a process counts as lost.
    on_lost: called in a thread of JAX's when it has lost process 0, or hears from there that another one is lost; JAX
      ends this process when it returns. None: JAX ends it at once, with a C++ stack trace and exit code 134.
  """
  where = {}
  if cluster.num_processes == 1:
    # Gloo, which connects processes on CPU, would also stand between the virtual devices of this one: 20 times slower.
    jax.config.update("jax_cpu_collectives_implementation", None)
    where = {"coordinator_bind_address": cluster.coordinator, "cluster_detection_method": "deactivate"}
  already_used = contextlib.nullcontext() if cluster.num_processes > 1 else contextlib.suppress(RuntimeError)
  with already_used, _calling(on_lost) if on_lost else contextlib.nullcontext():
    jax.distributed.initialize(
      cluster.coordinator,
      cluster.num_processes,
      cluster.process_id,
      local_device_ids=cluster.local_device_ids,
      initialization_timeout=connect_seconds,
      heartbeat_timeout_seconds=heartbeat_seconds,
      shutdown_timeout_seconds=heartbeat_seconds,
      **where,
    )


@contextlib.contextmanager
def _calling(on_lost: Callable[[], None]) -> Iterator[None]:
  """A context in which JAX's client of the coordination service is made with a callback of ours.

  jaxlib takes a callback, but cannot hand it the status in Python (0.10.2; std::bad_cast), and that exception
  of C++, which nobody catches, would end the process. What C++ calls then can be set, and is the second way to
  `on_lost`.
  """
  if not _before_terminate(b"St8bad_cast", on_lost):
    yield
    return
  jaxlib, make_client = jax_distributed._jax, jax_distributed._jax.get_distributed_runtime_client
  callback = lambda status: (on_lost(), os.abort())
  jaxlib.get_distributed_runtime_client = lambda *args, **kwargs: make_client(
    *args, missed_heartbeat_callback=callback, **kwargs
  )
  try:
    yield
  finally:
    jaxlib.get_distributed_runtime_client = make_client


_terminate_handlers = []  # C++ keeps no reference


def _before_terminate(kind: bytes, call: Callable[[], None]) -> bool:
  """Sees to it that `call` is called where an uncaught exception of C++ of this kind ends the process, before it does.
  False where that cannot be.
  """
  handler_type = ctypes.CFUNCTYPE(None)
  try:
    cxx = ctypes.CDLL("libstdc++.so.6")
    set_handler, current_kind = cxx._ZSt13set_terminatePFvvE, cxx.__cxa_current_exception_type
  except (OSError, AttributeError):  # no GNU C++ library
    return False
  set_handler.restype, set_handler.argtypes = handler_type, [handler_type]
  current_kind.restype = ctypes.c_void_p

  def handle() -> None:
    found = current_kind()  # a std::type_info: a table of functions, then the name
    if found and ctypes.c_char_p.from_address(found + ctypes.sizeof(ctypes.c_void_p)).value == kind:
      call()
    before()

  _terminate_handlers.append(handler_type(handle))
  before = set_handler(_terminate_handlers[-1])
  return True


def keep_stdout_for_python() -> None:
  """From now on nothing but Python writes to standard output: Gloo, which connects CPUs, has a line there for every
  connection.
  """
  sys.stdout.flush()
  own = os.dup(1)
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  sys.stdout = os.fdopen(own, "w", buffering=1, encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def client() -> Any:
  """JAX's client of the coordination service (key-value store, barriers); None where `initialize` was not called."""
  return jax_distributed.global_state.client


def host_name() -> str:
  """This machine's name, for messages."""
  return socket.gethostname()


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
  kind = next(
    (kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method and kind.is_env_present()), None
  )
  if kind is None:
    return None
  name = "tpu" if "tpu" in kind.name else {"k8s": "kubernetes"}.get(kind.name, kind.name)
  try:
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 60)
  except Exception as error:  # a metadata server or an API that does not answer as expected
    raise UserError(
      f"this looks like {name}, but asking it for the processes of the run failed ({type(error).__name__}: {error}); "
      f"say it yourself: {', '.join(VARIABLES)}"
    ) from error
  coordinator, count, own, local = found
  if count is None or count == 1:
    return None
  return Cluster(coordinator, count, own, name, tuple(local) if local is not None else None)


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind((LOOPBACK, 0))
    return probe.getsockname()[1]
