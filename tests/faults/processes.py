"""Real processes of one run on this machine: started, disturbed, waited for."""

import hashlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import NamedTuple

from bert_jax.training import metrics
from tests.helpers.tiny_runs import write_config

# The same for every test: steps that take no time, so that starting is all that they cost.
QUICK = (
  "export.format=",
  "log_every_steps=1",
  "model.hidden_dropout_prob=0.0",
  "model.attention_probs_dropout_prob=0.0",
  "cluster.connect_seconds=60",
  "cluster.heartbeat_seconds=10",
)

_MAIN = """
import sys
from bert_jax.__main__ import main, quiet
quiet()
{sabotage}
sys.exit(main(sys.argv[1:]))
"""

# Sabotage that slows every step down, so that a signal finds the run in its middle.
SLOW_STEPS = """
from bert_jax.training import sharding
import time
plain = sharding.put_batch
def put_batch(batch, mesh):
  time.sleep(0.1)
  return plain(batch, mesh)
sharding.put_batch = put_batch
"""


class Ended(NamedTuple):
  """How a process ended: its exit code and everything that it printed."""

  code: int
  output: str


class Processes:
  """The processes of one attempt. Use as a context manager: none is left behind."""

  def __init__(
    self,
    folder: pathlib.Path,
    corpus: pathlib.Path,
    name: str,
    overrides: Sequence[str] = (),
    *,
    count: int = 2,
    devices: int = 1,
    sabotage: dict[int, str] | str = "",
    each: dict[int, Sequence[str]] | None = None,
    missing: Sequence[int] = (),
    flags: Sequence[str] = (),
    host: str = "127.0.0.1",
    prefix: dict[int, Sequence[str]] | None = None,
    workdir: str = "",
    environ: dict[str, str] | None = None,
    command: Sequence[str] = (),
  ):
    """
    Args:
      folder: of the test: the config file, the compilation cache, the run folders.
      corpus: what the run trains on.
      name: of the run folder.
      overrides: "key=value" for all processes, after QUICK.
      count: how many processes; 1: alone, without any word of others.
      devices: virtual devices of each.
      sabotage: Python that runs before the command does, on all processes or by number.
      each: further overrides by number.
      missing: numbers that are not started.
      flags: further flags of `pretrain`.
      host: address of process 0.
      prefix: words in front of the command by number: where it runs.
      workdir: the run folder, where it is not to lie in `folder`.
      environ: further variables of the environment.
      command: another one than `pretrain` on `corpus`: its name and its flags.
    """
    self.workdir = workdir or folder / name
    port = free_port()
    environment = (
      os.environ
      | (environ or {})
      | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "TF_CPP_MIN_LOG_LEVEL": "3",  # JAX has set another one here
      }
    )
    self._processes = {}
    for number in range(count):
      if number in missing:
        continue
      words = sabotage if isinstance(sabotage, str) else sabotage.get(number, "")
      keys = (*(() if command else (f"data.corpus={corpus}",)), *QUICK, *overrides, *(each or {}).get(number, ()))
      several = (
        () if count == 1 else (f"--coordinator={host}:{port}", f"--num_processes={count}", f"--process_id={number}")
      )
      started = [
        *(prefix or {}).get(number, ()),
        sys.executable,
        "-c",
        _MAIN.format(sabotage=textwrap.dedent(words)),
        *(command or ("pretrain", f"--config={write_config(folder)}")),
        f"--workdir={self.workdir}",
        *several,
        *flags,
        *(f"--config.{key}" for key in keys),
      ]
      log = open(folder / f"{name}-{port}-{number}.log", "w+", encoding="utf-8")
      process = subprocess.Popen(started, env=environment, stdout=log, stderr=subprocess.STDOUT)
      self._processes[number] = (process, log)

  def __enter__(self) -> "Processes":
    return self

  def __exit__(self, *_) -> None:
    for process, log in self._processes.values():
      if process.poll() is None:
        process.kill()
        process.wait()
      log.close()

  def signal(self, number: int, signal: int) -> None:
    """Sends a signal to one process."""
    self._processes[number][0].send_signal(signal)

  def output(self, number: int) -> str:
    """What a process has printed so far."""
    log = self._processes[number][1]
    log.seek(0)
    return log.read()

  def wait_for(self, condition, seconds: float = 120) -> None:
    """Waits until condition() is true; fails where time is up or a process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
      ended = {number: process.poll() for number, (process, _) in self._processes.items() if process.poll() is not None}
      assert not ended and time.monotonic() < deadline, (ended, [self.output(number) for number in self._processes])
      time.sleep(0.01)

  def wait_for_step(self, step: int) -> None:
    """Waits until the first process has shown a step (metrics are written every few seconds only)."""
    shown = re.compile(r"^ *([\d,]+)/[\d,]+ ", re.M)
    self.wait_for(
      lambda: max((int(found.replace(",", "")) for found in shown.findall(self.output(0))), default=0) >= step
    )

  def ended(self, seconds: float = 120, numbers: Sequence[int] | None = None) -> list[Ended]:
    """Waits for the processes (or for some) to end; fails where they do not."""
    deadline, found = time.monotonic() + seconds, []
    for number in self._processes if numbers is None else numbers:
      process = self._processes[number][0]
      try:
        process.wait(max(0.1, deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        raise AssertionError(f"process {number} still runs after {seconds} s:\n{self.output(number)}") from None
      found.append(Ended(process.returncode, self.output(number)))
    return found


def run(folder, corpus, name, overrides=(), *, code=0, **how) -> list[Ended]:
  """Starts the processes, waits for them, and expects all of them to end with `code`."""
  with Processes(folder, corpus, name, overrides, **how) as processes:
    ended = processes.ended()
  assert {one.code for one in ended} == {code}, "\n\n".join(one.output for one in ended)
  return ended


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def losses(workdir: pathlib.Path) -> list[list[float]]:
  """[steps, 2]: MLM and NSP loss of every step."""
  return [
    [line["train/mlm_loss"], line["train/nsp_loss"]]
    for line in metrics.read_metrics(workdir).values()
    if "train/mlm_loss" in line
  ]


def events(workdir: pathlib.Path, *kinds: str) -> list[dict]:
  return [event for event in metrics.read_events(workdir) if event["event"] in kinds]


def steps_saved(workdir: pathlib.Path) -> list[int]:
  return sorted(int(path.parent.name) for path in workdir.glob("checkpoints/*/commit_success.txt"))


def weights(workdir: pathlib.Path, step: int | None = None) -> str:
  """A digest of every array of a checkpoint, moments included."""
  from etils import epath

  from bert_jax.training.checkpoints import folder as checkpoint_folder
  from bert_jax.training.checkpoints import reading

  step = step or steps_saved(workdir)[-1]
  manifest = checkpoint_folder.read_manifest(epath.Path(workdir / "checkpoints" / str(step)))
  reading.restore_params(workdir / "checkpoints", step)  # the checksums in the manifest are those of the bytes
  return hashlib.sha256(repr(sorted(manifest.arrays.items())).encode()).hexdigest()
