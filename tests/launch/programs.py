"""What the tests of the launchers share: scripts run as a user runs them, with stand-ins for what this machine
lacks.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from tests.launch.stand_in import notes

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
HERE = pathlib.Path(__file__).resolve().parent


class Programs:
  """A folder of stand-in programs in front of PATH, and an environment without a trace of a real scheduler."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.bin = folder, folder / "bin"
    self.bin.mkdir()
    self.log = folder / "stand_in.jsonl"
    # The entrypoint's Python: site-packages are not needed, and are what starting costs.
    self.python = self.add("stand-in-python", f'exec {shlex.quote(sys.executable)} -S {HERE / "stand_in.py"} "$@"')
    foreign = ("BERT_JAX_", "SLURM_", "SKYPILOT_", "TPU_", "STAND_IN_")
    self.environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    self.environ |= {
      "PATH": f"{self.bin}:{os.environ['PATH']}",
      "HOME": str(folder),
      "STAND_IN_LOG": str(self.log),
      "BERT_JAX_PYTHON": str(self.python),
    }

  def add(self, name: str, script: str) -> pathlib.Path:
    """A program of that name, made of lines of bash."""
    path = self.bin / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path

  def start(self, *command, **environ) -> subprocess.Popen:
    return subprocess.Popen(
      [str(word) for word in command],
      env=self.environ | environ,
      cwd=self.folder,
      text=True,
      start_new_session=True,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )

  def run(self, *command, seconds: float = 20, **environ) -> subprocess.CompletedProcess:
    process = self.start(*command, **environ)
    try:
      out, err = process.communicate(timeout=seconds)
    finally:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)

  def records(self) -> list[dict]:
    """What the stand-in wrote down."""
    return notes(self.log)

  def calls(self) -> list[dict]:
    return [record for record in self.records() if "argv" in record]

  def wait_for(self, event: str, times: int = 1, seconds: float = 30) -> list[dict]:
    """The stand-in's records of an event, once there are so many."""
    return wait_until(lambda: [record for record in self.records() if record.get("event") == event], times, seconds)


def wait_until(find, times: int = 1, seconds: float = 30):
  end = time.time() + seconds
  while len(found := find()) < times:
    assert time.time() < end, f"waited {seconds} s for {times}, and there are {found}"
    time.sleep(0.02)
  return found
