"""The life of a run, whatever is trained in it: its processes meet, its folder is claimed, and they end together.

with launch(config, workdir, cluster=cluster) as run:  # the processes meet, and start JAX
  with run.starting():                                 # a SIGTERM ends what is being done here, on all of them
    training = …                                       # claims the folder: run.claim(config, tokenizer_folder)
  with run.services(training) as services:             # events, checkpoints, watchdog
    metrics = loop.train(training, services)
"""

import contextlib
import pathlib
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import ml_collections
from etils import epath

from bert_jax import config as configs
from bert_jax.cluster import agreement, distributed, rendezvous
from bert_jax.cluster.distributed import Cluster
from bert_jax.cluster.peers import PeerLost, Peers, leave
from bert_jax.cluster.preemption import Preempted, Preemption
from bert_jax.cluster.watchdog import Watchdog
from bert_jax.errors import EXIT_PEER_LOST, EXIT_PREEMPTED, EXIT_STALLED, UserError, ending_of, show
from bert_jax.inference import run_folder
from bert_jax.io import locks, storage
from bert_jax.training import loop, metrics, progress
from bert_jax.training.checkpoints import manager
from bert_jax.training.data_skips import DataSkips, read_data_skips
from bert_jax.training.optimizer import last_step
from bert_jax.training.profile import Profile

Log = Callable[[str], None]


class Run:
  """A run whose processes have met; made by `launch`.

  Attributes:
    root: the run folder.
    log: takes one line of text for the user; only the first process reports.
  """

  def __init__(self, config: ml_collections.ConfigDict, root: epath.Path, peers: Peers, log: Log):
    self.root = root
    self._is_first = jax.process_index() == 0
    self.log: Log = log if self._is_first else lambda text: None
    self._config, self._peers, self._preemption = config, peers, Preemption()
    self._held = contextlib.ExitStack()  # the lock on the folder, until the run has ended

  @contextlib.contextmanager
  def starting(self) -> Iterator[None]:
    """While a run is set up: a SIGTERM ends what is being done on all processes.

    Raises:
      Preempted: told to stop.
      UserError: the run folder is a file.
    """

    def tell() -> None:
      self._peers.tell("told to stop by a SIGTERM, before training had begun", EXIT_PREEMPTED)

    def end() -> None:
      tell()
      leave(EXIT_PREEMPTED)

    try:
      with self._preemption.while_starting(end):
        if storage.exists(self.root) and not storage.is_folder(self.root):
          raise UserError(f"--workdir={self.root} is a file; a run needs a folder of its own")
        yield
    except Preempted:
      tell()  # others may be waiting for this process where nothing interrupts them
      raise

  def claim(self, config: ml_collections.ConfigDict, tokenizer_folder: pathlib.Path) -> None:
    """Claims the run folder, new or to be resumed; called on every process. Raises UserError for another run's."""
    agreement.on_first(lambda: self._claim(config, tokenizer_folder))

  def _claim(self, config: ml_collections.ConfigDict, tokenizer_folder: pathlib.Path) -> None:
    if not storage.is_remote(self.root):  # where there are no locks, the writer of events sees to it
      self.root.mkdir(parents=True, exist_ok=True)
      lock = self._held.enter_context(locks.FolderLock(self.root))
      _acquire(lock, self.root, seconds=self._config.cluster.heartbeat_seconds)
    run_folder.claim_workdir(self.root, config, tokenizer_folder)

  @contextlib.contextmanager
  def services(self, training: loop.Training, profile: tuple[int, int] | None = None) -> Iterator[loop.Services]:
    """What stands around the loop; how training ended is an event.

    Args:
      training: what is trained; the folder is claimed for it.
      profile: the first step to trace, and the first one not to.
    """
    config, root = training.config, self.root
    with contextlib.ExitStack() as stack:
      attempt = agreement.from_first(metrics.next_attempt(root))
      name = f"attempt-{attempt:04d}-process-{jax.process_index():04d}"
      writer = stack.enter_context(metrics.MetricsWriter(root, attempt, active=self._is_first))
      writer.event("start", attempt=attempt, **_environment())
      ending = lambda code: "peer_lost" if code == EXIT_PEER_LOST else "fail"
      self._peers.on_told = lambda message, code: writer.event(ending(code), message=message)
      end, keep = last_step(config), config.checkpoint
      checkpoints = manager.Checkpoints(
        root / "checkpoints",
        every_steps=keep.every_steps,
        keep_last=keep.keep_last,
        keep_best=keep.keep_best,
        selection=training.selection,
        on_event=writer.event,
        meaning=agreement.on_first(lambda: run_folder.meaning_of(root)),
      )
      services = loop.Services(
        checkpoints=stack.enter_context(checkpoints),
        writer=writer,
        progress=stack.enter_context(progress.Progress(end, training.objective.shown, active=self._is_first)),
        watchdog=stack.enter_context(self._watchdog(writer, name)),
        preemption=self._preemption,
        data_skips=DataSkips(root, agreement.on_first(lambda: read_data_skips(root))),
        profile=Profile(profile, root / "profile" / name),
      )

      def leave_at_once() -> None:
        self._peers.tell("interrupted by Ctrl-C", 130)
        leave(130)

      try:
        with self._preemption.while_training(leave_at_once):
          yield services
      except Preempted:
        raise
      except Exception as error:
        reason = self._peers.explain(error)
        if not isinstance(reason, UserError):
          checkpoints.abandon()  # a save needs all processes, and would be waited for in vain
        writer.event("peer_lost" if isinstance(reason, PeerLost) else "fail", message=str(reason))
        raise reason from (error if reason is not error else error.__cause__)

  def _watchdog(self, writer: metrics.MetricsWriter, name: str) -> Watchdog:
    # The stacks of a run that stands still must not wait for a store that may be what stands still.
    remote = storage.is_remote(self.root)
    stalls = pathlib.Path(tempfile.gettempdir(), "bert_jax-stalls") if remote else pathlib.Path(self.root, "stalls")

    def on_stall(seconds: float) -> None:
      if self._is_first:
        writer.event("stall", seconds=round(seconds, 1), process=jax.process_index())
      message = f"no progress for {seconds:.0f} s; it was ended, and its stacks are in {stalls}"
      self._peers.tell(message, EXIT_STALLED)

    limits = self._config.watchdog
    return Watchdog(
      start_seconds=limits.start_seconds,
      step_seconds=limits.step_seconds,
      dump=stalls / f"{name}.txt",
      on_stall=on_stall,
    )


