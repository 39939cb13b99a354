"""A gcloud that knows the flags of the real one, and TPU hosts that are folders of this machine.

    gcloud compute tpus queued-resources …   keeps a state, which a test may change
    gcloud compute tpus tpu-vm scp, ssh      copies to the hosts' homes; runs the command there with a real bash
    sudo, systemd-run, systemctl, …          on the hosts: units are real processes, stopped by a real SIGTERM

gcloud_flags.txt holds the flags and says where they are from. A flag that a command does not have is an error here, as
it is there.
"""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# systemd-run(1)
SYSTEMD_RUN = {"--unit", "--uid", "--working-directory", "--property", "--setenv"}


def known_flags() -> dict[str, set[str]]:
  """{command without "gcloud": its flags, those of all commands included}."""
  lines = [
    line for line in (HERE / "gcloud_flags.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
  ]
  flags = {command: set(words.split()) for command, _, words in (line.partition(":") for line in lines)}
  everywhere = flags.pop("gcloud")
  return {command: own | everywhere for command, own in flags.items()}


def check(words: list[str]) -> tuple[str, dict[str, str], list[str]]:
  """(command, flags, positional arguments) of a gcloud call. Raises ValueError for what gcloud would not take."""
  known = known_flags()
  command = next((" ".join(words[:length]) for length in (4, 3, 2) if " ".join(words[:length]) in known), None)
  if command is None:
    raise ValueError(f"Invalid choice: {' '.join(words[:4])} (is it missing in gcloud_flags.txt?)")
  flags, rest = {}, []
  for word in words[len(command.split()) :]:
    if word.startswith("--"):
      name, _, value = word.partition("=")
      if name not in known[command]:
        raise ValueError(f"unrecognized arguments: {name} of gcloud {command}")
      flags[name] = value
    else:
      rest.append(word)
  return command, flags, rest


class FakeCloud:
  """The test's side: the queued resource's state, its hosts, and what was asked of gcloud."""

  def __init__(self, programs, hosts: int = 2):
    self.folder = programs.folder / "cloud"
    self.folder.mkdir()
    self.hosts = hosts
    programs.environ |= {
      "FAKE_CLOUD": str(self.folder),
      "FAKE_HOSTS": str(hosts),
      "STAND_IN_PYTHON": str(programs.python),
    }
    for name in (
      "gcloud",
      "sudo",
      "systemd-run",
      "systemctl",
      "journalctl",
      "mountpoint",
      "mount",
      "apt-get",
      "mount.nfs",
      "python3",
    ):
      programs.add(name, f'exec {shlex.quote(sys.executable)} -S {pathlib.Path(__file__).resolve()} {name} "$@"')

  def calls(self) -> list[list[str]]:
    path = self.folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

  def gcloud_calls(self, command: str) -> list[list[str]]:
    return [call[1:] for call in self.calls() if " ".join(call).startswith(f"gcloud compute tpus {command}")]

  def set_states(self, *states: str) -> None:
    """What `describe` says from now on, one state after the other; the last one stays."""
    (self.folder / "states").write_text("\n".join(states), encoding="ascii")

  def take_away(self) -> None:
    """A preemption without notice: the hosts are gone, with everything on them."""
    kill_units(self.folder, signal.SIGKILL)
    for home in self.folder.glob("host-*"):
      shutil.rmtree(home)
    self.set_states("SUSPENDED")


def kill_units(folder: pathlib.Path, how: int) -> None:
  for unit in folder.glob("host-*/unit"):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(unit.read_text(encoding="ascii")), how)


