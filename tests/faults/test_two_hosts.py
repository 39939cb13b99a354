"""Two hosts with addresses of their own and a cable between them: network namespaces of this machine."""

import pathlib
import shutil
import socket
import subprocess
import time

import pytest

from bert_jax.errors import EXIT_PEER_LOST
from tests.faults.processes import SLOW_STEPS, Processes, run, steps_saved

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words):
  subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts():
  """Words in front of a command, by process; `ip netns exec` gives each its own /etc/hosts, too."""
  names = ("bertjax0", "bertjax1")
  files = [pathlib.Path("/etc/netns") / name for name in names]
  try:
    for name, address, folder in zip(names, ADDRESSES, files):
      ip("netns", "add", name)
      folder.mkdir(parents=True, exist_ok=True)
      (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
    ip("link", "add", "bj0", "netns", names[0], "type", "veth", "peer", "name", "bj1", "netns", names[1])
    for number, (name, address) in enumerate(zip(names, ADDRESSES)):
      ip("-n", name, "addr", "add", f"{address}/24", "dev", f"bj{number}")
      ip("-n", name, "link", "set", f"bj{number}", "up")
      ip("-n", name, "link", "set", "lo", "up")
    yield {number: ("ip", "netns", "exec", name) for number, name in enumerate(names)}
  except (OSError, subprocess.CalledProcessError) as error:
    pytest.skip(f"network namespaces need root and iproute2 ({error})")
  finally:
    for name, folder in zip(names, files):
      subprocess.run(["ip", "netns", "delete", name], capture_output=True)
      shutil.rmtree(folder, ignore_errors=True)


def test_a_cut_cable_ends_both_within_a_minute_and_the_run_goes_on(folder, corpus, hosts):
  steps = ("total_steps=400", "eval_every_steps=1000", "checkpoint.every_steps=5", "cluster.heartbeat_seconds=10")
  with Processes(folder, corpus, "cable", steps, host=ADDRESSES[0], prefix=hosts, sabotage=SLOW_STEPS) as processes:
    processes.wait_for_step(7)
    ip("-n", "bertjax0", "link", "set", "bj0", "down")
    began = time.monotonic()
    ended = processes.ended(60)
  assert time.monotonic() - began < 60
  for one in ended:
    assert one.code in (EXIT_PEER_LOST, -6), one  # JAX aborts a process that has lost its coordinator
    assert "heartbeat" in one.output.lower() or "another process of this run is gone" in one.output, one.output
  saved = steps_saved(folder / "cable")[-1]
  ip("-n", "bertjax0", "link", "set", "bj0", "up")
  run(folder, corpus, "cable", (*steps, f"stop_at_step={saved + 3}"), host=ADDRESSES[0], prefix=hosts)
  assert steps_saved(folder / "cable")[-1] == saved + 3


def test_hosts_whose_names_lead_nowhere_are_told_what_to_look_at(folder, corpus, hosts):
  for number in (0, 1):
    pathlib.Path(f"/etc/netns/bertjax{number}/hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()}\n")
  ended = run(folder, corpus, "names", ("total_steps=30",), code=1, host=ADDRESSES[0], prefix=hosts)
  for one in ended:
    assert one.output.count("must resolve to an address that the others can reach: check /etc/hosts") == 1, one.output
