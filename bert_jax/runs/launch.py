"""The life of a run folder, whatever is trained in it: processes meet, the run is set up, the loop turns, the result is
written.

    WORKDIR/config.json   the resolved config; a resume compares against it
    WORKDIR/tokenizer/    a copy, so that a run can be used alone
    WORKDIR/checkpoints/, metrics/, events/, tensorboard/, export/

What is trained, and on what, is said by run_pretraining.py and its neighbours.
"""

import contextlib
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import ml_collections
from etils import epath

from bert_jax import config as configs
from bert_jax.cluster import agreement, chips, distributed, rendezvous
from bert_jax.cluster.distributed import Cluster
from bert_jax.cluster.peers import PeerLost, Peers, leave
from bert_jax.cluster.preemption import Preempted, Preemption
from bert_jax.cluster.watchdog import Watchdog
from bert_jax.errors import EXIT_PREEMPTED, EXIT_STALLED, UserError
from bert_jax.io import locks, storage
from bert_jax.training import loop, metrics, progress
from bert_jax.training.checkpoints import manager
from bert_jax.training.data_skips import DataSkips, read_data_skips
from bert_jax.training.profile import Profile

Log = Callable[[str], None]


class Setup(NamedTuple):
  """A run that is ready to train.

  Attributes:
    run: what the loop needs.
    finish: called on every process when training has ended and its last checkpoint is on disk: writes what the run is
      for.
  """

  run: loop.Training
  finish: Callable[[], None]


def conduct(
  config: ml_collections.ConfigDict,
  workdir: str,
  set_up: Callable[[epath.Path, Log], Setup],
  *,
  cluster: Cluster | None = None,
  profile: tuple[int, int] | None = None,
  log: Log = print,
) -> dict[str, float]:
  """Trains in `workdir`, from where it stands there; called by every process of the run.

  Args:
    config: see `config.KEYS`; not resolved.
    workdir: the run folder; made if missing.
    set_up: (the run folder, say) -> Setup; called on every process once they have met, raises UserError on all of them
      alike. It takes the folder for its run, see `adopt`.
    cluster: the processes of the run, which then meet here, before JAX's first use; None: JAX is started already, or
      this one is alone.
    profile: the first step to trace, and the first one not to.
    log: takes one line of text for the user; only the first process says anything.

  Returns:
    The metrics of the last evaluation.

  Raises:
    UserError: what `set_up` refuses; the processes were not started alike. The same on every process.
    Preempted: the processes were told to stop, and have saved.
    PeerLost: another process has died.
  """
  with _meet(config, str(workdir), cluster) as peers:
    if cluster is not None:
      distributed.initialize(
        cluster,
        connect_seconds=config.cluster.connect_seconds,
        heartbeat_seconds=config.cluster.heartbeat_seconds,
        on_lost=peers.on_lost if cluster.num_processes > 1 else None,
      )
    speaks, preemption, root = (
      jax.process_index() == 0,
      Preemption(),
      storage.folder(workdir),
    )  # one process reports for all
    try:
      with _starting(peers, preemption):
        if root.exists() and not root.is_dir():
          raise UserError(f"--workdir={root} is a file; a run needs a folder of its own")
        setup = set_up(root, log if speaks else lambda text: None)
      last = _train(setup.run, root, peers, preemption, profile)
      setup.finish()
      return last
    except Preempted:
      raise
    except Exception as error:
      reason = peers.explain(error)
      if not isinstance(reason, PeerLost):
        peers.tell(str(reason) or type(reason).__name__, 1)
      raise reason from (error if reason is not error else error.__cause__)


def _meet(config: ml_collections.ConfigDict, workdir: str, cluster: Cluster | None) -> Peers:
  """The other processes of the run, after all have met. Raises UserError where they were not started alike."""
  if cluster is None:
    return Peers()
  connections = {}
  about = rendezvous.introduce(configs.flatten(config), workdir)
  introductions = rendezvous.meet(cluster, about, seconds=config.cluster.connect_seconds, keep=connections)
  rendezvous.check_alike(introductions)
  return Peers(cluster.process_id, [about["host"] for about in introductions], connections)


