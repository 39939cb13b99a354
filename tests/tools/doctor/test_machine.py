"""Devices, memory and environment, on machines that are folders."""

import os
import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from bert_jax.cluster.distributed import Cluster
from bert_jax.tools.doctor import machine as checks
from bert_jax.tools.doctor import row
from bert_jax.tools.doctor.context import refused_flags
from tests.helpers.machines import context, machine

GB = 10**9
MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"


def test_the_mesh_over_the_devices_is_shown(tmp_path, corpus):
  found = checks.devices(context(tmp_path, corpus, "mesh.fsdp=2"))
  assert found == row.ok("8 x cpu; mesh data=4, fsdp=2, tensor=1")


@pytest.mark.parametrize(
  "overrides, said",
  [
    (["mesh.fsdp=3"], "does not fit 8 devices"),
    (["data.batch_size=12"], "does not divide over 8 devices"),
    (["mesh.tensor=4"], "mesh.tensor=4 does not divide"),
    (["mesh.fsdp=8", "model.hidden_size=12"], "does not divide a dimension of 12"),
  ],
)
def test_a_mesh_that_does_not_divide_fails_in_the_words_of_the_run(tmp_path, corpus, overrides, said):
  (found,) = row.run_check("devices", checks.devices, context(tmp_path, corpus, *overrides))["devices"]
  assert found.status == row.FAIL and said in found.found and found.remedy


