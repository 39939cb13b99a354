"""Is this machine fit for the run? Devices, memory, and environment variables that are known to hurt."""

import collections
import os
import pathlib
import re

from bert_jax.errors import UserError
from bert_jax.tools.doctor import row, versions
from bert_jax.tools.doctor.context import Accelerators, Context
from bert_jax.tools.doctor.row import Row, size
from bert_jax.training import sharding

# How much of the state a host may need besides what else it does: Orbax takes up to three times the state to save it
# (orbax issue 1640).
STATES_IN_MEMORY = 3
_INSTALL = {"gpu": 'pip install "bert_jax[cuda]"', "tpu": 'pip install "bert_jax[tpu]"'}


def devices(context: Context) -> Row | list[Row]:
  """The devices that JAX finds, against those that are built in, and against the mesh."""
  if context.introductions is None:  # on a TPU pod, looking for devices would wait for the others
    return row.warn("not checked, since the processes did not meet", "fix the coordinator first")
  found, rows = context.devices, []
  kinds = collections.Counter(device.device_kind for device in found)
  listed = " + ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
  built_in, platform = context.accelerators, found[0].platform
  if built_in and platform == "cpu":
    rows.append(_unused(context, built_in))
  if len(kinds) > 1:
    rows.append(
      row.warn(
        f"devices of several kinds: {listed}; the slowest sets the pace, and the smallest memory the limit",
        "start the run on machines of the same kind",
      )
    )
  mesh = context.mesh
  sharding.state_shardings(mesh, context.state)  # refuses an axis that does not divide what it splits
  axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
  return rows or row.ok(f"{listed}; mesh {axes}")


def _unused(context: Context, built_in: Accelerators) -> Row:
  """A machine with GPUs or TPU chips on which JAX only found the CPU."""
  here = f"this machine has {built_in.chips} {built_in.kind.upper()}{'s' * (built_in.chips > 1)}, and JAX uses the CPU"
  for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
    if "cpu" in context.environ.get(name, "").lower():
      return row.warn(f"{here}, because of {name}={context.environ[name]}", f"unset {name}, unless you want the CPU")
  hidden = context.environ.get("CUDA_VISIBLE_DEVICES")
  if built_in.kind == "gpu" and hidden is not None and hidden.strip() in ("", "-1"):
    return row.fail(f"{here}, because CUDA_VISIBLE_DEVICES={hidden!r} hides them", "unset CUDA_VISIBLE_DEVICES")
  return row.fail(
    here, f"{_INSTALL[built_in.kind]}; if it is installed, `python -c 'import jax; jax.devices()'` says what is missing"
  )


def memory(context: Context) -> Row:
  """Free host memory against what saving the state may take, for all processes on this machine."""
  free, limited = available_memory(context.root)
  try:
    state = context.state_bytes_here * len(context.neighbours)
  except UserError:  # without a mesh, which the devices row is about, the whole state is meant
    state = context.state_bytes
  needed = STATES_IN_MEMORY * state
  found = (
    f"{size(free)} free{limited}; {STATES_IN_MEMORY} times the state on this machine ({size(state)}) is {size(needed)}"
  )
  if free < needed:
    remedy = "give the job more memory, or spread the state over more machines with --config.mesh.fsdp"
    return (row.fail if free < state else row.warn)(found, remedy)
  return row.ok(found)


def available_memory(root: pathlib.Path) -> tuple[int, str]:
  """Bytes that this process could still take, and by what they are limited (" (limit of the job)" or empty).

  Args:
    root: where /proc and /sys are.
  """
  meminfo = (root / "proc/meminfo").read_text()
  (available,) = re.findall(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
  free, limited = int(available) * 1024, ""
  for limit, used in _cgroup_limits(root):
    if limit - used < free:
      free, limited = max(0, limit - used), f" (of the {size(limit)} that this job or container may take)"
  return free, limited


def _cgroup_limits(root: pathlib.Path):
  """(limit, bytes in use) of every control group above this process that has a limit; versions 1 and 2.

  Pages of files that nobody has used for a while count as free, as they do for MemAvailable.
  """
  try:
    groups = (root / "proc/self/cgroup").read_text().splitlines()
  except OSError:
    return
  for line in groups:
    _, controllers, path = line.split(":", 2)
    if controllers not in ("", "memory"):
      continue
    mount = root / "sys/fs/cgroup" / controllers
    names = ("memory.max", "memory.current", "inactive_file")
    if controllers:
      names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    own = mount / path.lstrip("/")
    # In a container the own group is the mount itself, whatever the path says.
    for folder in dict.fromkeys([mount, *(folder for folder in (own, *own.parents) if mount in folder.parents)]):
      try:
        limit, used = (folder / names[0]).read_text().strip(), int((folder / names[1]).read_text())
        cold = re.search(rf"^{names[2]} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
      except OSError:
        continue
      if limit != "max" and int(limit) < 2**60:  # version 1 writes a very large number for none
        yield int(limit), used - int(cold[1] if cold else 0)


# What the sources say of variables that are set on some machines for good: (variable, whether its value hurts, what it
# does, remedy).
_TRAPS = (
  ("JAX_DISABLE_JIT", lambda value: _is_true(value), "every operation runs separately, many times slower", "unset it"),
  ("JAX_DEBUG_NANS", lambda value: _is_true(value), "a NaN ends the run instead of skipping that update", "unset it"),
  (
    "JAX_DEBUG_INFS",
    lambda value: _is_true(value),
    "an infinity ends the run instead of skipping that update",
    "unset it",
  ),
  (
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    lambda value: value == "platform",
    "GPU memory is allocated and freed for every array: very slow (JAX's page on GPU memory)",
    "unset it",
  ),
)


def environment(context: Context) -> Row | list[Row]:
  """Environment variables that are known to hurt."""
  environ, rows = context.environ, []
  for name, hurts, effect, remedy in _TRAPS:
    if hurts(environ.get(name, "")):
      rows.append(row.warn(f"{name}={environ[name]}: {effect}", remedy))
  proxies = [
    name
    for name in environ
    if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy") and environ[name]
  ]
  host = context.cluster.coordinator.rpartition(":")[0]
  if (
    proxies
    and context.cluster.num_processes > 1
    and host not in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
  ):
    rows.append(
      row.warn(
        f"{', '.join(sorted(proxies))} set: JAX's processes may try to reach each other through the proxy, and hang "
        "(jax.distributed.initialize)",
        f"unset them for this command, or add {host} to no_proxy",
      )
    )
  libraries = _own_cuda(environ.get("LD_LIBRARY_PATH", ""))
  if libraries and context.accelerators and context.accelerators.kind == "gpu":
    rows.append(
      row.warn(
        f"LD_LIBRARY_PATH has CUDA libraries ({libraries}), which are used in place of those that pip installed with "
        "JAX",
        "unset LD_LIBRARY_PATH for this command (JAX's installation page)",
      )
    )
  return rows or row.ok("no variable known to cause trouble")


def _own_cuda(path: str) -> str | None:
  """A folder of LD_LIBRARY_PATH with CUDA libraries, where pip has installed others."""
  if not any(map(versions.installed, ("nvidia-cublas", "nvidia-cublas-cu12"))):
    return None
  for folder in filter(None, path.split(os.pathsep)):
    for pattern in ("libcublas.so*", "libcudnn.so*", "libnccl.so*", "libcudart.so*"):
      if any(pathlib.Path(folder).glob(pattern)) and "site-packages" not in folder:
        return folder
  return None


def _is_true(value: str) -> bool:
  return value.lower() in ("y", "yes", "t", "true", "on", "1")  # as JAX reads it
