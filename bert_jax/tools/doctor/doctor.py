"""Is everything ready for this run? Looked at before a pod is paid for; nothing is changed.

Every check is a function that returns what it found (tools/checks). One that
raises has failed, and the others are made nevertheless. With several processes
each looks at its own machine; process 0 puts all rows into one table.
"""

import os
from collections.abc import Callable

import jax
import ml_collections

from bert_jax import config as configs
from bert_jax.cluster import distributed, rendezvous
from bert_jax.internals.jax import coordination_client
from bert_jax.tools.doctor import cluster, corpus, machine, row, settings, storage, versions
from bert_jax.tools.doctor.context import Context, refused_flags
from bert_jax.tools.doctor.row import Findings, Row

# What every process looks at by itself, in the order of the table.
OWN: dict[str, Callable[[Context], Row | list[Row]]] = {
  "versions": lambda context: row.combined(
    versions.check_versions(context.config.data.loader), row.ok(f"code {rendezvous.code_fingerprint()}")
  ),
  "config": settings.run_settings,
  "environment": machine.environment,
  "processes": lambda context: cluster.slurm(context.environ, context.cluster, context.accelerators),
  "devices": machine.devices,
  "memory": machine.memory,
  "clocks": storage.file_clock,
  "corpus": corpus.corpus,
  "run folder": storage.run_folder,
  "checkpoints": storage.checkpoints,
  "disk space": storage.disk_space,
}


def run_checks(
  config: ml_collections.ConfigDict, workdir: str, taking_part: distributed.Cluster, *, quick: bool = False
) -> tuple[Findings, str]:
  """Makes every check.

  Args:
    config: as `config.load_config` gives it.
    workdir: the run folder; need not exist.
    taking_part: from distributed.detect.
    quick: look at the sizes of the corpus's files only, do not read them.

  Returns:
    rows: what this process found; what all have found, on process 0; nothing on the others once they have met it.
    status: the worst one, the same on all processes that have met.
  """
  about = rendezvous.introduce(configs.flatten(config), workdir) | {"xla_flags": refused_flags(os.environ)}
  found, introductions = cluster.coordinator(taking_part, about, config.cluster.connect_seconds)
  context = Context(config, workdir, quick=quick, cluster=taking_part, introductions=introductions)
  if introductions is None or taking_part.num_processes == 1:
    rows = _with(_own(context), {"coordinator": found})
    if introductions is not None:
      rows = _with(rows, {"processes": cluster.processes(taking_part, introductions, [None], [0])})
    return rows, row.worst(rows)
  distributed.initialize(
    taking_part, connect_seconds=config.cluster.connect_seconds, heartbeat_seconds=config.cluster.heartbeat_seconds
  )
  exchange = cluster.Exchange(context, coordination_client())
  mine = _with(_own(context), {"coordinator": found})
  everybody = exchange.gather("rows", mine)
  gpus = context.accelerators.chips if context.accelerators and context.accelerators.kind == "gpu" else 0
  facts = exchange.gather("facts", [_device_count(context), gpus])
  clocks, shared = exchange.clocks(), exchange.shared_folder()
  if everybody is None:
    return {}, exchange.from_first("status", None)
  assert facts is not None  # gathered where rows were
  everybody = [{name: [Row(*one) for one in found] for name, found in rows.items()} for rows in everybody]
  joint = {
    "processes": cluster.processes(taking_part, introductions, *zip(*facts)),
    "clocks": clocks,
    "checkpoints": shared,
  }
  rows = _with(row.merged(everybody, context.hosts), joint)
  return rows, exchange.from_first("status", row.worst(rows))


def _own(context: Context) -> Findings:
  rows: Findings = {}
  for name, check in OWN.items():
    rows |= row.run_check(name, check, context)
  return rows


def _with(rows: Findings, more: dict[str, Row | list[Row]]) -> Findings:
  """`rows` with further findings; in the order of the table."""
  together = {name: row.combined(rows.get(name, []), more.get(name, [])) for name in ("coordinator", *OWN)}
  return {name: found for name, found in together.items() if found}


def _device_count(context: Context) -> int | None:
  try:
    return jax.local_device_count() if context.devices else 0
  except Exception:  # the devices row says why
    return None