def test_a_gpu_machine_on_which_jax_found_the_cpu_fails_with_what_to_install(tmp_path, corpus):
  root = machine(tmp_path / "machine", {"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""})
  (found,) = checks.devices(context(tmp_path, corpus, root=root))
  assert (
    found.status == row.FAIL
    and "2 GPUs, and JAX uses the CPU" in found.found
    and 'pip install "bert_jax[cuda]"' in found.remedy
  )


@pytest.mark.parametrize(
  "environ, status, said",
  [
    ({"JAX_PLATFORMS": "cpu"}, row.WARN, "because of JAX_PLATFORMS=cpu"),
    ({"JAX_PLATFORM_NAME": "cpu"}, row.WARN, "because of JAX_PLATFORM_NAME=cpu"),
    ({"CUDA_VISIBLE_DEVICES": ""}, row.FAIL, "CUDA_VISIBLE_DEVICES='' hides"),
    ({"CUDA_VISIBLE_DEVICES": "-1"}, row.FAIL, "CUDA_VISIBLE_DEVICES='-1' hides"),
    ({"CUDA_VISIBLE_DEVICES": "1"}, row.FAIL, "1 GPU, and JAX uses the CPU"),
  ],
)
def test_what_hides_the_gpu_is_named(tmp_path, corpus, environ, status, said):
  root = machine(tmp_path / "machine", {"dev/nvidia0": ""})
  (found,) = checks.devices(context(tmp_path, corpus, root=root, environ=environ))
  assert found.status == status and said in found.found


def test_tpu_chips_are_told_from_googles_network_cards(tmp_path, corpus):
  pci = "sys/bus/pci/devices/0000:00:0{}.0/{}"
  files = {pci.format(0, "vendor"): "0x1ae0\n", pci.format(0, "device"): "0x0042\n"}
  assert context(tmp_path, corpus, root=machine(tmp_path / "vm", files)).accelerators is None
  files |= {
    pci.format(n, name): value for n in (1, 2) for name, value in (("vendor", "0x1ae0\n"), ("device", "0x0063\n"))
  }
  (found,) = checks.devices(context(tmp_path, corpus, root=machine(tmp_path / "tpu", files)))
  assert "2 TPUs, and JAX uses the CPU" in found.found and "bert_jax[tpu]" in found.remedy


def test_devices_of_several_kinds_are_a_warning(tmp_path, corpus):
  view = context(tmp_path, corpus, "mesh.fsdp=1", "data.batch_size=8")
  assert view.mesh  # of the real devices
  view.devices = [
    types.SimpleNamespace(device_kind=kind, platform="gpu") for kind in ["NVIDIA A100"] * 4 + ["NVIDIA H100"] * 4
  ]
  (found,) = checks.devices(view)
  assert found.status == row.WARN and "4 x NVIDIA A100 + 4 x NVIDIA H100" in found.found


def test_a_platform_that_jax_cannot_start_is_named_and_the_memory_is_looked_at_all_the_same(
  tmp_path, corpus, monkeypatch
):
  def no_devices():
    raise RuntimeError("Unable to initialize backend 'tpu'. No\nlibtpu; none at all")

  monkeypatch.setattr(jax, "devices", no_devices)
  for environ, remedy in (({"JAX_PLATFORMS": "tpu"}, "unset JAX_PLATFORMS"), ({}, "check the driver")):
    view = context(tmp_path, corpus, environ=environ)
    (found,) = row.run_check("devices", checks.devices, view)["devices"]
    assert (
      found.status == row.FAIL
      and "Unable to initialize backend 'tpu'. No libtpu; none at all" in found.found
      and remedy in found.remedy
    )
    assert checks.memory(view).status == row.OK


def test_devices_are_not_looked_at_where_the_processes_did_not_meet(tmp_path, corpus):
  assert checks.devices(context(tmp_path, corpus, introductions=None)).status == row.WARN


def test_an_unknown_flag_on_any_process_is_told_before_xla_ends_it(tmp_path, corpus):
  assert refused_flags({}) == ""
  said = refused_flags({**os.environ, "XLA_FLAGS": "--xla_no_such_flag=1"})
  assert "Unknown flag in XLA_FLAGS: --xla_no_such_flag=1" in said
  assert refused_flags({**os.environ, "XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}) == ""
  view = context(tmp_path, corpus)
  view.introductions = [{"host": "a"}, {"host": "b", "xla_flags": said}]
  (found,) = row.run_check("devices", checks.devices, view)["devices"]
  assert (
    found.status == row.FAIL and found.found.startswith("process 1: XLA_FLAGS") and "remove that flag" in found.remedy
  )


def test_memory_is_compared_with_three_times_the_state_of_all_processes_of_the_machine(tmp_path, corpus):
  root = machine(tmp_path / "machine", {"proc/meminfo": MEMINFO})
  view = context(tmp_path, corpus, root=root)
  state = view.state_bytes
  assert view.state_bytes_here == state  # replicated: once
  found = checks.memory(view)
  assert (
    found.status == row.OK
    and found.found.startswith("20.5 GB free")
    and f"({row.size(state)}) is {row.size(3 * state)}" in found.found
  )
  about = view.introductions[0]
  view.introductions = [about, about, about | {"host": "elsewhere"}]
  assert f"({row.size(2 * state)})" in checks.memory(view).found
  view.introductions = None  # without a mesh the whole state counts
  assert f"({row.size(state)})" in checks.memory(view).found


def test_the_state_of_a_process_is_what_its_devices_hold_each_part_once(tmp_path, corpus):
  view = context(tmp_path, corpus, "mesh.fsdp=2", "mesh.data=1", "data.batch_size=8")
  view.mesh = jax.make_mesh(
    (1, 2, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=np.array(jax.devices()[:2])
  )
  assert view.state_bytes_here == view.state_bytes


@pytest.mark.parametrize("free, status", [(1.5, row.WARN), (0.5, row.FAIL), (3.5, row.OK)])
def test_too_little_memory_for_a_save_warns_and_too_little_for_the_state_fails(tmp_path, corpus, free, status):
  view = context(tmp_path, corpus)
  view.root = machine(
    tmp_path / "machine", {"proc/meminfo": f"MemAvailable:   {int(free * view.state_bytes / 1024)} kB\n"}
  )
  found = checks.memory(view)
  assert found.status == status and bool(found.remedy) == (status != row.OK)


def test_the_limit_of_a_job_or_container_counts_also_that_of_the_group_above(tmp_path):
  """Control groups of version 2; pages of files that were not used for a while are free."""
  files = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "0::/job_7/step_0\n",
    "sys/fs/cgroup/job_7/memory.max": f"{8 * GB}\n",
    "sys/fs/cgroup/job_7/memory.current": f"{5 * GB}\n",
    "sys/fs/cgroup/job_7/memory.stat": f"anon 1\ninactive_file {1 * GB}\n",
    "sys/fs/cgroup/job_7/step_0/memory.max": "max\n",
    "sys/fs/cgroup/job_7/step_0/memory.current": f"{4 * GB}\n",
    "sys/fs/cgroup/job_7/step_0/memory.stat": "anon 1\n",
  }
  free, limited = checks.available_memory(machine(tmp_path, files))
  assert free == 4 * GB and "8.0 GB that this job or container may take" in limited


def test_what_a_job_has_taken_of_a_large_limit_is_taken_off(tmp_path):
  files = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "0::/job\n",
    "sys/fs/cgroup/job/memory.max": f"{24 * GB}\n",
    "sys/fs/cgroup/job/memory.current": f"{10 * GB}\n",
    "sys/fs/cgroup/job/memory.stat": "",
  }
  assert checks.available_memory(machine(tmp_path, files))[0] == 14 * GB


def test_inside_a_container_the_group_is_the_mount_itself(tmp_path):
  files = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "0::/../../pod7\n",
    "sys/fs/cgroup/memory.max": f"{2 * GB}\n",
    "sys/fs/cgroup/memory.current": f"{GB}\n",
    "sys/fs/cgroup/memory.stat": "",
  }
  assert checks.available_memory(machine(tmp_path, files))[0] == GB


def test_control_groups_of_version_1(tmp_path):
  own = "sys/fs/cgroup/memory/slurm/job_7/"
  files = {
    "proc/meminfo": MEMINFO,
    "proc/self/cgroup": "5:devices:/x\n4:memory:/slurm/job_7\n0::/\n",
    own + "memory.limit_in_bytes": f"{4 * GB}\n",
    own + "memory.usage_in_bytes": f"{3 * GB}\n",
    own + "memory.stat": f"total_inactive_file {GB}\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
    "sys/fs/cgroup/memory/memory.stat": "",
  }
  assert checks.available_memory(machine(tmp_path, files))[0] == 2 * GB


def test_without_control_groups_the_machine_counts(tmp_path):
  assert checks.available_memory(machine(tmp_path, {"proc/meminfo": MEMINFO})) == (20_000_000 * 1024, "")


@pytest.mark.parametrize(
  "environ, said",
  [
    ({"JAX_DISABLE_JIT": "1"}, "every operation runs separately"),
    ({"JAX_DEBUG_NANS": "True"}, "a NaN ends the run"),
    ({"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}, "very slow"),
  ],
)
def test_variables_that_hurt_are_named(tmp_path, corpus, environ, said):
  (found,) = checks.environment(context(tmp_path, corpus, environ=environ))
  assert found.status == row.WARN and said in found.found and next(iter(environ)) in found.found


def test_variables_that_are_off_do_not_matter(tmp_path, corpus):
  environ = {
    "JAX_DISABLE_JIT": "0",
    "JAX_DEBUG_NANS": "false",
    "XLA_PYTHON_CLIENT_ALLOCATOR": "bfc",
    "http_proxy": "http://proxy:3128",
  }
  assert checks.environment(context(tmp_path, corpus, environ=environ)).status == row.OK


def test_a_proxy_stands_between_several_processes_unless_the_coordinator_is_excepted(tmp_path, corpus):
  cluster = Cluster("node-0:8476", 2, 0, "slurm")
  (found,) = checks.environment(
    context(tmp_path, corpus, environ={"https_proxy": "http://proxy:3128"}, cluster=cluster)
  )
  assert found.status == row.WARN and found.found.startswith("https_proxy set") and "node-0" in found.remedy
  assert (
    checks.environment(
      context(tmp_path, corpus, environ={"https_proxy": "x", "no_proxy": "a,node-0"}, cluster=cluster)
    ).status
    == row.OK
  )


def test_cuda_libraries_in_front_of_those_of_pip_are_named_on_a_gpu_machine(tmp_path, corpus, monkeypatch):
  cuda = machine(tmp_path / "cuda", {"lib64/libcublas.so.11": ""}) / "lib64"
  root = machine(tmp_path / "machine", {"dev/nvidia0": ""})
  view = context(tmp_path, corpus, root=root, environ={"LD_LIBRARY_PATH": f"/nowhere:{cuda}"})
  assert checks.environment(view).status == row.OK  # CUDA that the system brings
  monkeypatch.setattr(checks.versions, "installed", lambda name: "12.9" if name.startswith("nvidia-cublas") else None)
  (found,) = checks.environment(view)
  assert found.status == row.WARN and str(cuda) in found.found
  view.root = tmp_path
  del view.accelerators
  assert checks.environment(view).status == row.OK
