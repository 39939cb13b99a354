"""A Slurm of one machine: sbatch, srun, scontrol and squeue that start real processes and pass real signals.

`FakeSlurm` is the test's side. The programs it puts in front of PATH run this file:

    srun       starts SLURM_NTASKS processes with the variables that JAX reads; SIGTERM goes on to all of them; ends
               with the highest exit code. --kill-on-bad-exit and --wait do what they say
    scontrol   requeue JOB
    squeue     the job's state

Options that the real ones do not have are refused. Source: the man pages of Slurm 24.05.
"""

import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

SBATCH_OPTIONS = {
  "job-name",
  "nodes",
  "gpus-per-node",
  "ntasks-per-node",
  "cpus-per-task",
  "mem",
  "time",
  "requeue",
  "signal",
  "output",
  "open-mode",
  "partition",
  "account",
  "constraint",
  "exclusive",
  "qos",
  "error",
  "gres",
  "gpus-per-task",
  "ntasks",
  "mail-type",
}
SRUN_OPTIONS = {
  "kill-on-bad-exit",
  "wait",
  "label",
  "output",
  "open-mode",
  "cpus-per-task",
  "ntasks",
  "nodes",
  "gpu-bind",
  "export",
  "unbuffered",
  "container-image",
  "container-mounts",
  "container-workdir",  # these three are pyxis's
}


def directives(script: pathlib.Path) -> dict[str, str]:
  """The #SBATCH lines, as far as Slurm reads them: up to the first line that is neither comment nor empty."""
  found = {}
  for line in script.read_text(encoding="utf-8").splitlines():
    if line.strip() and not line.startswith("#"):
      break
    if match := re.match(r"#SBATCH\s+--([\w-]+)(?:=(\S+))?\s*$", line):
      found[match[1]] = match[2] or ""
    elif line.startswith("#SBATCH"):
      raise AssertionError(f"sbatch would not understand: {line}")
  return found


class FakeSlurm:
  """One job on it at a time."""

  def __init__(self, programs, tasks: int = 2):
    self.programs, self.tasks = programs, tasks
    self.folder = programs.folder / "slurm"
    self.folder.mkdir()
    self.attempts: list[int] = []  # the exit codes of the batch script
    for name in ("srun", "scontrol", "squeue"):
      programs.add(name, f'exec {shlex.quote(sys.executable)} -S {pathlib.Path(__file__).resolve()} {name} "$@"')

  def sbatch(self, script: pathlib.Path, *arguments: str, **environ: str) -> int:
    """Runs a job to its end, again whenever it is put back into the queue. Returns the last exit code."""
    options = directives(script)
    assert set(options) <= SBATCH_OPTIONS, set(options) - SBATCH_OPTIONS
    self.job = self._free_job()
    self.output = self.programs.folder / options["output"].replace("%x", options["job-name"]).replace("%j", self.job)
    self.output.parent.mkdir(exist_ok=True)  # the user's part
    spool = self.folder / "slurm_script"  # Slurm runs a copy, somewhere else
    spool.write_bytes(script.read_bytes())
    while len(self.attempts) < 20:
      self._set("state", "RUNNING")
      (self.folder / "tasks").unlink(missing_ok=True)
      restarts = {"SLURM_RESTART_COUNT": str(len(self.attempts))} if self.attempts else {}
      with open(self.output, "a" if options.get("open-mode") == "append" else "w", encoding="utf-8") as output:
        self.batch = subprocess.Popen(
          ["/bin/bash", str(spool), *arguments],
          cwd=self.programs.folder,
          stdout=output,
          stderr=subprocess.STDOUT,
          stdin=subprocess.DEVNULL,
          env=self.programs.environ | environ | self._variables(options) | restarts,
          start_new_session=True,
        )
      self.attempts.append(self.batch.wait(timeout=300))
      if not (self.folder / "requeued").exists():
        return self.attempts[-1]
      (self.folder / "requeued").unlink()
    raise AssertionError("the job was put back into the queue without an end")

  def submit(self, script: pathlib.Path, **environ: str) -> threading.Thread:
    """`sbatch` in the background."""
    thread = threading.Thread(target=self.sbatch, args=(script,), kwargs=environ, daemon=True)
    thread.start()
    return thread

  def warn(self) -> None:
    """What --signal=TERM@… does when the time is nearly up: SIGTERM to the tasks, not to the batch script."""
    tasks = self.folder / "tasks"
    while self.batch.poll() is None and not tasks.exists():
      time.sleep(0.01)
    for pid in tasks.read_text(encoding="ascii").split():
      os.kill(int(pid), signal.SIGTERM)

  def scancel(self) -> None:
    """SIGTERM to the tasks and to the batch script; the job is completing from then on."""
    self._set("state", "COMPLETING")
    self.batch.send_signal(signal.SIGTERM)
    self.warn()

  def log(self) -> str:
    """What the batch script printed, in all attempts."""
    return self.output.read_text(encoding="utf-8")

  def _set(self, name: str, value: str) -> None:
    (self.folder / name).write_text(value, encoding="ascii")

  def _variables(self, options: dict[str, str]) -> dict[str, str]:
    variables = {
      "FAKE_SLURM": str(self.folder),
      "SLURM_JOB_ID": self.job,
      "SLURM_NTASKS": str(self.tasks),
      "SLURM_JOB_NODELIST": "localhost",
      "SLURM_SUBMIT_DIR": str(self.programs.folder),
    }
    if "cpus-per-task" in options:
      variables["SLURM_CPUS_PER_TASK"] = options["cpus-per-task"]
    return variables

  def _free_job(self) -> str:
    """A job id from which JAX makes a port that is free: 65535 - 2**12 + 1 + id % 2**12."""
    with socket.socket() as probe:
      for job in range(os.getpid() % 2**12, 2**13):
        try:
          probe.bind(("127.0.0.1", job % 2**12 + 65535 - 2**12 + 1))
          return str(job)
        except OSError:
          continue
    raise AssertionError("no free port")


def parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
  """--name=value options, as far as srun has them, and the command behind them."""
  options = {}
  while words and words[0].startswith("--"):
    name, _, value = words.pop(0)[2:].partition("=")
    if name not in SRUN_OPTIONS:
      sys.exit(f"srun: unrecognized option '--{name}'")
    options[name] = value
  return options, words


def srun(words: list[str]) -> int:
  options, command = parse(words)
  folder, count = pathlib.Path(os.environ["FAKE_SLURM"]), int(os.environ["SLURM_NTASKS"])
  (folder / "srun.options").write_text(
    "\n".join(f"{name}={value}" for name, value in options.items()), encoding="utf-8"
  )
  (folder / "srun.command").write_text(shlex.join(command), encoding="utf-8")
  output = open(
    options["output"], options.get("open-mode", "truncate")[0].replace("t", "w"), encoding="utf-8", buffering=1
  )
  tasks, readers = [], []
  for number in range(count):
    environ = os.environ | {
      "SLURM_PROCID": str(number),
      "SLURM_LOCALID": str(number),
      "SLURM_STEP_NODELIST": "127.0.0.1",
      "SLURM_STEP_NUM_NODES": "1",
    }
    tasks.append(
      subprocess.Popen(
        command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
      )
    )
    readers.append(
      threading.Thread(target=copy_lines, args=(tasks[-1].stdout, output, f"{number}: " if "label" in options else ""))
    )
    readers[-1].start()
  signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks if task.poll() is None])
  (folder / "tasks.new").write_text(" ".join(str(task.pid) for task in tasks), encoding="ascii")
  (folder / "tasks.new").rename(folder / "tasks")
  codes = wait_for_all(tasks, options)
  for reader in readers:
    reader.join()
  return max(128 - code if code < 0 else code for code in codes)


def copy_lines(source, target, label: str) -> None:
  for line in source:
    target.write(label + line)


def wait_for_all(tasks: list[subprocess.Popen], options: dict[str, str]) -> list[int]:
  first_end = None
  while any(task.poll() is None for task in tasks):
    ended = [task.returncode for task in tasks if task.returncode is not None]
    if ended and first_end is None:
      first_end = time.time()
    too_late = first_end and int(options.get("wait", 0)) and time.time() > first_end + int(options["wait"])
    if too_late or (options.get("kill-on-bad-exit") == "1" and any(ended)):
      for task in tasks:
        task.kill()
    time.sleep(0.01)
  return [task.wait() for task in tasks]


def main(program: str, words: list[str]) -> int:
  folder = pathlib.Path(os.environ["FAKE_SLURM"])
  if program == "srun":
    return srun(words)
  if program == "squeue":
    assert {word.partition("=")[0] for word in words} <= {"--noheader", "--jobs", "--format"}, words
    print((folder / "state").read_text(encoding="ascii"))
    return 0
  assert words == ["requeue", os.environ["SLURM_JOB_ID"]], words
  if (folder / "requeue_disabled").exists():
    print("Requested operation is presently disabled for job", file=sys.stderr)
    return 1
  (folder / "requeued").touch()
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1], sys.argv[2:]))