@contextlib.contextmanager
def launch(
  config: ml_collections.ConfigDict, workdir: str, *, cluster: Cluster | None = None, log: Log = show
) -> Iterator[Run]:
  """The processes of a run meet, and whatever ends one of them in this context ends the others with the same reason.

  Args:
    config: see `config.KEYS`; not resolved.
    workdir: the run folder; made when it is claimed.
    cluster: the processes of the run, which then meet here, before JAX's first use; None: JAX is started already, or
      this one is alone.
    log: takes one line of text for the user; only the first process reports.

  Raises:
    UserError: the processes were not started alike. The same on every process.
    PeerLost: another process has died.
  """
  with _meet(config, str(workdir), cluster) as peers:
    if cluster is not None:
      distributed.initialize(
        cluster, connect_seconds=config.cluster.connect_seconds, heartbeat_seconds=config.cluster.heartbeat_seconds
      )
    try:
      run = Run(config, storage.folder(workdir), peers, log)
      with run._held:
        yield run
    except Preempted:
      raise
    except Exception as error:
      reason = peers.explain(error)
      if not isinstance(reason, PeerLost):
        peers.tell(str(reason) or type(reason).__name__, ending_of(reason)[0])
      raise reason from (error if reason is not error else error.__cause__)


def _meet(config: ml_collections.ConfigDict, workdir: str, cluster: Cluster | None) -> Peers:
  """The other processes of the run, after all have met. Raises UserError where they were not started alike."""
  if cluster is None:
    return Peers()
  connections: dict[int, socket.socket] = {}
  about = rendezvous.introduce(configs.flatten(config), workdir)
  introductions = rendezvous.meet(cluster, about, seconds=config.cluster.connect_seconds, keep=connections)
  rendezvous.check_alike(introductions)
  hosts, silent_seconds = [about["host"] for about in introductions], config.cluster.heartbeat_seconds / 2
  return Peers(cluster.process_id, hosts, connections, silent_seconds)


def _environment() -> dict[str, object]:
  """What the event of a start records: processes, devices, versions, code."""
  return {
    "processes": jax.process_count(),
    "devices": jax.device_count(),
    "device_kind": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "python": platform.python_version(),
    "host": distributed.host_name(),
    "code": rendezvous.code_fingerprint(),
  }


def _acquire(lock: locks.FolderLock, root: epath.Path, *, seconds: float) -> None:
  """Waits for an earlier attempt that is just ending. Raises UserError where somebody else goes on training here."""
  deadline = time.monotonic() + seconds
  while not lock.take(alone=True):
    if time.monotonic() > deadline:
      raise UserError(
        f"another process has been training in {root} for the last {seconds:.0f} s, on this machine or on one that "
        "shares the folder; let it end, or give another --workdir. Processes that belong together are started with "
        "--coordinator"
      )
    time.sleep(0.2)
