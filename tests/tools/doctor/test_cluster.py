"""Processes against machines, the coordinator's port, clocks. Slurm is a dict; the ports are real."""

import socket
import threading
import types

import pytest

from bert_jax.cluster.distributed import Cluster
from bert_jax.tools.doctor import cluster as checks
from bert_jax.tools.doctor import row
from bert_jax.tools.doctor.context import ALONE, Accelerators

GPUS = Accelerators("gpu", 8)
STEP = {
  "SLURM_JOB_ID": "7",
  "SLURM_NTASKS": "16",
  "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
  "SLURM_NODEID": "1",
  "SLURM_PROCID": "9",
  "SLURM_LOCALID": "1",
  "SLURM_GPUS_ON_NODE": "8",
  "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}
SLURM = Cluster("node-0:61447", 16, 9, "slurm", (1,))
ABOUT = {"config": {"seed": 0}, "workdir": "/runs/x", "code": "abc", "versions": {"jax": "0.10.2"}}


def about(*hosts, **changes):
  return [{"host": host, **ABOUT, **changes} for host in hosts]


def test_one_task_per_gpu_that_sees_all_gpus_of_its_node_is_fine():
  assert checks.slurm(STEP, SLURM, GPUS) == []


def test_outside_slurm_there_is_nothing_to_say():
  assert checks.slurm({"CUDA_VISIBLE_DEVICES": "0"}, SLURM, GPUS) == []


@pytest.mark.parametrize(
  "changes, said, remedy",
  [
    (
      {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NTASKS": "2"},
      "1 task on a node with 8 GPUs: under Slurm JAX takes one GPU per task, and 7 would idle",
      "--ntasks-per-node=8",
    ),
    ({"SLURM_STEP_TASKS_PER_NODE": "8,4"}, "4 tasks on a node with 8 GPUs", "--ntasks-per-node=8"),
    ({"SLURM_STEP_TASKS_PER_NODE": "16(x2)"}, "16 tasks on a node with 8 GPUs", "--ntasks-per-node=8"),
    ({"CUDA_VISIBLE_DEVICES": "0"}, "each of the 8 tasks on this node sees 1 of its 8 GPUs", "--gres=gpu:8"),
    ({"SLURM_STEP_TASKS_PER_NODE": "", "SLURM_TASKS_PER_NODE": "2(x2)"}, "2 tasks on a node", "--ntasks-per-node=8"),
  ],
)
def test_tasks_that_do_not_match_the_gpus_fail(changes, said, remedy):
  (found,) = checks.slurm(STEP | changes, SLURM, GPUS)
  assert found.status == row.FAIL and said in found.found and remedy in found.remedy


def test_gpus_are_counted_on_the_machine_where_slurm_does_not_say():
  environ = {name: value for name, value in STEP.items() if name not in ("SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES")}
  assert checks.slurm(environ, SLURM, GPUS) == []
  assert "8 tasks on a node with 4 GPUs" in checks.slurm(environ, SLURM, Accelerators("gpu", 4))[0].found
  assert checks.slurm(environ, SLURM, None) == []  # a job without GPUs


def test_one_process_in_an_allocation_of_many_tasks_was_not_started_by_srun():
  (found,) = checks.slurm({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, ALONE, GPUS)
  assert found.status == row.FAIL and "srun" in found.remedy


def test_a_process_that_is_alone_is_fine():
  assert checks.processes(ALONE, about("a"), [8], [0]) == row.ok("1; no launcher announces others")


def test_processes_of_one_kind_are_counted_by_machine():
  found = checks.processes(SLURM._replace(num_processes=4), about("a", "a", "b", "b"), [1] * 4, [2] * 4)
  assert found == row.ok("4 by slurm: 2 on a, 2 on b; same config, code and versions")


def test_another_config_or_version_is_told_by_process_and_key():
  others = [*about("a"), *about("b", config={"seed": 3}), *about("c", versions={"jax": "0.10.1"})]
  (found,) = checks.processes(SLURM._replace(num_processes=3), others, [1] * 3, [0] * 3)
  assert (
    found.status == row.FAIL
    and "process 1 on b has seed=3, process 0 0" in found.found
    and "process 2 on c has jax 0.10.1" in found.found
  )
  assert found.remedy.startswith("start all of them with the same command")


def test_processes_with_fewer_devices_than_the_others_fail():
  (found,) = checks.processes(SLURM._replace(num_processes=3), about("a", "b", "c"), [8, 7, None], [8] * 3)
  assert found.status == row.FAIL and found.found == "process 1 (b) sees 7 devices, the others 8"


def test_processes_of_one_machine_that_take_the_same_gpus_fail():
  (found,) = checks.processes(Cluster("a:1", 2, 0, "arguments"), about("a", "a"), [2, 2], [2, 2])
  assert (
    found.status == row.FAIL
    and found.found == "2 processes on a take 4 GPUs, and it has 2"
    and "CUDA_VISIBLE_DEVICES" in found.remedy
  )
  assert checks.processes(Cluster("a:1", 2, 0, "arguments"), about("a", "a"), [1, 1], [2, 2]).status == row.OK


def port():
  with socket.create_server(("127.0.0.1", 0)) as free:
    return free.getsockname()[1]


def test_the_coordinator_is_met_and_the_time_is_told():
  address = f"127.0.0.1:{port()}"
  results = {}
  meet = lambda number: results.update(
    {number: checks.coordinator(Cluster(address, 2, number, "arguments"), {"host": f"h{number}"}, 10)}
  )
  threads = [threading.Thread(target=meet, args=(number,)) for number in (0, 1)]
  [thread.start() for thread in threads]
  [thread.join() for thread in threads]
  for found, introductions in results.values():
    assert found.status == row.OK and f"{address}: all 2 processes met there" in found.found
    assert introductions == [{"host": "h0"}, {"host": "h1"}]


def test_alone_no_coordinator_is_needed():
  assert checks.coordinator(ALONE, {"host": "a"}, 1)[0].status == row.OK


def test_a_port_that_another_process_holds_fails_at_once_also_if_it_would_share_it():
  with socket.socket(socket.AF_INET6) as held:
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as JAX's server does
    held.bind(("::", 0))
    held.listen()
    number = held.getsockname()[1]
    found, introductions = checks.coordinator(Cluster(f"127.0.0.1:{number}", 2, 0, "arguments"), {"host": "a"}, 30)
  assert introductions is None and found[0].status == row.FAIL
  assert (
    f"port {number} of" in found[0].found
    and "is taken by another process" in found[0].found
    and "ss -ltnp" in found[0].remedy
  )


def test_a_coordinator_that_is_not_process_0s_machine_is_a_warning_and_a_name_without_address_a_failure():
  (found,) = checks._own_address(
    Cluster(f"192.0.2.1:{port()}", 2, 0, "arguments")
  )  # an address for documentation, RFC 5737
  assert found.status == row.WARN and "192.0.2.1 (192.0.2.1) is not an address of" in found.found
  (found,) = checks._own_address(Cluster(f"no-such-host.invalid:{port()}", 2, 0, "arguments"))
  assert found.status == row.FAIL and "no-such-host.invalid has no address" in found.found


@pytest.mark.alone
@pytest.mark.parametrize("number, said", [(0, "waited 1 s at"), (1, "waited 1 s for process 0")])
def test_a_process_that_waits_in_vain_says_for_whom_and_how_long(number, said):
  found, introductions = checks.coordinator(Cluster(f"127.0.0.1:{port()}", 2, number, "arguments"), {"host": "a"}, 1)
  assert introductions is None
  assert found[-1].status == row.FAIL and said in found[-1].found and found[-1].remedy.startswith("look")


def test_clocks_that_differ_are_told_by_machine():
  hosts = ["a", "a", "b", "b", "c"]
  assert checks.clock_rows([0, 0.1, -0.2, 0.3, 0], hosts).status == row.OK
  near, far = checks.clock_rows([0, 0, 5, 5, -400], hosts)
  assert near.status == row.WARN and near.found == "the clock of b is 5.0 s ahead of that of a"
  assert far.status == row.FAIL and far.found == "the clock of c is 400.0 s behind that of a"


class Slow:
  """A key-value store in which process 1 is late."""

  def __init__(self):
    self.asked = []

  def blocking_key_value_get(self, key, milliseconds):
    self.asked.append((key, milliseconds))
    if len(self.asked) == 1:
      raise RuntimeError("DEADLINE_EXCEEDED")
    return "7"


def test_a_process_that_takes_long_is_named_and_waited_for(capsys):
  view = types.SimpleNamespace(cluster=Cluster("a:1", 2, 0, "arguments"), hosts=["a", "b"])
  client = Slow()
  assert checks.Exchange(view, client).gather("rows", 3) == [3, 7]
  assert capsys.readouterr().err == "still waiting for process 1 (b)\n"
  assert [milliseconds for _, milliseconds in client.asked] == [5_000, 3_600_000]