@contextlib.contextmanager
def _starting(peers: Peers, preemption: Preemption) -> Iterator[None]:
  """While a run is set up: a SIGTERM ends what is being done on all processes. Raises Preempted."""

  def tell() -> None:
    peers.tell("told to stop by a SIGTERM, before training had begun", EXIT_PREEMPTED)

  def end() -> None:
    tell()
    leave(EXIT_PREEMPTED)

  try:
    with preemption.while_starting(end):
      yield
  except Preempted:
    tell()  # others may be waiting for this process where nothing interrupts them
    raise


def _train(run: loop.Training, root: epath.Path, peers: Peers, preemption: Preemption, profile: tuple[int, int] | None):
  """The metrics of the last evaluation of a run, with everything that stands around the loop."""
  config, end = run.config, configs.last_step(run.config)
  speaks = jax.process_index() == 0
  with contextlib.ExitStack() as stack:
    if not storage.is_remote(root):  # where there are no locks, the writer of events sees to it
      lock = stack.enter_context(locks.FolderLock(root))
      agreement.on_first(lambda: _take(lock, root, seconds=config.cluster.heartbeat_seconds))
    attempt = agreement.from_first(metrics.next_attempt(root))
    name = f"attempt-{attempt:04d}-process-{jax.process_index():04d}"
    writer = stack.enter_context(metrics.MetricsWriter(root, attempt, active=speaks))
    writer.event(
      "start",
      attempt=attempt,
      processes=jax.process_count(),
      devices=jax.device_count(),
      device_kind=jax.devices()[0].device_kind,
      jax=jax.__version__,
      python=platform.python_version(),
      host=distributed.host_name(),
      code=rendezvous.code_fingerprint(),
    )

    peers.on_told = lambda message: writer.event("fail", message=message)
    # The stacks of a run that stands still must not wait for a store that may be what stands still.
    stalls = pathlib.Path(tempfile.gettempdir(), "bert_jax-stalls") if storage.is_remote(root) else root / "stalls"

    def on_stall(seconds: float) -> None:
      if speaks:
        writer.event("stall", seconds=round(seconds, 1), process=jax.process_index())
      peers.tell(
        f"nothing has happened for {seconds:.0f} s; it was ended, and its stacks are in {stalls}", EXIT_STALLED
      )

    services = loop.Services(
      checkpoints=stack.enter_context(
        manager.Checkpoints(
          root / "checkpoints",
          every_steps=config.checkpoint.every_steps,
          keep_last=config.checkpoint.keep_last,
          keep_best=config.checkpoint.keep_best,
          selection=run.selection,
          on_event=writer.event,
        )
      ),
      writer=writer,
      progress=stack.enter_context(progress.Progress(end, active=speaks)),
      watchdog=stack.enter_context(
        Watchdog(
          start_seconds=config.watchdog.start_seconds,
          step_seconds=config.watchdog.step_seconds,
          dump=stalls / f"{name}.txt",
          on_stall=on_stall,
        )
      ),
      preemption=preemption,
      data_skips=DataSkips(root, agreement.on_first(lambda: read_data_skips(root))),
      profile=Profile(profile, root / "profile" / name),
    )
    try:
      _, last, step = loop.train(run, services)
    except Preempted:
      raise
    except Exception as error:
      reason = peers.explain(error)
      if not isinstance(reason, UserError):
        services.checkpoints.abandon()  # a save needs all processes, and would be waited for in vain
      writer.event("peer_lost" if isinstance(reason, PeerLost) else "fail", message=str(reason))
      raise reason from (error if reason is not error else error.__cause__)
    writer.event("finish", step=step, **({"stopped_early": True} if step < end else {}))
  return last


def _take(lock: locks.FolderLock, root: pathlib.Path, *, seconds: float) -> None:
  """Sees to it that nobody else trains in this folder; an earlier attempt that is just ending is waited for."""
  deadline = time.monotonic() + seconds
  while not lock.take(alone=True):
    if time.monotonic() > deadline:
      raise UserError(
        f"another process has been training in {root} for the last {seconds:.0f} s, on this machine or on one that "
        "shares the folder; let it end, or give another --workdir. Processes that belong together are started with "
        "--coordinator"
      )
    time.sleep(0.2)


def peak_flops() -> float | None:
  """Dense bf16 peak of all devices together, or None if this kind is not in the table."""
  peak = chips.peak_flops(jax.devices()[0].device_kind)
  return peak * jax.device_count() if peak else None