def gcloud(folder: pathlib.Path, words: list[str]) -> int:
  try:
    command, flags, rest = check(words)
  except ValueError as error:
    print(f"ERROR: (gcloud) {error}", file=sys.stderr)
    return 2
  states = folder / "states"
  if command == "compute tpus queued-resources create":
    if states.exists():
      print("ERROR: ALREADY_EXISTS", file=sys.stderr)
      return 1
    states.write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE", encoding="ascii")
  elif command == "compute tpus queued-resources delete":
    kill_units(folder, signal.SIGKILL)
    states.unlink()
  elif command == "compute tpus queued-resources describe":
    if not states.exists():
      print("ERROR: NOT_FOUND", file=sys.stderr)
      return 1
    now, *later = states.read_text(encoding="ascii").splitlines()
    print(now)
    states.write_text("\n".join(later or [now]), encoding="ascii")
  elif command == "compute tpus tpu-vm scp":
    source, target = rest
    for home in homes(folder, flags["--worker"]):
      copy = shutil.copytree if "--recurse" in flags else shutil.copy
      copy(
        home / source.partition(":")[2] if ":" in source else source,
        home / target.partition(":")[2] if ":" in target else target,
      )
  elif command == "compute tpus tpu-vm ssh":
    codes = [
      subprocess.run(["bash", "-c", flags["--command"]], cwd=home, env=os.environ | {"HOME": str(home)}).returncode
      for home in homes(folder, flags["--worker"])
    ]
    return max(codes)
  return 0


def homes(folder: pathlib.Path, worker: str) -> list[pathlib.Path]:
  numbers = range(int(os.environ["FAKE_HOSTS"])) if worker == "all" else [int(worker)]
  found = [folder / f"host-{number}" for number in numbers]
  for home in found:
    home.mkdir(exist_ok=True)
  return found


def systemd_run(words: list[str]) -> int:
  options: dict[str, list[str]] = {}
  while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    assert name in SYSTEMD_RUN, f"systemd-run: unrecognized option '{name}'"
    options.setdefault(name, []).append(value)
  home = pathlib.Path(os.environ["HOME"])
  assert {"KillMode=mixed", "TimeoutStopSec=300"} <= set(options["--property"]), options
  environ = {name: os.environ[name] for name in ("PATH", "HOME", "STAND_IN_LOG", "STAND_IN_PLAN") if name in os.environ}
  environ |= dict(
    setting.split("=", 1) for setting in options["--setenv"]
  )  # a unit does not inherit the session's variables
  with open(home / "journal", "a", encoding="utf-8") as journal:
    unit = subprocess.Popen(
      words,
      env=environ | {"BERT_JAX_RESTART_SECONDS": "0"},
      cwd=options["--working-directory"][0],
      stdout=journal,
      stderr=journal,
      stdin=subprocess.DEVNULL,
      start_new_session=True,
    )
  (home / "unit").write_text(str(unit.pid), encoding="ascii")
  return 0


def systemctl(words: list[str]) -> int:
  unit = pathlib.Path(os.environ["HOME"]) / "unit"
  if words[0] == "is-active":
    active = unit.exists() and alive(int(unit.read_text(encoding="ascii")))
    if "--quiet" not in words:
      print("active" if active else "inactive")
    return 0 if active else 3
  if words[0] == "stop" and unit.exists():
    pid = int(unit.read_text(encoding="ascii"))
    os.kill(pid, signal.SIGTERM)
    while alive(pid):
      time.sleep(0.02)
  return 0


def alive(pid: int) -> bool:
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
  except (FileNotFoundError, ProcessLookupError):  # the second if it ends between open and read
    return False


def python3(words: list[str]) -> int:
  """pip and uv, which install nothing here; the environment's Python is the stand-in."""
  if words[:3] == ["-m", "uv", "venv"]:
    (pathlib.Path.cwd() / ".venv" / "bin").mkdir(parents=True)
    (pathlib.Path.cwd() / ".venv" / "bin" / "python").symlink_to(os.environ["STAND_IN_PYTHON"])
  return 0


def main(program: str, words: list[str]) -> int:
  folder = pathlib.Path(os.environ["FAKE_CLOUD"])
  with open(folder / "calls.jsonl", "a", encoding="utf-8") as calls:
    calls.write(json.dumps([program, *words]) + "\n")
  if program == "sudo":
    os.execvp(words[0], words)
  if program == "journalctl":
    print((pathlib.Path(os.environ["HOME"]) / "journal").read_text(encoding="utf-8"))
    return 0
  if program == "mountpoint":
    return 1
  does = {
    "gcloud": lambda: gcloud(folder, words),
    "systemd-run": lambda: systemd_run(words),
    "systemctl": lambda: systemctl(words),
    "python3": lambda: python3(words),
  }
  return does[program]() if program in does else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1], sys.argv[2:]))
