"""The processes of a run on the command line: which they are, how JAX starts, and what a run ends with."""

import argparse
import contextlib
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator

from bert_jax.errors import show
from bert_jax.io.streams import forgiving


def start_jax() -> None:
  """Settings that every command using JAX shares: compiled programs are kept on disk between runs."""
  import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    folder = pathlib.Path.home() / ".cache" / "bert_jax" / "compiled"
    with contextlib.suppress(OSError):  # without a home to write to, programs are compiled every time
      folder.mkdir(parents=True, exist_ok=True)
      jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def start_cluster(config, options: argparse.Namespace):
  """JAX, ready to train what a config says: the processes of the run, found out or as the flags say
  (distributed.Cluster).
  """
  if config.deterministic:  # has to stand before JAX starts its GPU backend
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"

  from bert_jax.cluster import distributed

  start_jax()
  cluster = distributed.detect(options.coordinator, options.num_processes, options.process_id)
  if cluster.num_processes > 1 and "NCCL_DEBUG" not in os.environ:
    distributed.keep_stdout_for_python()
    sys.stdout = forgiving(sys.stdout)
  return cluster


class Outcome:
  """How a run ended, as the exit code of its command."""

  code: int = 0


@contextlib.contextmanager
def outcome_of_run(cluster) -> Iterator[Outcome]:
  """A context in which a run is trained and its result is printed; `code` says how it ended.

  Where the processes were told to stop, the rest of the block is left out. With several processes, one that fails ends
  here and now: the end of the interpreter would wait for the others.
  """
  from bert_jax.cluster import peers
  from bert_jax.cluster.preemption import Preempted
  from bert_jax.errors import EXIT_PEER_LOST, EXIT_PREEMPTED, ending_of, print_at_once

  outcome = Outcome()
  try:
    yield outcome
  except Preempted as stop:
    if cluster.process_id == 0:
      show(f"stopped by a SIGTERM: {stop}, and the same command resumes from there", file=sys.stderr)
    if cluster.num_processes > 1 and not stop.step:
      peers.leave(EXIT_PREEMPTED)  # some were interrupted where the end of the interpreter would wait for them
    outcome.code = EXIT_PREEMPTED
  except Exception as error:
    if cluster.num_processes == 1:
      raise
    code, message = (EXIT_PEER_LOST, str(error)) if isinstance(error, peers.PeerLost) else ending_of(error)
    print_at_once(traceback.format_exc() if message is None else f"error: {message}")
    peers.leave(code)


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
  """The flags that say which processes make up a run; see cluster.distributed.detect."""
  group = parser.add_argument_group(
    "several processes",
    "detected under Slurm, on TPU pods and on Kubernetes; elsewhere set by these flags, or by "
    "BERT_JAX_COORDINATOR, BERT_JAX_NUM_PROCESSES and BERT_JAX_PROCESS_ID",
  )
  group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
  group.add_argument("--num_processes", type=int, metavar="N", help="how many processes there are")
  group.add_argument("--process_id", type=int, metavar="I", help="index of this process, from 0 to N - 1")
